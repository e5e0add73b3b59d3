//! The real `netctl`, used as scripts do, with a real nats-server.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contexts;
mod events;
mod exit_codes;
mod netmaster;
mod requests;
mod support;
mod ways_out;
