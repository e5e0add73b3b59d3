//! Clusters under failures. `tests/` are the scenarios and read like prose; here are the words
//! they share. Only the real binaries run; nothing of them is linked.

pub mod invariant;
mod scene;

pub use scene::{Outcome, SOON, Scene, create, two_nodes};
