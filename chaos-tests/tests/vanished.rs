//! A host that vanishes leaves its connections open at the bus until the server notices.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chaos_tests::{Outcome, WAIT_TIMEOUT, two_nodes};
use lab::wait_until;

/// The time of nats.conf after which the server notices, and one second for a busy machine.
const MISS_TIMEOUT: Duration = Duration::from_secs(6);

#[test]
fn requests_are_answered_although_a_netmasters_host_vanished() -> Outcome {
    let mut lab = two_nodes()?;
    let argv = ["netmaster", "run", "--name", "far"].map(str::to_owned);
    lab.launch("netmaster-far", "node-2", argv.into(), BTreeMap::new())?;
    wait_until("it serves", WAIT_TIMEOUT, || {
        lab.log("netmaster-far")
            .is_ok_and(|log| log.contains("serving"))
    })?;
    let address = lab.address("node-2")?.to_string();
    lab.isolate("node-2")?;
    let vanished = Instant::now();

    let mut number = 0;
    while vanished.elapsed() < 2 * MISS_TIMEOUT {
        number += 1;
        let tenant = format!("t{number}");
        for asked in [vec!["tenant", "ls"], vec!["tenant", "create", &tenant]] {
            let begin = Instant::now();
            let ran = lab.netctl(&asked)?;
            let took = begin.elapsed();
            assert!(
                ran.success(),
                "{asked:?}, {:?} after: {ran:?}",
                vanished.elapsed()
            );
            assert!(took < MISS_TIMEOUT, "{asked:?} took {took:?}");
        }
    }
    let log = lab.netctl_ok(&["events", "--since", "1", "-o", "json"])?;
    let created = log.lines().filter(|it| it.contains("\"tenant-created\""));
    // The first tenant is `default`.
    assert_eq!(created.count(), number + 1, "each command happened once");
    lab.repair()?;

    lab.isolate("node-2")?;
    let open = [
        "ss",
        "-Htn",
        "state",
        "established",
        "sport",
        "=",
        ":4222",
        "dst",
        &address,
    ];
    wait_until("the server drops the vanished client", MISS_TIMEOUT, || {
        let open = lab.exec("ctl", &open);
        open.is_ok_and(|open| open.success() && open.stdout.trim().is_empty())
    })
}
