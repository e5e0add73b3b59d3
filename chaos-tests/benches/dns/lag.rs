//! The time from the return of `docker run` until another node resolves the new name.

use std::time::{Duration, Instant};

use anyhow::Context;
use chaos_tests::DnsClient;
use chaos_tests::figures::quantile;
use lab::{IMAGE, Lab};

/// The number of containers that run at once; the node's disk is small.
const MAX_CONTAINERS: usize = 20;
/// The pause between two queries; continuous queries would take a core from the measured programs.
const QUERY_INTERVAL: Duration = Duration::from_millis(1);
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn measure(lab: &mut Lab, runs: usize) -> anyhow::Result<()> {
    lab.run_workload("node-2", "net", "peer")?;
    let peer = DnsClient::new(lab, "peer")?;
    let (mut names, mut aliases, mut running) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..runs {
        let (name, alias) = (format!("lag{number}"), format!("alias{number}"));
        let (returned, known) = started(lab, &peer, &name, &alias)?;
        for (known, lags) in known.into_iter().zip([&mut names, &mut aliases]) {
            let known = known.with_context(|| format!("{name} is never known"))?;
            lags.push(known.saturating_duration_since(returned).as_secs_f64() * 1e3);
        }
        running.push(name);
        if running.len() == MAX_CONTAINERS {
            remove(lab, &std::mem::take(&mut running))?;
        }
    }
    println!("from the return of `docker run` until another node resolves, {runs} runs:");
    for (what, lags) in [("its name", names), ("its alias", aliases)] {
        let (median, p99) = (quantile(&lags, 0.5), quantile(&lags, 0.99));
        println!("{what:>12}: median {median:.1} ms, p99 {p99:.1} ms");
    }
    Ok(())
}

fn remove(lab: &Lab, names: &[String]) -> anyhow::Result<()> {
    let names = names.iter().map(String::as_str);
    let argv: Vec<&str> = ["docker", "rm", "-f"].into_iter().chain(names).collect();
    lab.run("node-1", &argv)?;
    Ok(())
}

/// The times of the return of `docker run`, and of the first answers for name and alias.
fn started(
    lab: &Lab,
    peer: &DnsClient,
    name: &str,
    alias: &str,
) -> anyhow::Result<(Instant, [Option<Instant>; 2])> {
    let of_network = format!("--network-alias={alias}");
    let run = [
        "docker",
        "run",
        "-d",
        "--net=net",
        "--name",
        name,
        &of_network,
        IMAGE,
    ];
    let argv: Vec<&str> = run.into_iter().chain(["sleep", "1000000"]).collect();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| lab.run("node-1", &argv).map(|_| Instant::now()));
        let known = [name, alias].map(|name| first_answer(peer, name));
        let returned = running.join();
        let returned = returned.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok((returned, known))
    })
}

fn first_answer(asker: &DnsClient, name: &str) -> Option<Instant> {
    let since = Instant::now();
    while since.elapsed() < RESOLVE_TIMEOUT {
        if !asker.addresses(name).is_empty() {
            return Some(Instant::now());
        }
        pause();
    }
    None
}

#[expect(clippy::disallowed_methods, reason = "the pause between two queries")]
fn pause() {
    std::thread::sleep(QUERY_INTERVAL);
}
