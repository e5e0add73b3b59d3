//! The resolvers of containers: glibc's, musl's and c-ares', each in a program of its own, without an
//! engine and behind Docker's embedded resolver.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, create};
use lab::{IMAGE, Lab, Output, Spec, wait_until};

const SOURCE_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/resolvers");

/// Compiler, source and flags of a program.
const GLIBC_PROGRAM: (&str, &str, &[&str]) = ("gcc", "getaddrinfo.c", &[]);
const MUSL_PROGRAM: (&str, &str, &[&str]) = ("musl-gcc", "getaddrinfo.c", &["-static"]);
const CARES_PROGRAM: (&str, &str, &[&str]) = ("gcc", "ares.c", &["-lcares"]);

fn compiled(folder: &Path, (compiler, source, more): (&str, &str, &[&str])) -> PathBuf {
    let name = format!("{compiler}-{}", source.trim_end_matches(".c"));
    let program = folder.join(name);
    let mut command = Command::new(compiler);
    command.arg("-O").arg("-o").arg(&program);
    command
        .arg(Path::new(SOURCE_FOLDER).join(source))
        .args(more);
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{compiler}: {error}; `make tools`"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    program
}

fn lines(output: &Output) -> BTreeSet<String> {
    output.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn resolvers_find_the_same_without_an_engine() -> Outcome {
    let mut scene = Scene::open()?;
    let folder = tempfile::tempdir().expect("a folder for programs");
    scene
        .lab
        .netctl_ok(&["group", "create", "contiv-net", "pool"])?;
    let mut pool = BTreeSet::new();
    // More than a UDP answer of 512 bytes can hold.
    for number in 0..40 {
        let node = if number % 2 == 0 { "node-1" } else { "node-2" };
        let name = format!("prod_db{number}");
        let member =
            scene
                .lab
                .run_workload_with(node, "contiv-net", &name, &["--group", "pool"])?;
        pool.insert(member.address.to_string());
    }
    let db = BTreeSet::from([scene.db.address.to_string()]);
    for how in [GLIBC_PROGRAM, MUSL_PROGRAM, CARES_PROGRAM] {
        let program = compiled(folder.path(), how).display().to_string();
        let ask = |name: &str| scene.lab.exec_in("web", &[&program, name]);
        // musl uses TCP since 1.2.4; before, it takes the truncated answer.
        let enough = if how == MUSL_PROGRAM { 25 } else { pool.len() };
        wait_until(
            &format!("{program} finds the members"),
            WAIT_TIMEOUT,
            || {
                let found = ask("pool").map(|told| lines(&told)).unwrap_or_default();
                found.len() >= enough && found.is_subset(&pool)
            },
        )?;
        for name in ["db", "DB", "db.contiv-net", "db.contiv-net.contiv.local"] {
            assert_eq!(lines(&ask(name)?), db, "{program} {name}");
        }
        assert_eq!(lines(&ask("prod_db7")?).len(), 1, "{program}");
        assert_eq!(lines(&ask("machine.lab")?).len(), 1, "{program}: forwarded");
        let nobody = ask("nobody")?;
        assert!(!nobody.success() && nobody.stdout.is_empty(), "{nobody:?}");
    }
    Ok(())
}

/// In a container: musl's, which needs no other files, and busybox's, which is glibc's.
#[test]
fn resolvers_find_the_same_behind_dockers_own() -> Outcome {
    // The second node's resolver is a loopback address.
    let lab = Lab::up(&Spec::test(2).docker(true).loopback_resolver_on(2))?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    let folder = tempfile::tempdir().expect("a folder for programs");
    let musl = compiled(folder.path(), MUSL_PROGRAM).display().to_string();
    for (node, name) in [("node-1", "web"), ("node-2", "db")] {
        lab.import_image(node)?;
        let run = ["docker", "run", "-d", "--net=contiv-net", "--name", name];
        let argv: Vec<&str> = run.into_iter().chain([IMAGE, "sleep", "1000000"]).collect();
        lab.run(node, &argv)?;
        lab.run(
            node,
            &["docker", "cp", &musl, &format!("{name}:/bin/find-name")],
        )?;
    }
    for (node, from, to) in [("node-1", "web", "db"), ("node-2", "db", "web")] {
        let ask = |name: &str| lab.docker(node, &["exec", from, "find-name", name]);
        wait_until("musl's resolver finds the other", WAIT_TIMEOUT, || {
            ask(to).is_ok_and(|told| lines(&told).len() == 1)
        })?;
        let found = lines(&ask(to)?);
        let full = format!("{to}.contiv-net.contiv.local");
        assert_eq!(lines(&ask(&full)?), found);
        let ping = lab.docker(node, &["exec", from, "ping", "-c1", "-W2", &full])?;
        assert!(
            found
                .iter()
                .all(|address| ping.stdout.contains(address.as_str())),
            "{ping:?}"
        );
        assert!(!ask("nobody.contiv.local")?.success());
    }
    Ok(())
}
