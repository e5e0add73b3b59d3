//! Queries work in a cluster with many endpoints.

use chaos_tests::zone::Publisher;
use chaos_tests::{WAIT_TIMEOUT, create, two_nodes};
use lab::wait_until;

/// More endpoints than one NATS message of the default size can hold.
const ENDPOINT_COUNT: usize = 12_000;

#[test]
fn endpoints_are_listed_by_the_thousand() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut lab = two_nodes()?;
    create(&lab, "net", "20.0.0.0/12")?;
    // The test publishes the node's endpoints instead.
    lab.kill("netplugin@node-2")?;
    let url = lab.nats_url();
    let publisher = Publisher::connect(&url, lab.address("node-2")?);
    let publisher = runtime.block_on(publisher)?;
    runtime.block_on(publisher.publish_all(ENDPOINT_COUNT))?;
    wait_until("netmaster lists all of them", WAIT_TIMEOUT, || {
        let listed = lab.netctl(&["endpoint", "ls", "-q"]);
        listed.is_ok_and(|it| it.success() && it.stdout.lines().count() == ENDPOINT_COUNT)
    })?;
    let inspected = lab.netctl_ok(&["tenant", "inspect", "default"])?;
    assert!(inspected.contains(&format!("\"totalEndpoints\": {ENDPOINT_COUNT}")));
    Ok(())
}
