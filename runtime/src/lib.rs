//! Code that netmaster and netplugin share: the address of the bus, the log, the metrics listener, pauses and
//! locks, the clock, the limit of open files, the end of the process.

pub mod bus_address;
mod clock;
pub mod exit;
mod lock;
pub mod log;
pub mod metrics;
mod open_files;
mod pause;
mod shutdown;
mod watched;

pub use clock::{now, now_micros};
pub use lock::lock;
pub use open_files::raise_open_files;
pub use pause::pause;
pub use shutdown::shutdown;
pub use watched::send_if_changed;
