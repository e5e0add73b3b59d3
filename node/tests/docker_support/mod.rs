//! Shared by the tests of Docker: endpoints in memory, and a private engine.

pub mod engine;
pub mod memory;
pub mod plugin;
