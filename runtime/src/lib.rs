//! Code that netmaster and netplugin share: the log, the metrics listener, pauses and locks.

mod lock;
pub mod log;
pub mod metrics;
mod pause;

pub use lock::lock;
pub use pause::pause;
