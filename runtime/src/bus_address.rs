//! The daemons' address of the bus: from a flag, a variable or a file.

use std::path::PathBuf;

use anyhow::Context;
use bus_schema::url::{self, AddressSource};

/// Chooses the place of the address by the flags `--nats` and `--nats-file` and by this process's
/// environment; `None`: no place is named.
pub fn source(url: Option<String>, file: Option<PathBuf>) -> Option<AddressSource> {
    url::address_source(url, file, |name| std::env::var(name).ok())
}

/// Reads the address, which may be in a file.
pub fn read(source: AddressSource) -> anyhow::Result<String> {
    let path = match source {
        AddressSource::Url(url) => return Ok(url),
        AddressSource::File(path) => path,
    };
    let shown = path.display();
    let text = std::fs::read_to_string(&path).with_context(|| format!("can't read {shown}"))?;
    let address = url::in_file(&text);
    address
        .map(str::to_owned)
        .with_context(|| format!("{shown} has no address: write nats://TOKEN@HOST:PORT into it"))
}
