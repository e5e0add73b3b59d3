//! A node is its name and its machine; an address belongs to one of them.

use chaos_tests::{Outcome, WAIT_TIMEOUT, create};
use lab::{Daemons, Error, Lab, Spec, wait_until};

fn control_and_one_node() -> Result<Lab, Error> {
    let mut lab = Lab::up(&Spec::test(2).daemons(Daemons::Control))?;
    lab.start_netplugin("node-1", "node-1", "eth0", false)?;
    lab.await_node("node-1")?;
    Ok(lab)
}

fn is_refused(lab: &Lab, host: &str, because: &str) -> Outcome {
    wait_until("the second node is refused", WAIT_TIMEOUT, || {
        lab.log_state(host).is_ok_and(|state| state == "refused")
    })?;
    let status = lab.status(host)?;
    let reason = status["log"]["reason"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(reason.contains(because), "{reason}");
    Ok(())
}

#[test]
fn second_machine_with_the_same_name_is_refused() -> Outcome {
    let mut lab = control_and_one_node()?;
    lab.start_netplugin("node-2", "node-1", "eth0", false)?;
    is_refused(&lab, "node-2", "another machine bears the name node-1")?;
    assert_eq!(lab.log_state("node-1")?, "in-sync");
    create(&lab, "net", "10.0.0.0/24")
}

#[test]
fn second_node_with_the_same_vtep_is_refused() -> Outcome {
    let mut lab = control_and_one_node()?;
    let taken = lab.address("node-1")?.to_string();
    // The host has the address, but doesn't answer ARP for it on the underlay.
    let add =
        format!("echo 1 >/proc/sys/net/ipv4/conf/eth0/arp_ignore; ip addr add {taken}/32 dev lo");
    lab.run("node-2", &["sh", "-c", &add])?;
    lab.start_netplugin("node-2", "node-2", &taken, false)?;
    // The host reaches the bus from its first address, to which replies return.
    is_refused(
        &lab,
        "node-2",
        &format!("VTEP address {taken} belongs to node node-1"),
    )
}
