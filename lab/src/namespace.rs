//! Starts processes in namespaces. A thread of its own enters (or creates) the namespaces and spawns the
//! process. The child is then in them from its first instruction, is a direct child, and has a PID that
//! we can signal.
//!
//! `setns` and `unshare` change only the calling thread (setns(2)), which ends with the call.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{Error, Result};

/// Whether an interrupted command is removing its lab; then nothing is started any more.
pub(crate) static IS_STOPPING: AtomicBool = AtomicBool::new(false);

const HOST_FLAGS: CloneFlags = CloneFlags::CLONE_NEWNET
    .union(CloneFlags::CLONE_NEWNS)
    .union(CloneFlags::CLONE_NEWUTS);

/// Starts the first process of a new PID namespace. Everything in the namespace ends with it.
///
/// `persistent`: it runs until it is killed. Otherwise it ends when its standard input closes, which the
/// kernel does when the owner dies.
pub(crate) fn spawn_keeper(persistent: bool) -> Result<Child> {
    // The shell waits for its child, and so reaps processes that are reparented to it.
    let rest = if persistent {
        "sleep infinity </dev/null & wait"
    } else {
        "exec 3<&0; cat <&3 >/dev/null & wait $!"
    };
    let script = format!(
        "mount --make-rprivate / && mount -t proc proc /proc && echo ready && exec >/dev/null 2>&1 && {rest}"
    );
    let mut command = Command::new("setsid");
    command
        .args(["sh", "-c", &script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    in_thread(command, || {
        unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)
    })
    .and_then(wait_ready)
}

/// Starts a host: new network, mount and UTS namespaces, which `script` sets up and a sleeping process
/// holds.
pub(crate) fn spawn_holder(keeper: i32, script: &str) -> Result<Child> {
    let keeper_files = NamespaceFiles::open(keeper, &["pid", "mnt"])?;
    let mut command = Command::new("sh");
    let script = format!("{script}\necho ready\nexec sleep infinity </dev/null >/dev/null 2>&1");
    command
        .args(["-euc", &script])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    detach(&mut command);
    in_thread(command, move || {
        keeper_files.enter()?;
        unshare(HOST_FLAGS)
    })
    .and_then(wait_ready)
}

/// Spawns `command` inside the namespaces of the host that `holder` holds.
pub(crate) fn spawn_in(holder: i32, command: Command) -> Result<Child> {
    let files = NamespaceFiles::open(holder, &["pid", "net", "uts", "mnt"])?;
    in_thread(command, move || files.enter())
}

/// Spawns `command` in the host's network namespace only; it has the machine's files and PIDs.
pub(crate) fn spawn_in_network(holder: i32, command: Command) -> Result<Child> {
    let files = NamespaceFiles::open(holder, &["net"])?;
    in_thread(command, move || files.enter())
}

/// Opens something inside a network namespace, given by its path on the host that `holder` holds.
pub(crate) fn open_in<T: Send + 'static>(
    holder: i32,
    netns: &str,
    open: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let files = NamespaceFiles::open(holder, &["mnt"])?;
    let netns = netns.to_owned();
    let opened = std::thread::spawn(move || {
        let enter = |errno: nix::Error| Error::system("enter a namespace")(errno.into());
        files.enter().map_err(enter)?;
        let file = File::open(&netns).map_err(Error::file("open", &netns))?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(enter)?;
        open().map_err(Error::system(format!("open a socket in {netns}")))
    });
    opened.join().unwrap_or_else(|_| {
        Err(Error::system("open a socket")(std::io::Error::other(
            "the thread panicked",
        )))
    })
}

/// Moves a process out of the terminal's foreground group, to which a Ctrl-C goes.
pub(crate) fn detach(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

struct NamespaceFiles(Vec<(File, CloneFlags)>);

impl NamespaceFiles {
    fn open(pid: i32, kinds: &[&str]) -> Result<Self> {
        let open = |kind: &&str| {
            let path = format!("/proc/{pid}/ns/{kind}");
            let flag = match *kind {
                "pid" => CloneFlags::CLONE_NEWPID,
                "net" => CloneFlags::CLONE_NEWNET,
                "uts" => CloneFlags::CLONE_NEWUTS,
                _ => CloneFlags::CLONE_NEWNS,
            };
            let file = File::open(&path).map_err(Error::file("open", path))?;
            Ok((file, flag))
        };
        kinds.iter().map(open).collect::<Result<_>>().map(Self)
    }

    fn enter(&self) -> nix::Result<()> {
        // A mount namespace can't be joined while the thread shares its root and cwd (setns(2)).
        unshare(CloneFlags::CLONE_FS)?;
        self.0
            .iter()
            .try_for_each(|(file, flag)| setns(file, *flag))
    }
}

fn in_thread(
    mut command: Command,
    prepare: impl FnOnce() -> nix::Result<()> + Send + 'static,
) -> Result<Child> {
    if IS_STOPPING.load(Ordering::SeqCst) {
        return Err(Error::Stopping);
    }
    let program = command.get_program().to_string_lossy().into_owned();
    let spawned = std::thread::spawn(move || {
        prepare().map_err(|errno| Error::system("enter a namespace")(errno.into()))?;
        command
            .spawn()
            .map_err(Error::system(format!("start {program}")))
    });
    spawned.join().unwrap_or_else(|_| {
        Err(Error::system("start a process")(std::io::Error::other(
            "the thread panicked",
        )))
    })
}

fn wait_ready(mut child: Child) -> Result<Child> {
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        let read = BufReader::new(out).read_line(&mut line);
        read.map_err(Error::system("read a host's start"))?;
    }
    if line == "ready\n" {
        return Ok(child);
    }
    let output = child
        .wait_with_output()
        .map_err(Error::system("read a host's start"))?;
    Err(Error::Command {
        host: "new host".to_owned(),
        command: "set up".to_owned(),
        status: output.status.to_string(),
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}
