//! `netctl doctor`'s look at this machine: what the kernel takes, what the underlay lets through,
//! who else filters, who resolves names. What the node knows anyway is in its alarms.
//!
//! Changes nothing but what it takes away again. `inquiry` asks.

mod outer;
mod underlay;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::NodeName;
use bus_schema::node::{DomainKind, Examination, Finding, Grade};
use tokio::task::JoinSet;

use self::underlay::{Passed, measure};
use crate::check::check;
use crate::outer_drops::OuterDrops;
use crate::underlay::interface_of;
use node_core::desired::Params;
use node_core::projection::Projection;
use node_datapath::{Datapath, Traffic};
use runtime::now;

/// Looks at everything. The findings are in no order.
pub async fn examine(
    params: &Params,
    datapath: &Datapath,
    facts: &Projection,
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
    findings.extend(strictness(params.kind, &strict));
    let port = facts.settings.vxlan_port;
    findings.push(firewall(params, datapath, port).await);
    findings.extend(outer::findings(drops.recent().await, port));
    findings.push(resolver(&text("/etc/resolv.conf")));
    Examination {
        at: now(),
        findings,
    }
}

async fn kernel(params: &Params, datapath: &Datapath) -> Finding {
    // Its name begins with a dot: what lists domains passes over it.
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
            format!("Linux {release} does all that a node asks of it, domains are {kind}"),
        ),
        Err(error) => Finding::new(Grade::Wrong, about, format!("Linux {release}: {error}")),
    }
}

/// The kernel takes the stricter of what is set for all devices and for one.
fn strictness(kind: DomainKind, all: &str) -> Option<Finding> {
    let strict = kind == DomainKind::Vrf && all.trim() == "1";
    strict.then(|| {
        let text = "net.ipv4.conf.all.rp_filter is 1, which overrides what a VRF's devices have: errors \
                    about packets that other nodes send are dropped here; set it to 2, or to 0 and \
                    to 1 on the devices that need it";
        Finding::new(Grade::Warning, "settings", text)
    })
}

async fn underlays(params: &Params, peers: BTreeMap<NodeName, IpAddr>) -> Vec<Finding> {
    let mtu = params.underlay_mtu;
    let mut measures = JoinSet::new();
    for (number, (peer, to)) in peers.into_iter().enumerate() {
        let from = params.vtep;
        measures.spawn_blocking(move || {
            let passed = measure(from, to, mtu, number as u16);
            underlay(&peer, to, mtu, &passed)
        });
    }
    measures.join_all().await
}

fn underlay(peer: &NodeName, to: IpAddr, mtu: u32, passed: &Passed) -> Finding {
    let about = "underlay";
    match passed {
        Passed::All => Finding::new(
            Grade::Fine,
            about,
            format!("packets of {mtu} bytes get to {peer} ({to}) and back whole"),
        ),
        Passed::UpTo(less) => Finding::new(
            Grade::Wrong,
            about,
            format!(
                "packets of {mtu} bytes, which this node's underlay promises, don't get to {peer} ({to}) whole, {less} bytes do: big packets between containers are lost; raise the MTU on the way, or lower the underlay interface's to {less} on all nodes and start netplugin again"
            ),
        ),
        Passed::Nothing => Finding::new(
            Grade::Warning,
            about,
            format!(
                "{peer} ({to}) answers no ping: it is down, or a firewall drops ICMP, which then keeps path-MTU errors from containers, too; let ICMP pass between the nodes"
            ),
        ),
        Passed::NotMeasured(why) => Finding::new(
            Grade::Unknown,
            about,
            format!("the way to {peer} ({to}) can't be measured: {why}"),
        ),
    }
}

async fn firewall(params: &Params, datapath: &Datapath, port: u16) -> Finding {
    let about = "firewall";
    let outer = Traffic::Outer {
        interface: interface_of(params.vtep).unwrap_or_default(),
        port,
    };
    match datapath.hindered(&[outer]).await {
        Ok(found) if found.is_empty() => Finding::new(
            Grade::Fine,
            about,
            format!("no nftables rule of this host drops UDP port {port} from other nodes"),
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
        true => Finding::new(Grade::Fine, "resolver", "this host knows a name server"),
        false => Finding::new(
            Grade::Warning,
            "resolver",
            "/etc/resolv.conf names no server: containers find each other, and nothing outside",
        ),
    }
}

/// Empty when it can't be read.
fn text(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_is_strict_to_vrfs_is_told() {
        let told = |kind, all| strictness(kind, all).is_some();
        assert!(told(DomainKind::Vrf, "1\n"));
        assert!(!told(DomainKind::Vrf, "2\n") && !told(DomainKind::Netns, "1\n"));
    }

    #[test]
    fn a_host_without_a_resolver_is_told() {
        assert_eq!(resolver("search x\n").grade, Grade::Warning);
        assert_eq!(resolver("nameserver 1.1.1.1").grade, Grade::Fine);
    }
}
