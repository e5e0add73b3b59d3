//! Docker's firewall on a node whose domains are VRFs: what its engine does is healed at once.

use std::time::{Duration, Instant};

use chaos_tests::{Outcome, SOON, Scene, sh};
use lab::{Lab, wait_until};

const DOCKER: &str = include_str!("../../lab/recordings/docker-20.10.iptables");
const OURS: &str = "-o cx+ -m comment --comment contiv -j ACCEPT";

/// How long it takes until both rules of ours are there.
fn healed(lab: &Lab, after: &str) -> Result<Duration, lab::Error> {
    let start = Instant::now();
    let ours = format!("iptables -S DOCKER-USER | grep -e '{OURS}'");
    wait_until(after, SOON, || sh(lab, "node-1", &ours))?;
    Ok(start.elapsed())
}

fn one_program(lab: &Lab) -> Duration {
    let start = Instant::now();
    sh(lab, "node-1", "iptables -S");
    start.elapsed()
}

#[test]
fn an_engines_reload_is_healed_within_a_second() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    if lab.domain("node-1")? != "vrf" {
        return Ok(());
    }
    assert!(scene.talks()?);
    let start = format!("iptables-restore <<'X'\n{DOCKER}X");
    let reload = format!("iptables -F; iptables -X; {start}");
    for deed in [start.as_str(), "iptables -F DOCKER-USER", &reload] {
        assert!(sh(lab, "node-1", deed), "{deed}");
        let took = healed(lab, deed)?;
        // In an emulated machine a program takes its time to start.
        let allowed = Duration::from_secs(1) + 5 * one_program(lab);
        assert!(took < allowed, "{took:?} of {allowed:?} after {deed}");
        assert!(scene.talks()?, "{deed}");
    }
    let log = lab.log_tail("netplugin@node-1");
    assert!(!log.contains("somebody changed"), "{log}");
    Ok(())
}

#[test]
fn a_firewall_in_the_way_is_an_alarm_until_it_lets_ours_pass() -> Outcome {
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
        assert!(scene.talks()? && !alarm());
        return Ok(());
    }
    wait_until("the alarm is raised", SOON, alarm)?;
    assert!(!scene.talks()?);
    assert!(sh(
        lab,
        "node-1",
        r#"nft 'insert rule ip fw f iifname "cd*" oifname { "cv*", "cx*" } accept'"#
    ));
    assert!(scene.talks()?);
    wait_until("the alarm is over", SOON, || !alarm())
}
