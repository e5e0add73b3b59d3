//! Netmaster's promises, tried on the real server with real processes.

mod addresses;
mod bus;
mod damaged;
mod endpoints;
mod groups;
mod init;
mod journal;
mod limits;
mod masters;
mod metrics;
mod node_removal;
mod pools;
mod removal;
mod secrets;
mod support;
