//! Clusters under failures. `tests/` has the scenarios, this crate their shared functions. The lab runs
//! the real binaries; nothing of them is linked.

pub mod bus;
pub mod figures;
pub mod invariant;
pub mod metrics;
mod names;
mod scene;
pub mod traffic;
pub mod zone;

pub use names::{DnsAnswer, DnsClient};
pub use scene::{Outcome, Scene, WAIT_TIMEOUT, create, sh, two_nodes};
