//! The control plane decides here, and carries its decisions out.
//!
//! `aggregate` is pure: it takes commands and facts, and returns events or a rejection. `journal`
//! appends to the log and loads from it. `shell` holds all of actix: one actor for each aggregate,
//! supervised. Only netmaster uses this crate; nodes don't.

pub mod aggregate;
pub mod journal;
pub mod shell;
pub mod testing;
