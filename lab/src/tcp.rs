//! TCP servers and clients in workloads, out of busybox.

use std::process::Stdio;
use std::time::Duration;

use crate::background::Background;
use crate::lab::Lab;
use crate::workload::netns;
use crate::{Result, host, namespace, underlay, wait};

/// Longer than a connection takes on a busy machine; one that is dropped takes all of it.
fn patience() -> &'static str {
    // A first packet that got lost is sent again after a second, and after two more.
    underlay::netem().map_or("1", |_| "4")
}

/// A program in a workload, until it is dropped.
#[derive(Debug)]
pub struct Running {
    _process: Background,
}

impl Lab {
    /// Answers every connection to a port of a workload with a line; connections are accepted when this returns.
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

    /// Starts a program in a workload, which ends with what is returned.
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
                patience(),
                target,
                &port,
            ],
        )?;
        Ok(output.stdout.contains("hello"))
    }
}
