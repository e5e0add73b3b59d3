//! Runs on a node of the lab, so that entering the node isn't timed: calls programs, and prints the time of
//! each call in milliseconds, one per line.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, ensure};

pub(crate) fn run(words: &[&str]) -> anyhow::Result<()> {
    match words {
        ["cni", network, from, to] => cni(network, from.parse()?..to.parse()?),
        ["fill", network, from, to] => fill(network, from.parse()?..to.parse()?),
        program => print(timed(program)?),
    }
}

fn print(figure: f64) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{figure}")?)
}

fn timed(argv: &[&str]) -> anyhow::Result<f64> {
    let (program, arguments) = argv.split_first().context("no program")?;
    let start = Instant::now();
    let output = Command::new(program).args(arguments).output()?;
    let took = start.elapsed();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{argv:?}: {error}");
    Ok(took.as_secs_f64() * 1e3)
}

/// Calls ADD and DEL for each number. Prints the time of each ADD, and after it the time of a call of the
/// same program that doesn't ask netplugin.
fn cni(network: &str, numbers: std::ops::Range<u32>) -> anyhow::Result<()> {
    for number in numbers {
        let id = format!("c{number}");
        timed(&["ip", "netns", "add", &id])?;
        let add = call("ADD", network, &id)?;
        let version = call("VERSION", network, &id)?;
        call("DEL", network, &id)?;
        timed(&["ip", "netns", "delete", &id])?;
        writeln!(std::io::stdout(), "{add} {version}")?;
    }
    Ok(())
}

/// Adds endpoints that stay. Prints the time of each ADD.
fn fill(network: &str, numbers: std::ops::Range<u32>) -> anyhow::Result<()> {
    for number in numbers {
        let id = format!("f{number}");
        timed(&["ip", "netns", "add", &id])?;
        print(call("ADD", network, &id)?)?;
    }
    Ok(())
}

fn call(command: &str, network: &str, id: &str) -> anyhow::Result<f64> {
    let config = format!(r#"{{"cniVersion": "1.1.0", "name": "{network}", "type": "contiv-cni"}}"#);
    let start = Instant::now();
    let mut child = Command::new("contiv-cni")
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", id)
        .env("CNI_NETNS", format!("/run/netns/{id}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/usr/lib/cni")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin.write_all(config.as_bytes())?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let took = start.elapsed();
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{command} {id}: {said}");
    Ok(took.as_secs_f64() * 1e3)
}
