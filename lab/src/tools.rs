//! The paths of the real binaries: beside this program, in the same `target/<profile>`.

use std::path::{Path, PathBuf};

use crate::{Error, Result};

pub(crate) const NATS_CONF: &str = include_str!("../../nats.conf");

/// The folder with netmaster, netplugin and netctl. `CONTIV_BIN_DIR` overrides it.
pub(crate) fn bin_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CONTIV_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let exe = std::env::current_exe().map_err(Error::system("find the program's own path"))?;
    let dir = exe.parent().unwrap_or(Path::new("/"));
    // Test programs lie in target/<profile>/deps.
    let dir = match dir.file_name() {
        Some(name) if name == "deps" => dir.parent().unwrap_or(dir),
        _ => dir,
    };
    Ok(dir.to_owned())
}

pub(crate) fn binary(name: &str) -> Result<String> {
    let path = bin_dir()?.join(name);
    existing(&path, "`make build` builds it")
}

/// The pinned server. `CONTIV_NATS_SERVER` overrides it.
pub(crate) fn nats_server() -> Result<String> {
    const HINT: &str = "`make tools` fetches it";
    if let Some(path) = std::env::var_os("CONTIV_NATS_SERVER") {
        return existing(Path::new(&path), HINT);
    }
    let dir = bin_dir()?;
    let found = dir
        .ancestors()
        .map(|a| a.join(".tools/nats-server"))
        .find(|p| p.exists());
    let fallback = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    existing(&found.unwrap_or(fallback), HINT)
}

fn existing(path: &Path, hint: &'static str) -> Result<String> {
    if path.is_file() {
        Ok(path.display().to_string())
    } else {
        Err(Error::Missing {
            program: path.display().to_string(),
            hint,
        })
    }
}
