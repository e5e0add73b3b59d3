//! The host's own firewall and routing rules: changes by an engine are reverted at once, and an alarm names
//! the others' rules that concern our packets.

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

#[test]
fn routing_rule_by_a_groups_number_is_an_alarm_and_new_groups_get_others() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    let create = |group| lab.netctl_ok(&["group", "create", "contiv-net", group]);
    let has_number = |group, number: u16| {
        let shown = lab.netctl_ok(&["group", "inspect", group]);
        shown.map(|it| it.contains(&format!(r#""groupId": {number}"#)))
    };
    create("web")?;
    assert!(has_number("web", 2)?);
    // Numbers 2 and 3.
    let rule = "pref 2000 fwmark 0x2/0xfffe blackhole";
    assert!(sh(lab, "node-1", &format!("ip rule add {rule}")));
    let alarm = || {
        lab.alarms("node-1")
            .is_ok_and(|all| all.iter().any(|it| it == "fwmark"))
    };
    wait_until("the alarm is raised", WAIT_TIMEOUT, alarm)?;
    let shown = lab.netctl(&["doctor"])?.stdout;
    let named = "`ip rule 2000: from all fwmark 0x2/0xfffe blackhole`: group web of tenant default";
    assert!(shown.contains(named), "{shown}");
    create("db")?;
    assert!(has_number("db", 4)?);
    assert!(scene.pings_both_ways()?);
    assert!(sh(lab, "node-1", &format!("ip rule del {rule}")));
    wait_until("the alarm is over", WAIT_TIMEOUT, || !alarm())
}
