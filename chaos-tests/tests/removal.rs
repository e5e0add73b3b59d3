//! Objects in use aren't removed, and the refusal names their users.

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, create};
use lab::wait_until;

#[test]
fn network_with_endpoints_stays_and_they_are_named() -> Outcome {
    let mut scene = Scene::open()?;
    let refused = scene.lab.netctl(&["net", "rm", "contiv-net"])?;
    assert_eq!(refused.status, 1, "{refused:?}");
    for name in ["web", "db", "node-1", "node-2"] {
        assert!(
            refused.stderr.contains(name),
            "{name} isn't named: {refused:?}"
        );
    }
    assert!(
        scene.pings_both_ways()?,
        "a refused removal cut the network"
    );
    scene.lab.run_workload("node-1", "contiv-net", "late")?;

    for name in ["web", "db", "late"] {
        scene.lab.remove_workload(name)?;
    }
    scene.lab.netctl_ok(&["net", "rm", "contiv-net"])?;
    assert!(!scene.lab.netctl_ok(&["net", "ls"])?.contains("contiv-net"));
    create(&scene.lab, "contiv-net", "20.1.1.0/24")
}

#[test]
fn vanished_workload_is_detached_and_its_address_returns() -> Outcome {
    let mut scene = Scene::open()?;
    let address = scene.db.address.to_string();
    scene.lab.vanish_workload("db")?;
    wait_until("only node-1 has an endpoint", WAIT_TIMEOUT, || {
        let listed = scene.lab.netctl_ok(&["endpoint", "ls", "-q"]);
        listed.is_ok_and(|listed| listed.trim() == "web")
    })?;
    let arguments = ["--ip", &address];
    let again = scene
        .lab
        .run_workload_with("node-2", "contiv-net", "db2", &arguments)?;
    assert_eq!(again.address.to_string(), address);
    assert!(scene.lab.ping("web", &address)?);
    Ok(())
}

#[test]
fn removed_network_leaves_no_blocks_and_no_kernel_state() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.remove_workload("web")?;
    scene.lab.remove_workload("db")?;
    scene.lab.netctl_ok(&["net", "rm", "contiv-net"])?;
    for node in ["node-1", "node-2"] {
        wait_until("the blocks are returned", WAIT_TIMEOUT, || {
            scene
                .lab
                .status(node)
                .is_ok_and(|status| status["blocks"] == 0)
        })?;
        wait_until(
            "the network is removed from the kernel",
            WAIT_TIMEOUT,
            || {
                let links = "for n in $(ls /run/netns); do ip -n $n -br link; done; ip -br link";
                let links = scene.lab.run(node, &["sh", "-c", links]);
                links.is_ok_and(|links| !links.stdout.contains("cx"))
            },
        )?;
    }
    Ok(())
}

#[test]
fn removal_names_a_silent_node_and_continues_when_it_is_back() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.remove_workload("web")?;
    scene.lab.remove_workload("db")?;
    scene.lab.kill("netplugin@node-2")?;
    let held = scene.lab.netctl(&["net", "rm", "contiv-net"])?;
    assert_eq!(held.status, 1, "{held:?}");
    assert!(held.stderr.contains("node-2"), "{held:?}");
    scene.lab.start("netplugin@node-2")?;
    wait_until("the removal is complete", WAIT_TIMEOUT, || {
        let networks = scene.lab.netctl_ok(&["net", "ls"]);
        networks.is_ok_and(|networks| !networks.contains("contiv-net"))
    })
}
