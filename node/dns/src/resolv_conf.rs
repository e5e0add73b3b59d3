//! Parses resolv.conf(5).

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::SystemTime;

use node_core::resource::DNS_ADDRESS;

/// More resolvers are ignored, as in resolv.conf(5).
const MAX_RESOLVERS: usize = 3;
const DNS_PORT: u16 = 53;

/// Time of change, size and inode of a file. A file may be replaced within one tick of the file
/// system's clock, so the time alone doesn't show a change.
pub(super) type FileStamp = (SystemTime, u64, u64);

pub(super) fn file_stamp(path: &std::path::Path) -> Option<FileStamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
}

/// The resolvers of a resolv.conf(5), without our own address: it would ask itself.
pub(super) fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then_some(words.next()?)
        })
        .filter_map(address)
        .filter(|resolver| resolver.ip() != IpAddr::V4(DNS_ADDRESS))
        .take(MAX_RESOLVERS)
        .collect()
}

/// Parses `10.0.0.1`, `fd00::1` or `fe80::1%eth0`.
fn address(text: &str) -> Option<SocketAddr> {
    let Some((address, zone)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, DNS_PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = match zone.parse() {
        Ok(index) => index,
        Err(_) => nix::net::if_::if_nametoindex(zone).ok()?,
    };
    Some(SocketAddrV6::new(address, DNS_PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_parsed_like_in_glibc() {
        let text = "# nameserver 1.1.1.1\nsearch example.org\nnameserver 127.0.0.53\n\
                    nameserver\t10.0.0.2 # two\nnameserver nonsense\nnameserver 169.254.53.53\n\
                    nameserver fd00::1\nnameserver 10.0.0.4\noptions edns0\n";
        let shown: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["127.0.0.53:53", "10.0.0.2:53", "[fd00::1]:53"]);
        assert_eq!(parse("nameserver fe80::1%7\n").len(), 1);
        assert!(parse("\u{0}\u{1}nameserver").is_empty());
    }
}
