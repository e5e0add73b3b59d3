//! The lab without our daemons: namespaces, underlay, partitions, processes, cleanup.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::{CTL, Daemons, Error, Lab, Signal, Spec, wait_until};

const WAIT_TIMEOUT: Duration = Duration::from_secs(10);

type Outcome = Result<(), Error>;

fn empty(nodes: u8) -> Result<Lab, Error> {
    Lab::up(&Spec::test(nodes).daemons(Daemons::None))
}

fn reaches(lab: &Lab, from: &str, to: &str) -> bool {
    let to = lab.address(to).expect("a host of the lab").to_string();
    let ping = lab.exec(from, &["ping", "-c", "1", "-W", "1", &to]);
    ping.expect("ping runs").success()
}

#[test]
fn hosts_have_their_own_name_files_and_address() -> Outcome {
    let lab = empty(2)?;
    assert_eq!(lab.run("node-1", &["hostname"])?.stdout, "node-1\n");
    lab.run(
        "node-1",
        &["touch", "/var/lib/contiv/kept", "/run/contiv/x", "/etc/y"],
    )?;
    assert!(
        !lab.exec("node-2", &["ls", "/var/lib/contiv/kept"])?
            .success()
    );
    let id = |node| lab.run(node, &["cat", "/etc/machine-id"]);
    assert_ne!(id("node-1")?, id("node-2")?);
    assert!(!Path::new("/etc/y").exists());
    assert!(reaches(&lab, "node-1", "node-2"));
    Ok(())
}

#[test]
fn partition_drops_both_ways_and_repair_ends_it() -> Outcome {
    let lab = empty(3)?;
    lab.partition(&["node-1"], &["node-2"])?;
    assert!(!reaches(&lab, "node-1", "node-2"));
    assert!(!reaches(&lab, "node-2", "node-1"));
    assert!(reaches(&lab, "node-1", "node-3"));
    lab.repair()?;
    assert!(reaches(&lab, "node-2", "node-1"));
    lab.isolate("node-3")?;
    assert!(!reaches(&lab, CTL, "node-3"));
    assert!(reaches(&lab, CTL, "node-1"));
    Ok(())
}

/// The number of echo requests that a host has received.
fn echoes(lab: &Lab, host: &str) -> Result<String, Error> {
    let counted = lab.run(host, &["nstat", "-asz", "IcmpInEchos"])?;
    let value = counted.stdout.lines().last().unwrap_or_default().to_owned();
    Ok(value)
}

#[test]
fn one_way_cut_lets_the_other_way_pass() -> Outcome {
    let lab = empty(2)?;
    lab.cut(&["node-1"], &["node-2"])?;
    let before = [echoes(&lab, "node-1")?, echoes(&lab, "node-2")?];
    assert!(!reaches(&lab, "node-1", "node-2"), "the request is cut");
    assert!(!reaches(&lab, "node-2", "node-1"), "the answer is cut");
    assert_ne!(echoes(&lab, "node-1")?, before[0], "node-2's request came");
    assert_eq!(echoes(&lab, "node-2")?, before[1], "node-1's didn't");
    Ok(())
}

#[test]
fn link_can_be_set_down_and_up() -> Outcome {
    let lab = empty(2)?;
    lab.set_link("node-2", false)?;
    assert!(!reaches(&lab, "node-1", "node-2"));
    lab.set_link("node-2", true)?;
    wait_until("the link is back", WAIT_TIMEOUT, || {
        reaches(&lab, "node-1", "node-2")
    })
}

#[test]
fn labs_run_side_by_side() -> Outcome {
    let labs: Vec<_> = (0..4).map(|_| std::thread::spawn(|| empty(1))).collect();
    let labs: Vec<Lab> = labs
        .into_iter()
        .map(|l| l.join().expect("no panic"))
        .collect::<Result<_, _>>()?;
    for lab in &labs {
        let own = lab.address(CTL)?;
        assert_eq!(
            labs.iter()
                .filter(|l| l.address(CTL).ok() == Some(own))
                .count(),
            1
        );
        assert!(reaches(lab, "node-1", CTL));
    }
    Ok(())
}

