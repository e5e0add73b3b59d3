//! The kernel's table of IPv4 neighbors, which all network namespaces share (`arp_tbl` of
//! `net/ipv4/arp.c`). Permanent entries, such as ours, don't count (since Linux 5.0); each container's entry
//! for its gateway does.

use std::io;
use std::path::Path;

use super::netns::Namespace;

/// Only the kernel's first namespace shows the table's settings: mostly that of process 1, and this
/// process's own.
const FIRST_NETNS: [&str; 2] = ["/proc/1/ns/net", "/proc/thread-self/ns/net"];

/// The table's limit, and how it fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NeighborTable {
    /// The number of entries from which on the kernel refuses new ones (`gc_thresh3`).
    pub limit: u32,
    /// The number of entries that it refused since the machine started.
    pub refused: u64,
}

impl NeighborTable {
    /// Reads the table; `None`: this process may not.
    pub async fn read() -> Option<Self> {
        let mut namespaces = FIRST_NETNS.iter().map(Path::new);
        let namespace = namespaces.find_map(|path| Namespace::open(path).ok())?;
        let read = namespace.run(|| {
            let limit = std::fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3")?;
            let statistics = std::fs::read_to_string("/proc/thread-self/net/stat/arp_cache");
            Ok(Self {
                limit: limit.trim().parse().map_err(io::Error::other)?,
                refused: refused(&statistics.unwrap_or_default()),
            })
        });
        read.await.ok()
    }
}

/// Adds up the column `table_fulls`, in hexadecimal digits, of a line for each processor.
fn refused(statistics: &str) -> u64 {
    let mut lines = statistics.lines();
    let names = lines.next().unwrap_or_default().split_whitespace();
    let Some(column) = names.into_iter().position(|name| name == "table_fulls") else {
        return 0;
    };
    let values = lines.filter_map(|line| line.split_whitespace().nth(column));
    values
        .filter_map(|it| u64::from_str_radix(it, 16).ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_neighbors_are_those_of_all_processors() {
        let statistics = "entries  allocs   destroys table_fulls\n\
                          0000001c 00000052 00000010 0000000f\n\
                          0000001c 00000001 00000011 00000011\n";
        assert_eq!(refused(statistics), 32);
        assert_eq!(refused("entries\n00000001\n"), 0, "an older kernel");
        assert_eq!(refused(""), 0);
    }

    #[tokio::test]
    async fn neighbor_table_has_a_limit() {
        let table = NeighborTable::read().await;
        assert!(table.is_none_or(|it| it.limit > 0), "{table:?}");
    }
}
