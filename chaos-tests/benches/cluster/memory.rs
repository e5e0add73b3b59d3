//! What the daemons weigh: idle, and where tens of thousands of endpoints are.

use std::time::Duration;

use chaos_tests::zone::Publisher;
use chaos_tests::{Asker, create, invariant};
use lab::{Lab, Spec, wait_until};

/// Endpoints of another node, in steps.
const STEP: usize = 10_000;
const STEPS: usize = 2;
const DAEMONS: [&str; 3] = ["netplugin@node-1", "netmaster-1", "nats"];

pub(crate) fn measure() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let mut lab = Lab::up(&Spec::test(2))?;
    create(&lab, "net", "20.0.0.0/12")?;
    lab.run_workload("node-1", "net", "web")?;
    let web = Asker::new(&lab, "web")?;
    invariant::converged(&lab)?;
    let mut before = DAEMONS.map(|name| resident(&lab, name).unwrap_or_default());
    tell("idle", &before, None);
    for name in DAEMONS {
        println!(
            "of it no file's: {name} {:.1} MB",
            own(&lab, name).unwrap_or_default()
        );
    }
    // Its endpoints are ours to publish now.
    lab.kill("netplugin@node-2")?;
    let url = lab.nats_url();
    let publisher = Publisher::connect(&url, lab.address("node-2")?);
    let publisher = runtime.block_on(publisher)?;
    for step in 1..=STEPS {
        let names = step * STEP;
        runtime.block_on(publisher.publish_all(names))?;
        let last = chaos_tests::zone::name(names - 1);
        wait_until("the last name is known", Duration::from_secs(60), || {
            !web.addresses(&last).is_empty()
        })?;
        let now = DAEMONS.map(|name| resident(&lab, name).unwrap_or_default());
        tell(&format!("{names} endpoints"), &now, Some(&before));
        before = now;
    }
    Ok(())
}

fn tell(when: &str, now: &[f64; 3], before: Option<&[f64; 3]>) {
    let daemons = DAEMONS.iter().zip(now).enumerate();
    let daemons = daemons.map(|(at, (name, mb))| match before {
        Some(before) => format!("{name} {mb:.1} MB ({:+.1})", mb - before[at]),
        None => format!("{name} {mb:.1} MB"),
    });
    println!("{when}: {}", daemons.collect::<Vec<_>>().join(", "));
}

/// What a process has in memory, in megabytes.
pub(crate) fn resident(lab: &Lab, process: &str) -> Option<f64> {
    megabytes(lab, process, "VmRSS:")
}

/// The part of it that is no file's, as the program itself is.
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
