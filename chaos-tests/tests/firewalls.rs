//! Real host firewalls: they and their reloads keep our rules, or these are restored.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT};
use lab::{Error, Lab, wait_until};

const DBUS_ADDRESS: &str = "unix:path=/run/bus";

/// The configuration of a D-Bus system bus of the host, which permits everything.
const DBUS_CONFIG: &str = r#"<busconfig><type>system</type><listen>unix:path=/run/bus</listen>
<auth>EXTERNAL</auth><policy context="default"><allow user="*"/><allow own="*"/>
<allow send_destination="*" eavesdrop="true"/><allow receive_sender="*" eavesdrop="true"/>
</policy></busconfig>"#;

fn run(lab: &Lab, script: &str) -> Result<String, Error> {
    let script = format!("export DBUS_SYSTEM_BUS_ADDRESS={DBUS_ADDRESS}; {script}");
    let output = lab.run("node-1", &["sh", "-ec", &script]);
    output.map(|output| output.stdout)
}

/// The scene, with Debian's firewalls in node-1's `/usr` and `/etc`.
fn open() -> Result<Scene, Error> {
    let scene = Scene::open()?;
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/firewalls");
    assert!(tools.exists(), "`make firewall-tools` fetches them");
    let tools = tools.display();
    let lay = format!(
        "cp -r {tools}/etc/. /etc/; mount -t overlay -o lowerdir={tools}/usr:/usr lab-usr /usr"
    );
    run(&scene.lab, &lay)?;
    Ok(scene)
}

/// Our table without its counters.
fn ours(lab: &Lab) -> Result<String, Error> {
    let listed = run(lab, "nft --stateless list table inet contiv")?;
    assert!(listed.contains("notrack"), "{listed}");
    Ok(listed)
}

/// Reloads the firewall under a ping. During the reload the firewall drops VXLAN's port itself.
fn reload(scene: &Scene, command: &str) -> Outcome {
    let lab = &scene.lab;
    let before = ours(lab)?;
    let ping = lab.start_ping("web", &scene.db.address.to_string())?;
    run(lab, command)?;
    let start = Instant::now();
    assert!(scene.pings_both_ways()?, "after {command}");
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?} after {command}");
    assert_eq!(ours(lab)?, before, "after {command}");
    ping.wait_for(10)?;
    ping.stop()?;
    let log = lab.log_tail("netplugin@node-1");
    assert!(!log.contains("another program changed"), "{log}");
    Ok(())
}

#[test]
fn ufw_and_its_reload_keep_our_rules() -> Outcome {
    let scene = open()?;
    run(&scene.lab, "ufw allow 14789/udp && ufw --force enable")?;
    assert!(scene.pings_both_ways()?, "with VXLAN's port open");
    reload(&scene, "ufw reload")?;
    // The remedy of the alarm `host-firewall` where domains are VRFs.
    let lines = "ufw route allow in on cd+ out on cv+; ufw route allow in on cd+ out on cx+; \
                 ufw allow in on cd+";
    run(&scene.lab, lines)?;
    let listed = run(&scene.lab, "iptables -S")?;
    for rule in [
        "-A ufw-user-forward -i cd+ -o cv+ -j ACCEPT",
        "-A ufw-user-forward -i cd+ -o cx+ -j ACCEPT",
        "-A ufw-user-input -i cd+ -j ACCEPT",
    ] {
        assert!(listed.contains(rule), "{listed}");
    }
    reload(&scene, "ufw reload")
}

#[test]
fn firewalld_and_its_reload_keep_our_rules() -> Outcome {
    let mut scene = open()?;
    run(
        &scene.lab,
        &format!("cat >/run/bus.conf <<'X'\n{DBUS_CONFIG}\nX"),
    )?;
    let env = BTreeMap::from([(
        "DBUS_SYSTEM_BUS_ADDRESS".to_owned(),
        DBUS_ADDRESS.to_owned(),
    )]);
    let bus = ["dbus-daemon", "--config-file=/run/bus.conf", "--nofork"];
    let firewalld = [
        "/usr/bin/python3",
        "/usr/sbin/firewalld",
        "--nofork",
        "--nopid",
    ];
    for (name, argv) in [("bus@node-1", &bus[..]), ("firewalld@node-1", &firewalld)] {
        let argv = argv.iter().map(|&word| word.to_owned()).collect();
        scene.lab.launch(name, "node-1", argv, env.clone())?;
        wait_until("the bus answers", WAIT_TIMEOUT, || {
            run(&scene.lab, "test -S /run/bus").is_ok()
        })?;
    }
    let lab = &scene.lab;
    wait_until("firewalld runs", WAIT_TIMEOUT, || {
        run(lab, "firewall-cmd --state").is_ok()
    })?;
    let port = "firewall-cmd --permanent --add-port=14789/udp; firewall-cmd --reload";
    run(lab, port)?;
    assert!(scene.pings_both_ways()?, "with VXLAN's port open");
    reload(&scene, "firewall-cmd --reload")?;
    // The remedy of the alarm `host-firewall` where domains are VRFs.
    let line = "firewall-cmd --permanent --zone=trusted --add-interface=cd+; firewall-cmd --reload";
    reload(&scene, line)?;
    let listed = run(lab, "nft list chain inet firewalld filter_FORWARD_ZONES")?;
    let goes = r#"iifname "cd*" goto filter_FWD_trusted"#;
    assert!(listed.contains(goes), "{listed}");
    // A complete reload keeps nothing, not even connections.
    reload(&scene, "firewall-cmd --complete-reload")
}

/// `nftables.service` starts with `flush ruleset`, and so does `nft -f` of many configurations.
#[test]
fn flushed_ruleset_is_restored_within_a_second() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    let before = ours(lab)?;
    // A busy machine may take longer once.
    let mut took = [Duration::ZERO; 3];
    for took in &mut took {
        run(lab, "nft -f /etc/nftables.conf")?;
        let start = Instant::now();
        wait_until("our rules are restored", WAIT_TIMEOUT, || {
            ours_now(lab).is_some_and(|now| now == before)
        })?;
        *took = start.elapsed();
        assert!(scene.pings_both_ways()?);
    }
    let fastest = took.iter().min().copied().unwrap_or_default();
    assert!(fastest < Duration::from_secs(1), "{took:?}");
    Ok(())
}

fn ours_now(lab: &Lab) -> Option<String> {
    run(lab, "nft --stateless list table inet contiv").ok()
}