#[test]
fn process_is_killed_started_again_and_logged() -> Outcome {
    let mut lab = empty(1)?;
    let argv = ["sh", "-c", "echo started; sleep 1000"]
        .map(str::to_owned)
        .into();
    lab.launch("sleeper", "node-1", argv, BTreeMap::new())?;
    let first = lab.pid("sleeper")?;
    wait_until("the first start is logged", WAIT_TIMEOUT, || {
        lab.log("sleeper").is_ok_and(|l| l == "started\n")
    })?;
    lab.restart("sleeper", Signal::Kill)?;
    assert!(lab.is_running("sleeper")?);
    assert_ne!(lab.pid("sleeper")?, first);
    wait_until("both starts are logged", WAIT_TIMEOUT, || {
        lab.log("sleeper").is_ok_and(|l| l == "started\nstarted\n")
    })?;
    lab.kill("sleeper")?;
    assert!(!lab.is_running("sleeper")?);
    Ok(())
}

#[test]
fn process_that_is_killed_and_started_finds_no_zombie_and_a_failed_start_is_reported() -> Outcome {
    let mut lab = empty(1)?;
    let name = lab.name().to_owned();
    let command = |verb: &str, process: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        let output = command.args([verb, "--lab", &name, process]).output();
        output.expect("lab runs")
    };
    let argv = |line: &str| line.split(' ').map(str::to_owned).collect();
    for (process, line) in [("sleeper", "sleep 1000"), ("short", "false")] {
        lab.launch(process, "node-1", argv(line), BTreeMap::new())?;
        lab.kill(process)?;
    }
    for _ in 0..3 {
        assert!(command("start", "sleeper").status.success());
        let pid = Lab::open(&name)?.pid("sleeper")?.expect("it runs");
        assert!(command("kill", "sleeper").status.success());
        let proc = format!("/proc/{pid}");
        assert!(!Path::new(&proc).exists(), "a zombie is left");
    }
    let failed = command("start", "short");
    assert!(!failed.status.success(), "{failed:?}");
    let text = String::from_utf8_lossy(&failed.stderr);
    assert!(text.contains("ended at its start"), "{text}");
    Ok(())
}

#[test]
fn bus_keeps_its_data_over_a_kill_and_loses_it_when_wiped() -> Outcome {
    let mut lab = Lab::up(&Spec::test(0).daemons(Daemons::Bus))?;
    lab.run(CTL, &["touch", "/var/lib/nats/jetstream/witness"])?;
    lab.restart("nats", Signal::Kill)?;
    lab.await_bus()?;
    lab.run(CTL, &["ls", "/var/lib/nats/jetstream/witness"])?;
    lab.kill("nats")?;
    lab.wipe_bus()?;
    lab.start("nats")?;
    lab.await_bus()?;
    assert!(
        !lab.exec(CTL, &["ls", "/var/lib/nats/jetstream/witness"])?
            .success()
    );
    Ok(())
}

#[test]
fn bus_refuses_clients_without_token() -> Outcome {
    let lab = Lab::up(&Spec::test(0).daemons(Daemons::Bus))?;
    let script = format!(
        "exec 3<>/dev/tcp/{}/4222; read -r info <&3; printf 'CONNECT {{}}\\r\\nPING\\r\\n' >&3; read -r -t 5 answer <&3; echo \"$answer\"",
        lab.address(CTL)?
    );
    let answer = lab.run(CTL, &["bash", "-c", &script])?.stdout;
    assert!(answer.contains("Authorization Violation"), "{answer}");
    Ok(())
}

#[test]
fn lab_leaves_nothing_when_it_ends() -> Outcome {
    let lab = Lab::up(&Spec::test(2).daemons(Daemons::Bus))?;
    let name = lab.name().to_owned();
    let interface = interface_of(&lab)?;
    assert!(Path::new(&interface).exists());
    let pid = lab.pid("nats")?.expect("nats runs");
    lab.down()?;
    assert_gone(&name, &interface, pid);
    Ok(())
}

