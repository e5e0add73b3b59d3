//! What is in use stays, and who uses it is named.

use chaos_tests::{Outcome, SOON, Scene, create};
use lab::wait_until;

#[test]
fn a_network_with_endpoints_stays_and_they_are_named() -> Outcome {
    let mut scene = Scene::open()?;
    let refused = scene.lab.netctl(&["net", "rm", "contiv-net"])?;
    assert_eq!(refused.status, 1, "{refused:?}");
    for name in ["web", "db", "node-1", "node-2"] {
        assert!(
            refused.stderr.contains(name),
            "{name} isn't named: {refused:?}"
        );
    }
    assert!(scene.talks()?, "a refused removal cut the network");
    scene.lab.run_workload("node-1", "contiv-net", "late")?;

    for name in ["web", "db", "late"] {
        scene.lab.remove_workload(name)?;
    }
    scene.lab.netctl_ok(&["net", "rm", "contiv-net"])?;
    assert!(!scene.lab.netctl_ok(&["net", "ls"])?.contains("contiv-net"));
    create(&scene.lab, "contiv-net", "20.1.1.0/24")
}

#[test]
fn a_workload_that_vanished_is_detached_and_its_address_comes_back() -> Outcome {
    let mut scene = Scene::open()?;
    let address = scene.db.address.to_string();
    scene.lab.vanish_workload("db")?;
    wait_until("only node-1 has an endpoint", SOON, || {
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
fn a_removed_networks_blocks_and_kernel_state_are_gone() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.remove_workload("web")?;
    scene.lab.remove_workload("db")?;
    scene.lab.netctl_ok(&["net", "rm", "contiv-net"])?;
    for node in ["node-1", "node-2"] {
        wait_until("the blocks are returned", SOON, || {
            scene
                .lab
                .status(node)
                .is_ok_and(|status| status["blocks"] == 0)
        })?;
        wait_until("the network has left the kernel", SOON, || {
            let links = "for n in $(ls /run/netns); do ip -n $n -br link; done; ip -br link";
            let links = scene.lab.run(node, &["sh", "-c", links]);
            links.is_ok_and(|links| !links.stdout.contains("cx"))
        })?;
    }
    Ok(())
}

#[test]
fn a_node_that_cannot_be_asked_is_named_and_the_removal_goes_on_when_it_is_back() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.remove_workload("web")?;
    scene.lab.remove_workload("db")?;
    scene.lab.kill("netplugin@node-2")?;
    let held = scene.lab.netctl(&["net", "rm", "contiv-net"])?;
    assert_eq!(held.status, 1, "{held:?}");
    assert!(held.stderr.contains("node-2"), "{held:?}");
    scene.lab.start("netplugin@node-2")?;
    wait_until("the removal is complete", SOON, || {
        let networks = scene.lab.netctl_ok(&["net", "ls"]);
        networks.is_ok_and(|networks| !networks.contains("contiv-net"))
    })
}
