//! Examines this machine for `netctl doctor`: the kernel's features, the underlay's MTU, other
//! firewalls' rules, and the resolver. The node's own state is in its alarms.
//!
//! It removes what it creates for a test. `inquiry` calls it.

mod names;
mod outer;
mod underlay;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::NodeName;
use bus_schema::node::{DomainKind, Examination, Finding, Grade};
use tokio::task::JoinSet;

use self::underlay::{PathMtu, measure};
use crate::check::check;
use crate::neighbors::may_overflow;
use crate::outer_drops::OuterDrops;
use crate::underlay::interface_of;
use node_core::desired::Params;
use node_core::endpoint::Locals;
use node_core::projection::{EndpointsView, Projection};
use node_datapath::{Datapath, NeighborTable, Traffic};
use runtime::now;

/// Runs all examinations. The findings are in no order.
pub async fn examine(
    params: &Params,
    datapath: &Datapath,
    (facts, view, locals): (&Projection, &EndpointsView, &Locals),
    drops: &OuterDrops,
) -> Examination {
    let peers = facts
        .nodes
        .iter()
        .filter(|(name, _)| **name != params.node)
        .map(|(name, fact)| (name.clone(), fact.vtep));
    let mut findings = underlays(params, peers.collect()).await;
    findings.push(kernel(params, datapath).await);
    let strict = text("/proc/sys/net/ipv4/conf/all/rp_filter");
    findings.extend(strict_rp_filter(params.kind, &strict));
    let port = facts.settings.vxlan_port;
    findings.push(firewall(params, datapath, port).await);
    findings.extend(outer::findings(drops.recent().await, port));
    findings.push(resolver(&text("/etc/resolv.conf")));
    let table = NeighborTable::read().await;
    findings.extend(table.map(|table| neighbors(&table, locals.len())));
    findings.extend(names::shared(view, &params.node, locals));
    Examination {
        at: now(),
        findings,
    }
}

async fn kernel(params: &Params, datapath: &Datapath) -> Finding {
    // Its name begins with a dot, so that lists of domains skip it.
    let folder = datapath
        .netns_dir()
        .join(format!(".contiv-doctor-{}", std::process::id()));
    let about = "kernel";
    let release = text("/proc/sys/kernel/osrelease");
    let release = release.trim();
    match check(&folder, Some(params.kind)).await {
        Ok(kind) => Finding::new(
            Grade::Fine,
            about,
            format!("kernel {release}: all required features present; domains: {kind}"),
        ),
        Err(error) => Finding::new(Grade::Wrong, about, format!("kernel {release}: {error}")),
    }
}

/// Warns of a strict reverse path filter: the kernel applies the stricter of the settings for all devices
/// and for one.
fn strict_rp_filter(kind: DomainKind, all: &str) -> Option<Finding> {
    let strict = kind == DomainKind::Vrf && all.trim() == "1";
    strict.then(|| {
        let text = "net.ipv4.conf.all.rp_filter is 1, which overrides the setting of a VRF's devices: ICMP \
                    errors about other nodes' packets are dropped here; set it to 2, or to 0 and \
                    to 1 on the devices that need it";
        Finding::new(Grade::Warning, "settings", text)
    })
}

fn neighbors(table: &NeighborTable, endpoints: usize) -> Finding {
    let about = "neighbors";
    match may_overflow(table, endpoints) {
        Some(text) => Finding::new(Grade::Warning, about, text),
        None => {
            let text = format!("the kernel's table holds {} neighbors", table.limit);
            Finding::new(Grade::Fine, about, text)
        }
    }
}

async fn underlays(params: &Params, peers: BTreeMap<NodeName, IpAddr>) -> Vec<Finding> {
    let mtu = params.underlay_mtu;
    let mut measures = JoinSet::new();
    for (number, (peer, to)) in peers.into_iter().enumerate() {
        let from = params.vtep;
        measures.spawn_blocking(move || {
            let path_mtu = measure(from, to, mtu, number as u16);
            underlay(&peer, to, mtu, &path_mtu)
        });
    }
    measures.join_all().await
}

fn underlay(peer: &NodeName, to: IpAddr, mtu: u32, path_mtu: &PathMtu) -> Finding {
    let about = "underlay";
    match path_mtu {
        PathMtu::Full => Finding::new(
            Grade::Fine,
            about,
            format!("packets of {mtu} bytes reach {peer} ({to}) and return unfragmented"),
        ),
        PathMtu::UpTo(less) => Finding::new(
            Grade::Wrong,
            about,
            format!(
                "packets of {mtu} bytes, the MTU of this node's underlay, don't reach {peer} ({to}) unfragmented, packets of {less} bytes do: large packets between containers are lost; raise the MTU on the path, or lower the underlay interface's to {less} on all nodes and restart netplugin"
            ),
        ),
        PathMtu::NoReply => Finding::new(
            Grade::Warning,
            about,
            format!(
                "{peer} ({to}) answers no ping: it is down, or a firewall drops ICMP and thereby also path MTU errors for containers; allow ICMP between the nodes"
            ),
        ),
        PathMtu::NotMeasured(why) => Finding::new(
            Grade::Unknown,
            about,
            format!("can't measure the path MTU to {peer} ({to}): {why}"),
        ),
    }
}

async fn firewall(params: &Params, datapath: &Datapath, port: u16) -> Finding {
    let about = "firewall";
    let outer = Traffic::Outer {
        interface: interface_of(params.vtep).unwrap_or_default(),
        port,
    };
    match datapath.foreign_drops_of(&[outer]).await {
        Ok(found) if found.is_empty() => Finding::new(
            Grade::Fine,
            about,
            format!("no nftables rule on this host drops UDP port {port} from other nodes"),
        ),
        Ok(found) => {
            let found: Vec<_> = found.iter().map(ToString::to_string).collect();
            Finding::new(Grade::Warning, about, found.join("; "))
        }
        Err(error) => Finding::new(Grade::Unknown, about, error.to_string()),
    }
}

fn resolver(resolv_conf: &str) -> Finding {
    let named = resolv_conf
        .lines()
        .any(|line| line.trim_start().starts_with("nameserver"));
    match named {
        true => Finding::new(Grade::Fine, "resolver", "configured"),
        false => Finding::new(
            Grade::Warning,
            "resolver",
            "/etc/resolv.conf has no name server: containers resolve each other's names, and no other names",
        ),
    }
}

/// A file's text, empty if it can't be read.
fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_rp_filter_with_vrfs_is_a_warning() {
        let is_reported = |kind, all| strict_rp_filter(kind, all).is_some();
        assert!(is_reported(DomainKind::Vrf, "1\n"));
        assert!(!is_reported(DomainKind::Vrf, "2\n") && !is_reported(DomainKind::Netns, "1\n"));
    }

    #[test]
    fn missing_resolver_is_a_warning() {
        assert_eq!(resolver("search x\n").grade, Grade::Warning);
        assert_eq!(resolver("nameserver 1.1.1.1").grade, Grade::Fine);
    }
}
