use super::*;
use crate::endpoint::fixture::{endpoint, ip, key, network, node};
use crate::endpoint::{Ledger, Record};

const ANY: PoolSelector<'_> = PoolSelector {
    group: None,
    v6: false,
};
const NOW: u64 = 1_000_000;

fn usage(records: &[Record]) -> Usage {
    let mut ledger = Ledger::default();
    records.iter().for_each(|record| ledger.apply(record));
    ledger.usage(&key()).cloned().unwrap_or_default()
}

fn attached(id: &str, address: &str) -> Record {
    Record::Attached {
        endpoint: Box::new(endpoint(id, address)),
    }
}

fn freed(address: &str, at: u64) -> Record {
    Record::Freed {
        key: key(),
        address: ip(address),
        at,
    }
}

/// Calls `of` with the addresses of the network that node `a` holds.
fn with<T>(
    network: &NetworkFact,
    records: &[Record],
    of: impl FnOnce(NodeAddresses<'_>) -> T,
) -> T {
    asking(network, records, &[], of)
}

fn asking<T>(
    network: &NetworkFact,
    records: &[Record],
    asked: &[&str],
    of: impl FnOnce(NodeAddresses<'_>) -> T,
) -> T {
    of(NodeAddresses {
        network,
        me: &node("a"),
        usage: &usage(records),
        asked: &asked.iter().map(|it| ip(it)).collect(),
    })
}

fn next(blocks: &[(&str, &str)], records: &[Record]) -> Choice {
    with(&network(blocks), records, |it| it.choose(ANY, NOW))
}

#[test]
fn choice_excludes_network_gateway_and_addresses_of_other_nodes() {
    let blocks = [("10.0.0.0/28", "a"), ("10.0.0.16/28", "b")];
    assert_eq!(next(&blocks, &[]), Choice::Rested(ip("10.0.0.2")));
    assert_eq!(next(&[("10.0.0.16/28", "b")], &[]), Choice::None);
    let taken: Vec<Record> = (2..16)
        .map(|n| attached(&format!("e{n}"), &format!("10.0.0.{n}")))
        .collect();
    assert_eq!(next(&blocks, &taken), Choice::None);
}

#[test]
fn choice_takes_the_longest_freed_first_and_a_fresh_one_last() {
    let blocks = [("10.0.0.0/30", "a")];
    let old = [freed("10.0.0.2", 20), freed("10.0.0.3", 10)];
    assert_eq!(next(&blocks, &old), Choice::Rested(ip("10.0.0.3")));
    let fresh = [
        freed("10.0.0.2", NOW - 9_000),
        freed("10.0.0.3", NOW - 9_999),
    ];
    assert_eq!(next(&blocks, &fresh), Choice::Recent(ip("10.0.0.3")));
    let rested = [freed("10.0.0.2", NOW), freed("10.0.0.3", NOW - REST_MS)];
    assert_eq!(next(&blocks, &rested), Choice::Rested(ip("10.0.0.3")));
    // Never used at all rests longest.
    assert_eq!(next(&blocks, &fresh[..1]), Choice::Rested(ip("10.0.0.3")));
}

#[test]
fn ceded_address_is_its_new_holders_for_any_endpoint() {
    let ours_ceded = [("10.0.0.0/30", "a"), ("10.0.0.2/32", "b")];
    assert_eq!(next(&ours_ceded, &[]), Choice::Rested(ip("10.0.0.3")));
    let ceding = [Record::Ceding {
        key: key(),
        address: ip("10.0.0.2"),
        to: node("b"),
        command: None,
    }];
    assert_eq!(
        next(&ours_ceded[..1], &ceding),
        Choice::Rested(ip("10.0.0.3"))
    );
    let ceded_to_us = [("10.0.0.0/28", "b"), ("10.0.0.9/32", "a")];
    assert_eq!(next(&ceded_to_us, &[]), Choice::Rested(ip("10.0.0.9")));
    assert_eq!(
        next(&ceded_to_us, &[attached("e", "10.0.0.9")]),
        Choice::None
    );
}

#[test]
fn address_that_is_requested_by_name_is_given_to_no_other() {
    let network = network(&[("10.0.0.0/28", "b"), ("10.0.0.9/32", "a")]);
    let next = |asked: &[&str]| asking(&network, &[], asked, |it| it.choose(ANY, NOW));
    assert_eq!(next(&["10.0.0.9"]), Choice::None);
    assert_eq!(next(&["10.0.0.8"]), Choice::Rested(ip("10.0.0.9")));
}

#[test]
fn returning_block_gives_no_address() {
    let returning = [Record::Returning {
        key: key(),
        block: "10.0.0.0/28".parse().unwrap(),
        command: None,
    }];
    assert_eq!(next(&[("10.0.0.0/28", "a")], &returning), Choice::None);
}

#[test]
fn block_is_half_full_when_half_of_its_addresses_are_taken() {
    let network = network(&[("10.0.0.16/29", "a")]);
    let taken = |count: u8| {
        let records: Vec<Record> = (0..count)
            .map(|n| attached(&format!("e{n}"), &format!("10.0.0.{}", 16 + n)))
            .collect();
        with(&network, &records, |it| it.is_half_full(ANY))
    };
    assert_eq!([0, 3, 4, 8].map(taken), [false, false, true, true]);
    let others = self::network(&[("10.0.0.16/29", "b")]);
    assert!(with(&others, &[], |it| it.is_half_full(ANY)));
    // Addresses that were ceded to another node don't count.
    let ceded = self::network(&[
        ("10.0.0.16/30", "a"),
        ("10.0.0.16/32", "b"),
        ("10.0.0.17/32", "b"),
    ]);
    let one = [attached("e", "10.0.0.18")];
    assert!(with(&ceded, &one, |it| it.is_half_full(ANY)));
}

/// The network with these blocks, and a pool of group `db`.
fn pooled(range: (&str, &str), blocks: &[(&str, &str)]) -> NetworkFact {
    let mut network = network(blocks);
    let (first, last) = (ip(range.0), ip(range.1));
    let db: GroupName = "db".parse().unwrap();
    let range = bus_schema::AddressRange { first, last };
    network.pools.insert(db, range);
    network
}

#[test]
fn pool_is_for_its_group_alone() {
    // The network's block holds addresses of the pool, and a block of the pool lies in it.
    let blocks = [("10.0.0.0/28", "a"), ("10.0.0.8/30", "a")];
    let network = pooled(("10.0.0.2", "10.0.0.11"), &blocks);
    let next = |group: &str| {
        let group: GroupName = group.parse().unwrap();
        let selector = PoolSelector {
            group: Some(&group),
            v6: false,
        };
        with(&network, &[], |it| it.choose(selector, NOW))
    };
    assert_eq!(next("db"), Choice::Rested(ip("10.0.0.8")));
    // A group without a pool has its network's.
    assert_eq!(next("web"), Choice::Rested(ip("10.0.0.12")));
    let other = with(&network, &[], |it| it.choose(ANY, NOW));
    assert_eq!(other, Choice::Rested(ip("10.0.0.12")));
}

#[test]
fn single_address_of_a_pool_is_no_ceded_one() {
    let network = pooled(("10.0.0.8", "10.0.0.11"), &[("10.0.0.9/32", "a")]);
    assert!(!is_ceded(&network, "10.0.0.9/32".parse().unwrap()));
    assert!(is_ceded(&network, "10.0.0.13/32".parse().unwrap()));
    let large = pooled(("10.0.0.128", "10.0.0.255"), &[]);
    assert!(is_ceded(&large, "10.0.0.129/32".parse().unwrap()));
}

fn spare(addresses: u64, in_use: u64, blocks: u64, free: u64) -> Spare {
    Spare {
        addresses,
        in_use,
        blocks,
        free,
        recent: 0,
        ceding: 0,
    }
}

fn returning(block: &str) -> Record {
    Record::Returning {
        key: key(),
        block: block.parse().unwrap(),
        command: None,
    }
}

#[test]
fn spare_counts_addresses_that_nobody_uses_or_requests() {
    // The gateway is in the first block, and one address of it is ceded to b.
    let blocks = [
        ("10.0.0.0/29", "a"),
        ("10.0.0.5/32", "b"),
        ("10.0.0.8/29", "a"),
        ("10.0.0.40/32", "a"),
        ("10.0.0.32/29", "b"),
    ];
    let network = network(&blocks);
    let held = |records: &[Record], asked: &[&str]| {
        asking(&network, records, asked, |it| it.spare(ANY, NOW))
    };
    // 2, 3, 4, 6 and 7; 8 to 15; 40.
    assert_eq!(held(&[], &[]), spare(14, 0, 2, 14));
    let used = [attached("e", "10.0.0.2")];
    assert_eq!(held(&used, &[]), spare(14, 1, 1, 13));
    assert_eq!(held(&used, &["10.0.0.9"]), spare(14, 1, 0, 12));
    let reserved = |address: &str| Record::Reserved {
        key: key(),
        address: ip(address),
    };
    assert_eq!(held(&[reserved("10.0.0.8")], &[]), spare(14, 1, 1, 13));
    let promised = Record::Promised {
        key: key(),
        address: ip("10.0.0.8"),
    };
    assert_eq!(held(&[promised], &[]), spare(14, 1, 1, 13));
    let ceding = Record::Ceding {
        key: key(),
        address: ip("10.0.0.8"),
        to: node("b"),
        command: None,
    };
    let one_less = Spare {
        ceding: 1,
        ..spare(13, 0, 1, 13)
    };
    assert_eq!(held(&[ceding], &[]), one_less);
    // On its way back: another node gets it as a block.
    assert_eq!(held(&[returning("10.0.0.8/29")], &[]), spare(14, 0, 2, 6));
}

#[test]
fn returnable_block_is_the_one_used_longest_ago_and_no_ceded_address() {
    let blocks = [
        ("10.0.0.8/29", "a"),
        ("10.0.0.16/29", "a"),
        ("10.0.0.40/32", "a"),
        ("10.0.0.32/29", "b"),
    ];
    let network = network(&blocks);
    let block = |records: &[Record]| {
        let block = with(&network, records, |it| it.returnable_block(ANY));
        block.map(|it| it.to_string())
    };
    let first = Some("10.0.0.8/29".to_owned());
    let second = Some("10.0.0.16/29".to_owned());
    assert_eq!(block(&[]), first);
    assert_eq!(block(&[freed("10.0.0.9", 10)]), second);
    let both = [freed("10.0.0.9", 10), freed("10.0.0.17", 20)];
    assert_eq!(block(&both), first);
    assert_eq!(block(&[attached("e", "10.0.0.9")]), second);
    let none = [attached("e", "10.0.0.9"), returning("10.0.0.16/29")];
    assert_eq!(block(&none), None);
    let returning = with(&network, &none, |it| it.returning_block(ANY));
    assert_eq!(returning.map(|it| it.to_string()), second);
}

#[test]
fn block_of_ceded_addresses_is_not_returnable() {
    let ceded = [
        ("10.0.0.8/31", "a"),
        ("10.0.0.8/32", "b"),
        ("10.0.0.9/32", "c"),
    ];
    let network = network(&ceded);
    assert_eq!(
        with(&network, &[], |it| it.spare(ANY, NOW)),
        Spare::default()
    );
    assert_eq!(with(&network, &[], |it| it.returnable_block(ANY)), None);
}

#[test]
fn pool_of_a_group_is_given_up_apart_from_its_networks() {
    let blocks = [("10.0.0.0/28", "a"), ("10.0.0.8/30", "a")];
    let network = pooled(("10.0.0.8", "10.0.0.11"), &blocks);
    let db: GroupName = "db".parse().unwrap();
    let members = PoolSelector {
        group: Some(&db),
        v6: false,
    };
    let held = |selector| {
        with(&network, &[attached("e", "10.0.0.3")], |it| {
            it.spare(selector, NOW)
        })
    };
    assert_eq!(held(members), spare(4, 0, 1, 4));
    assert_eq!(held(ANY), spare(10, 1, 0, 9));
}
