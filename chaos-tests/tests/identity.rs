//! A node is its name and its machine; an address belongs to one of them.

use chaos_tests::{DnsAnswer, DnsClient, Outcome, Scene, WAIT_TIMEOUT, create, sh};
use lab::{Daemons, Error, Lab, Signal, Spec, wait_until};

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

/// A clone of a running node, or its backup restored under another name, holds its journal.
#[test]
fn clone_of_a_node_has_none_of_its_endpoints() -> Outcome {
    let mut scene = Scene::of(&Spec::test(3))?;
    let journal = "/var/lib/contiv/endpoints.journal";
    let lab = &mut scene.lab;
    lab.stop("netplugin@node-3", Signal::Term)?;
    let copied = lab.run("node-1", &["base64", "-w0", journal])?.stdout;
    let restore = format!("echo {} | base64 -d >{journal}", copied.trim());
    lab.run("node-3", &["sh", "-c", &restore])?;
    lab.start("netplugin@node-3")?;
    lab.await_node("node-3")?;
    let status = lab.status("node-3")?;
    assert_eq!(status["endpoints"], 0, "{status}");
    let alarms = status["alarms"].to_string();
    assert!(alarms.contains("node node-1 on machine"), "{alarms}");
    assert!(sh(
        lab,
        "node-3",
        "test -e /var/lib/contiv/endpoints.of-node-1"
    ));
    let asker = DnsClient::new(lab, "db")?;
    let web = DnsAnswer::Addresses(vec![scene.web.address.into()]);
    assert_eq!(asker.ask("web"), web);
    assert!(scene.pings_both_ways()?);
    Ok(())
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
