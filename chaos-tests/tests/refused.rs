//! If the kernel refuses an endpoint's rules, the endpoint is closed and reports the reason.

use chaos_tests::{Outcome, WAIT_TIMEOUT, create, two_nodes};
use lab::{Error, Lab, wait_until};

fn sh(lab: &Lab, script: &str) -> Result<bool, Error> {
    let output = lab.exec("node-2", &["sh", "-c", script])?;
    Ok(output.success())
}

/// Replaces our table in the domain on node-2 by one that only its owner may change (`flags owner`), until
/// the file is removed.
const TAKE_TABLE: &str = "touch /run/taken; { \
    (echo 'delete table inet contiv; add table inet contiv { flags owner; }'; \
     while test -e /run/taken; do sleep 0.1; done) | \
    setsid ip netns exec contiv-default nft -i; } >/dev/null 2>&1 </dev/null &";
const RETURN_TABLE: &str = "rm /run/taken";

/// `web-1` on node-2, in a group that denies port 81; `beside` on node-2 and `client` on node-1.
fn scene() -> Result<Lab, Error> {
    let mut lab = two_nodes()?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.netctl_ok(&["policy", "create", "p"])?;
    lab.netctl_ok(&[
        "policy",
        "rule-add",
        "p",
        "1",
        "-protocol=tcp",
        "-port=81",
        "-action=deny",
    ])?;
    lab.netctl_ok(&["group", "create", "contiv-net", "web", "-policy=p"])?;
    lab.run_workload_with("node-2", "contiv-net", "web-1", &["--group", "web"])?;
    lab.run_workload("node-1", "contiv-net", "client")?;
    lab.run_workload("node-2", "contiv-net", "beside")?;
    Ok(lab)
}

#[test]
fn endpoint_is_closed_while_the_kernel_refuses_its_rules() -> Outcome {
    let mut lab = scene()?;
    let web = lab.address_of("web-1")?.to_string();
    let _servers = (lab.listen("web-1", 80)?, lab.listen("web-1", 81)?);
    assert!(lab.connects("client", &web, 80)?);
    assert!(!lab.connects("client", &web, 81)?);

    assert!(sh(&lab, TAKE_TABLE)?);
    wait_until("the endpoint is shown as closed", WAIT_TIMEOUT, || {
        let shown = lab.netctl_ok(&["endpoint", "inspect", "web-1"]);
        shown.is_ok_and(|shown| shown.contains("Operation not permitted"))
    })?;
    wait_until("the node reports it", WAIT_TIMEOUT, || {
        let shown = lab.netctl_ok(&["node", "inspect", "node-2"]);
        shown.is_ok_and(|it| it.contains("datapath") && it.contains("Operation not permitted"))
    })?;
    let status = lab.netctl(&["status"])?;
    assert_eq!(status.status, 1, "{status:?}");
    let alarm = "wrong    node node-2 datapath: ";
    assert!(status.stdout.contains(alarm), "{status:?}");
    is_closed(&mut lab, &web)?;

    assert!(sh(&lab, RETURN_TABLE)?);
    wait_until("it is open again", WAIT_TIMEOUT, || {
        lab.connects("client", &web, 80).is_ok_and(|open| open)
    })?;
    assert!(
        !lab.connects("client", &web, 81)?,
        "and denied what is denied"
    );
    wait_until("no alarm is left", WAIT_TIMEOUT, || {
        let shown = lab.netctl_ok(&["node", "inspect", "node-2"]);
        shown.is_ok_and(|shown| !shown.contains("not permitted"))
    })?;
    wait_until(
        "the cluster is converged without alarms",
        WAIT_TIMEOUT,
        || lab.netctl(&["status"]).is_ok_and(|it| it.success()),
    )
}

/// No connection to or from `web-1` is possible, and its node attaches no endpoint of the group.
fn is_closed(lab: &mut Lab, web: &str) -> Outcome {
    // The other host drops replies without a mark; here no other rule drops them.
    for (from, port) in [
        ("beside", 80),
        ("beside", 81),
        ("client", 80),
        ("client", 81),
    ] {
        let open = lab.connects(from, web, port)?;
        assert!(!open, "{port} is closed to {from}");
    }
    let client = lab.address_of("client")?.to_string();
    assert!(!lab.ping("web-1", &client)?, "nor does it get out");
    // A new endpoint is refused, too.
    let refused = lab.try_workload("node-2", "contiv-net", "late", &["--group", "web"])?;
    assert!(!refused.success(), "{refused:?}");
    assert!(
        refused.stderr.contains("can't configure the kernel"),
        "{refused:?}"
    );
    Ok(())
}
