//! The network namespace of an engine's container.

use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::local::client;

/// Asks the engine for the path of a container's namespace. Blocks until the container's start has
/// finished.
pub fn sandbox_of(engine: &Path, container: &str) -> io::Result<PathBuf> {
    let answer = client::get(engine, &format!("/containers/{container}/json"))?;
    let inspected: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let path = inspected["NetworkSettings"]["SandboxKey"].as_str();
    match path.filter(|it| !it.is_empty()) {
        Some(path) => Ok(path.into()),
        None => Err(io::Error::other(format!(
            "the engine names no namespace of container {container}"
        ))),
    }
}
