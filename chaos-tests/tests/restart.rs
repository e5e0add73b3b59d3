//! Daemons end and start again under running workloads, without an effect on forwarding.

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, invariant};
use lab::{Lab, Signal, wait_until};

/// Restarts netplugin on both nodes while a ping runs between them.
fn restart_under_a_ping(scene: &mut Scene, how: Signal, bus: bool) -> Outcome {
    let ping = scene.lab.start_ping("web", &scene.db.address.to_string())?;
    if !bus {
        scene.lab.kill("nats")?;
    }
    for node in ["node-1", "node-2"] {
        scene.lab.restart(&format!("netplugin@{node}"), how)?;
        wait_until("netplugin restored its endpoint", WAIT_TIMEOUT, || {
            endpoints(&scene.lab, node) == Some(1)
        })?;
        ping.wait_for(25)?;
    }
    let report = ping.stop()?;
    assert!(report.is_whole(), "{report:?}");
    assert!(scene.pings_both_ways()?);
    Ok(())
}

fn endpoints(lab: &Lab, node: &str) -> Option<u64> {
    lab.status(node).ok()?["endpoints"].as_u64()
}

#[test]
fn restart_of_netplugin_loses_no_packet() -> Outcome {
    let mut scene = Scene::open()?;
    restart_under_a_ping(&mut scene, Signal::Term, true)?;
    invariant::converged(&scene.lab)
}

#[test]
fn killed_netplugin_loses_no_packet() -> Outcome {
    let mut scene = Scene::open()?;
    restart_under_a_ping(&mut scene, Signal::Kill, true)?;
    invariant::converged(&scene.lab)
}

#[test]
fn restart_without_the_bus_loses_no_packet() -> Outcome {
    let mut scene = Scene::open()?;
    restart_under_a_ping(&mut scene, Signal::Term, false)?;
    scene.lab.start("nats")?;
    scene.lab.await_bus()?;
    invariant::converged(&scene.lab)?;
    assert!(scene.pings_both_ways()?);
    Ok(())
}

#[test]
fn workloads_start_and_stop_without_a_bus() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.kill("nats")?;
    let more = scene.lab.run_workload("node-2", "contiv-net", "more")?;
    assert!(scene.lab.ping("web", &more.address.to_string())?);
    scene.lab.remove_workload("db")?;
    scene.lab.start("nats")?;
    scene.lab.await_bus()?;
    wait_until("netmaster lists both", WAIT_TIMEOUT, || {
        let endpoints = scene.lab.netctl_ok(&["endpoint", "ls"]).unwrap_or_default();
        endpoints.contains("more") && !endpoints.contains("db")
    })
}

#[test]
fn killed_netmaster_comes_back_with_everything() -> Outcome {
    let mut scene = Scene::open()?;
    let before = scene.lab.netctl_ok(&["net", "ls"])?;
    scene.lab.restart("netmaster-1", Signal::Kill)?;
    scene.lab.await_netmaster("netmaster-1")?;
    assert_eq!(scene.lab.netctl_ok(&["net", "ls"])?, before);
    chaos_tests::create(&scene.lab, "another", "20.1.3.0/24")?;
    invariant::converged(&scene.lab)
}
