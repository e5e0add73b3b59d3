//! Commands in network namespaces.

use std::process::{Command, Output};

pub(crate) fn sh(command: &str) -> Output {
    let output = Command::new("sh").arg("-c").arg(command).output();
    output.expect("sh runs")
}

pub(crate) fn run(command: &str) -> String {
    let output = sh(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn exec(netns: &str, command: &str) -> Output {
    sh(&format!("ip netns exec {netns} {command}"))
}

/// Whether a ping is answered; it is sent again for a while, for a busy machine's sake.
pub(crate) fn pings(netns: &str, to: &str) -> bool {
    let command = format!("ping -c 1 -i 0.2 -w 10 {to}");
    exec(netns, &command).status.success()
}

/// Whether pings get no answer, here where an answer takes less than a millisecond.
pub(crate) fn is_silent(netns: &str, to: &str) -> bool {
    let command = format!("ping -c 3 -i 0.2 -W 0.4 {to}");
    !exec(netns, &command).status.success()
}
