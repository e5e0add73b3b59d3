//! Unused addresses of a node serve other nodes.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{PoolKey, TenantName};
use chaos_tests::bus::Bus;
use chaos_tests::{Outcome, WAIT_TIMEOUT, create, invariant, sh};
use lab::{Lab, Signal, Spec, wait_until};

/// A node returns an idle block after 2 s.
const BLOCK_IDLE_FLAGS: [&str; 2] = ["--block-idle", "2"];
/// The addresses for endpoints: of the eight, neither the first, the last nor the gateway.
const SMALL_SUBNET: &str = "20.1.1.0/29";
const USABLE_ADDRESSES: usize = 5;

fn two_nodes() -> Result<Lab, lab::Error> {
    let lab = Lab::up(&Spec::test(2).node_flags(&BLOCK_IDLE_FLAGS))?;
    create(&lab, "small", SMALL_SUBNET)?;
    Ok(lab)
}

fn fill(lab: &mut Lab, node: &str) -> Result<Vec<Ipv4Addr>, lab::Error> {
    let names = (0..USABLE_ADDRESSES).map(|number| format!("{node}-{number}"));
    let attached = names.map(|name| Ok(lab.run_workload(node, "small", &name)?.address));
    attached.collect()
}

fn empty(lab: &mut Lab, node: &str) -> Outcome {
    for number in 0..USABLE_ADDRESSES {
        lab.remove_workload(&format!("{node}-{number}"))?;
    }
    Ok(())
}

fn blocks(lab: &Lab, node: &str) -> Option<u64> {
    lab.status(node).ok()?["blocks"].as_u64()
}

#[test]
fn network_emptied_by_one_node_serves_another() -> Outcome {
    let mut lab = two_nodes()?;
    let first = fill(&mut lab, "node-1")?;
    let none = lab.try_workload("node-2", "small", "none", &[])?;
    assert!(!none.success(), "{none:?}");
    lab.run("node-2", &["ip", "netns", "del", "w-none"])?;
    empty(&mut lab, "node-1")?;
    // No other node has a block, so it keeps its last one.
    wait_until("the idle blocks are returned", WAIT_TIMEOUT, || {
        blocks(&lab, "node-1") == Some(1)
    })?;
    lab.run_workload("node-2", "small", "there")?;
    wait_until("the last block is returned", WAIT_TIMEOUT, || {
        blocks(&lab, "node-1") == Some(0)
    })?;
    lab.remove_workload("there")?;
    let mut second = fill(&mut lab, "node-2")?;
    second.sort();
    second.dedup();
    assert_eq!(second.len(), USABLE_ADDRESSES, "no address has two owners");
    assert!(second.iter().all(|it| first.contains(it)), "{second:?}");
    invariant::converged(&lab)
}

/// Sends a request to a node, as netmaster does.
fn ask(lab: &Lab, node: &str, request: &NodeRequest) -> NodeReply {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let bus = Bus::connect(&lab.nats_url()).await.expect("the bus");
        let node = node.parse().expect("a name");
        bus.ask(&node, request).await.expect("an answer")
    })
}

/// The journal has the return of a block, but netmaster hasn't received it.
#[test]
fn node_killed_during_a_return_completes_it_after_its_start() -> Outcome {
    let mut lab = Lab::up(&Spec::test(2))?;
    create(&lab, "small", SMALL_SUBNET)?;
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
    wait_until("the block is returned", WAIT_TIMEOUT, || {
        blocks(&lab, "node-1") == Some(USABLE_ADDRESSES as u64 - 1)
    })?;
    let there = lab.run_workload("node-2", "small", "there")?;
    for number in 1..USABLE_ADDRESSES {
        let name = format!("node-1-{number}");
        assert_ne!(lab.address_of(&name)?, there.address, "{name}");
        assert!(lab.ping("there", &lab.address_of(&name)?.to_string())?);
    }
    invariant::converged(&lab)
}

/// All sixteen blocks have a holder, so every further endpoint gets an address of another node. Many start
/// at once, on every node, as after an outage.
#[test]
fn a_24_serves_twenty_nodes_and_many_endpoints_that_start_at_once() -> Outcome {
    const NODE_COUNT: u8 = 20;
    const ENDPOINTS_PER_NODE: usize = 6;
    let mut lab = Lab::up(&Spec::test(NODE_COUNT))?;
    create(&lab, "wide", "20.1.1.0/24")?;
    for number in 1..=NODE_COUNT {
        let (node, name) = (format!("node-{number}"), format!("first-{number}"));
        lab.run_workload(&node, "wide", &name)?;
    }
    // Prints the failures.
    let script = format!(
        "for i in $(seq {ENDPOINTS_PER_NODE}); do ip netns add more-$i; \
         netplugin attach --netns /run/netns/more-$i --network wide --name $(hostname)-$i \
         --id $(hostname)-$i 2>&1 >/dev/null & done; wait"
    );
    let failed = std::thread::scope(|scope| {
        let nodes: Vec<String> = (1..=NODE_COUNT).map(|it| format!("node-{it}")).collect();
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
    let all = usize::from(NODE_COUNT) * (ENDPOINTS_PER_NODE + 1);
    let addresses = || -> Vec<String> {
        let listed = lab.netctl_ok(&["endpoint", "ls", "-o", "json"]);
        let listed = serde_json::from_str(&listed.unwrap_or_default());
        let listed: Vec<serde_json::Value> = listed.unwrap_or_default();
        listed
            .iter()
            .map(|it| it["Oper"]["ipAddress"][0].to_string())
            .collect()
    };
    wait_until("every endpoint is published", WAIT_TIMEOUT, || {
        addresses().len() == all
    })?;
    let owned: BTreeSet<String> = addresses().into_iter().collect();
    assert_eq!(owned.len(), all, "no address has two owners");
    invariant::converged(&lab)
}
