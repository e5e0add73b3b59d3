//! The underlay's address changes under a running node.

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT};
use lab::wait_until;

#[test]
fn node_reports_a_new_underlay_address_and_follows_it() -> Outcome {
    let scene = Scene::open()?;
    let lab = &scene.lab;
    let old = lab.address("node-1")?.to_string();
    let prefix = old.rsplit_once('.').map_or("", |(prefix, _)| prefix);
    let new = format!("{prefix}.112");
    // A second address, such as one of keepalived, doesn't change the underlay.
    let second = format!("ip addr add {prefix}.200/32 dev eth0");
    lab.run("node-1", &["sh", "-c", &second])?;
    let gone = format!("ip addr del {old}/24 dev eth0");
    lab.run("node-1", &["sh", "-c", &gone])?;
    wait_until("status shows the alarm", WAIT_TIMEOUT, || {
        let shown = lab.netctl(&["status"]);
        shown.is_ok_and(|it| {
            it.status == 1
                && it
                    .stdout
                    .contains("wrong    node node-1 underlay-address: ")
        }) || lab
            .status("node-1")
            .is_ok_and(|it| it["vtep"] != old.as_str())
    })?;
    let given = format!("ip addr del {prefix}.200/32 dev eth0; ip addr add {new}/24 dev eth0");
    lab.run("node-1", &["sh", "-c", &given])?;
    wait_until("packets pass by the new address", WAIT_TIMEOUT, || {
        lab.status("node-1")
            .is_ok_and(|it| it["vtep"] == new.as_str())
            && scene.pings_both_ways().is_ok_and(|talks| talks)
    })?;
    wait_until("no alarm is left", WAIT_TIMEOUT, || {
        lab.netctl(&["status"]).is_ok_and(|it| it.success())
    })
}
