//! Contexts: which bus is meant, and that its token stays secret.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::{Ran, command, netctl_at_home, nowhere};

/// Without a bus in the environment.
fn run(home: &Path, typed: &str) -> Ran {
    netctl_at_home(home, "", typed)
}

/// Where a command looked for the bus that isn't there.
#[track_caller]
fn looks_at(ran: &Ran, address: &str) {
    assert_eq!(ran.code, 2, "{ran:?}");
    assert!(ran.err.contains(address), "{address}: {ran:?}");
    assert!(!ran.err.contains("t0ken"), "{ran:?}");
}

#[test]
fn a_context_names_the_bus_unless_something_nearer_does() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let addresses = [nowhere(), nowhere(), nowhere()];
    let [one, two, three] = addresses.each_ref().map(|it| &it["nats://t0ken@".len()..]);
    for (name, url) in ["one", "two"].iter().zip(&addresses) {
        let added = run(home, &format!("context add {name} {url}"));
        assert_eq!(added.out, "current context: one\n", "{added:?}");
    }
    looks_at(&run(home, "net ls"), one);
    looks_at(&run(home, "net ls --context two"), two);
    looks_at(&netctl_at_home(home, &addresses[2], "net ls"), three);
    assert_eq!(run(home, "context use two").out, "current context: two\n");
    looks_at(&run(home, "net ls"), two);
    looks_at(
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
fn what_cannot_be_meant_is_refused() {
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
fn there_is_a_page_for_each_verb() {
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
