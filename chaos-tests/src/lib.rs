//! Clusters under failures. `tests/` are the scenarios and read like prose; here are the words
//! they share. Only the real binaries run; nothing of them is linked.

pub mod bus;
pub mod figures;
pub mod invariant;
pub mod metrics;
mod names;
mod scene;
pub mod traffic;
pub mod zone;

pub use names::{Asker, Told};
pub use scene::{Outcome, SOON, Scene, create, sh, two_nodes};
