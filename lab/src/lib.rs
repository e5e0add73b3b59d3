//! Clusters on one machine: hosts are network namespaces joined by an underlay, the processes in
//! them are the real binaries. Used by the `lab` command, the demo and the chaos tests.
//!
//! Invariant: everything a lab starts lives in one PID namespace whose first process the lab owns,
//! so that ending that process (or the crash of whoever owns it) ends all of it, and the kernel
//! takes namespaces, interfaces and mounts along. Only two folders and control groups remain, and
//! [`Lab::remove`] or the next `up` of the same name clears them.
//!
//! All calls block; none of them is for use on an async executor's thread.

mod address;
mod background;
mod bus;
mod cgroup;
mod cni;
mod docker;
mod error;
mod host;
mod lab;
mod namespace;
mod ping;
mod process;
mod socket;
mod spec;
mod state;
mod tcp;
mod tools;
mod underlay;
mod wait;
mod workload;

pub use docker::IMAGE;
pub use error::{Error, Result};
pub use host::{CTL, Output, node_name};
pub use lab::{Lab, resolver};
pub use ping::{Ping, PingReport};
pub use process::Signal;
pub use spec::{Daemons, Spec};
pub use state::{Listed, list, run_dir as state_dir};
pub use tcp::Running;
pub use wait::{poll, wait_until};
pub use workload::Workload;
