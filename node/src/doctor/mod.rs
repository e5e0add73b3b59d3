//! `netctl doctor`'s look at this machine: what the kernel takes, what the underlay lets through,
//! who else filters, who resolves names. What the node knows anyway is in its alarms.
//!
//! Changes nothing but what it takes away again. `inquiry` asks.

mod underlay;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bus_schema::NodeName;
use bus_schema::node::{DomainKind, Examination, Finding, Grade};
use serde::Deserialize;
use tokio::task::JoinSet;

use self::underlay::{Passed, measure};
use crate::check::check;
use crate::datapath::Datapath;
use crate::desired::Params;
use crate::endpoint::now;
use crate::projection::Projection;
use crate::resource::TABLE;

/// Looks at everything. The findings are in no order.
pub async fn examine(params: &Params, datapath: &Datapath, facts: &Projection) -> Examination {
    let peers = facts
        .nodes
        .iter()
        .filter(|(name, _)| **name != params.node)
        .map(|(name, fact)| (name.clone(), fact.vtep));
    let mut findings = underlays(params, peers.collect()).await;
    findings.push(kernel(params, datapath).await);
    let strict = text("/proc/sys/net/ipv4/conf/all/rp_filter");
    findings.extend(strictness(params.kind, &strict));
    findings.push(firewall(datapath).await);
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

async fn firewall(datapath: &Datapath) -> Finding {
    let about = "firewall";
    match datapath.host_chains().await.map(|text| droppers(&text)) {
        Ok(Ok(droppers)) if droppers.is_empty() => Finding::new(
            Grade::Fine,
            about,
            "no chain of this host drops by default what comes in",
        ),
        Ok(Ok(droppers)) => Finding::new(
            Grade::Warning,
            about,
            format!(
                "{} of this host's nftables rules drops what it doesn't name: it must let UDP port 14789 in from the other nodes",
                droppers.join(", ")
            ),
        ),
        Ok(Err(error)) => Finding::new(
            Grade::Unknown,
            about,
            format!("`nft -j list chains` can't be read: {error}"),
        ),
        Err(error) => Finding::new(Grade::Unknown, about, error.to_string()),
    }
}

/// Input chains of others whose policy is to drop: `FAMILY TABLE CHAIN`.
fn droppers(text: &str) -> Result<Vec<String>, serde_json::Error> {
    #[derive(Deserialize)]
    struct Output {
        nftables: Vec<Object>,
    }
    #[derive(Deserialize)]
    struct Object {
        chain: Option<Chain>,
    }
    #[derive(Deserialize)]
    struct Chain {
        family: String,
        table: String,
        name: String,
        hook: Option<String>,
        policy: Option<String>,
    }
    let output: Output = serde_json::from_str(text)?;
    let chains = output.nftables.into_iter().filter_map(|it| it.chain);
    let dropping = chains.filter(|it| {
        it.table != TABLE
            && it.hook.as_deref() == Some("input")
            && it.policy.as_deref() == Some("drop")
            && it.family != "ip6"
    });
    Ok(dropping
        .map(|it| format!("chain {} {} {}", it.family, it.table, it.name))
        .collect())
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
    fn only_others_input_chains_that_drop_are_named() {
        let chain = |family: &str, table: &str, name: &str, hook: &str, policy: &str| {
            format!(
                r#"{{"chain": {{"family": "{family}", "table": "{table}", "name": "{name}", "handle": 1, "type": "filter", "hook": "{hook}", "prio": 0, "policy": "{policy}"}}}}"#
            )
        };
        let chains = [
            r#"{"metainfo": {"version": "1.0.6"}}"#.to_owned(),
            chain("inet", "contiv", "host", "input", "drop"),
            chain("ip", "filter", "INPUT", "input", "drop"),
            chain("ip", "filter", "FORWARD", "forward", "drop"),
            chain("inet", "mine", "in", "input", "accept"),
            r#"{"chain": {"family": "ip", "table": "t", "name": "jumped-to", "handle": 2}}"#
                .to_owned(),
        ];
        let text = format!(r#"{{"nftables": [{}]}}"#, chains.join(","));
        assert_eq!(droppers(&text).unwrap(), ["chain ip filter INPUT"]);
        assert!(droppers("{").is_err());
    }

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
