//! Clusters on one machine: hosts are network namespaces that an underlay connects, and run the real
//! binaries. Used by the `lab` command, the demo and the chaos tests.
//!
//! Invariant: all processes of a lab run in one PID namespace, whose first process the lab owns. The end
//! of that process (or the crash of its owner) ends all of them, and the kernel removes namespaces,
//! interfaces and mounts. Only two folders and control groups remain; [`Lab::remove`] or the next `up`
//! of the same name removes them.
//!
//! All calls block, so none may run on an async executor's thread.

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
mod start;
mod state;
mod status;
mod tcp;
mod tools;
mod underlay;
mod wait;
mod workload;

pub use docker::IMAGE;
pub use error::{Error, Result};
pub use host::{CTL, Output, node_name};
pub use lab::Lab;
pub use ping::{Ping, PingReport};
pub use process::Signal;
pub use spec::{Daemons, Spec};
pub use start::resolver;
pub use state::{Listed, list, run_dir as state_dir};
pub use tcp::Running;
pub use wait::{poll, wait_until};
pub use workload::Workload;
