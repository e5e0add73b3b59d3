use super::*;
use crate::endpoint::fixture::{endpoint, ip, key, network, node};
use crate::endpoint::{Ledger, Record};

const ANY: For<'_> = For {
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

fn next(blocks: &[(&str, &str)], records: &[Record]) -> Choice {
    choose(&network(blocks), &usage(records), &node("a"), ANY, NOW)
}

#[test]
fn neither_network_nor_gateway_nor_anothers_addresses_are_given_out() {
    let blocks = [("10.0.0.0/28", "a"), ("10.0.0.16/28", "b")];
    assert_eq!(next(&blocks, &[]), Choice::Rested(ip("10.0.0.2")));
    assert_eq!(next(&[("10.0.0.16/28", "b")], &[]), Choice::None);
    let taken: Vec<Record> = (2..16)
        .map(|n| attached(&format!("e{n}"), &format!("10.0.0.{n}")))
        .collect();
    assert_eq!(next(&blocks, &taken), Choice::None);
}

#[test]
fn the_longest_freed_comes_first_and_a_fresh_one_last() {
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
fn a_ceded_address_is_its_new_holders_for_those_who_name_it() {
    let ours_ceded = [("10.0.0.0/30", "a"), ("10.0.0.2/32", "b")];
    assert_eq!(next(&ours_ceded, &[]), Choice::Rested(ip("10.0.0.3")));
    let ceding = [Record::Ceding {
        key: key(),
        address: ip("10.0.0.2"),
        to: node("b"),
    }];
    assert_eq!(
        next(&ours_ceded[..1], &ceding),
        Choice::Rested(ip("10.0.0.3"))
    );
    // It was asked for by name, so nobody else gets it.
    assert_eq!(next(&[("10.0.0.9/32", "a")], &[]), Choice::None);
}

#[test]
fn a_block_that_goes_back_gives_nothing() {
    let returning = [Record::Returning {
        key: key(),
        block: "10.0.0.0/28".parse().unwrap(),
    }];
    assert_eq!(next(&[("10.0.0.0/28", "a")], &returning), Choice::None);
}

#[test]
fn half_is_when_the_next_block_is_asked_for() {
    let network = network(&[("10.0.0.16/29", "a")]);
    let taken = |count: u8| {
        let records: Vec<Record> = (0..count)
            .map(|n| attached(&format!("e{n}"), &format!("10.0.0.{}", 16 + n)))
            .collect();
        is_half_full(&network, &usage(&records), &node("a"), ANY)
    };
    assert_eq!([0, 3, 4, 8].map(taken), [false, false, true, true]);
    assert!(is_half_full(&network, &usage(&[]), &node("b"), ANY));
}

/// Group `db` has these addresses for its members.
fn pooled(range: (&str, &str), blocks: &[(&str, &str)]) -> NetworkFact {
    let mut network = network(blocks);
    let (first, last) = (ip(range.0), ip(range.1));
    let db: GroupName = "db".parse().unwrap();
    let range = bus_schema::AddressRange { first, last };
    network.pools.insert(db, range);
    network
}

#[test]
fn a_pool_is_for_its_group_alone() {
    // The network's block holds addresses of the pool, and a block of the pool lies in it.
    let blocks = [("10.0.0.0/28", "a"), ("10.0.0.8/30", "a")];
    let network = pooled(("10.0.0.2", "10.0.0.11"), &blocks);
    let next = |group: &str| {
        let group: GroupName = group.parse().unwrap();
        let whom = For {
            group: Some(&group),
            v6: false,
        };
        choose(&network, &usage(&[]), &node("a"), whom, NOW)
    };
    assert_eq!(next("db"), Choice::Rested(ip("10.0.0.8")));
    // A group without a pool has its network's.
    assert_eq!(next("web"), Choice::Rested(ip("10.0.0.12")));
    let other = choose(&network, &usage(&[]), &node("a"), ANY, NOW);
    assert_eq!(other, Choice::Rested(ip("10.0.0.12")));
}

#[test]
fn a_single_address_of_a_pool_is_no_ceded_one() {
    let network = pooled(("10.0.0.8", "10.0.0.11"), &[("10.0.0.9/32", "a")]);
    assert!(!is_ceded(&network, "10.0.0.9/32".parse().unwrap()));
    assert!(is_ceded(&network, "10.0.0.13/32".parse().unwrap()));
    let large = pooled(("10.0.0.128", "10.0.0.255"), &[]);
    assert!(is_ceded(&large, "10.0.0.129/32".parse().unwrap()));
}
