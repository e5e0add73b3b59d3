//! Runs commands in a namespace: `nft`, `iptables`.

use std::collections::VecDeque;
use std::io;
use std::process::{Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::netns::Namespace;
use runtime::lock;

/// `nft` lists tens of thousands of elements within a second; a process that takes longer is stuck.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(20);

/// The process ids of the latest commands. A notification about a change has the author's netlink
/// port, and the kernel gives the process id as port to a process's first netlink socket.
static LATEST_PIDS: Mutex<VecDeque<u32>> = Mutex::new(VecDeque::new());
const MAX_LATEST_PIDS: usize = 64;

/// Whether the author with this netlink port is a command that this process started lately.
pub(super) fn is_ours(port: u32) -> bool {
    lock(&LATEST_PIDS).contains(&port)
}

fn remember(pid: Option<u32>) {
    let mut pids = lock(&LATEST_PIDS);
    pids.extend(pid);
    let excess = pids.len().saturating_sub(MAX_LATEST_PIDS);
    pids.drain(..excess);
}

/// Runs a command to its end, whatever its exit status; `NotFound`: it isn't installed.
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
    tokio::time::timeout(COMMAND_TIMEOUT, exchange)
        .await
        .map_err(|_| late())?
}
