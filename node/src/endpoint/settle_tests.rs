use bus_schema::{AddressRange, MachineId};

use super::*;
use crate::endpoint::fixture::{endpoint, facts, group, ip, key, network, node};
use crate::endpoint::give_up::pool_around;
use node_core::projection::{GroupFact, NodeFact};

const MINE: &str = "10.0.0.16/28";

fn ledger(records: &[Record]) -> Ledger {
    let mut ledger = Ledger::default();
    records.iter().for_each(|record| ledger.apply(record));
    ledger
}

fn closing(blocks: &[(&str, &str)]) -> Projection {
    let mut network = network(blocks);
    network.closing = true;
    facts(network)
}

/// With a ledger that didn't change while it was read.
fn due_of(facts: &Projection, ledger: &Ledger) -> Due {
    due(Inputs {
        journaled: ledger,
        facts,
        leasing: &BTreeSet::new(),
        asked: &BTreeSet::new(),
        ledger,
        decided: &Decided::new(),
        me: &node("a"),
    })
}

fn unused(facts: &Projection, records: &[Record]) -> Vec<String> {
    let due = due_of(facts, &ledger(records));
    due.unused.iter().map(|(_, it)| it.to_string()).collect()
}

/// The idle blocks, with a star behind those that stay.
fn idle(due: &Due) -> Vec<String> {
    let text = |it: &Idle| match it.stays {
        true => format!("{}*", it.block.1),
        false => it.block.1.to_string(),
    };
    due.idle.iter().map(text).collect()
}

#[test]
fn a_closing_network_gets_its_empty_blocks_back() {
    let blocks = [(MINE, "a"), ("10.0.0.32/28", "a"), ("10.0.0.48/28", "b")];
    let used = [Record::Attached {
        endpoint: Box::new(endpoint("e1", "10.0.0.20")),
    }];
    assert_eq!(unused(&closing(&blocks), &used), ["10.0.0.32/28"]);
    assert_eq!(unused(&closing(&blocks), &[]), [MINE, "10.0.0.32/28"]);
    assert!(unused(&facts(network(&blocks)), &[]).is_empty());
}

#[test]
fn a_block_is_idle_when_nobody_uses_or_asks_for_an_address_of_it() {
    let held = [
        ("10.0.0.9/32", "a"),
        (MINE, "a"),
        ("10.0.0.32/28", "a"),
        ("10.0.0.0/28", "b"),
    ];
    let facts = facts(network(&held));
    let with = |records: &[Record]| idle(&due_of(&facts, &ledger(records)));
    let all = [MINE, "10.0.0.32/28", "10.0.0.9/32"];
    assert_eq!(with(&[]), all);
    let attached = |address: &str| Record::Attached {
        endpoint: Box::new(endpoint("e1", address)),
    };
    let detached = Record::Detached {
        id: endpoint("e1", "10.0.0.9").id,
        at: 1,
    };
    assert_eq!(with(&[attached("10.0.0.9")]), all[..2]);
    assert_eq!(with(&[attached("10.0.0.9"), detached]), all);
    let (key, address) = (key(), ip("10.0.0.20"));
    let reserved = Record::Reserved {
        key: key.clone(),
        address,
    };
    let promised = Record::Promised {
        key: key.clone(),
        address,
    };
    let ceding = Record::Ceding {
        key: key.clone(),
        address,
        to: node("b"),
        command: None,
    };
    let returning = Record::Returning {
        key: key.clone(),
        block: MINE.parse().unwrap(),
        command: None,
    };
    for record in [reserved, promised, ceding, returning] {
        assert_eq!(with(std::slice::from_ref(&record)), all[1..], "{record:?}");
    }
    let asked = BTreeSet::from([(key, address)]);
    let nothing = Ledger::default();
    let due = due(Inputs {
        journaled: &nothing,
        facts: &facts,
        leasing: &BTreeSet::new(),
        asked: &asked,
        ledger: &nothing,
        decided: &Decided::new(),
        me: &node("a"),
    });
    assert_eq!(idle(&due), all[1..]);
}

