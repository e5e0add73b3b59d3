//! Resolves a name for a client. Pure.
//!
//! A client is identified by its source address: that of one of its endpoints. `NAME` and `GROUP`
//! are looked up in the client's networks. `NAME.NETWORK` and `GROUP.NETWORK` mean the same for each
//! client of the tenant, and so does every name with [`DEFAULT_SUFFIX`] behind it. The name of a group is
//! its members' only, and exists without any, so that no container can take its place. A lookup stays in
//! one tenant. Members on silent nodes are listed last. A closed endpoint keeps its names and has no
//! address: it can't be reached there, and another endpoint may have that address by now.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::{Endpoint, TenantName};

use node_core::projection::{EndpointsView, full_name};

/// Each of our names can be used with this suffix; other names that end with it don't exist.
pub const DEFAULT_SUFFIX: &str = "contiv.local";
/// RFC 1035 §2.3.4
pub(super) const MAX_LABEL_BYTES: usize = 63;
/// The limit of RFC 1035 §2.3.4, in its text form without the last dot.
const MAX_NAME_BYTES: usize = 253;
/// The length of Docker's short ids.
const SHORT_ID_LENGTH: usize = 12;

/// Parses a suffix, with or without dots around it.
pub fn suffix(text: &str) -> Result<String, String> {
    let suffix = text.trim_matches('.').to_ascii_lowercase();
    let is_label = |label: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        (1..=63).contains(&label.len()) && label.chars().all(known)
    };
    // A whole name has 255 bytes, and a container's and a network's name precede the suffix.
    if suffix.len() > 100 || !suffix.split('.').all(is_label) {
        return Err("labels of letters, digits, `-` and `_` joined by dots, up to 100 characters, such as contiv.local".to_owned());
    }
    Ok(suffix)
}

/// A name with the client that asks for it.
#[derive(Debug, Clone, Copy)]
pub struct NameQuery<'a> {
    pub tenant: &'a TenantName,
    pub client: IpAddr,
    /// In lower case, without its last dot.
    pub name: &'a str,
    /// The node's configured suffix.
    pub suffix: &'a str,
}

/// The type of the wanted record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    A,
    Aaaa,
    /// The addresses of both families.
    Any,
    /// The name of an address (RFC 1035 §3.5, RFC 3596 §2.5).
    Ptr,
    /// A type that endpoints have no records of.
    Other,
}

/// The answer of a domain's server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The name is ours and has these addresses. If it has no record of the type, the answer is
    /// NOERROR and never NXDOMAIN (RFC 4074 §4.2; musl gives up otherwise).
    Addresses(NameAddresses),
    /// The name of the address in the query.
    Name(String),
    /// The name would be ours, and no endpoint has it.
    NoSuchName,
    /// The name isn't ours: ask the host's resolvers.
    Forward,
    /// No known endpoint has the name, but not all endpoints are known yet.
    NotYet,
}

/// The addresses of a name, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameAddresses {
    pub live: Vec<IpAddr>,
    /// Addresses on silent nodes.
    pub silent: Vec<IpAddr>,
}

/// Resolves a name.
pub fn answer(view: &EndpointsView, asked: &NameQuery<'_>, question: Question) -> Answer {
    let NameQuery {
        tenant,
        client,
        name,
        suffix,
    } = *asked;
    let unknown = |answer| {
        if view.is_complete() {
            answer
        } else {
            Answer::NotYet
        }
    };
    if let Some(address) = reverse_address(name) {
        return match (view.at(tenant, address), question) {
            (None, _) => unknown(Answer::Forward),
            (Some(endpoint), Question::Ptr | Question::Any) => {
                Answer::Name(name_of(view, endpoint, suffix))
            }
            (Some(_), _) => Answer::Addresses(NameAddresses::default()),
        };
    }
    let (name, ours) = match without_suffix(name, suffix) {
        Some("") => return Answer::Addresses(NameAddresses::default()),
        Some(name) => (name, true),
        None => (name, false),
    };
    let Bearers {
        found: mut bearers,
        is_group,
    } = bearers(view, tenant, client, name);
    if bearers.is_empty() {
        return match ours {
            _ if is_group => unknown(Answer::Addresses(NameAddresses::default())),
            // NXDOMAIN would deny the names below it, too (RFC 8020 §2).
            true if is_above(view, tenant, client, name) => {
                Answer::Addresses(NameAddresses::default())
            }
            true => unknown(Answer::NoSuchName),
            false => unknown(Answer::Forward),
        };
    }
    let wanted = |address: &IpAddr| match question {
        Question::A => address.is_ipv4(),
        Question::Aaaa => address.is_ipv6(),
        Question::Any => true,
        Question::Ptr | Question::Other => false,
    };
    let mut found = NameAddresses::default();
    bearers.retain(|(address, bearer)| wanted(address) && bearer.closed.is_none());
    for (address, bearer) in bearers {
        match view.is_silent(bearer) {
            false => found.live.push(address),
            true => found.silent.push(address),
        }
    }
    Answer::Addresses(found)
}

