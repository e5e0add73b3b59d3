//! The demo: runs the quick start with the real commands and without pauses. Two hosts, real containers
//! and `ping db` by name; then a group with a policy. The cluster stays up; an error or an interruption
//! removes it.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lab::{IMAGE, Lab, Spec, wait_until};

use crate::{interrupt, print};

const QUICK_START_QUERIES: [&[&str]; 5] = [
    &["net", "ls"],
    &["net", "inspect", "contiv-net"],
    &["endpoint", "ls"],
    &["node", "ls"],
    &["events"],
];

const POLICY_COMMANDS: [&[&str]; 5] = [
    &["policy", "create", "prod_web"],
    &[
        "policy",
        "rule-add",
        "prod_web",
        "1",
        "-direction=in",
        "-protocol=tcp",
        "-action=deny",
    ],
    &[
        "policy",
        "rule-add",
        "prod_web",
        "2",
        "-direction=in",
        "-protocol=tcp",
        "-port=80",
        "-action=allow",
        "-priority=10",
    ],
    &[
        "policy",
        "rule-add",
        "prod_web",
        "3",
        "-direction=in",
        "-protocol=tcp",
        "-port=443",
        "-action=allow",
        "-priority=10",
    ],
    &["group", "create", "contiv-net", "web", "-policy=prod_web"],
];
const POLICY_QUERIES: [&[&str]; 3] = [
    &["policy", "rule-ls", "prod_web"],
    &["group", "inspect", "web"],
    &["policy", "inspect", "prod_web"],
];

pub(crate) fn run(name: &str) -> anyhow::Result<()> {
    let start = Instant::now();
    // Removes a demo that is still up.
    interrupt::remove_lab(name)?;
    Lab::remove(name)?;
    print::line(
        "Two hosts on this machine, each with a Docker Engine and netplugin; one nats-server, one netmaster.",
    );
    let lab = Lab::up(&Spec::named(name, 2).docker(true).loopback_resolver_on(2))?;
    if let Err(error) = quick_start(&lab).and_then(|()| policies(&lab)) {
        interrupt::await_removal();
        let logs = tails(&lab);
        lab.down().context("remove the demo")?;
        return Err(error.context(logs));
    }
    print_hints(name, start);
    Ok(())
}

fn quick_start(lab: &Lab) -> anyhow::Result<()> {
    for node in lab.nodes() {
        lab.import_image(&node)?;
    }
    netctl(
        lab,
        &[
            "net",
            "create",
            "contiv-net",
            "--subnet=20.1.1.0/24",
            "--gateway=20.1.1.254",
            "--pkt-tag=1001",
        ],
    )?;
    for (node, name) in [("node-1", "web"), ("node-2", "db")] {
        let name = format!("--name={name}");
        docker(
            lab,
            node,
            &["run", "-itd", &name, "--net=contiv-net", IMAGE, "/bin/sh"],
        )?;
    }
    docker(lab, "node-1", &["exec", "web", "ping", "-c", "3", "db"])?;
    docker(lab, "node-2", &["exec", "db", "ping", "-c", "3", "web"])?;
    QUICK_START_QUERIES
        .iter()
        .try_for_each(|arguments| netctl(lab, arguments))
}

/// The second part: a group whose members accept connections to two ports only.
fn policies(lab: &Lab) -> anyhow::Result<()> {
    for arguments in POLICY_COMMANDS {
        netctl(lab, arguments)?;
    }
    let shop = [
        "run",
        "-itd",
        "--name=shop",
        "--net",
        "web.contiv-net",
        IMAGE,
        "sh",
    ];
    docker(lab, "node-2", &shop)?;
    for (node, container, port) in [
        ("node-2", "shop", "80"),
        ("node-2", "shop", "443"),
        ("node-2", "shop", "8080"),
        ("node-2", "db", "9000"),
    ] {
        serve(lab, node, container, port)?;
    }
    docker(lab, "node-2", &["exec", "db", "nslookup", "-type=a", "web"])?;
    for (from, to, port, allowed) in [
        (("node-1", "web"), "shop", "80", true),
        (("node-1", "web"), "shop", "443", true),
        (("node-1", "web"), "shop", "8080", false),
        (("node-2", "shop"), "db", "9000", true),
    ] {
        connect(lab, from, (to, port), allowed)?;
    }
    POLICY_QUERIES
        .iter()
        .try_for_each(|arguments| netctl(lab, arguments))
}

