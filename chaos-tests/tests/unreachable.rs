//! Without an answer, netctl fails soon and with the right exit code.

use std::process::Command;
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
    )?;
    starting_netmaster_is_awaited_beside_another(&mut lab)
}

/// The lab waits for the netmaster that it is asked for, though another one answers.
fn starting_netmaster_is_awaited_beside_another(lab: &mut Lab) -> Outcome {
    lab.start("netmaster-2")?;
    lab.pause("netmaster-2")?;
    let pid = lab.pid("netmaster-2")?.expect("it was started");
    let resume = format!("(sleep 2; kill -CONT {pid}) >/dev/null 2>&1 &");
    let started = Command::new("sh").args(["-c", &resume]).status();
    assert!(started.expect("sh runs").success());
    lab.await_netmaster("netmaster-2")?;
    assert_eq!(lab.answering_netmasters(), ["netmaster-1", "netmaster-2"]);
    Ok(())
}
