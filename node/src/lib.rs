//! The daemon of every node: facts → projection → desired resources → diff against observed →
//! ordered ops → kernel.
//!
//! `projection`, `policy`, `resource`, `desired` and `reconcile` are pure. Docker, CNI, the local socket,
//! DNS and the bus all go through `endpoint` and the core; nothing else changes the kernel.

pub mod bus;
pub mod check;
pub mod cleanup;
pub mod cni;
pub mod core;
pub mod daemon;
pub mod datapath;
pub mod desired;
pub mod dns;
pub mod docker;
pub mod doctor;
pub mod endpoint;
mod frames;
pub mod healing;
pub mod inquiry;
pub mod local;
mod lock;
mod maps;
pub mod metrics;
pub mod outer_drops;
pub mod policy;
pub mod projection;
pub mod reconcile;
pub mod resource;
pub mod status;
pub mod steps;
pub mod store;
pub mod underlay;
pub mod viewer;
