//! Code that netmaster and netplugin share: the log, the metrics listener, pauses and locks, the clock, the
//! limit of open files, the end of the process.

mod clock;
pub mod exit;
mod lock;
pub mod log;
pub mod metrics;
mod open_files;
mod pause;
mod shutdown;

pub use clock::{now, now_micros};
pub use lock::lock;
pub use open_files::raise_open_files;
pub use pause::pause;
pub use shutdown::shutdown;
