//! A cluster of many endpoints is still answered about.

use chaos_tests::zone::Publisher;
use chaos_tests::{SOON, create, two_nodes};
use lab::wait_until;

/// More than one message of NATS's default size can tell of.
const MANY: usize = 12_000;

#[test]
fn thousands_of_endpoints_are_listed() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut lab = two_nodes()?;
    create(&lab, "net", "20.0.0.0/12")?;
    // Its endpoints are ours to publish now.
    lab.kill("netplugin@node-2")?;
    let url = lab.nats_url();
    let publisher = Publisher::connect(&url, lab.address("node-2")?);
    let publisher = runtime.block_on(publisher)?;
    runtime.block_on(publisher.publish_all(MANY))?;
    wait_until("netmaster tells of all of them", SOON, || {
        let listed = lab.netctl(&["endpoint", "ls", "-q"]);
        listed.is_ok_and(|it| it.success() && it.stdout.lines().count() == MANY)
    })?;
    let inspected = lab.netctl_ok(&["tenant", "inspect", "default"])?;
    assert!(inspected.contains(&format!("\"totalEndpoints\": {MANY}")));
    Ok(())
}
