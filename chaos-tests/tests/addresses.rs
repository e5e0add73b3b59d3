//! Addresses that a node doesn't use serve other nodes.

use std::net::Ipv4Addr;

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

/// The journal says that it gives up a block, and netmaster hasn't heard of it.
#[test]
fn a_node_that_is_killed_while_it_returns_a_block_returns_it_after_its_start() -> Outcome {
    let mut lab = two_nodes()?;
    fill(&mut lab, "node-1")?;
    lab.remove_workload("node-1-0")?;
    lab.pause("netmaster-1")?;
    wait_until("the return is journaled", SOON, || {
        sh(
            &lab,
            "node-1",
            "grep -aq returning /var/lib/contiv/endpoints.journal",
        )
    })?;
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
