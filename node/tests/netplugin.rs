//! Tests the command line of `netplugin`: its refusals and their messages.

use std::path::Path;
use std::process::{Command, Output};

const NETPLUGIN_PATH: &str = env!("CARGO_BIN_EXE_netplugin");

/// Runs `netplugin run` in a network namespace of its own, in which it can start.
fn run(folder: &Path, before: &str, arguments: &str) -> Output {
    netplugin("run", folder, before, arguments)
}

fn netplugin(verb: &str, folder: &Path, before: &str, arguments: &str) -> Output {
    let at = folder.display();
    let script = format!(
        "ip link set lo up && ip address add 198.18.200.1/32 dev lo && \
         exec {before} {NETPLUGIN_PATH} {verb} --engine none --state-dir {at}/state --run-dir {at}/run \
         --plugin-dir {at}/plugins --netns-dir {at}/netns {arguments}"
    );
    Command::new("timeout")
        .args(["10", "unshare", "--net", "--mount", "sh", "-c", &script])
        .output()
        .expect("unshare needs root")
}

fn refused(output: &Output, says: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{text}");
    assert!(text.contains(says), "{text}");
    assert!(output.stdout.is_empty());
}

#[test]
fn missing_capabilities_are_named() {
    let folder = tempfile::tempdir().unwrap();
    for missing in ["net_admin", "sys_admin"] {
        let before = format!("setpriv --bounding-set=-{missing}");
        let output = run(folder.path(), &before, "--name a --underlay 198.18.200.1");
        refused(&output, "CAP_NET_ADMIN and CAP_SYS_ADMIN");
    }
}

#[test]
fn bad_configuration_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty");
    std::fs::write(&empty, "\n").unwrap();
    let at = folder.path().display();
    for (arguments, says) in [
        ("--name a.b --underlay lo", "letters, digits"),
        ("--name a --underlay 198.18.200.9", "198.18.200.1 (lo)"),
        ("--name a", "--underlay"),
        (
            &format!("--name a --underlay lo --machine-id-file {at}/none"),
            "systemd-machine-id-setup",
        ),
        (
            &format!("--name a --underlay lo --machine-id-file {at}/empty"),
            "systemd-machine-id-setup",
        ),
    ] {
        refused(&run(folder.path(), "", arguments), says);
    }
}

#[test]
fn no_log_has_the_token_at_any_level() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("address");
    std::fs::write(&file, "nats://s3cret@127.0.0.1:1\n").unwrap();
    let arguments = format!(
        "--name a --underlay lo --nats-file {} --metrics none",
        file.display()
    );
    let output = run(folder.path(), "timeout 4 env CONTIV_LOG=trace", &arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("attempting connection"), "{text}");
    assert!(!text.contains("s3cret"), "the token is in the log");
}

#[test]
fn check_succeeds_and_leaves_the_machine_unchanged() {
    let folder = tempfile::tempdir().unwrap();
    let output = netplugin("check", folder.path(), "", "--name a --underlay lo");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert!(text.contains("a can be a node: packets from 198.18.200.1, domain="));
    let left = std::fs::read_dir(folder.path().join("netns")).unwrap();
    assert_eq!(left.count(), 0, "the trial's namespaces");
}

#[test]
fn check_fails_without_nft() {
    let folder = tempfile::tempdir().unwrap();
    let before = "env PATH=/nowhere";
    let output = netplugin("check", folder.path(), before, "--name a --underlay lo");
    refused(&output, "can't start `nft`: install nftables");
    let left = std::fs::read_dir(folder.path().join("netns")).unwrap();
    assert_eq!(left.count(), 0, "the trial's namespaces");
}

#[test]
fn unusable_state_directory_is_named() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("state"), "").unwrap();
    let output = run(folder.path(), "", "--name a --underlay 198.18.200.1");
    refused(&output, "state directory");
}

#[test]
fn commands_without_a_daemon_name_the_command_that_starts_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().to_str().unwrap();
    for arguments in [
        ["status", "--run-dir", at].as_slice(),
        ["detach", "--run-dir", at, "some"].as_slice(),
        ["attach", "--run-dir", at, "--netns", "x", "--network", "n"].as_slice(),
    ] {
        let output = Command::new(NETPLUGIN_PATH)
            .args(arguments)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains("netplugin run"), "{text}");
    }
}
