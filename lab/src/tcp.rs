//! TCP servers and clients of busybox in workloads.

use std::process::Stdio;
use std::time::Duration;

use crate::background::Background;
use crate::lab::Lab;
use crate::workload::netns;
use crate::{Result, host, namespace, underlay, wait};

/// The seconds that a client waits: more than a connection takes on a busy machine. A dropped one takes
/// all of them.
fn connect_timeout() -> &'static str {
    // TCP sends a lost first packet again after one second, and again after two more.
    underlay::netem().map_or("1", |_| "4")
}

/// A program that runs in a workload until this is dropped.
#[derive(Debug)]
pub struct Running {
    _process: Background,
}

impl Lab {
    /// Starts a server in a workload that answers every connection to a port with a line. When this
    /// returns, it accepts connections.
    pub fn listen(&self, workload: &str, port: u16) -> Result<Running> {
        let port_text = port.to_string();
        let server = [
            "busybox", "nc", "-ll", "-p", &port_text, "-e", "echo", "hello",
        ];
        let running = self.start_in(workload, &server)?;
        let filter = format!("sport = :{port}");
        wait::wait_until("a server listens", Duration::from_secs(10), || {
            let sockets = self.exec_in(workload, &["ss", "-Hltn", &filter]);
            sockets.is_ok_and(|output| !output.stdout.is_empty())
        })?;
        Ok(running)
    }

    /// Starts a program in a workload; it ends when the returned value is dropped.
    pub fn start_in(&self, workload: &str, argv: &[&str]) -> Result<Running> {
        let node = self.workload_node(workload)?;
        let netns = netns(workload);
        let argv: Vec<&str> = ["ip", "netns", "exec", &netns]
            .into_iter()
            .chain(argv.iter().copied())
            .collect();
        let mut command = host::command(&argv, &self.environment());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        namespace::detach(&mut command);
        let process = Background::of(self.host(&node)?.spawn(command)?);
        Ok(Running { _process: process })
    }

    /// Whether a server answers a new connection from `workload` to an address or a name.
    pub fn connects(&self, workload: &str, target: &str, port: u16) -> Result<bool> {
        let port = port.to_string();
        let output = self.exec_in(
            workload,
            &[
                "timeout",
                "6",
                "busybox",
                "nc",
                "-w",
                connect_timeout(),
                target,
                &port,
            ],
        )?;
        Ok(output.stdout.contains("hello"))
    }
}
