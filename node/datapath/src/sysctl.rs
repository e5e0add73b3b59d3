//! Settings below `/proc/sys/net`, which has those of the reading thread's namespace.

use std::io::{self, ErrorKind};
use std::path::PathBuf;

use node_core::resource::Sysctl;

/// Reads a setting. A kernel without IPv6 has nothing to disable, so the setting counts as done.
pub(super) fn read(wanted: Sysctl) -> Option<Sysctl> {
    match std::fs::read_to_string(path(&wanted)) {
        Ok(text) => Some(Sysctl {
            value: text.trim().parse().ok()?,
            ..wanted
        }),
        Err(error) if is_moot(&wanted, &error) => Some(wanted),
        Err(_) => None,
    }
}

pub(super) fn write(wanted: &Sysctl) -> io::Result<()> {
    match std::fs::write(path(wanted), wanted.value.to_string()) {
        Err(error) if is_moot(wanted, &error) => Ok(()),
        result => result,
    }
}

fn is_moot(wanted: &Sysctl, error: &io::Error) -> bool {
    wanted.name.starts_with("ipv6") && error.kind() == ErrorKind::NotFound
}

fn path(sysctl: &Sysctl) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(sysctl.path())
}