#[test]
fn the_last_block_stays_as_long_as_no_other_node_holds_one() {
    let with = |blocks: &[(&str, &str)], records: &[Record]| {
        idle(&due_of(&facts(network(blocks)), &ledger(records)))
    };
    let alone = [("10.0.0.9/32", "a"), (MINE, "a"), ("10.0.0.32/28", "a")];
    // Rather a block than an address that was ceded.
    let one_stays = [&format!("{MINE}*"), "10.0.0.32/28", "10.0.0.9/32"];
    assert_eq!(with(&alone, &[]), one_stays);
    assert_eq!(with(&alone[..1], &[]), ["10.0.0.9/32*"]);
    // One that is used stays anyway.
    let used = [Record::Attached {
        endpoint: Box::new(endpoint("e1", "10.0.0.33")),
    }];
    assert_eq!(with(&alone, &used), [MINE, "10.0.0.9/32"]);
    let going = [Record::Returning {
        key: key(),
        block: MINE.parse().unwrap(),
        command: None,
    }];
    assert_eq!(with(&alone[1..], &going), ["10.0.0.32/28*"]);
    let shared = [(MINE, "a"), ("10.0.0.64/32", "b")];
    assert_eq!(with(&shared, &[]), [MINE]);
}

#[test]
fn a_groups_pool_and_its_network_each_keep_their_last_block() {
    let db: GroupName = "db".parse().unwrap();
    let mut network = network(&[(MINE, "a"), ("10.0.0.40/30", "a"), ("10.0.0.64/28", "b")]);
    let range = AddressRange {
        first: ip("10.0.0.40"),
        last: ip("10.0.0.47"),
    };
    network.pools.insert(db, range);
    let due = due_of(&facts(network), &Ledger::default());
    assert_eq!(idle(&due), [MINE, "10.0.0.40/30*"]);
}

#[test]
fn a_node_that_is_drained_or_has_left_returns_its_idle_blocks_at_once() {
    let blocks = [(MINE, "a"), ("10.0.0.32/28", "a")];
    let used = [Record::Attached {
        endpoint: Box::new(endpoint("e1", "10.0.0.33")),
    }];
    for (drained, left) in [(true, false), (false, true)] {
        let mut facts = facts(network(&blocks));
        let fact = NodeFact {
            drained,
            left,
            ..NodeFact::new(MachineId("m".to_owned()), ip("198.18.0.1"))
        };
        facts.nodes.insert(node("b"), fact.clone());
        assert!(unused(&facts, &[]).is_empty(), "another node's drain");
        facts.nodes.insert(node("a"), fact);
        assert_eq!(unused(&facts, &[]), [MINE, "10.0.0.32/28"]);
        assert_eq!(unused(&facts, &used), [MINE]);
    }
}

#[test]
fn no_block_of_a_pool_is_returned_of_which_a_block_is_asked_for() {
    let mut facts = facts(network(&[(MINE, "a"), ("10.0.0.32/28", "b")]));
    let of = |facts: &Projection, leasing: PoolKey| {
        due(Inputs {
            journaled: &Ledger::default(),
            facts,
            leasing: &BTreeSet::from([leasing]),
            asked: &BTreeSet::new(),
            ledger: &Ledger::default(),
            decided: &Decided::new(),
            me: &node("a"),
        })
    };
    let (tenant, network) = key();
    let pool = PoolKey::of_network(&tenant, &network);
    let other = PoolKey::of_group(&tenant, &network, &"db".parse().unwrap());
    assert_eq!(idle(&of(&facts, pool.clone())), [format!("{MINE}*")]);
    assert_eq!(idle(&of(&facts, other)), [MINE]);
    let mut drained = NodeFact::new(MachineId("m".to_owned()), ip("198.18.0.1"));
    drained.drained = true;
    facts.nodes.insert(node("a"), drained);
    let due = of(&facts, pool);
    assert!(due.unused.is_empty());
    assert_eq!(idle(&due), [format!("{MINE}*")]);
}

#[test]
fn a_ledger_that_lost_records_returns_nothing() {
    let blocks = [(MINE, "a"), ("10.0.0.32/28", "b")];
    let lost = [Record::Incomplete];
    assert_eq!(
        due_of(&facts(network(&blocks)), &ledger(&lost)),
        Due::default()
    );
    assert_eq!(due_of(&closing(&blocks), &ledger(&lost)), Due::default());
}

