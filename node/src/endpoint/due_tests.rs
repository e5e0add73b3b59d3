use bus_schema::{AddressRange, MachineId};

use super::*;
use crate::endpoint::fixture::{endpoint, facts, group, ip, key, network, node};
use crate::endpoint::give_up::pool_around;
use node_core::projection::{GroupFact, NodeFact};

const OWN_BLOCK: &str = "10.0.0.16/28";

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

/// The due work by a ledger that didn't change while it was read.
fn due_of(facts: &Projection, ledger: &Ledger) -> Due {
    due(DueInputs {
        journaled: ledger,
        facts,
        leasing: &BTreeSet::new(),
        requested: &BTreeSet::new(),
        ledger,
        decisions: &Decisions::new(),
        me: &node("a"),
    })
}

fn unused(facts: &Projection, records: &[Record]) -> Vec<String> {
    let due = due_of(facts, &ledger(records));
    due.unused.iter().map(|(_, it)| it.to_string()).collect()
}

/// The idle blocks as text, with a star behind those that stay.
fn idle(due: &Due) -> Vec<String> {
    let text = |it: &IdleBlock| match it.stays {
        true => format!("{}*", it.block.1),
        false => it.block.1.to_string(),
    };
    due.idle.iter().map(text).collect()
}

#[test]
fn empty_blocks_of_closing_network_are_returned() {
    let blocks = [
        (OWN_BLOCK, "a"),
        ("10.0.0.32/28", "a"),
        ("10.0.0.48/28", "b"),
    ];
    let used = [Record::Attached {
        endpoint: Box::new(endpoint("e1", "10.0.0.20")),
    }];
    assert_eq!(unused(&closing(&blocks), &used), ["10.0.0.32/28"]);
    assert_eq!(unused(&closing(&blocks), &[]), [OWN_BLOCK, "10.0.0.32/28"]);
    assert!(unused(&facts(network(&blocks)), &[]).is_empty());
}

#[test]
fn block_without_used_or_requested_address_is_idle() {
    let held = [
        ("10.0.0.9/32", "a"),
        (OWN_BLOCK, "a"),
        ("10.0.0.32/28", "a"),
        ("10.0.0.0/28", "b"),
    ];
    let facts = facts(network(&held));
    let with = |records: &[Record]| idle(&due_of(&facts, &ledger(records)));
    let all = [OWN_BLOCK, "10.0.0.32/28", "10.0.0.9/32"];
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
        block: OWN_BLOCK.parse().unwrap(),
        command: None,
    };
    for record in [reserved, promised, ceding, returning] {
        assert_eq!(with(std::slice::from_ref(&record)), all[1..], "{record:?}");
    }
    let requested = BTreeSet::from([(key, address)]);
    let nothing = Ledger::default();
    let due = due(DueInputs {
        journaled: &nothing,
        facts: &facts,
        leasing: &BTreeSet::new(),
        requested: &requested,
        ledger: &nothing,
        decisions: &Decisions::new(),
        me: &node("a"),
    });
    assert_eq!(idle(&due), all[1..]);
}

#[test]
fn last_block_stays_while_no_other_node_holds_one() {
    let with = |blocks: &[(&str, &str)], records: &[Record]| {
        idle(&due_of(&facts(network(blocks)), &ledger(records)))
    };
    let alone = [
        ("10.0.0.9/32", "a"),
        (OWN_BLOCK, "a"),
        ("10.0.0.32/28", "a"),
    ];
    // The block stays, not the ceded address.
    let one_stays = [&format!("{OWN_BLOCK}*"), "10.0.0.32/28", "10.0.0.9/32"];
    assert_eq!(with(&alone, &[]), one_stays);
    assert_eq!(with(&alone[..1], &[]), ["10.0.0.9/32*"]);
    // A used block stays anyway, so no idle one has to.
    let used = [Record::Attached {
        endpoint: Box::new(endpoint("e1", "10.0.0.33")),
    }];
    assert_eq!(with(&alone, &used), [OWN_BLOCK, "10.0.0.9/32"]);
    let going = [Record::Returning {
        key: key(),
        block: OWN_BLOCK.parse().unwrap(),
        command: None,
    }];
    assert_eq!(with(&alone[1..], &going), ["10.0.0.32/28*"]);
    let shared = [(OWN_BLOCK, "a"), ("10.0.0.64/32", "b")];
    assert_eq!(with(&shared, &[]), [OWN_BLOCK]);
}

#[test]
fn group_pool_and_network_each_keep_their_last_block() {
    let db: GroupName = "db".parse().unwrap();
    let mut network = network(&[
        (OWN_BLOCK, "a"),
        ("10.0.0.40/30", "a"),
        ("10.0.0.64/28", "b"),
    ]);
    let range = AddressRange {
        first: ip("10.0.0.40"),
        last: ip("10.0.0.47"),
    };
    network.pools.insert(db, range);
    let due = due_of(&facts(network), &Ledger::default());
    assert_eq!(idle(&due), [OWN_BLOCK, "10.0.0.40/30*"]);
}

#[test]
fn drained_or_left_node_returns_idle_blocks_at_once() {
    let blocks = [(OWN_BLOCK, "a"), ("10.0.0.32/28", "a")];
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
        assert_eq!(unused(&facts, &[]), [OWN_BLOCK, "10.0.0.32/28"]);
        assert_eq!(unused(&facts, &used), [OWN_BLOCK]);
    }
}

