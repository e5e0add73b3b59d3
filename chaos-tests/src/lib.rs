//! Clusters under failures. `tests/` are the scenarios and read like prose; here are the words
//! they share. Only the real binaries run; nothing of them is linked.

pub mod figures;
pub mod invariant;
mod names;
mod scene;

pub use names::{Asker, Told};
pub use scene::{Outcome, SOON, Scene, create, two_nodes};
