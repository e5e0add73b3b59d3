//! The decisions of a node: events → projection → desired resources → diff against the observed →
//! ordered ops. Pure: facts, and the time where it matters, are arguments.

pub mod desired;
pub mod endpoint;
pub mod maps;
pub mod policy;
pub mod projection;
pub mod recognise;
pub mod reconcile;
pub mod resource;
pub mod step;
