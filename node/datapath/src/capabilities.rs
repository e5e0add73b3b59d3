//! Checks the process's capabilities and the kernel's features.

use std::io;

use super::netlink::{Mode, Socket};
use super::netns::Namespace;
use super::{DatapathError, messages};
use netlink_packet_route::RouteNetlinkMessage;

/// Bits of `CapEff`, see capabilities(7).
const NET_ADMIN: u64 = 1 << 12;
const SYS_ADMIN: u64 = 1 << 21;

/// Checks for `CAP_NET_ADMIN`, to configure networks, and `CAP_SYS_ADMIN`, to enter namespaces.
pub(super) fn check_permissions() -> Result<(), DatapathError> {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let needed = NET_ADMIN | SYS_ADMIN;
    match effective(&status) {
        Some(bits) if bits & needed == needed => Ok(()),
        _ => Err(DatapathError::NotPermitted),
    }
}

fn effective(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

/// Tries to create a VRF device, in a namespace of its own that ends with the attempt.
pub(super) async fn has_vrf() -> bool {
    let runtime = tokio::runtime::Handle::current();
    let open = move || Socket::on_this_thread(&runtime);
    let attempt = async {
        let socket = Namespace::run_in_new(open).await?;
        let message = RouteNetlinkMessage::NewLink(messages::vrf("cdprobe", 10_000));
        socket.change(message, Mode::Create).await
    };
    let result: io::Result<()> = attempt.await;
    result.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_process_status() {
        assert_eq!(
            effective("Name:\tx\nCapEff:\t0000000000001000\n"),
            Some(NET_ADMIN)
        );
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
