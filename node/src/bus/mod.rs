//! The node's end of the bus.

pub mod handle;

pub use handle::{Ask, AskError, BusHandle};
