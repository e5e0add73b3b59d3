//! Changes of others in the kernel are noticed and reverted, long before the periodic resync.

use std::time::Duration;

use chaos_tests::{Outcome, Scene, sh};
use lab::wait_until;

/// The resync comes every 30 s, so drift that is reverted sooner was noticed.
const MAX_HEAL_TIME: Duration = Duration::from_secs(10);

/// Each: a change on node-1, and a check that it is reverted.
const DRIFTS: [(&str, &str); 16] = [
    (
        "ip -n contiv-default route flush proto 201",
        "ip -n contiv-default route show proto 201 | grep -q 'dev cv' && \
         ip -n contiv-default route show proto 201 | grep -q 'dev cx'",
    ),
    (
        "ip -n contiv-default neigh flush nud permanent",
        "test $(ip -n contiv-default neigh show nud permanent | wc -l) = 3",
    ),
    (
        "ip link del $(ip -br link | awk -F@ '/^cu/ {print $1}')",
        "ip -br link | grep -q '^cu.* UP ' && ip -n contiv-default route | grep -q 'default via .* dev cw'",
    ),
    (
        "nft flush chain inet contiv to_host",
        "nft list chain inet contiv to_host | grep -q drop",
    ),
    (
        "for m in $(bridge -n contiv-default fdb show dev cx1 | awk '/dst/ {print $1}'); do \
         bridge -n contiv-default fdb del $m dev cx1; done",
        "bridge -n contiv-default fdb show dev cx1 | grep -q dst",
    ),
    (
        "ip -n contiv-default address flush dev lo",
        "ip -n contiv-default address show dev lo | grep -q 20.1.1.1/32",
    ),
    (
        "ip -n contiv-default link set cx1 down",
        "ip -n contiv-default link show cx1 | grep -q ,UP",
    ),
    (
        "ip -n contiv-default link del cx1",
        "ip -n contiv-default link show cx1 | grep -q ,UP",
    ),
    (
        // The kernel removes the container's end, too.
        "ip -n contiv-default link del $(ip -n contiv-default -o link | grep -o 'cv[0-9a-f]*')",
        "ip -n contiv-default -o link | grep 'cv[0-9a-f]*' | grep -q ,UP",
    ),
    (
        // The kernel names no author of a change of a device's settings.
        "ip -n contiv-default link set cx1 address 02:03:aa:bb:cc:dd mtu 1300",
        "! ip -n contiv-default link show cx1 | grep -Eq '02:03:aa:bb:cc:dd|mtu 1300'",
    ),
    (
        "ip -n contiv-default link set \
         $(ip -n contiv-default -o link | grep -o 'cv[0-9a-f]*') address 02:03:aa:bb:cc:d0",
        "ip -n contiv-default -o link | grep 'cv[0-9a-f]*' | grep -q 02:01:00:00:00:01",
    ),
    (
        // Nor does it notify of settings.
        "ip netns exec contiv-default sysctl -qw net.ipv4.ip_forward=0",
        "test $(ip netns exec contiv-default sysctl -n net.ipv4.ip_forward) = 1",
    ),
    (
        "ip netns exec contiv-default sysctl -qw net.ipv4.conf.all.rp_filter=1 \
         net.ipv4.conf.all.accept_local=0",
        "test $(ip netns exec contiv-default sysctl -n net.ipv4.conf.all.rp_filter)\
         $(ip netns exec contiv-default sysctl -n net.ipv4.conf.all.accept_local) = 01",
    ),
    (
        "ip netns exec contiv-default nft flush set inet contiv endpoints",
        "ip netns exec contiv-default nft list set inet contiv endpoints | grep -q cx1",
    ),
    (
        // Then no hook calls its chains.
        "ip netns exec contiv-default nft add table inet contiv '{ flags dormant; }'",
        "! ip netns exec contiv-default nft list table inet contiv | grep -q dormant && \
         ip netns exec contiv-default nft list map inet contiv members | grep -q 20.1.1",
    ),
    (
        "ip netns exec contiv-default nft flush ruleset; nft flush ruleset",
        "ip netns exec contiv-default nft list chain inet contiv from_endpoint | grep -q drop && \
         nft list set inet contiv peers | grep -q 198.18",
    ),
];

#[test]
fn deleted_objects_are_restored() -> Outcome {
    let scene = Scene::open()?;
    assert!(scene.pings_both_ways()?);
    for (deed, healed) in DRIFTS {
        assert!(sh(&scene.lab, "node-1", healed), "before: {healed}");
        assert!(sh(&scene.lab, "node-1", deed), "{deed}");
        wait_until(deed, MAX_HEAL_TIME, || sh(&scene.lab, "node-1", healed))?;
        wait_until(
            "the workloads reach each other again",
            MAX_HEAL_TIME,
            || scene.pings_both_ways().is_ok_and(|talks| talks),
        )?;
    }
    Ok(())
}

#[test]
fn domain_without_its_name_is_recreated() -> Outcome {
    let scene = Scene::open()?;
    assert!(sh(
        &scene.lab,
        "node-1",
        "umount -l /run/netns/contiv-default && rm /run/netns/contiv-default"
    ));
    wait_until("the domain is restored", MAX_HEAL_TIME, || {
        sh(
            &scene.lab,
            "node-1",
            "ip -n contiv-default link show cx1 | grep -q ,UP",
        )
    })
}

/// Our own changes are no drift, and neither are changes of foreign objects.
#[test]
fn attach_is_no_drift() -> Outcome {
    let mut scene = Scene::open()?;
    for number in 0..5 {
        let name = format!("more-{number}");
        scene.lab.run_workload("node-1", "contiv-net", &name)?;
        scene.lab.remove_workload(&name)?;
    }
    // Changes of foreign objects are no drift either.
    let others = "ip link add br9 type bridge && ip link add v9 type veth peer name v9b && \
                  ip link set v9 master br9 up && ip address add 10.9.9.9/24 dev v9b && \
                  ip link del v9 && ip link del br9 && \
                  nft add table inet theirs && nft delete table inet theirs";
    assert!(sh(&scene.lab, "node-1", others));
    scene.lab.run_workload("node-1", "contiv-net", "last")?;
    let log = scene.lab.log_tail("netplugin@node-1");
    assert!(!log.contains("another program changed"), "{log}");
    Ok(())
}
