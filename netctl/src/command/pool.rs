//! The text form of subnets and ranges, and their free addresses. Pure.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use bus_schema::{AddressRange, Pool};
use ipnet::{IpNet, Ipv6Net};

/// A subnet `A.B.C.D/L`, or a range `A.B.C.D-E.F.G.H/L` of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subnet {
    pub(crate) net: IpNet,
    pub(crate) range: Option<AddressRange>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidSubnet {
    #[error("a subnet looks like 20.1.1.0/24, or 20.1.1.10-20.1.1.99/24 for a range of it")]
    Malformed,
    #[error("the prefix length is missing: write for example {0}/24")]
    NoPrefix(String),
    #[error("the range is the wrong way round: write {last}-{first}")]
    Backwards { first: Ipv4Addr, last: Ipv4Addr },
    #[error("networks have IPv4 subnets only: give one like 20.1.1.0/24")]
    V6,
}

impl FromStr for Subnet {
    type Err = InvalidSubnet;

    fn from_str(text: &str) -> Result<Self, InvalidSubnet> {
        let Some((addresses, prefix)) = text.split_once('/') else {
            return Err(InvalidSubnet::NoPrefix(text.to_owned()));
        };
        if text.parse::<Ipv6Net>().is_ok() {
            return Err(InvalidSubnet::V6);
        }
        let prefix: u8 = prefix.parse().map_err(|_| InvalidSubnet::Malformed)?;
        let address = |text: &str| {
            text.parse::<Ipv4Addr>()
                .map_err(|_| InvalidSubnet::Malformed)
        };
        let (first, last) = match addresses.split_once('-') {
            Some((first, last)) => (address(first)?, Some(address(last)?)),
            None => (address(addresses)?, None),
        };
        let net = IpNet::new(first.into(), prefix).map_err(|_| InvalidSubnet::Malformed)?;
        let range = match last {
            Some(last) if last < first => {
                return Err(InvalidSubnet::Backwards { first, last });
            }
            Some(last) => Some(AddressRange {
                first: first.into(),
                last: last.into(),
            }),
            None => None,
        };
        Ok(Self { net, range })
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.range {
            Some(range) => write!(f, "{range}/{}", self.net.prefix_len()),
            None => self.net.fmt(f),
        }
    }
}

/// Parses `A.B.C.D-E.F.G.H`.
pub(crate) fn range(text: &str) -> Result<AddressRange, String> {
    let ends = text.split_once('-');
    let ends = ends.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    match ends {
        None => Err("a range looks like 20.1.1.10-20.1.1.99".to_owned()),
        Some((first, last)) if last < first => Err(format!(
            "the range is the wrong way round: write {last}-{first}"
        )),
        Some::<(Ipv4Addr, Ipv4Addr)>((first, last)) => Ok(AddressRange {
            first: first.into(),
            last: last.into(),
        }),
    }
}

/// Shows a pool in the form in which it is typed.
pub(crate) fn show(pool: &Pool) -> String {
    match pool.range {
        Some(range) => format!("{range}/{}", pool.subnet.prefix_len()),
        None => pool.subnet.to_string(),
    }
}

/// IPv4 addresses as ranges: `20.1.1.1-20.1.1.4, 20.1.1.9`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spans(Vec<(u32, u32)>);

impl Spans {
    /// The number of addresses.
    pub(crate) fn count(&self) -> u64 {
        let lengths = self
            .0
            .iter()
            .map(|(first, last)| u64::from(last - first) + 1);
        lengths.sum()
    }
}

pub(crate) fn ranges(addresses: impl IntoIterator<Item = IpAddr>) -> Spans {
    let mut numbers: Vec<u32> = addresses.into_iter().filter_map(number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let mut spans: Vec<(u32, u32)> = Vec::new();
    for n in numbers {
        match spans.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(n) => *last = n,
            _ => spans.push((n, n)),
        }
    }
    Spans(spans)
}

/// The part of a pool that lies in one of its blocks.
pub(crate) fn within(pool: &Pool, block: IpNet) -> Pool {
    let whole = pool.range.unwrap_or(AddressRange {
        first: pool.subnet.network(),
        last: pool.subnet.broadcast(),
    });
    Pool {
        range: Some(AddressRange {
            first: whole.first.max(block.network()),
            last: whole.last.min(block.broadcast()),
        }),
        ..pool.clone()
    }
}

