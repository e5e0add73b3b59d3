//! Builds the result of an ADD and compares the state at a CHECK. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::protocol::{Call, Dns, Failure, Interface, Ip, NetworkConfig, Route, Success};
use crate::endpoint::{Attachment, LocalEndpoint};
use node_core::resource::Veth;
use node_datapath::PeerState;

/// An attached endpoint, as the result describes it.
#[derive(Debug)]
pub(super) struct AttachedInterface<'a> {
    pub attachment: &'a Attachment,
    /// The path of the host interface's namespace, empty for the host's own.
    pub host_netns: &'a str,
    /// The interface in the container.
    pub peer: &'a PeerState,
    /// The containers' search domain.
    pub suffix: &'a str,
}

/// The result of an ADD: the previous plugins' result, then our interfaces, addresses and routes.
pub(super) fn success(
    call: &Call,
    config: &NetworkConfig,
    attached: &AttachedInterface<'_>,
) -> Success {
    let AttachedInterface {
        attachment,
        host_netns,
        peer,
        suffix,
    } = *attached;
    let mut success = config.prev_result.clone().unwrap_or_default();
    success.cni_version.clone_from(&config.cni_version);
    let endpoint = &attachment.endpoint;
    let mtu = (config.cni_version != "1.0.0").then_some(attachment.mtu);
    success.interfaces.extend([
        Interface {
            name: endpoint.host_interface.clone(),
            mac: Veth::HOST_MAC.to_string(),
            mtu,
            sandbox: host_netns.to_owned(),
            other: serde_json::Map::new(),
        },
        Interface {
            name: call.interface.clone(),
            mac: endpoint.mac.to_string(),
            mtu,
            sandbox: call.netns.clone(),
            other: serde_json::Map::new(),
        },
    ]);
    let interface = success.interfaces.len() - 1;
    let gateway_of = |address: &IpAddr| {
        let mut gateways = attachment.gateways.iter();
        gateways
            .find(|it| it.is_ipv4() == address.is_ipv4())
            .copied()
    };
    success.ips.extend(endpoint.addresses.iter().map(|it| Ip {
        address: IpNet::from(*it),
        gateway: gateway_of(it),
        interface: Some(interface),
        other: serde_json::Map::new(),
    }));
    success.routes.extend(peer.routes.iter().map(|route| Route {
        dst: route.0,
        gw: route.1,
        other: serde_json::Map::new(),
    }));
    success.dns = dns(&config.dns, success.dns, &attachment.gateways, suffix);
    success
}

/// The configured DNS settings, else our server, which resolves the containers' names and forwards
/// other queries.
fn dns(configured: &Dns, before: Dns, gateways: &[IpAddr], suffix: &str) -> Dns {
    let mut dns = before;
    if configured.nameservers.is_empty() {
        let ours = gateways.iter().map(ToString::to_string);
        dns.nameservers.splice(0..0, ours);
    } else {
        dns.nameservers.clone_from(&configured.nameservers);
    }
    if configured.search.is_empty() {
        dns.search.insert(0, suffix.to_owned());
    } else {
        dns.search.clone_from(&configured.search);
    }
    if configured.domain.is_some() {
        dns.domain.clone_from(&configured.domain);
    }
    if !configured.options.is_empty() {
        dns.options.clone_from(&configured.options);
    }
    dns
}

/// The state that a CHECK compares.
#[derive(Debug)]
pub(super) struct Observed<'a> {
    pub endpoint: &'a LocalEndpoint,
    /// The interface in the container; `None` if there is none of that name.
    pub peer: Option<&'a PeerState>,
    /// Whether the host's interface is up; `None` if it is gone.
    pub host_up: Option<bool>,
    /// The reason if the kernel lacks the endpoint.
    pub failed: Option<&'a str>,
}

/// Compares the state with the result of the chain's last ADD: a later plugin may have changed our
/// interface, and then the result has its changes.
pub(super) fn check(
    call: &Call,
    config: &NetworkConfig,
    observed: &Observed<'_>,
) -> Result<(), Failure> {
    let Some(result) = &config.prev_result else {
        return Err(Failure::config(
            "prevResult is missing: a CHECK needs the result of the container's ADD",
        ));
    };
    let (interface, netns) = (&call.interface, &call.netns);
    let mut listed = result.interfaces.iter();
    let listed = listed.find(|it| it.name == *interface && it.sandbox == *netns);
    let mut differences = host_differences(observed);
    if listed.is_none() {
        differences.push(format!("prevResult has no {interface} in {netns}"));
    }
    for address in &observed.endpoint.addresses {
        if !result.ips.iter().any(|ip| ip.address.addr() == *address) {
            differences.push(format!(
                "prevResult lacks {address}, which the node assigned"
            ));
        }
    }
    match observed.peer {
        None => differences.push(format!("{netns} has no interface {interface}")),
        Some(peer) => {
            let mac = listed.map_or("", |it| it.mac.as_str());
            let addresses = &observed.endpoint.addresses;
            differences.extend(peer_differences(interface, mac, addresses, peer));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    let details = format!(
        "{}; DEL and ADD the container again",
        differences.join("; ")
    );
    Err(Failure::new(
        Failure::NOT_AS_CREATED_CODE,
        "the container's network has changed since its ADD",
        details,
    ))
}

fn host_differences(observed: &Observed<'_>) -> Vec<String> {
    let host_interface = &observed.endpoint.host_interface;
    let failed = observed.failed.map(|why| format!("the host's side: {why}"));
    let state = match observed.host_up {
        Some(true) => None,
        Some(false) => Some(format!("{host_interface} is down")),
        None => Some(format!("{host_interface} is gone")),
    };
    failed.into_iter().chain(state).collect()
}

/// `mac` is the one in the result, or empty.
fn peer_differences(
    interface: &str,
    mac: &str,
    addresses: &[IpAddr],
    peer: &PeerState,
) -> Vec<String> {
    let mut differences = Vec::new();
    if !peer.up {
        differences.push(format!("{interface} is down"));
    }
    if !mac.is_empty() && !mac.eq_ignore_ascii_case(&peer.mac.to_string()) {
        differences.push(format!("{interface} has {} instead of {mac}", peer.mac));
    }
    for address in addresses {
        if !peer.addresses.iter().any(|net| net.addr() == *address) {
            differences.push(format!("{interface} lacks the address {address}"));
        }
    }
    for address in addresses {
        let is_network_route = |(net, _): &(IpNet, Option<IpAddr>)| {
            net.prefix_len() < net.max_prefix_len() && net.addr().is_ipv4() == address.is_ipv4()
        };
        if !peer.routes.iter().any(is_network_route) {
            differences.push(format!("{interface} has no route"));
        }
    }
    differences
}
