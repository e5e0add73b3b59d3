//! A log that was restored from an older copy: the operator who has seen more of it repairs it.

use std::time::{Duration, Instant};

use chaos_tests::{Outcome, SOON, create};
use lab::{Error, Lab, Output, Spec, wait_until};

/// What netctl remembers of clusters, on the operator's host.
const SEEN: &str = "/run/.local/state/contiv/seen.json";
const COPY: &str = "/run/seen.json";
/// Less than netctl waits for a netmaster that is behind.
const AT_ONCE: Duration = Duration::from_secs(4);
const WARNING: &str = "warning: the log ends at revision";

/// The operator asks, with a memory of the log before it was restored.
fn asked_with_old_memory(lab: &Lab, words: &[&str]) -> Result<Output, Error> {
    lab.run("ctl", &["cp", COPY, SEEN])?;
    lab.netctl(words)
}

#[test]
fn whoever_has_seen_more_of_a_restored_log_is_warned_and_repairs_it() -> Outcome {
    let mut lab = Lab::up(&Spec::test(1))?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.kill("nats")?;
    lab.run("ctl", &["cp", "-a", "/var/lib/nats", "/var/lib/nats-copy"])?;
    lab.start("nats")?;
    lab.await_bus()?;
    lab.await_netmaster("netmaster-1")?;
    // More than what is appended below.
    for number in 0..20 {
        lab.netctl_ok(&["policy", "create", &format!("p{number}")])?;
    }
    lab.run("ctl", &["cp", SEEN, COPY])?;

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
    wait_until("netmaster serves", SOON, || {
        let names = lab.netctl(&["version", "-o", "json"]);
        names.is_ok_and(|it| it.stdout.contains("netmaster-1"))
    })?;

    for words in [
        &["net", "ls"][..],
        &["policy", "create", "later"],
        &["wait", "--converged", "--timeout", "10s"],
    ] {
        let ran = asked_with_old_memory(&lab, words)?;
        assert!(ran.success(), "{words:?}: {ran:?}");
        assert!(ran.stderr.contains(WARNING), "{words:?}: {ran:?}");
        let again = lab.netctl(words)?;
        assert!(
            !again.stderr.contains(WARNING),
            "it is remembered: {again:?}"
        );
    }
    for words in [&["status"][..], &["doctor"], &["node", "ls"]] {
        let begin = Instant::now();
        let ran = asked_with_old_memory(&lab, words)?;
        assert!(!ran.stdout.is_empty(), "{words:?}: {ran:?}");
        assert!(!ran.stderr.contains(WARNING), "{words:?}: {ran:?}");
        assert!(begin.elapsed() < AT_ONCE, "{words:?} waits: {ran:?}");
    }

    lab.start("netplugin@node-1")?;
    wait_until("the node sees that the log is older", SOON, || {
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