/// The name before the suffix; `None` if it doesn't end with it.
pub(super) fn without_suffix<'a>(name: &'a str, suffix: &str) -> Option<&'a str> {
    match name.strip_suffix(suffix)? {
        "" => Some(""),
        rest => rest.strip_suffix('.'),
    }
}

/// Whether any of the client's names ends with `.` and this one.
pub(super) fn is_above(
    view: &EndpointsView,
    tenant: &TenantName,
    client: IpAddr,
    name: &str,
) -> bool {
    let mut near = networks(view, tenant, client);
    near.any(|network| view.is_above(tenant, &full_name(name, network)))
        || view.is_above(tenant, name)
}

/// The client's networks, also those of its container's other endpoints, as its queries leave by
/// one interface.
fn networks<'a>(
    view: &'a EndpointsView,
    tenant: &TenantName,
    client: IpAddr,
) -> impl Iterator<Item = &'a str> {
    let client = view.at(tenant, client).into_iter();
    let endpoints = client.flat_map(|it| view.beside(it));
    let endpoints = endpoints.filter(move |it| it.tenant == *tenant);
    endpoints.map(|it| it.network.as_str())
}

/// The endpoints with a name, each with an address of it.
pub(super) struct Bearers<'a> {
    pub(super) found: Vec<(IpAddr, &'a Endpoint)>,
    /// Whether it is a group's name, which exists without members.
    pub(super) is_group: bool,
}

/// Finds the endpoints with a name: in the client's networks first, then as `NAME.NETWORK`, since
/// containers' names may have dots. `name` is in lower case.
pub(super) fn bearers<'a>(
    view: &'a EndpointsView,
    tenant: &TenantName,
    client: IpAddr,
    name: &str,
) -> Bearers<'a> {
    let (mut found, mut is_group) = (Vec::new(), false);
    for network in networks(view, tenant, client) {
        let full = full_name(name, network);
        is_group |= view.is_group(tenant, &full);
        found.extend(view.resolve(tenant, &full));
    }
    if found.is_empty() && !is_group {
        is_group = view.is_group(tenant, name);
        found.extend(view.resolve(tenant, name));
    }
    found.sort_by_key(|(address, _)| *address);
    found.dedup_by_key(|(address, _)| *address);
    Bearers { found, is_group }
}

/// Parses a name of `in-addr.arpa` or `ip6.arpa` into its address.
pub(super) fn reverse_address(name: &str) -> Option<IpAddr> {
    if let Some(octets) = name.strip_suffix(".in-addr.arpa") {
        let octets: Vec<&str> = octets.rsplit('.').collect();
        return octets.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    }
    let nibbles = name.strip_suffix(".ip6.arpa")?;
    let nibbles: Vec<u8> = nibbles
        .rsplit('.')
        .map(|nibble| u8::from_str_radix(nibble, 16).ok().filter(|it| *it < 16))
        .collect::<Option<_>>()?;
    let bytes: Vec<u8> = nibbles
        .chunks(2)
        .map(|it| it[0] << 4 | it[it.len() - 1])
        .collect();
    let bytes: [u8; 16] = bytes.try_into().ok().filter(|_| nibbles.len() == 32)?;
    Some(IpAddr::V6(bytes.into()))
}

/// A full name of an endpoint that a client can ask for. If its own name is too long or a group's, it is
/// named by the short id of its container, as Docker does, or of itself.
fn name_of(view: &EndpointsView, endpoint: &Endpoint, suffix: &str) -> String {
    let full = |name: &str| format!("{name}.{}.{suffix}", endpoint.network);
    let named = view
        .name_of(endpoint)
        .map(full)
        .filter(|it| can_be_asked(it));
    named.unwrap_or_else(|| {
        let id = endpoint.container.as_deref();
        full(&short_id(id.unwrap_or(endpoint.id.as_str())))
    })
}

pub(super) fn short_id(id: &str) -> String {
    id.chars().take(SHORT_ID_LENGTH).collect()
}

/// Whether a name, without its last dot, fits into a query (RFC 1035 §2.3.4).
pub(super) fn can_be_asked(name: &str) -> bool {
    let fits = |label: &str| (1..=MAX_LABEL_BYTES).contains(&label.len());
    let all_fit = || name.split('.').all(fits);
    name.is_empty() || name.len() <= MAX_NAME_BYTES && all_fit()
}

#[cfg(test)]
pub(super) mod tests;
