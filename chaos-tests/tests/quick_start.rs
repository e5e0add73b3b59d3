//! The quick start on workloads without an engine.

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, create, invariant, two_nodes};
use lab::wait_until;

#[test]
fn workloads_reach_each_other_by_address_and_by_name() -> Outcome {
    let scene = Scene::open()?;
    assert!(scene.pings_both_ways()?);
    wait_until("web resolves db", WAIT_TIMEOUT, || {
        scene.lab.ping("web", "db").is_ok_and(|answered| answered)
    })?;
    assert!(scene.lab.ping("db", "web")?);
    assert!(!scene.lab.ping("web", "nobody")?);
    invariant::converged(&scene.lab)
}

#[test]
fn other_names_are_forwarded_to_the_hosts_resolver() -> Outcome {
    let scene = Scene::open()?;
    wait_until("the name is resolved", WAIT_TIMEOUT, || {
        let answer = scene
            .lab
            .exec_in("web", &["getent", "ahostsv4", "machine.lab"]);
        answer.is_ok_and(|answer| answer.stdout.contains("198.18."))
    })?;
    assert!(scene.lab.ping("web", "machine.lab")?, "and reached");
    invariant::converged(&scene.lab)
}

#[test]
fn views_show_the_running_endpoints() -> Outcome {
    let scene = Scene::open()?;
    let networks = scene.lab.netctl_ok(&["net", "ls"])?;
    assert!(
        networks.contains("contiv-net") && networks.contains("20.1.1.0/24"),
        "{networks}"
    );
    wait_until("both endpoints are listed", WAIT_TIMEOUT, || {
        let endpoints = scene.lab.netctl_ok(&["endpoint", "ls"]).unwrap_or_default();
        ["web", "db"].iter().all(|name| endpoints.contains(name))
    })?;
    let nodes = scene.lab.netctl_ok(&["node", "ls"])?;
    assert!(
        nodes.contains("node-1") && nodes.contains("node-2"),
        "{nodes}"
    );
    let events = scene.lab.netctl_ok(&["events"])?;
    assert!(events.contains("contiv-net"), "{events}");
    Ok(())
}

#[test]
fn address_is_reused_but_not_at_once() -> Outcome {
    let mut scene = Scene::open()?;
    let before = scene.web.address;
    scene.lab.remove_workload("web")?;
    let next = scene.lab.run_workload("node-1", "contiv-net", "next")?;
    assert_ne!(next.address, before);
    let again = scene.lab.run_workload_with(
        "node-1",
        "contiv-net",
        "again",
        &["--ip", &before.to_string()],
    )?;
    assert_eq!(again.address, before);
    assert!(scene.lab.ping("db", &before.to_string())?);
    Ok(())
}

#[test]
fn tenants_with_the_same_subnet_and_names_are_isolated() -> Outcome {
    let mut lab = two_nodes()?;
    for tenant in ["blue", "red"] {
        lab.netctl_ok(&["tenant", "create", tenant])?;
        lab.netctl_ok(&["net", "create", "-t", tenant, "net", "--subnet=10.0.0.0/24"])?;
    }
    for (tenant, node, name) in [
        ("blue", "node-1", "blue-web"),
        ("blue", "node-2", "blue-db"),
        ("red", "node-1", "red-web"),
    ] {
        lab.run_workload_with(node, "net", name, &["--tenant", tenant])?;
    }
    let db = lab.address_of("blue-db")?.to_string();
    assert!(lab.ping("blue-web", &db)?);
    // The same packet in the other tenant has no receiver.
    assert!(!lab.ping("red-web", &db)?);
    Ok(())
}

#[test]
fn networks_of_one_tenant_route_to_each_other() -> Outcome {
    let mut scene = Scene::open()?;
    create(&scene.lab, "other-net", "20.1.2.0/24")?;
    let other = scene.lab.run_workload("node-2", "other-net", "other")?;
    assert!(scene.lab.ping("web", &other.address.to_string())?);
    Ok(())
}
