//! Contexts choose the bus, and its token stays secret.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Ran, command, netctl_at_home, nowhere};

/// Runs netctl without a bus in the environment.
fn run(home: &Path, typed: &str) -> Ran {
    netctl_at_home(home, "", typed)
}

/// Checks that a command tried to reach the bus, which doesn't run, at `address`.
#[track_caller]
fn tries(ran: &Ran, address: &str) {
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains(address), "{address}: {ran:?}");
    assert!(!ran.err.contains("t0ken"), "{ran:?}");
}

#[test]
fn context_chooses_the_bus_unless_flag_or_variable_does() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let addresses = [nowhere(), nowhere(), nowhere()];
    let [one, two, three] = addresses.each_ref().map(|it| &it["nats://t0ken@".len()..]);
    for (name, url) in ["one", "two"].iter().zip(&addresses) {
        let added = run(home, &format!("context add {name} {url}"));
        assert_eq!(added.out, "current context: one\n", "{added:?}");
    }
    tries(&run(home, "net ls"), one);
    tries(&run(home, "net ls --context two"), two);
    tries(&netctl_at_home(home, &addresses[2], "net ls"), three);
    assert_eq!(run(home, "context use two").out, "current context: two\n");
    tries(&run(home, "net ls"), two);
    tries(
        &run(home, &format!("net ls --netmaster {}", addresses[0])),
        one,
    );

    let listed = run(home, "context ls").out;
    assert!(
        listed.contains(two) && !listed.contains("t0ken"),
        "{listed}"
    );
    assert_eq!(run(home, "context ls -q").out, "one\ntwo\n");
    let file = home.join(".config/contiv/contexts.yaml");
    let mode = std::fs::metadata(file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a token is for its owner alone");

    assert_eq!(run(home, "context rm two").out, "current context: none\n");
}

#[test]
fn unknown_context_and_broken_file_are_usage_errors() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    for typed in [
        "context use nowhere",
        "context rm nowhere",
        "net ls --context nowhere",
        "context add a http://h:1",
        "context add a.b nats://h:1",
    ] {
        let ran = run(home, typed);
        assert_eq!(ran.code, 64, "{typed}: {ran:?}");
    }
    let folder = home.join(".config/contiv");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("contexts.yaml"), "current: [").unwrap();
    let ran = run(home, "net ls");
    assert!(
        ran.code == 64 && ran.err.contains("contexts.yaml"),
        "{ran:?}"
    );
}

#[test]
fn man_writes_a_page_for_each_verb() {
    let home = tempfile::tempdir().unwrap();
    let pages = home.path().join("man1");
    let typed = format!("man {}", pages.display());
    let output = command(home.path(), "", &typed).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for page in ["netctl.1", "netctl-net-create.1", "netctl-apply.1"] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.contains(".SH"), "{page}");
    }
}
