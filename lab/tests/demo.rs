//! The demo as `make demo` runs it, under other names: twice in a row, and interrupted.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use lab::Lab;

const LAB: &str = env!("CARGO_BIN_EXE_lab");

fn demo(name: &str) -> String {
    let output = Command::new(LAB)
        .args(["demo", name])
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
    assert!(
        lab::list()
            .expect("a list")
            .iter()
            .all(|lab| lab.name != name)
    );
}

#[test]
fn the_demo_works_twice_in_a_row_and_leaves_nothing() {
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
            "hello from web 9000",
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
fn an_interrupted_demo_cleans_up() {
    let name = format!("x{}", std::process::id());
    let mut child = Command::new(LAB)
        .args(["demo", &name])
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
