//! The demo of `make demo` under other names: twice in a row, and interrupted.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use lab::Lab;

const LAB: &str = env!("CARGO_BIN_EXE_lab");

const ENGINE_TIMEOUT: Duration = Duration::from_secs(30);

fn demo(name: &str) -> String {
    let output = Command::new(LAB)
        .args(["--lab", name, "demo"])
        .output()
        .expect("lab runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}{errors}");
    text
}

fn assert_gone(name: &str) {
    assert!(!lab::state_dir(name).exists());
    assert!(!Path::new("/var/lib/contiv-lab").join(name).exists());
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    assert!(!mounts.contains(&format!("contiv-lab/{name}")), "{mounts}");
    assert_eq!(control_groups(name), Vec::<String>::new());
    assert_eq!(processes(name), Vec::<String>::new());
    assert!(
        lab::list()
            .expect("a list")
            .iter()
            .all(|lab| lab.name != name)
    );
}

fn control_groups(name: &str) -> Vec<String> {
    let ours = format!("contiv-lab-{name}.*");
    let found = Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "2", "-name", &ours])
        .output()
        .expect("find runs");
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    found.lines().map(str::to_owned).collect()
}

/// The processes with one of the lab's paths on their command line.
fn processes(name: &str) -> Vec<String> {
    let path = format!("contiv-lab/{name}/");
    let all = std::fs::read_dir("/proc").expect("processes").flatten();
    let lines = all.filter_map(|it| std::fs::read_to_string(it.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&path)).collect()
}

#[test]
fn demo_works_twice_in_a_row_and_leaves_nothing() {
    let name = format!("d{}", std::process::id());
    for _ in 0..2 {
        let text = demo(&name);
        assert_eq!(
            text.matches("3 packets transmitted, 3 packets received")
                .count(),
            2,
            "{text}"
        );
        for command in [
            "net ls",
            "net inspect contiv-net",
            "endpoint ls",
            "node ls",
            "events",
        ] {
            assert!(
                text.contains(&format!("$ netctl {command}\n")),
                "{command}: {text}"
            );
        }
        for line in [
            "hello from shop 80",
            "hello from shop 443",
            "hello from db 9000",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        assert!(text.contains("(no answer: the policy denies it)"), "{text}");
        assert!(Lab::open(&name).is_ok(), "the cluster stays up");
    }
    Lab::remove(&name).expect("the demo is removed");
    assert_gone(&name);
}

#[test]
fn demo_interrupted_during_an_image_import_cleans_up() {
    let name = format!("y{}", std::process::id());
    let folder = tempfile::tempdir().expect("a folder");
    let mut child = Command::new(LAB)
        .args(["--lab", &name, "demo"])
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("lab runs");
    // The image is imported once both engines answer.
    lab::wait_until("both engines answer", ENGINE_TIMEOUT, || {
        let answers =
            |lab: &Lab, node: &str| lab.docker(node, &["version"]).is_ok_and(|o| o.success());
        Lab::open(&name).is_ok_and(|lab| answers(&lab, "node-1") && answers(&lab, "node-2"))
    })
    .expect("engines");
    let pid = child.id().to_string();
    let interrupted = Command::new("kill").args(["-INT", &pid]).status();
    assert!(interrupted.is_ok_and(|s| s.success()));
    assert_eq!(child.wait().expect("lab ends").code(), Some(130));
    assert_gone(&name);
    let left = std::fs::read_dir(folder.path()).expect("the folder");
    assert_eq!(left.count(), 0, "leftover files");
}

#[test]
fn interrupted_demo_cleans_up() {
    let name = format!("x{}", std::process::id());
    let mut child = Command::new(LAB)
        .args(["--lab", &name, "demo"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("lab runs");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let reached = lines
        .map_while(Result::ok)
        .any(|line| line.contains("docker run"));
    let pid = child.id().to_string();
    let interrupted = Command::new("kill").args(["-INT", &pid]).status();
    let status = child.wait().expect("lab ends");
    assert!(reached && interrupted.is_ok_and(|s| s.success()));
    assert_eq!(status.code(), Some(130));
    assert_gone(&name);
}