#[test]
fn a_block_is_returned_when_it_has_been_idle_for_the_whole_time() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let after = Duration::from_secs(60);
    let idle = |block: &str, stays| Idle {
        block: (key(), block.parse().unwrap()),
        stays,
    };
    let (one, two) = (idle(MINE, false), idle("10.0.0.32/28", false));
    let mut times = IdleTimes::default();
    let mut look = |idle: &[Idle], seconds| {
        let (expired, next) = times.expired(idle, at(seconds), after);
        let expired: Vec<_> = expired.iter().map(|it| it.1.to_string()).collect();
        (expired, next.map(|next| (next - start).as_secs()))
    };
    assert_eq!(look(std::slice::from_ref(&one), 0), (vec![], Some(60)));
    assert_eq!(look(&[one.clone(), two.clone()], 30), (vec![], Some(60)));
    let both = [one.clone(), two.clone()];
    assert_eq!(look(&both, 60), (vec![MINE.to_owned()], Some(90)));
    // It was used in between.
    assert_eq!(look(std::slice::from_ref(&two), 61), (vec![], Some(90)));
    assert_eq!(look(&both, 70), (vec![], Some(90)));
    let kept = [one, idle("10.0.0.32/28", true)];
    assert_eq!(look(&kept, 100), (vec![], Some(130)));
    // It stayed as the last one, until another node came.
    assert_eq!(
        look(&both, 101),
        (vec!["10.0.0.32/28".to_owned()], Some(130))
    );
}

/// Between the reading of the facts and of the ledger the node got the address, and began to
/// cede it.
#[test]
fn what_was_journaled_after_the_facts_were_read_isnt_settled_by_them() {
    let facts = facts(network(&[("10.0.0.0/28", "b")]));
    let records = [
        Record::Ceding {
            key: key(),
            address: ip("10.0.0.20"),
            to: node("b"),
            command: None,
        },
        Record::Returning {
            key: key(),
            block: MINE.parse().unwrap(),
            command: None,
        },
    ];
    let later = ledger(&records);
    let of = |journaled: &Ledger| {
        due(Inputs {
            journaled,
            facts: &facts,
            leasing: &BTreeSet::new(),
            asked: &BTreeSet::new(),
            ledger: &later,
            decided: &Decided::new(),
            me: &node("a"),
        })
    };
    assert_eq!(of(&Ledger::default()), Due::default());
    assert_eq!(of(&later).settled.len(), 2);
}

#[test]
fn what_is_given_back_is_asked_for_until_the_log_says_so() {
    let block = MINE.parse().unwrap();
    let records = [
        Record::Returning {
            key: key(),
            block,
            command: None,
        },
        Record::Ceding {
            key: key(),
            address: ip("10.0.0.33"),
            to: node("b"),
            command: None,
        },
    ];
    let held = facts(network(&[(MINE, "a"), ("10.0.0.32/28", "a")]));
    let before = due_of(&held, &ledger(&records));
    assert_eq!(before.returning, [(key(), block)]);
    assert_eq!(before.ceding, [(key(), ip("10.0.0.33"), node("b"))]);
    assert!(before.settled.is_empty());

    let gone = facts(network(&[("10.0.0.32/28", "a"), ("10.0.0.33/32", "b")]));
    let after = due_of(&gone, &ledger(&records));
    assert!(after.returning.is_empty() && after.ceding.is_empty());
    let mut settled = ledger(&records);
    after
        .settled
        .iter()
        .for_each(|record| settled.apply(record));
    assert_eq!(settled, Ledger::default());
}

#[test]
fn a_closing_group_gets_its_pools_blocks_back_and_no_others() {
    let db: GroupName = "db".parse().unwrap();
    let mut network = network(&[(MINE, "a"), ("10.0.0.20/30", "a"), ("10.0.0.24/30", "a")]);
    let range = AddressRange {
        first: ip("10.0.0.20"),
        last: ip("10.0.0.27"),
    };
    network.pools.insert(db.clone(), range);
    let mut facts = facts(network);
    let closing = |facts: &mut Projection, closing| {
        let spec = group(&db, Some(range));
        let tenant = facts.tenants.get_mut(&key().0).unwrap();
        tenant.groups.insert(
            db.clone(),
            GroupFact {
                spec,
                closing,
                newer: false,
            },
        );
    };
    let used = [Record::Attached {
        endpoint: Box::new(endpoint("e1", "10.0.0.20")),
    }];
    closing(&mut facts, false);
    assert!(unused(&facts, &used).is_empty());
    closing(&mut facts, true);
    assert_eq!(unused(&facts, &used), ["10.0.0.24/30"]);
    assert_eq!(unused(&facts, &[]), ["10.0.0.20/30", "10.0.0.24/30"]);
    let pool = |block: &str| pool_around(&facts, &key(), block.parse().unwrap());
    assert_eq!([pool(MINE), pool("10.0.0.20/30")], [None, Some(db.clone())]);
}