#[test]
fn lab_of_a_killed_owner_ends_and_its_leftovers_are_removed() -> Outcome {
    // The command's cluster is persistent, so the test kills its keeper instead of the owner.
    let name = format!("k{}", std::process::id());
    let lab = env!("CARGO_BIN_EXE_lab");
    let up = || {
        Command::new(lab)
            .args(["up", "--name", &name, "--nodes", "1", "--daemons", "bus"])
            .stdout(Stdio::null())
            .status()
    };
    assert!(up().expect("lab runs").success());
    let cluster = Lab::open(&name)?;
    let (interface, pid) = (
        interface_of(&cluster)?,
        cluster.pid("nats")?.expect("nats runs"),
    );
    assert!(matches!(
        Lab::up(&Spec::named(&name, 1)),
        Err(Error::IsUp { .. })
    ));
    let state = fs::read_to_string(lab::state_dir(&name).join("state.json")).expect("a state");
    let state: serde_json::Value = serde_json::from_str(&state).expect("JSON");
    let keeper = state["keeper"]["pid"].to_string();
    assert!(
        Command::new("kill")
            .args(["-9", &keeper])
            .status()
            .expect("kill runs")
            .success()
    );
    wait_until("its processes end", WAIT_TIMEOUT, || {
        !Path::new(&format!("/proc/{pid}/exe")).exists()
    })?;
    wait_until("the lab is dead", WAIT_TIMEOUT, || {
        matches!(Lab::open(&name), Err(Error::NotUp { .. }))
    })?;
    assert!(up().expect("lab runs").success());
    Lab::remove(&name)?;
    assert_gone(&name, &interface, pid);
    Ok(())
}

#[test]
fn interrupted_command_cleans_up() -> Outcome {
    let name = format!("i{}", std::process::id());
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        // A server that never listens keeps `up` waiting.
        .args(["up", "--name", &name, "--nodes", "1", "--daemons", "bus"])
        .env("CONTIV_NATS_SERVER", "/bin/cat")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("lab runs");
    let hosts = wait_until("the lab has hosts", WAIT_TIMEOUT, || {
        fs::read_to_string(lab::state_dir(&name).join("state.json"))
            .is_ok_and(|s| s.contains("node-1"))
    });
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .expect("kill runs")
            .success()
    );
    let status = child.wait().expect("lab ends");
    hosts?;
    assert!(!status.success());
    assert!(!lab::state_dir(&name).exists());
    Ok(())
}

#[test]
fn process_that_ends_at_once_is_reported_with_its_log() {
    let name = format!("e{}", std::process::id());
    let up = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["up", "--name", &name, "--nodes", "0", "--daemons", "bus"])
        .env("CONTIV_NATS_SERVER", "/bin/false")
        .output()
        .expect("lab runs");
    assert!(!up.status.success());
    let text = String::from_utf8_lossy(&up.stderr).into_owned();
    assert!(text.contains("ended at its start"), "{text}");
    assert!(!lab::state_dir(&name).exists());
}

#[test]
fn bad_names_and_unknown_hosts_are_errors() -> Outcome {
    assert!(matches!(
        Lab::up(&Spec::named("../x", 1)),
        Err(Error::BadName { .. })
    ));
    let lab = empty(1)?;
    let error = lab.exec("node-9", &["true"]).expect_err("no such host");
    assert_eq!(
        error.to_string(),
        "this lab has no host `node-9`; it has ctl, node-1"
    );
    Ok(())
}

fn interface_of(lab: &Lab) -> Result<String, Error> {
    let third = lab.address(CTL)?.octets()[2];
    Ok(format!("/sys/class/net/contivlab{third}"))
}

fn assert_gone(name: &str, interface: &str, pid: i32) {
    assert!(!Path::new(interface).exists(), "{interface}");
    assert!(!lab::state_dir(name).exists());
    assert!(!Path::new("/var/lib/contiv-lab").join(name).exists());
    assert!(
        !Path::new(&format!("/proc/{pid}/exe")).exists(),
        "process {pid}"
    );
}