#[test]
fn pool_keeps_blocks_while_a_block_of_it_is_requested() {
    let mut facts = facts(network(&[(OWN_BLOCK, "a"), ("10.0.0.32/28", "b")]));
    let of = |facts: &Projection, leasing: PoolKey| {
        due(DueInputs {
            journaled: &Ledger::default(),
            facts,
            leasing: &BTreeSet::from([leasing]),
            requested: &BTreeSet::new(),
            ledger: &Ledger::default(),
            decisions: &Decisions::new(),
            me: &node("a"),
        })
    };
    let (tenant, network) = key();
    let pool = PoolKey::of_network(&tenant, &network);
    let other = PoolKey::of_group(&tenant, &network, &"db".parse().unwrap());
    assert_eq!(idle(&of(&facts, pool.clone())), [format!("{OWN_BLOCK}*")]);
    assert_eq!(idle(&of(&facts, other)), [OWN_BLOCK]);
    let mut drained = NodeFact::new(MachineId("m".to_owned()), ip("198.18.0.1"));
    drained.drained = true;
    facts.nodes.insert(node("a"), drained);
    let due = of(&facts, pool);
    assert!(due.unused.is_empty());
    assert_eq!(idle(&due), [format!("{OWN_BLOCK}*")]);
}

#[test]
fn incomplete_ledger_returns_nothing() {
    let blocks = [(OWN_BLOCK, "a"), ("10.0.0.32/28", "b")];
    let lost = [Record::Incomplete];
    assert_eq!(
        due_of(&facts(network(&blocks)), &ledger(&lost)),
        Due::default()
    );
    assert_eq!(due_of(&closing(&blocks), &ledger(&lost)), Due::default());
}

#[test]
fn block_is_returned_when_it_has_been_idle_for_the_whole_time() {
    let start = Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    let after = Duration::from_secs(60);
    let idle = |block: &str, stays| IdleBlock {
        block: (key(), block.parse().unwrap()),
        stays,
    };
    let (one, two) = (idle(OWN_BLOCK, false), idle("10.0.0.32/28", false));
    let mut times = IdleTimes::default();
    let mut expired = |idle: &[IdleBlock], seconds| {
        let (expired, next) = times.expired(idle, at(seconds), after);
        let expired: Vec<_> = expired.iter().map(|it| it.1.to_string()).collect();
        (expired, next.map(|next| (next - start).as_secs()))
    };
    assert_eq!(expired(std::slice::from_ref(&one), 0), (vec![], Some(60)));
    assert_eq!(expired(&[one.clone(), two.clone()], 30), (vec![], Some(60)));
    let both = [one.clone(), two.clone()];
    assert_eq!(expired(&both, 60), (vec![OWN_BLOCK.to_owned()], Some(90)));
    // It was used in between.
    assert_eq!(expired(std::slice::from_ref(&two), 61), (vec![], Some(90)));
    assert_eq!(expired(&both, 70), (vec![], Some(90)));
    let kept = [one, idle("10.0.0.32/28", true)];
    assert_eq!(expired(&kept, 100), (vec![], Some(130)));
    // It stayed as the last one, until another node held a block.
    assert_eq!(
        expired(&both, 101),
        (vec!["10.0.0.32/28".to_owned()], Some(130))
    );
}

/// Between the reading of the facts and of the ledger the node got the address and began to cede it.
#[test]
fn records_journaled_after_the_facts_were_read_are_not_ended_by_them() {
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
            block: OWN_BLOCK.parse().unwrap(),
            command: None,
        },
    ];
    let later = ledger(&records);
    let of = |journaled: &Ledger| {
        due(DueInputs {
            journaled,
            facts: &facts,
            leasing: &BTreeSet::new(),
            requested: &BTreeSet::new(),
            ledger: &later,
            decisions: &Decisions::new(),
            me: &node("a"),
        })
    };
    assert_eq!(of(&Ledger::default()), Due::default());
    assert_eq!(of(&later).ended.len(), 2);
}

#[test]
fn given_up_blocks_are_due_until_the_log_has_the_event() {
    let block = OWN_BLOCK.parse().unwrap();
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
    let held = facts(network(&[(OWN_BLOCK, "a"), ("10.0.0.32/28", "a")]));
    let before = due_of(&held, &ledger(&records));
    assert_eq!(before.returning, [(key(), block)]);
    assert_eq!(before.ceding, [(key(), ip("10.0.0.33"), node("b"))]);
    assert!(before.ended.is_empty());

    let gone = facts(network(&[("10.0.0.32/28", "a"), ("10.0.0.33/32", "b")]));
    let after = due_of(&gone, &ledger(&records));
    assert!(after.returning.is_empty() && after.ceding.is_empty());
    let mut after_all = ledger(&records);
    after
        .ended
        .iter()
        .for_each(|record| after_all.apply(record));
    assert_eq!(after_all, Ledger::default());
}

#[test]
fn closing_group_returns_its_pools_blocks_only() {
    let db: GroupName = "db".parse().unwrap();
    let mut network = network(&[
        (OWN_BLOCK, "a"),
        ("10.0.0.20/30", "a"),
        ("10.0.0.24/30", "a"),
    ]);
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
    assert_eq!(
        [pool(OWN_BLOCK), pool("10.0.0.20/30")],
        [None, Some(db.clone())]
    );
}
