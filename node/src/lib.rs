//! netplugin, the daemon of every node. It joins three crates: `node-core` decides, `node-datapath`
//! configures the kernel, `node-dns` answers names.
//!
//! Docker, CNI, the local socket, DNS and the bus all go through `endpoint` and the core.

pub mod bus;
pub mod check;
pub mod cleanup;
pub mod cni;
pub mod core;
pub mod daemon;
pub mod docker;
pub mod doctor;
pub mod endpoint;
mod frames;
pub mod healing;
pub mod inquiry;
pub mod local;
pub mod metrics;
pub mod outer_drops;
pub mod status;
pub mod steps;
pub mod store;
pub mod underlay;
pub mod viewer;