/// Starts a server in a container; when this returns, it listens.
fn serve(lab: &Lab, node: &str, container: &str, port: &str) -> anyhow::Result<()> {
    let server = [
        "nc",
        "-ll",
        "-p",
        port,
        "-e",
        "echo",
        "hello from",
        container,
        port,
    ];
    docker(
        lab,
        node,
        &[&["exec", "-d", container][..], &server].concat(),
    )?;
    let listens = || {
        let sockets = lab.docker(node, &["exec", container, "netstat", "-ltn"]);
        sockets.is_ok_and(|sockets| sockets.stdout.contains(&format!(":{port} ")))
    };
    Ok(wait_until(
        "the server listens",
        Duration::from_secs(10),
        listens,
    )?)
}

/// Opens a connection by name; `allowed`: whether it must be answered.
fn connect(
    lab: &Lab,
    (node, container): (&str, &str),
    (to, port): (&str, &str),
    allowed: bool,
) -> anyhow::Result<()> {
    let arguments = ["exec", container, "nc", "-w", "2", to, port];
    print::line(&format!("\n{node} $ docker {}", arguments.join(" ")));
    let output = lab.docker(node, &arguments)?;
    print::line(output.text().trim_end());
    let answered = output.stdout.contains("hello");
    ensure!(
        answered == allowed,
        "port {port} of {to} {}",
        if answered {
            "answers although it is denied"
        } else {
            "doesn't answer"
        }
    );
    if !allowed {
        print::line("(no answer: the policy denies it)");
    }
    Ok(())
}

/// Runs netctl on the machine itself, as an operator would.
fn netctl(lab: &Lab, arguments: &[&str]) -> anyhow::Result<()> {
    print::line(&format!("\n$ netctl {}", arguments.join(" ")));
    let path = std::env::current_exe()?.with_file_name("netctl");
    let output = Command::new(path)
        .args(arguments)
        .env("CONTIV_NATS_URL", lab.nats_url())
        .env("HOME", lab::state_dir(lab.name()))
        .env_remove("XDG_STATE_HOME")
        .output()
        .context("start netctl")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    print::line(text.trim_end());
    ensure!(
        output.status.success(),
        "netctl {} failed: {}",
        arguments.join(" "),
        output.status
    );
    Ok(())
}

fn docker(lab: &Lab, node: &str, arguments: &[&str]) -> anyhow::Result<()> {
    print::line(&format!("\n{node} $ docker {}", arguments.join(" ")));
    let output = lab.docker(node, arguments)?;
    print::line(output.text().trim_end());
    ensure!(
        output.success(),
        "docker {} on {node} failed",
        arguments.join(" ")
    );
    Ok(())
}

fn tails(lab: &Lab) -> String {
    let logs = lab.process_names().into_iter();
    let shown = logs.filter(|n| n.starts_with("net"));
    let texts = shown.map(|n| format!("--- end of the log of {n}\n{}", lab.log_tail(&n)));
    texts.collect::<Vec<_>>().join("\n")
}

/// Prints the commands that are useful next.
fn print_hints(name: &str, start: Instant) {
    let me = std::env::current_exe().map_or_else(|_| "lab".to_owned(), |p| p.display().to_string());
    print::line(&format!(
        "\nDone in {:.1} s; the cluster stays up.\n\
         \x20 a shell on a node:  {me} shell --lab {name} node-1     (then: docker ps, ip netns, netplugin status)\n\
         \x20 netctl here:        eval \"$({me} env --lab {name})\"; {bin} net ls\n\
         \x20 stop it:            {stop}",
        start.elapsed().as_secs_f64(),
        stop = if name == "demo" {
            "make demo-down".to_owned()
        } else {
            format!("{me} down --lab {name}")
        },
        bin = me.trim_end_matches("lab").to_owned() + "netctl",
    ));
}
