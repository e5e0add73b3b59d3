//! What an ADD answers, and what a CHECK finds wrong. Pure.

use std::net::IpAddr;

use ipnet::IpNet;

use super::protocol::{Call, Config, Dns, Failure, Interface, Ip, Route, Success};
use crate::endpoint::{Attachment, LocalEndpoint};
use node_core::resource::Veth;
use node_datapath::PeerState;

/// The answer to an ADD: what was made before, then what we made.
pub(super) fn success(
    call: &Call,
    config: &Config,
    attachment: &Attachment,
    host_sandbox: &str,
    peer: &PeerState,
    suffix: &str,
) -> Success {
    let mut success = config.prev_result.clone().unwrap_or_default();
    success.cni_version.clone_from(&config.cni_version);
    let endpoint = &attachment.endpoint;
    let mtu = (config.cni_version != "1.0.0").then_some(attachment.mtu);
    success.interfaces.extend([
        Interface {
            name: endpoint.host_interface.clone(),
            mac: Veth::HOST_MAC.to_string(),
            mtu,
            sandbox: host_sandbox.to_owned(),
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

/// The operator's word, else our server, which knows the containers' names and forwards the rest.
fn dns(stated: &Dns, before: Dns, gateways: &[IpAddr], suffix: &str) -> Dns {
    let mut dns = before;
    if stated.nameservers.is_empty() {
        let ours = gateways.iter().map(ToString::to_string);
        dns.nameservers.splice(0..0, ours);
    } else {
        dns.nameservers.clone_from(&stated.nameservers);
    }
    if stated.search.is_empty() {
        dns.search.insert(0, suffix.to_owned());
    } else {
        dns.search.clone_from(&stated.search);
    }
    if stated.domain.is_some() {
        dns.domain.clone_from(&stated.domain);
    }
    if !stated.options.is_empty() {
        dns.options.clone_from(&stated.options);
    }
    dns
}

/// What a CHECK looks at.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub endpoint: &'a LocalEndpoint,
    /// The container's end; absent: there is none of that name.
    pub peer: Option<&'a PeerState>,
    /// Whether the host's end is up; absent: it is gone.
    pub host_up: Option<bool>,
    /// Why the kernel doesn't have the endpoint.
    pub failed: Option<&'a str>,
}

/// Compares what is there with what the last ADD of the chain answered: a later plugin may have
/// changed our interface, and says so there.
pub(super) fn check(call: &Call, config: &Config, seen: &Seen<'_>) -> Result<(), Failure> {
    let Some(before) = &config.prev_result else {
        return Err(Failure::config(
            "prevResult is missing: a CHECK needs the result of the container's ADD",
        ));
    };
    let mut wrong: Vec<String> = Vec::new();
    let (interface, netns) = (&call.interface, &call.netns);
    wrong.extend(seen.failed.map(|why| format!("the host's side: {why}")));
    match seen.host_up {
        Some(true) => {}
        Some(false) => wrong.push(format!("{} is down", seen.endpoint.host_interface)),
        None => wrong.push(format!("{} is gone", seen.endpoint.host_interface)),
    }
    let listed = before
        .interfaces
        .iter()
        .find(|it| it.name == *interface && it.sandbox == *netns);
    if listed.is_none() {
        wrong.push(format!("prevResult has no {interface} in {netns}"));
    }
    for address in &seen.endpoint.addresses {
        if !before.ips.iter().any(|ip| ip.address.addr() == *address) {
            wrong.push(format!("prevResult lacks {address}, which the node gave"));
        }
    }
    match seen.peer {
        None => wrong.push(format!("{netns} has no interface {interface}")),
        Some(peer) => {
            if !peer.up {
                wrong.push(format!("{interface} is down"));
            }
            let mac = listed.map_or("", |it| it.mac.as_str());
            if !mac.is_empty() && !mac.eq_ignore_ascii_case(&peer.mac.to_string()) {
                wrong.push(format!("{interface} has {} instead of {mac}", peer.mac));
            }
            for address in &seen.endpoint.addresses {
                if !peer.addresses.iter().any(|net| net.addr() == *address) {
                    wrong.push(format!("{interface} lacks the address {address}"));
                }
            }
            for address in &seen.endpoint.addresses {
                let reaches = |(net, _): &(IpNet, Option<IpAddr>)| {
                    net.prefix_len() < net.max_prefix_len()
                        && net.addr().is_ipv4() == address.is_ipv4()
                };
                if !peer.routes.iter().any(reaches) {
                    wrong.push(format!("no route leads through {interface}"));
                }
            }
        }
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let details = format!("{}; DEL and ADD the container again", wrong.join("; "));
    Err(Failure::new(
        Failure::NOT_AS_MADE,
        "the container's network isn't as it was made",
        details,
    ))
}
