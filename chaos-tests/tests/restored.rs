//! A log that was restored from an older copy: an operator who has seen a higher revision repairs it.

use std::time::{Duration, Instant};

use chaos_tests::{Outcome, WAIT_TIMEOUT, create};
use lab::{Error, Lab, Output, Spec, wait_until};

/// netctl's file of seen revisions, on the operator's host.
const SEEN_FILE: &str = "/run/.local/state/contiv/seen.json";
const SEEN_COPY: &str = "/run/seen.json";
/// Less than netctl's timeout for a netmaster that is behind.
const MAX_ANSWER_TIME: Duration = Duration::from_secs(4);
const SHORTER_LOG_WARNING: &str = "warning: the log ends at revision";

/// Runs netctl with the seen revisions from before the restore.
fn asked_with_old_memory(lab: &Lab, words: &[&str]) -> Result<Output, Error> {
    lab.run("ctl", &["cp", SEEN_COPY, SEEN_FILE])?;
    lab.netctl(words)
}

/// A cluster whose log was restored from a copy, after netctl has seen twenty more events of it. netplugin
/// is stopped.
fn restored() -> Result<Lab, Error> {
    let mut lab = Lab::up(&Spec::test(1))?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.kill("nats")?;
    lab.run("ctl", &["cp", "-a", "/var/lib/nats", "/var/lib/nats-copy"])?;
    lab.start("nats")?;
    lab.await_bus()?;
    lab.await_netmaster("netmaster-1")?;
    // More events than the test appends below.
    for number in 0..20 {
        lab.netctl_ok(&["policy", "create", &format!("p{number}")])?;
    }
    lab.run("ctl", &["cp", SEEN_FILE, SEEN_COPY])?;

    for process in ["netplugin@node-1", "netmaster-1", "nats"] {
        lab.kill(process)?;
    }
    lab.wipe_bus()?;
    lab.run(
        "ctl",
        &["cp", "-a", "/var/lib/nats-copy/.", "/var/lib/nats/"],
    )?;
    lab.start("nats")?;
    lab.await_bus()?;
    lab.start("netmaster-1")?;
    wait_until("netmaster serves", WAIT_TIMEOUT, || {
        let names = lab.netctl(&["version", "-o", "json"]);
        names.is_ok_and(|it| it.stdout.contains("netmaster-1"))
    })?;
    Ok(lab)
}

#[test]
fn operator_is_warned_of_a_restored_log_and_repairs_the_cluster() -> Outcome {
    let mut lab = restored()?;
    for words in [
        &["net", "ls"][..],
        &["policy", "create", "later"],
        &["wait", "--converged", "--timeout", "10s"],
    ] {
        let ran = asked_with_old_memory(&lab, words)?;
        assert!(ran.success(), "{words:?}: {ran:?}");
        assert!(
            ran.stderr.contains(SHORTER_LOG_WARNING),
            "{words:?}: {ran:?}"
        );
        let again = lab.netctl(words)?;
        assert!(
            !again.stderr.contains(SHORTER_LOG_WARNING),
            "it is remembered: {again:?}"
        );
    }
    for words in [&["status"][..], &["doctor"], &["node", "ls"]] {
        let begin = Instant::now();
        let ran = asked_with_old_memory(&lab, words)?;
        assert!(!ran.stdout.is_empty(), "{words:?}: {ran:?}");
        assert!(
            !ran.stderr.contains(SHORTER_LOG_WARNING),
            "{words:?}: {ran:?}"
        );
        assert!(
            begin.elapsed() < MAX_ANSWER_TIME,
            "{words:?} waits: {ran:?}"
        );
    }

    lab.start("netplugin@node-1")?;
    wait_until("the node sees that the log is older", WAIT_TIMEOUT, || {
        lab.log_state("node-1")
            .is_ok_and(|state| state == "foreign")
    })?;
    for accept in [
        &["cluster", "accept-log", "--yes"][..],
        &["node", "accept-log", "node-1", "--yes"],
    ] {
        let accepted = asked_with_old_memory(&lab, accept)?;
        assert!(accepted.success(), "{accepted:?}");
    }
    lab.await_node("node-1")
}
