//! Addresses that a node doesn't use serve other nodes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{PoolKey, TenantName};
use chaos_tests::bus::Bus;
use chaos_tests::{Outcome, SOON, create, invariant, sh};
use lab::{Lab, Signal, Spec, wait_until};

/// Seconds after which a node returns an idle block here.
const IDLE: [&str; 2] = ["--block-idle", "2"];
/// Usable by endpoints: of the eight, neither the first, the last nor the gateway.
const SMALL: &str = "20.1.1.0/29";
const USABLE: usize = 5;

fn two_nodes() -> Result<Lab, lab::Error> {
    let lab = Lab::up(&Spec::test(2).node_flags(&IDLE))?;
    create(&lab, "small", SMALL)?;
    Ok(lab)
}

fn fill(lab: &mut Lab, node: &str) -> Result<Vec<Ipv4Addr>, lab::Error> {
    let names = (0..USABLE).map(|number| format!("{node}-{number}"));
    let attached = names.map(|name| Ok(lab.run_workload(node, "small", &name)?.address));
    attached.collect()
}

fn empty(lab: &mut Lab, node: &str) -> Outcome {
    for number in 0..USABLE {
        lab.remove_workload(&format!("{node}-{number}"))?;
    }
    Ok(())
}

fn blocks(lab: &Lab, node: &str) -> Option<u64> {
    lab.status(node).ok()?["blocks"].as_u64()
}

#[test]
fn a_network_that_one_node_filled_and_emptied_serves_another_one() -> Outcome {
    let mut lab = two_nodes()?;
    let first = fill(&mut lab, "node-1")?;
    let none = lab.try_workload("node-2", "small", "none", &[])?;
    assert!(!none.success(), "{none:?}");
    lab.run("node-2", &["ip", "netns", "del", "w-none"])?;
    empty(&mut lab, "node-1")?;
    // Nobody else holds any: it keeps its last one.
    wait_until("the idle blocks come back", SOON, || {
        blocks(&lab, "node-1") == Some(1)
    })?;
    lab.run_workload("node-2", "small", "there")?;
    wait_until("the last one comes back, too", SOON, || {
        blocks(&lab, "node-1") == Some(0)
    })?;
    lab.remove_workload("there")?;
    let mut second = fill(&mut lab, "node-2")?;
    second.sort();
    second.dedup();
    assert_eq!(second.len(), USABLE, "no address has two owners");
    assert!(second.iter().all(|it| first.contains(it)), "{second:?}");
    invariant::converged(&lab)
}

/// Asks a node as netmaster does.
fn ask(lab: &Lab, node: &str, request: &NodeRequest) -> NodeReply {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let bus = Bus::connect(&lab.nats_url()).await.expect("the bus");
        let node = node.parse().expect("a name");
        bus.ask(&node, request).await.expect("an answer")
    })
}

/// The journal says that it gives up a block, and netmaster hasn't heard of it.
#[test]
fn a_node_that_is_killed_while_it_returns_a_block_returns_it_after_its_start() -> Outcome {
    let mut lab = Lab::up(&Spec::test(2))?;
    create(&lab, "small", SMALL)?;
    fill(&mut lab, "node-1")?;
    lab.remove_workload("node-1-0")?;
    lab.pause("netmaster-1")?;
    let pool = PoolKey::of_network(
        &TenantName::default_tenant(),
        &"small".parse().expect("a name"),
    );
    let reply = ask(
        &lab,
        "node-1",
        &NodeRequest::ReturnBlock { pool, v6: false },
    );
    assert!(matches!(reply, NodeReply::Refused { .. }), "{reply:?}");
    let journaled = "grep -aq returning /var/lib/contiv/endpoints.journal";
    assert!(sh(&lab, "node-1", journaled));
    lab.restart("netplugin@node-1", Signal::Kill)?;
    lab.resume("netmaster-1")?;
    wait_until("the block is returned", SOON, || {
        blocks(&lab, "node-1") == Some(USABLE as u64 - 1)
    })?;
    let there = lab.run_workload("node-2", "small", "there")?;
    for number in 1..USABLE {
        let name = format!("node-1-{number}");
        assert_ne!(lab.address_of(&name)?, there.address, "{name}");
        assert!(lab.ping("there", &lab.address_of(&name)?.to_string())?);
    }
    invariant::converged(&lab)
}

/// All sixteen blocks have a holder, so that every further endpoint is given an address of another
/// node. Many start at once, on every node, as after an outage.
#[test]
fn a_24_serves_twenty_nodes_and_many_endpoints_that_start_at_once() -> Outcome {
    const NODES: u8 = 20;
    const EACH: usize = 6;
    let mut lab = Lab::up(&Spec::test(NODES))?;
    create(&lab, "wide", "20.1.1.0/24")?;
    for number in 1..=NODES {
        let (node, name) = (format!("node-{number}"), format!("first-{number}"));
        lab.run_workload(&node, "wide", &name)?;
    }
    // Prints what failed.
    let script = format!(
        "for i in $(seq {EACH}); do ip netns add more-$i; \
         netplugin attach --netns /run/netns/more-$i --network wide --name $(hostname)-$i \
         --id $(hostname)-$i 2>&1 >/dev/null & done; wait"
    );
    let failed = std::thread::scope(|scope| {
        let nodes: Vec<String> = (1..=NODES).map(|it| format!("node-{it}")).collect();
        let (lab, script) = (&lab, &script);
        let all: Vec<_> = nodes
            .into_iter()
            .map(|node| scope.spawn(move || lab.run(&node, &["sh", "-c", script])))
            .collect();
        let outputs = all.into_iter().map(|it| it.join().expect("no panic"));
        let texts = outputs.map(|output| output.map(|it| it.stdout));
        texts.collect::<Result<Vec<String>, lab::Error>>()
    })?;
    assert!(failed.iter().all(String::is_empty), "{failed:?}");
    let all = usize::from(NODES) * (EACH + 1);
    let addresses = || -> Vec<String> {
        let listed = lab.netctl_ok(&["endpoint", "ls", "-o", "json"]);
        let listed = serde_json::from_str(&listed.unwrap_or_default());
        let listed: Vec<serde_json::Value> = listed.unwrap_or_default();
        listed
            .iter()
            .map(|it| it["Oper"]["ipAddress"][0].to_string())
            .collect()
    };
    wait_until("every endpoint is published", SOON, || {
        addresses().len() == all
    })?;
    let owned: BTreeSet<String> = addresses().into_iter().collect();
    assert_eq!(owned.len(), all, "no address has two owners");
    invariant::converged(&lab)
}
