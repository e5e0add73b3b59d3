//! netplugin, the daemon of every node. It joins three crates: `node-core` decides, `node-datapath`
//! configures the kernel, `node-dns` answers names.
//!
//! Docker, CNI and the local socket attach endpoints through `endpoint`; the reconciler configures the kernel
//! for them, and the bus publishes them.

pub mod bus;
pub mod check;
pub mod cleanup;
pub mod cni;
pub mod connections;
pub mod daemon;
pub mod docker;
pub mod doctor;
pub mod endpoint;
mod frames;
pub mod healing;
pub mod identity;
pub mod inquiry;
pub mod local;
pub mod mark_rules;
pub mod metrics;
pub mod neighbors;
pub mod outer_drops;
pub mod reconciler;
pub mod requests;
#[cfg(test)]
mod small_disk;
pub mod status;
pub mod steps;
pub mod store;
pub mod surroundings;
pub mod underlay;
pub mod uplinks;
pub mod viewer;
