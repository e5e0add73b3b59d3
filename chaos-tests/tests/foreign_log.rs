//! No node follows an emptied log.

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT};
use lab::{Signal, wait_until};

#[test]
fn wiped_bus_raises_an_alarm_and_changes_nothing_on_nodes() -> Outcome {
    let mut scene = Scene::open()?;
    let ping = scene.lab.start_ping("web", &scene.db.address.to_string())?;
    scene.lab.kill("nats")?;
    scene.lab.wipe_bus()?;
    scene.lab.start("nats")?;
    scene.lab.await_bus()?;
    scene.lab.init_cluster()?;
    for node in ["node-1", "node-2"] {
        wait_until("the node raises the alarm", WAIT_TIMEOUT, || {
            scene
                .lab
                .alarms(node)
                .is_ok_and(|codes| codes.iter().any(|code| code == "foreign-log"))
        })?;
        assert_eq!(scene.lab.log_state(node)?, "foreign");
    }
    ping.wait_for(25)?;
    scene.lab.restart("netplugin@node-1", Signal::Kill)?;
    wait_until(
        "the restarted node still has the alarm",
        WAIT_TIMEOUT,
        || {
            scene
                .lab
                .log_state("node-1")
                .is_ok_and(|state| state == "foreign")
        },
    )?;
    ping.wait_for(25)?;
    let report = ping.stop()?;
    assert_eq!(report.lost(), 0, "{report:?}");
    Ok(())
}
