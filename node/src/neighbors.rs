//! Judges the limit of the kernel's neighbor table. Pure.

use node_datapath::NeighborTable;

/// The limit from which on a machine is fit for any number of containers that it can run.
const MIN_NEIGHBOR_LIMIT: u32 = 8_192;

const REMEDY: &str = "raise net.ipv4.neigh.default.gc_thresh3 to 65536, as \
                      /usr/lib/sysctl.d/60-contiv.conf of the package does (`sysctl --system` reads it)";

/// Warns of the kernel's default, which is 1,024.
pub fn low_limit(table: &NeighborTable) -> Option<String> {
    (table.limit < MIN_NEIGHBOR_LIMIT).then(|| {
        format!(
            "this kernel holds {} neighbors for all containers together, and each container needs one or more: {REMEDY}",
            table.limit
        )
    })
}

/// Warns if the containers of this node may fill the table: each has an entry for its gateway, and
/// other programs' containers and the host need some, too.
pub fn may_overflow(table: &NeighborTable, endpoints: usize) -> Option<String> {
    let limit = table.limit as usize;
    (endpoints.saturating_mul(2) > limit).then(|| {
        format!(
            "this kernel holds {limit} neighbors for all containers together, {endpoints} containers of this node need one each, and {} were refused since the start: beyond the limit containers and the host lose packets; {REMEDY}",
            table.refused
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(limit: u32) -> NeighborTable {
        NeighborTable { limit, refused: 7 }
    }

    #[test]
    fn kernels_default_limit_is_low() {
        let text = low_limit(&table(1_024)).unwrap();
        assert!(
            text.contains("1024 neighbors") && text.contains("gc_thresh3"),
            "{text}"
        );
        assert_eq!(low_limit(&table(MIN_NEIGHBOR_LIMIT)), None);
    }

    #[test]
    fn containers_may_take_half_of_the_neighbors() {
        assert_eq!(may_overflow(&table(1_024), 512), None);
        let text = may_overflow(&table(1_024), 513).unwrap();
        assert!(
            text.contains("513 containers") && text.contains("7 were refused"),
            "{text}"
        );
        assert!(may_overflow(&table(24), 40).is_some());
    }

    #[test]
    fn package_sets_the_limits_in_their_order() {
        let file = include_str!("../../debian/netplugin.sysctl");
        let limit = |number: u8| -> u32 {
            let key = format!("net.ipv4.neigh.default.gc_thresh{number} = ");
            let value = file.lines().find_map(|line| line.strip_prefix(&key));
            value.unwrap_or_else(|| panic!("{key}")).parse().unwrap()
        };
        assert!(limit(1) < limit(2) && limit(2) < limit(3));
        assert!(REMEDY.contains(&limit(3).to_string()));
        assert_eq!(low_limit(&table(limit(3))), None);
    }
}
