//! The memory of the daemons: idle, and with tens of thousands of endpoints.

use std::time::Duration;

use chaos_tests::zone::Publisher;
use chaos_tests::{DnsClient, create, invariant};
use lab::{Lab, Spec, wait_until};

/// The endpoints of another node that each step adds.
const ENDPOINTS_PER_STEP: usize = 10_000;
const STEP_COUNT: usize = 2;
const DAEMONS: [&str; 3] = ["netplugin@node-1", "netmaster-1", "nats"];

pub(crate) fn measure() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut lab = Lab::up(&Spec::test(2))?;
    create(&lab, "net", "20.0.0.0/12")?;
    lab.run_workload("node-1", "net", "web")?;
    let web = DnsClient::new(&lab, "web")?;
    invariant::converged(&lab)?;
    let mut before = DAEMONS.map(|name| resident(&lab, name).unwrap_or_default());
    print_row("idle", &before, None);
    for name in DAEMONS {
        println!(
            "of it no file's: {name} {:.1} MB",
            own(&lab, name).unwrap_or_default()
        );
    }
    // The benchmark publishes the node's endpoints instead.
    lab.kill("netplugin@node-2")?;
    let url = lab.nats_url();
    let publisher = Publisher::connect(&url, lab.address("node-2")?);
    let publisher = runtime.block_on(publisher)?;
    for step in 1..=STEP_COUNT {
        let names = step * ENDPOINTS_PER_STEP;
        runtime.block_on(publisher.publish_all(names))?;
        let last = chaos_tests::zone::name(names - 1);
        wait_until("the last name resolves", Duration::from_secs(60), || {
            !web.addresses(&last).is_empty()
        })?;
        let now = DAEMONS.map(|name| resident(&lab, name).unwrap_or_default());
        print_row(&format!("{names} endpoints"), &now, Some(&before));
        before = now;
    }
    Ok(())
}

fn print_row(when: &str, now: &[f64; 3], before: Option<&[f64; 3]>) {
    let daemons = DAEMONS.iter().zip(now).enumerate();
    let daemons = daemons.map(|(at, (name, mb))| match before {
        Some(before) => format!("{name} {mb:.1} MB ({:+.1})", mb - before[at]),
        None => format!("{name} {mb:.1} MB"),
    });
    println!("{when}: {}", daemons.collect::<Vec<_>>().join(", "));
}

/// A process's resident memory in megabytes.
pub(crate) fn resident(lab: &Lab, process: &str) -> Option<f64> {
    megabytes(lab, process, "VmRSS:")
}

/// The part of it that isn't mapped from files, such as the program itself.
fn own(lab: &Lab, process: &str) -> Option<f64> {
    megabytes(lab, process, "RssAnon:")
}

fn megabytes(lab: &Lab, process: &str, what: &str) -> Option<f64> {
    let pid = lab.pid(process).ok()??;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|it| it.strip_prefix(what))?;
    let kb: f64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kb / 1024.0)
}
