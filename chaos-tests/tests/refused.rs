//! A kernel that refuses the rules: what they are for is closed, and says why.

use chaos_tests::{Outcome, SOON, create, two_nodes};
use lab::{Error, Lab, wait_until};

fn sh(lab: &Lab, script: &str) -> Result<bool, Error> {
    let output = lab.exec("node-2", &["sh", "-c", script])?;
    Ok(output.success())
}

/// Takes our table's place in the domain on node-2 with one that only its owner may change
/// (`flags owner`), until the file is gone.
const TAKE: &str = "touch /run/taken; { \
    (echo 'delete table inet contiv; add table inet contiv { flags owner; }'; \
     while test -e /run/taken; do sleep 0.1; done) | \
    setsid ip netns exec contiv-default nft -i; } >/dev/null 2>&1 </dev/null &";
const GIVE_BACK: &str = "rm /run/taken";

#[test]
fn what_the_kernel_refuses_is_closed_and_says_so_until_it_is_taken() -> Outcome {
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
    let web = lab.address_of("web-1")?.to_string();
    let _servers = (lab.listen("web-1", 80)?, lab.listen("web-1", 81)?);
    assert!(lab.connects("client", &web, 80)?);
    assert!(!lab.connects("client", &web, 81)?);

    assert!(sh(&lab, TAKE)?);
    wait_until("the endpoint says that it is closed", SOON, || {
        let shown = lab.netctl_ok(&["endpoint", "inspect", "web-1"]);
        shown.is_ok_and(|shown| shown.contains("Operation not permitted"))
    })?;
    wait_until("the node says so", SOON, || {
        let shown = lab.netctl_ok(&["node", "inspect", "node-2"]);
        shown.is_ok_and(|it| it.contains("datapath") && it.contains("Operation not permitted"))
    })?;
    let status = lab.netctl(&["status"])?;
    assert_eq!(status.status, 1, "{status:?}");
    let alarm = "wrong    node node-2 datapath: ";
    assert!(status.stdout.contains(alarm), "{status:?}");
    // Answers without a stamp don't pass the other host; here nobody else asks for one.
    for (from, port) in [
        ("beside", 80),
        ("beside", 81),
        ("client", 80),
        ("client", 81),
    ] {
        let open = lab.connects(from, &web, port)?;
        assert!(!open, "{port} is closed to {from}");
    }
    let client = lab.address_of("client")?.to_string();
    assert!(!lab.ping("web-1", &client)?, "nor does it get out");
    // Nor is anything attached there.
    let refused = lab.try_workload("node-2", "contiv-net", "late", &["--group", "web"])?;
    assert!(!refused.success(), "{refused:?}");
    assert!(
        refused.stderr.contains("can't configure the kernel"),
        "{refused:?}"
    );

    assert!(sh(&lab, GIVE_BACK)?);
    wait_until("it is open again", SOON, || {
        lab.connects("client", &web, 80).is_ok_and(|open| open)
    })?;
    assert!(
        !lab.connects("client", &web, 81)?,
        "and denied what is denied"
    );
    wait_until("nothing is wrong any more", SOON, || {
        let shown = lab.netctl_ok(&["node", "inspect", "node-2"]);
        shown.is_ok_and(|shown| !shown.contains("not permitted"))
    })?;
    wait_until("the cluster is converged without alarms", SOON, || {
        lab.netctl(&["status"]).is_ok_and(|it| it.success())
    })
}
