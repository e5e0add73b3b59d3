//! The Docker driver: its protocol call by call, and under a real engine.

mod engine;
mod protocol;
mod refusals;
mod support;
mod swarm;
