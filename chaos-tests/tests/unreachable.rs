//! Without an answer, netctl fails soon and with the right exit code.

use std::time::{Duration, Instant};

use chaos_tests::{Outcome, WAIT_TIMEOUT, create};
use lab::{Daemons, Lab, Spec, wait_until};

#[test]
fn netctl_gives_up_within_two_seconds_without_a_bus() -> Outcome {
    let mut lab = Lab::up(&Spec::test(0).daemons(Daemons::Control))?;
    lab.kill("nats")?;
    let start = Instant::now();
    let output = lab.netctl(&["net", "ls"])?;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(output.status, 2, "{output:?}");
    assert!(!output.stderr.is_empty());
    Ok(())
}

#[test]
fn netctl_gives_up_within_two_seconds_without_a_netmaster() -> Outcome {
    let mut lab = Lab::up(&Spec::test(0).daemons(Daemons::Control))?;
    lab.kill("netmaster-1")?;
    let start = Instant::now();
    let output = lab.netctl(&["net", "ls"])?;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(output.status, 2, "{output:?}");
    Ok(())
}

#[test]
fn netmaster_may_fail_if_another_runs() -> Outcome {
    let mut lab = Lab::up(&Spec::test(0).netmasters(2).daemons(Daemons::Control))?;
    create(&lab, "first", "10.0.1.0/24")?;
    lab.kill("netmaster-1")?;
    create(&lab, "second", "10.0.2.0/24")?;
    lab.start("netmaster-1")?;
    lab.kill("netmaster-2")?;
    wait_until(
        "the netmaster that came back serves both",
        WAIT_TIMEOUT,
        || {
            let networks = lab.netctl_ok(&["net", "ls"]).unwrap_or_default();
            networks.contains("first") && networks.contains("second")
        },
    )
}
