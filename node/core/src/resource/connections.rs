//! The limit of the connections that one endpoint opens, and their time-outs.
//!
//! All endpoints of a node share its conntrack table. In a VRF the host and the other tenants share
//! it, too, so one endpoint that fills it would cut all of them off.
//!
//! The limit counts by the opener's zone and address, at its own node and at the receiver's. nft's
//! `ct count` walks through the list of a key's connections for each new one
//! (`__nf_conncount_add`). With 50,000 connections under one key only about 1,000 new ones pass a
//! second; so a key has many *buckets*, selected by a hash of the destination and the ports, and each
//! bucket has a limit of its own.

use super::Ruleset;

/// The counter of the packets that would have opened one connection too many.
pub const REFUSED_CONNECTIONS: &str = "connections_refused";

/// The number of values of the hash, which has one mask for each number of buckets.
const HASH_VALUES: u32 = 1 << 16;

/// The time-outs of TCP connections in seconds.
///
/// An established one that is idle ends after a day, as kube-proxy has it, instead of the kernel's
/// five; RFC 5382 §5 asks for at least 2 h 4 min. A closed one ends after a second, because `ct count`
/// doesn't count it (`already_closed`), while it takes a place of the table: an endpoint that opens and
/// closes N connections a second holds N places beyond its limit. A lost last ACK of a connection is
/// usually repeated within that second.
const TCP_TIMEOUTS: &str = "established: 86400, time_wait: 1, close: 1";

/// The name of these time-outs in the table. Others need another name: the kernel leaves those of an
/// object that exists as they are.
const TCP_TIMEOUT_OBJECT: &str = "tcp_ends";

/// The limit of each bucket of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BucketLimit {
    /// The bits of the hash that select the bucket.
    pub mask: u32,
    /// The connections that a bucket holds.
    pub connections: u32,
}

impl BucketLimit {
    /// The bit of a new connection's mark, above all values of the hash, that says that its bucket holds
    /// too many.
    pub const EXCEEDED: u32 = HASH_VALUES;

    /// The mean number of connections in a bucket is between this number and twice as many.
    const MEAN: u32 = 64;

    /// The limits of the buckets for a limit of an endpoint. Up to 127 connections there is one bucket
    /// and the limit is exact. Otherwise `max` connections pass, as good as always: a bucket holds its
    /// mean and three standard deviations, so no more than 11/8 of `max` do.
    pub fn new(max: u32) -> Self {
        let buckets = 1 << (max / Self::MEAN).checked_ilog2().unwrap_or_default();
        let buckets = u32::min(buckets, HASH_VALUES);
        let mean = max.div_ceil(buckets);
        let slack = if buckets == 1 { 0 } else { 3 * mean.isqrt() };
        Self {
            mask: buckets - 1,
            connections: mean.saturating_add(slack),
        }
    }
}

impl Ruleset {
    /// Adds the chain `limited`, which drops a packet that opens one connection more than its sender
    /// may have, and returns otherwise. The connection's mark is free until the connection is accepted.
    pub(super) fn connection_limits(&mut self) {
        // An element is created for each bucket with connections, and deleted with the last of them.
        self.set(
            "connections",
            "set",
            "typeof ct zone . ip saddr . ct mark; size 16777216; flags dynamic",
        );
        // The endpoints that were refused lately.
        self.set(
            "refused",
            "set",
            "typeof ct zone . ip saddr; size 65535; flags dynamic, timeout; counter; timeout 60s",
        );
        self.set(
            "limits",
            "map",
            "typeof ct zone . ip saddr : verdict; flags interval",
        );
        self.counter(REFUSED_CONNECTIONS);
        self.object(format!(
            "ct timeout {TCP_TIMEOUT_OBJECT} {{ protocol tcp; l3proto ip; policy = {{ {TCP_TIMEOUTS} }}; }}"
        ));
        let hash = |of: &str| format!("ct mark set jhash ip daddr . {of} mod {HASH_VALUES}");
        self.chain(
            "limited",
            &[
                &format!("ct timeout set \"{TCP_TIMEOUT_OBJECT}\""),
                // The second rule ends where a packet has no ports.
                &hash("meta l4proto"),
                &hash("th sport . th dport"),
                "ct zone . ip saddr vmap @limits",
                &format!("ct mark & {:#x} != 0 goto too_many", BucketLimit::EXCEEDED),
            ],
        );
        let counted = format!("counter name {REFUSED_CONNECTIONS} drop");
        self.chain(
            "too_many",
            &["update @refused { ct zone . ip saddr }", &counted],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_limits_let_the_wanted_number_pass_and_not_half_as_many_more() {
        for max in [1, 2, 63, 64, 127, 128, 1_000, 65_536, 262_144, 10_000_000] {
            let BucketLimit { mask, connections } = BucketLimit::new(max);
            let all = u64::from(mask + 1) * u64::from(connections);
            let max = u64::from(max);
            assert!(
                (max..=max * 11 / 8 + 1).contains(&all),
                "{max}: {mask} {connections}"
            );
        }
    }

    #[test]
    fn small_limits_are_exact() {
        for max in [1, 100, 127] {
            let exact = BucketLimit {
                mask: 0,
                connections: max,
            };
            assert_eq!(BucketLimit::new(max), exact);
        }
    }

    #[test]
    fn a_limit_beyond_all_numbers_is_one() {
        let limit = BucketLimit::new(u32::MAX);
        assert_eq!(limit.mask, HASH_VALUES - 1);
        assert!(limit.connections >= u32::MAX / HASH_VALUES);
    }
}
