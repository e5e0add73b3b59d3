//! Leftovers of a crash are removed at the next start, and at once on request.

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, sh};
use lab::{Signal, Spec, wait_until};

/// Creates kernel objects with our marks and without an owner.
const CREATE_LEFTOVERS: &str = "ip -n contiv-default link add cvdead000000 type veth peer name cpdead000000 && \
     ip netns add contiv-old";
const LEFTOVERS_ARE_GONE: &str =
    "! ip -n contiv-default link show cvdead000000 && ! ip netns list | grep -qw contiv-old";

#[test]
fn cleanup_removes_leftovers_at_once_and_lists_them() -> Outcome {
    // Otherwise its periodic cleanup might come first.
    let seldom = ["--no-monitor", "--resync", "3600"];
    let mut scene = Scene::of(&Spec::test(2).node_flags(&seldom))?;
    let extra = scene.lab.run_workload("node-1", "contiv-net", "extra")?;
    assert!(sh(&scene.lab, "node-1", CREATE_LEFTOVERS));
    scene.lab.vanish_workload("extra")?;
    let said = scene.lab.netctl_ok(&["node", "cleanup", "node-1"])?;
    let endpoint = format!("- endpoint extra {} in default:contiv-net", extra.address);
    for says in ["cvdead000000", "contiv-old", &endpoint] {
        assert!(said.contains(says), "{says}: {said}");
    }
    assert!(sh(&scene.lab, "node-1", LEFTOVERS_ARE_GONE));
    assert!(scene.pings_both_ways()?, "and nothing else");
    let endpoints = scene.lab.netctl_ok(&["endpoint", "ls", "-o", "json"])?;
    assert!(!endpoints.contains("extra"), "{endpoints}");
    let again = scene.lab.netctl_ok(&["node", "cleanup", "node-1"])?;
    assert_eq!(again, "no leftovers on node node-1\n");
    let unknown = scene.lab.netctl(&["node", "cleanup", "node-9"])?;
    assert_eq!(unknown.status, 2, "{}", unknown.stderr);
    Ok(())
}

#[test]
fn leftovers_of_a_crash_are_removed_at_the_next_start() -> Outcome {
    let mut scene = Scene::open()?;
    scene.lab.run_workload("node-1", "contiv-net", "extra")?;
    scene.lab.stop("netplugin@node-1", Signal::Kill)?;
    assert!(sh(&scene.lab, "node-1", CREATE_LEFTOVERS));
    scene.lab.vanish_workload("extra")?;
    scene.lab.start("netplugin@node-1")?;
    wait_until("the leftovers are gone", WAIT_TIMEOUT, || {
        sh(&scene.lab, "node-1", LEFTOVERS_ARE_GONE)
    })?;
    wait_until("the endpoint is gone", WAIT_TIMEOUT, || {
        let endpoints = scene.lab.netctl(&["endpoint", "ls", "-o", "json"]);
        endpoints.is_ok_and(|it| it.success() && !it.stdout.contains("extra"))
    })?;
    assert!(scene.pings_both_ways()?);
    Ok(())
}
