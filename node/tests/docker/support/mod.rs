//! Shared by the tests of Docker: endpoints in memory, a driver on them, and a private engine.

pub(crate) mod engine;
pub(crate) mod host;
pub(crate) mod memory;
pub(crate) mod plugin;
pub(crate) mod requests;
