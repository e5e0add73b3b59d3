//! Other programs, run in a namespace: `nft`, `iptables`.

use std::collections::VecDeque;
use std::io;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::netns::Namespace;
use runtime::lock;

/// Tens of thousands of elements take less than a second; beyond this the process is stuck.
const PATIENCE: Duration = Duration::from_secs(20);

/// The latest processes of ours: the kernel names a change's author by its process id, which is
/// the port that it gives the process's first netlink socket.
static OURS: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());
const REMEMBERED: usize = 64;

/// Whether a process that this one started lately is the author with this port.
pub(super) fn is_ours(port: u32) -> bool {
    lock(&OURS).contains(&port)
}

fn remember(pid: Option<u32>) {
    let mut ours = lock(&OURS);
    ours.extend(pid);
    let excess = ours.len().saturating_sub(REMEMBERED);
    ours.drain(..excess);
}

/// Runs it to its end, whatever its exit status; `NotFound`: this machine hasn't got it.
pub(super) async fn run(
    namespace: &Namespace,
    program: &str,
    args: &[&str],
    input: String,
) -> io::Result<Output> {
    let mut command = Command::new(program);
    command.args(args).kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let runtime = tokio::runtime::Handle::current();
    let spawn = move || {
        let _guard = runtime.enter();
        command.spawn()
    };
    let mut child = namespace.run(spawn).await?;
    // `nft` changes nothing before it has read its script.
    remember(child.id());
    let exchange = async {
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("`{program}` doesn't end"));
    tokio::time::timeout(PATIENCE, exchange)
        .await
        .map_err(|_| late())?
}
