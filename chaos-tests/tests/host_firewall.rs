//! Docker's firewall on a node with VRF domains: changes by its engine are reverted at once.

use std::time::{Duration, Instant};

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, sh};
use lab::{Lab, wait_until};

const DOCKER_RULES: &str = include_str!("../../lab/recordings/docker-20.10.iptables");
const OUR_RULE: &str = "-o cx+ -m comment --comment contiv -j ACCEPT";

/// The time until both of our rules are present.
fn healed(lab: &Lab, after: &str) -> Result<Duration, lab::Error> {
    let start = Instant::now();
    let ours = format!("iptables -S DOCKER-USER | grep -e '{OUR_RULE}'");
    wait_until(after, WAIT_TIMEOUT, || sh(lab, "node-1", &ours))?;
    Ok(start.elapsed())
}

fn one_program(lab: &Lab) -> Duration {
    let start = Instant::now();
    sh(lab, "node-1", "iptables -S");
    start.elapsed()
}

#[test]
fn reload_by_an_engine_is_healed_within_a_second() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    if lab.domain("node-1")? != "vrf" {
        return Ok(());
    }
    assert!(scene.pings_both_ways()?);
    let start = format!("iptables-restore <<'X'\n{DOCKER_RULES}X");
    let reload = format!("iptables -F; iptables -X; {start}");
    for deed in [start.as_str(), "iptables -F DOCKER-USER", &reload] {
        assert!(sh(lab, "node-1", deed), "{deed}");
        let took = healed(lab, deed)?;
        // In an emulated machine a program takes longer to start.
        let allowed = Duration::from_secs(1) + 5 * one_program(lab);
        assert!(took < allowed, "{took:?} of {allowed:?} after {deed}");
        assert!(scene.pings_both_ways()?, "{deed}");
    }
    let log = lab.log_tail("netplugin@node-1");
    assert!(!log.contains("another program changed"), "{log}");
    Ok(())
}

#[test]
fn firewall_that_drops_our_packets_is_an_alarm_until_it_accepts_them() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    let alarm = || {
        lab.alarms("node-1")
            .is_ok_and(|all| all.iter().any(|it| it == "host-firewall"))
    };
    let closed = "nft add table ip fw; \
                  nft 'add chain ip fw f { type filter hook forward priority 5; policy drop; }'";
    assert!(sh(lab, "node-1", closed));
    if lab.domain("node-1")? != "vrf" {
        assert!(scene.pings_both_ways()? && !alarm());
        return Ok(());
    }
    wait_until("the alarm is raised", WAIT_TIMEOUT, alarm)?;
    assert!(!scene.pings_both_ways()?);
    assert!(sh(
        lab,
        "node-1",
        r#"nft 'insert rule ip fw f iifname "cd*" oifname { "cv*", "cx*" } accept'"#
    ));
    assert!(scene.pings_both_ways()?);
    wait_until("the alarm is over", WAIT_TIMEOUT, || !alarm())
}
