//! The operator's view of a cluster: `status` and `doctor`.

use chaos_tests::{Outcome, WAIT_TIMEOUT, create, two_nodes};
use lab::{Error, Lab, Signal, wait_until};
use serde_json::Value;

fn status(lab: &Lab) -> Result<(i32, Value), Error> {
    let output = lab.netctl(&["status", "-o", "json"])?;
    let value = serde_json::from_str(&output.stdout).unwrap_or_default();
    Ok((output.status, value))
}

#[test]
fn status_shows_convergence_and_lagging_parts() -> Outcome {
    let mut lab = two_nodes()?;
    create(&lab, "net", "20.1.1.0/24")?;
    let (code, value) = status(&lab)?;
    assert_eq!(
        (code, &value["converged"]),
        (0, &Value::Bool(true)),
        "{value}"
    );
    for list in ["servers", "netmasters", "nodes"] {
        assert!(!value[list][0]["name"].is_null(), "{list}: {value}");
    }
    lab.isolate("node-2")?;
    wait_until("the silent node is reported", WAIT_TIMEOUT, || {
        status(&lab).is_ok_and(|(code, value)| {
            let lag = value["lags"][0].as_str().unwrap_or_default();
            code == 1 && lag.starts_with("node node-2: no status for")
        })
    })?;
    create(&lab, "other", "20.1.2.0/24")?;
    lab.repair()?;
    wait_until("it has caught up", WAIT_TIMEOUT, || {
        status(&lab).is_ok_and(|(code, _)| code == 0)
    })?;
    lab.stop("netmaster-1", Signal::Kill)?;
    assert_eq!(lab.netctl(&["status"])?.status, 2);
    Ok(())
}

#[test]
fn status_prints_a_warning_and_exits_with_zero() -> Outcome {
    let mut lab = two_nodes()?;
    lab.stop("netplugin@node-1", Signal::Term)?;
    let torn = "printf torn >> /var/lib/contiv/endpoints.journal";
    lab.run("node-1", &["sh", "-c", torn])?;
    lab.start("netplugin@node-1")?;
    lab.await_node("node-1")?;
    let mut shown = String::new();
    wait_until("status shows the warning", WAIT_TIMEOUT, || {
        shown = lab
            .netctl(&["status"])
            .map_or_else(|_| String::new(), |it| it.stdout);
        shown.contains("warning  node node-1 journal-truncated: ")
    })?;
    let (code, value) = status(&lab)?;
    assert_eq!((code, &value["converged"]), (0, &true.into()), "{value}");
    let alarm = &value["nodes"][0]["status"]["alarms"][0];
    assert_eq!(alarm["grade"], "warning", "{value}");
    let (_, text) = complaints(&lab)?;
    assert!(
        text.contains("warning  node node-1 journal-truncated"),
        "{text}"
    );
    Ok(())
}

/// The exit code and the problems of doctor.
fn complaints(lab: &Lab) -> Result<(i32, String), Error> {
    let output = lab.netctl(&["doctor", "-q"])?;
    Ok((output.status, output.stdout))
}

#[test]
fn doctor_measures_the_underlay_and_finds_problems() -> Outcome {
    let mut lab = two_nodes()?;
    let (code, text) = complaints(&lab)?;
    assert_eq!(code, 0, "{text}");
    for fine in ["underlay", "kernel", "firewall", "clock"] {
        assert!(!text.contains(fine), "{text}");
    }
    // A switch has a lower MTU than both ends.
    lab.run("underlay", &["ip", "link", "set", "node-2", "mtu", "1400"])?;
    // A firewall drops unknown ports.
    let drop = "add table inet mine; \
         add chain inet mine in { type filter hook input priority 0; policy drop; }; \
         add rule inet mine in meta l4proto { tcp, icmp } accept; \
         add rule inet mine in udp dport 1-10000 accept";
    lab.run("node-1", &["nft", drop])?;
    let (code, text) = complaints(&lab)?;
    assert_eq!(code, 1, "{text}");
    for says in [
        "wrong    node node-1 underlay: packets of 1500 bytes",
        "don't reach node-2",
        "1400 bytes do",
        "warning  node node-1 firewall: this host's firewall drops what other nodes' containers send: \
         chain in of nft's table inet mine",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let allow = ["nft", "add rule inet mine in udp dport 14789 accept"];
    lab.run("node-1", &allow)?;
    let (_, text) = complaints(&lab)?;
    assert!(!text.contains("firewall"), "{text}");
    lab.stop("netplugin@node-2", Signal::Kill)?;
    wait_until("the silent node is reported", WAIT_TIMEOUT, || {
        complaints(&lab).is_ok_and(|(code, text)| {
            code == 1 && text.contains("wrong    node node-2: no status received")
        })
    })
}