/// The pool's free IPv4 addresses that an endpoint can have.
pub(crate) fn available(pool: &Pool, used: impl IntoIterator<Item = IpAddr>) -> Spans {
    let IpNet::V4(net) = pool.subnet else {
        return Spans(Vec::new());
    };
    let (mut first, mut last) = (u32::from(net.network()), u32::from(net.broadcast()));
    if let Some(range) = pool.range {
        first = first.max(number(range.first).unwrap_or(first));
        last = last.min(number(range.last).unwrap_or(last));
    }
    let mut taken: Vec<u32> = used.into_iter().filter_map(number).collect();
    let edges = [net.network(), net.broadcast()];
    let reserved = edges.map(IpAddr::V4).into_iter().chain([pool.gateway]);
    taken.extend(
        reserved
            .filter(|a| !pool.is_assignable(*a))
            .filter_map(number),
    );
    taken.sort_unstable();
    taken.dedup();

    let mut spans = Vec::new();
    let mut next = Some(first);
    for n in taken.into_iter().filter(|n| (first..=last).contains(n)) {
        if let Some(start) = next
            && start < n
        {
            spans.push((start, n - 1));
        }
        next = n.checked_add(1);
    }
    if let Some(start) = next
        && start <= last
    {
        spans.push((start, last));
    }
    Spans(spans)
}

fn number(address: IpAddr) -> Option<u32> {
    match address {
        IpAddr::V4(v4) => Some(v4.into()),
        IpAddr::V6(_) => None,
    }
}

impl std::fmt::Display for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = self.0.iter().map(|(first, last)| {
            let (first, last) = (Ipv4Addr::from(*first), Ipv4Addr::from(*last));
            match first == last {
                true => first.to_string(),
                false => format!("{first}-{last}"),
            }
        });
        f.write_str(&shown.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_parse_in_the_form_of_contiv() {
        let plain: Subnet = "20.1.1.0/24".parse().unwrap();
        assert_eq!(
            (plain.net.to_string().as_str(), plain.range),
            ("20.1.1.0/24", None)
        );
        let range: Subnet = "20.1.1.10-20.1.1.99/24".parse().unwrap();
        assert_eq!(range.range.unwrap().to_string(), "20.1.1.10-20.1.1.99");
        for (bad, why) in [
            ("20.1.1.0", InvalidSubnet::NoPrefix("20.1.1.0".into())),
            ("20.1.1.0/33", InvalidSubnet::Malformed),
            ("20.1.1/24", InvalidSubnet::Malformed),
            ("20.1.1.0/", InvalidSubnet::Malformed),
            ("20.1.1.0/2 4", InvalidSubnet::Malformed),
            ("20.1.1.10-20/24", InvalidSubnet::Malformed),
            ("fd00::/64", InvalidSubnet::V6),
        ] {
            assert_eq!(bad.parse::<Subnet>(), Err(why), "{bad}");
        }
        assert!("20.1.1.9-20.1.1.2/24".parse::<Subnet>().is_err());
    }

    #[test]
    fn free_addresses_leave_out_unassignable_ones() {
        let pool = |subnet: &str, gateway: &str, range: Option<(&str, &str)>| Pool {
            subnet: subnet.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
            range: range.map(|(first, last)| AddressRange {
                first: first.parse().unwrap(),
                last: last.parse().unwrap(),
            }),
        };
        let used =
            |list: &[&str]| -> Vec<IpAddr> { list.iter().map(|a| a.parse().unwrap()).collect() };
        let net = pool("20.1.1.0/24", "20.1.1.254", None);
        assert_eq!(available(&net, []).to_string(), "20.1.1.1-20.1.1.253");
        assert_eq!(available(&net, []).count(), 253);
        let block = |text: &str| available(&within(&net, text.parse().unwrap()), []);
        assert_eq!(block("20.1.1.0/28").to_string(), "20.1.1.1-20.1.1.15");
        assert_eq!(block("20.1.1.240/28").count(), 14);
        assert_eq!(block("20.1.1.254/32").count(), 0);
        assert_eq!(
            available(&net, used(&["20.1.1.1", "20.1.1.3"])).to_string(),
            "20.1.1.2, 20.1.1.4-20.1.1.253"
        );
        let range = pool("20.1.1.0/24", "20.1.1.1", Some(("20.1.1.1", "20.1.1.3")));
        assert_eq!(
            available(&range, used(&["20.1.1.9"])).to_string(),
            "20.1.1.2-20.1.1.3"
        );
        let top = pool("255.255.255.254/31", "255.255.255.254", None);
        assert_eq!(available(&top, []).to_string(), "255.255.255.255");
        assert_eq!(available(&top, used(&["255.255.255.255"])).to_string(), "");
        assert_eq!(
            ranges(used(&["20.1.1.3", "20.1.1.1", "20.1.1.2", "20.1.1.9"])).to_string(),
            "20.1.1.1-20.1.1.3, 20.1.1.9"
        );
    }
}
