//! A bus that can't write, or that lost a stream, is reported with the remedy.

use std::sync::atomic::{AtomicUsize, Ordering};

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, bus, create};
use lab::{CTL, Error, Lab, Signal, wait_until};

/// The remedy for a server that doesn't write.
const RESTART_HINT: &str = "restart nats-server";

/// Moves the bus's store to a small disk.
fn shrink_disk(lab: &mut Lab) -> Result<(), Error> {
    lab.stop("nats", Signal::Kill)?;
    let shrink = "cp -a /var/lib/nats /var/lib/nats-copy && \
        mount -t tmpfs -o size=2m small /var/lib/nats && \
        cp -a /var/lib/nats-copy/. /var/lib/nats";
    lab.run(CTL, &["sh", "-c", shrink])?;
    start_bus(lab)
}

fn start_bus(lab: &mut Lab) -> Result<(), Error> {
    lab.start("nats")?;
    lab.await_bus()?;
    lab.await_netmaster("netmaster-1")?;
    converges(lab)
}

fn converges(lab: &Lab) -> Result<(), Error> {
    wait_until("the cluster is converged", WAIT_TIMEOUT, || {
        lab.netctl(&["status"]).is_ok_and(|it| it.success())
    })
}

/// Creates policies until one can't be written; returns the exit code and output of that one.
fn write_until_full(lab: &Lab) -> Result<(i32, String), Error> {
    for number in 0.. {
        let name = format!("p{number}");
        let asked = lab.netctl(&["policy", "create", &name])?;
        if !asked.success() {
            return Ok((asked.status, asked.text()));
        }
    }
    unreachable!("the disk is small")
}

#[test]
fn full_disk_of_the_bus_is_reported_until_the_server_is_restarted() -> Outcome {
    let mut scene = Scene::open()?;
    shrink_disk(&mut scene.lab)?;
    let fill = "cat /dev/zero > /var/lib/nats/fill; true";
    scene.lab.run(CTL, &["sh", "-c", fill])?;
    let (code, text) = write_until_full(&scene.lab)?;
    assert_eq!(code, 3, "{text}");
    assert!(text.contains(RESTART_HINT), "{text}");
    for verb in ["status", "doctor"] {
        let shown = scene.lab.netctl(&[verb])?;
        assert_eq!(shown.status, 1, "{shown:?}");
        assert!(shown.stdout.contains(RESTART_HINT), "{verb}: {shown:?}");
    }
    // When ENDPOINTS can't be written either, nats-server switches JetStream off. A few small messages
    // still fit into the last block of the disk.
    wait_until(
        "the node says what is wrong with the bus",
        WAIT_TIMEOUT,
        || {
            static NUMBER: AtomicUsize = AtomicUsize::new(0);
            let name = format!("more-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
            scene.lab.run_workload("node-1", "contiv-net", &name).ok();
            let status = scene.lab.run("node-1", &["netplugin", "status"]);
            status.is_ok_and(|it| it.stdout.contains(RESTART_HINT))
        },
    )?;
    let status = scene.lab.netctl(&["status"])?;
    assert!(
        !status.success() && status.text().contains(RESTART_HINT),
        "{status:?}"
    );
    assert!(scene.pings_both_ways()?);

    scene.lab.run(CTL, &["rm", "/var/lib/nats/fill"])?;
    let still = scene.lab.netctl(&["status"])?;
    assert!(
        !still.success() && still.text().contains(RESTART_HINT),
        "{still:?}"
    );
    scene.lab.stop("nats", Signal::Kill)?;
    start_bus(&mut scene.lab)?;
    scene.lab.netctl_ok(&["policy", "create", "again"])?;
    scene.lab.netctl_ok(&["wait", "--converged"])?;
    let listed = scene.lab.netctl_ok(&["endpoint", "ls", "-q"])?;
    assert!(listed.contains("more-0"), "{listed}");
    Ok(())
}

fn delete_stream(lab: &Lab, name: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let client = bus::connect(&lab.nats_url(), 0).await.expect("the bus");
        let context = async_nats::jetstream::new(client);
        context.delete_stream(name).await.expect("deleted");
    });
}

#[test]
fn missing_stream_is_named_and_init_creates_it_again() -> Outcome {
    let mut scene = Scene::open()?;
    let lab = &mut scene.lab;
    delete_stream(lab, "HISTORY");
    let events = lab.netctl(&["events"])?;
    assert!(events.stderr.contains("stream HISTORY"), "{events:?}");
    delete_stream(lab, "ENDPOINTS");
    for verb in ["status", "doctor"] {
        let shown = lab.netctl(&[verb])?;
        assert_eq!(shown.status, 1, "{shown:?}");
        for name in ["HISTORY", "ENDPOINTS"] {
            let says = format!("the stream {name} doesn't exist on this bus: `netmaster init`");
            assert!(shown.stdout.contains(&says), "{verb}: {shown:?}");
        }
    }
    wait_until("nodes name the stream", WAIT_TIMEOUT, || {
        let shown = lab.netctl(&["node", "inspect", "node-1"]);
        shown.is_ok_and(|it| it.stdout.contains("the stream ENDPOINTS doesn't exist"))
    })?;
    lab.run_workload("node-1", "contiv-net", "more")?;
    wait_until("an endpoint isn't published", WAIT_TIMEOUT, || {
        let shown = lab.netctl(&["status", "-q"]);
        shown.is_ok_and(|it| {
            it.stdout
                .contains("node node-1: endpoints that aren't published yet: 2")
        })
    })?;
    let waited = lab.netctl(&["wait", "--converged", "--timeout", "1s"])?;
    assert_eq!(waited.status, 1, "{waited:?}");
    assert!(
        waited
            .stderr
            .contains("node-1 (endpoints that aren't published yet: 2)"),
        "{waited:?}"
    );
    // The log exists, so decisions are applied.
    create(lab, "other", "20.1.2.0/24")?;
    for node in ["node-1", "node-2"] {
        assert_eq!(lab.log_state(node)?, "in-sync");
    }
    lab.init_cluster()?;
    converges(lab)?;
    let listed = lab.netctl_ok(&["endpoint", "ls", "-q"])?;
    for name in ["web", "db", "more"] {
        assert!(listed.contains(name), "{listed}");
    }

    delete_stream(lab, "LOG");
    let status = lab.netctl(&["status"])?;
    assert_eq!(status.status, 2, "{status:?}");
    assert!(
        status.stderr.contains("the stream LOG doesn't exist"),
        "{status:?}"
    );
    // netmaster may notice first that the stream is missing, or that nodes have applied more.
    let asked = lab.netctl(&["policy", "create", "p"])?;
    assert!(!asked.success(), "{asked:?}");
    Ok(())
}
