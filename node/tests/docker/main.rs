//! The Docker driver: its protocol call by call, and under a real engine.

mod engine;
mod held_sockets;
mod names_of_networks;
mod protocol;
mod refusals;
mod support;
mod swarm;
mod ways_out;
