//! A machine whose clock is a minute slow. A kernel has only one such clock, so the process loads a
//! library before libc that returns another time.

use std::path::{Path, PathBuf};
use std::process::Command;

use chaos_tests::{Outcome, Scene, WAIT_TIMEOUT, create, invariant};
use lab::{Signal, wait_until};

const SLOW_CLOCK_SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *time) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int result = real(id, time);
  if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE) time->tv_sec -= 60;
  return result;
}
"#;

/// Compiles the library, and returns its path for LD_PRELOAD.
fn minute_slow(name: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    let (source, library): (PathBuf, PathBuf) = (folder.join("slow.c"), folder.join("slow.so"));
    std::fs::write(&source, SLOW_CLOCK_SOURCE).expect("the source");
    let mut compile = Command::new("cc");
    let compile = compile
        .args(["-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    let compiled = compile
        .status()
        .expect("a C compiler, which rustc needs, too");
    assert!(compiled.success(), "{compiled}");
    library.display().to_string()
}

/// Checks that the text names only this clock, as about a minute behind the others.
#[track_caller]
fn assert_only_slow(text: &str, of: &str) {
    let lines: Vec<&str> = text.lines().filter(|it| it.contains(" clock: ")).collect();
    let named = lines.first().and_then(|line| line.split_once(of));
    let skew = named.and_then(|(_, rest)| rest.strip_prefix(" clock: ")?.split_once(" s behind"));
    let skew: Option<f64> = skew.and_then(|(skew, _)| skew.parse().ok());
    // A skew that the round trip may explain isn't counted.
    let is_minute = skew.is_some_and(|skew| (50.0..61.0).contains(&skew));
    assert!(is_minute && lines.len() == 1, "{text}");
}

#[test]
fn node_with_a_slow_clock_works_and_is_named() -> Outcome {
    let mut scene = Scene::open()?;
    let lab = &mut scene.lab;
    lab.set_variable("netplugin@node-1", "LD_PRELOAD", &minute_slow("node"))?;
    lab.restart("netplugin@node-1", Signal::Term)?;
    lab.await_node("node-1")?;
    // It connects anew, and so joins again.
    lab.restart("nats", Signal::Kill)?;
    lab.await_bus()?;
    lab.await_netmaster("netmaster-1")?;
    create(lab, "later", "20.2.1.0/24")?;
    invariant::converged_within(lab, WAIT_TIMEOUT)?;
    // The node must first get a block.
    lab.run_workload("node-1", "later", "job")?;

    let status = lab.netctl(&["status"])?;
    assert!(status.success(), "a warning only: {status:?}");
    assert_only_slow(&status.stdout, "warning  node node-1");
    let doctor = lab.netctl(&["doctor", "-q"])?;
    assert_only_slow(&doctor.stdout, "wrong    node node-1");
    Ok(())
}

#[test]
fn operator_with_a_slow_clock_is_served_and_warned() -> Outcome {
    let scene = Scene::open()?;
    let library = minute_slow("operator");
    let slow = |typed: &str| {
        let script = format!("LD_PRELOAD={library} netctl {typed}");
        scene.lab.exec("ctl", &["sh", "-c", &script])
    };
    let create = slow("tenant create blue")?;
    assert!(create.success(), "{create:?}");
    let list = slow("tenant ls -q")?;
    assert!(list.success() && list.stdout.contains("blue"), "{list:?}");
    for asked in ["doctor -q", "status"] {
        let told = slow(asked)?;
        assert_only_slow(&told.stdout, "this machine");
    }
    Ok(())
}

#[test]
fn netmaster_with_a_slow_clock_decides_and_is_named() -> Outcome {
    let mut scene = Scene::open()?;
    let lab = &mut scene.lab;
    lab.set_variable("netmaster-1", "LD_PRELOAD", &minute_slow("master"))?;
    lab.restart("netmaster-1", Signal::Term)?;
    wait_until("it decides", WAIT_TIMEOUT, || {
        let create = lab.netctl(&["tenant", "create", "blue"]);
        create.is_ok_and(|it| it.success())
    })?;
    lab.netctl_ok(&["net", "create", "n", "--subnet=20.3.1.0/24"])?;
    let status = lab.netctl(&["status"])?;
    assert!(status.success(), "{status:?}");
    assert_only_slow(&status.stdout, "warning  netmaster netmaster-1");
    Ok(())
}
