//! The control plane's decisions and what carries them out.
//!
//! `aggregate` is pure: commands and facts in, events or a rejection out. `journal` appends to
//! and loads from the log. `shell` holds all of actix: one actor for each aggregate, supervised.
//! Netmaster uses all three; a node uses `shell::supervise` only.

pub mod aggregate;
pub mod journal;
pub mod shell;
pub mod testing;
