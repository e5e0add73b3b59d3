//! Gives back what isn't needed: the blocks of a network that is being removed, and addresses that
//! were ceded to this node and are in use no more.
//!
//! What is due follows from the facts and the ledger, so that a lost answer, a restart or a bus that
//! was away only makes it later. That a block or an address is given back for good is journaled when
//! the events that say so are on disk: with older facts a restart would give it out again. The daemon
//! runs it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::command::{BlockCede, BlockReturn};
use bus_schema::node::LogState;
use bus_schema::{Command, GroupName, NodeName, Revision};
use ipnet::IpNet;
use tokio::sync::watch;

use super::ledger::{Ledger, NetworkKey, Record};
use super::pool::is_ceded;
use super::{EndpointsHandle, Snapshot};
use crate::bus::{AskError, BusHandle};
use crate::projection::Projection;
use crate::store::Saved;

/// What is tried again when nobody answered.
const RETRY: Duration = Duration::from_secs(1);

/// What there is to do, in this order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// The log has settled these.
    pub settled: Vec<Record>,
    /// Not used any more: to be given back.
    pub unused: Vec<(NetworkKey, IpNet)>,
    /// To be asked of netmaster, after it is in the journal.
    pub returning: Vec<(NetworkKey, IpNet)>,
    pub ceding: Vec<(NetworkKey, IpAddr, NodeName)>,
}

/// What netmaster refused to take back, and the revision up to which it had read the log then.
pub type Refused = BTreeMap<(NetworkKey, IpNet), Revision>;

/// What the facts and the ledger ask for. What is being `asked` for has no endpoint yet. What is
/// still ours in facts of the revision at which it was `refused` stays ours.
pub fn due(
    facts: &Projection,
    asked: &BTreeSet<(NetworkKey, IpAddr)>,
    refused: &Refused,
    ledger: &Ledger,
    me: &NodeName,
) -> Due {
    let mut due = Due::default();
    let stays = |key: &NetworkKey, block: IpNet| {
        let at = refused.get(&(key.clone(), block));
        at.is_some_and(|at| facts.applied >= *at)
    };
    let mut usages = BTreeMap::new();
    for (key, usage) in ledger.networks() {
        usages.insert(key.clone(), usage.clone());
        let network = facts.network(&key.0, &key.1);
        for block in &usage.returning {
            let ours = network.is_some_and(|it| it.blocks.get(block) == Some(me));
            if ours && !stays(key, *block) {
                due.returning.push((key.clone(), *block));
            } else {
                due.settled.push(Record::ReturnEnded {
                    key: key.clone(),
                    block: *block,
                });
            }
        }
        for (address, to) in &usage.ceding {
            let ours = network.is_some_and(|it| it.is_held_by(*address, me));
            if ours && !stays(key, IpNet::from(*address)) {
                due.ceding.push((key.clone(), *address, to.clone()));
            } else {
                due.settled.push(Record::CedeEnded {
                    key: key.clone(),
                    address: *address,
                });
            }
        }
    }
    for (tenant, network) in facts.networks() {
        let key = (tenant.clone(), network.spec.name.clone());
        let usage = usages.remove(&key).unwrap_or_default();
        for block in network.blocks_of(me) {
            let in_use = usage.in_use.keys().any(|address| block.contains(address));
            let group = network.pool_around(block);
            let group = group.and_then(|group| facts.group_fact(tenant, group));
            let spare = network.closing
                || group.is_some_and(|group| group.closing)
                || is_ceded(network, block)
                    && !usage.is_taken(block.addr())
                    && !asked.contains(&(key.clone(), block.addr()));
            if spare && !in_use && !usage.returning.contains(&block) {
                due.unused.push((key.clone(), block));
            }
        }
    }
    due
}

/// Works off what is due, whenever the facts, the endpoints or the bus change.
pub async fn run(
    endpoints: EndpointsHandle,
    bus: BusHandle,
    me: NodeName,
    mut facts: watch::Receiver<Projection>,
    mut saved: watch::Receiver<Saved>,
    mut log: watch::Receiver<LogState>,
) {
    let mut snapshots: watch::Receiver<Snapshot> = endpoints.snapshots();
    let mut refused = Refused::new();
    loop {
        let ready = *log.borrow_and_update() == LogState::InSync;
        // In this order: an address that is ours and isn't asked for any more has its endpoint, if
        // there is one, in the ledger.
        let projection = facts.borrow_and_update().clone();
        let asked = endpoints.asking();
        let ledger = snapshots.borrow_and_update().ledger.clone();
        let mut left = false;
        if ready {
            let mut due = due(&projection, &asked, &refused, &ledger, &me);
            if saved.borrow_and_update().revision < projection.applied {
                due.settled.clear();
            }
            let done = work(&endpoints, &bus, &me, &projection, due, &mut refused).await;
            left = !done || !asked.is_empty();
        }
        let again = async {
            if left {
                crate::bus::pause(RETRY).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let gone = tokio::select! {
            changed = facts.changed() => changed.is_err(),
            changed = snapshots.changed() => changed.is_err(),
            changed = log.changed() => changed.is_err(),
            changed = saved.changed() => changed.is_err(),
            () = again => false,
        };
        if gone {
            return;
        }
    }
}

/// False: something has to be tried again.
async fn work(
    endpoints: &EndpointsHandle,
    bus: &BusHandle,
    me: &NodeName,
    facts: &Projection,
    due: Due,
    refused: &mut Refused,
) -> bool {
    let mut done = true;
    if !due.settled.is_empty() && endpoints.settled(due.settled).await.is_err() {
        done = false;
    }
    refused.retain(|(key, block), _| {
        let there = |it: &(NetworkKey, IpNet)| (&it.0, &it.1) == (key, block);
        let ceded =
            |it: &(NetworkKey, IpAddr, NodeName)| (&it.0, IpNet::from(it.1)) == (key, *block);
        due.returning.iter().any(there) || due.ceding.iter().any(ceded)
    });
    let mut returning = due.returning;
    for (key, block) in due.unused {
        match endpoints.start_return(key.clone(), block).await {
            Ok(()) => returning.push((key, block)),
            Err(error) => {
                tracing::warn!(%block, %error, "can't give a block back");
                done = false;
            }
        }
    }
    for (key, block) in returning {
        let command = Command::BlockReturn(BlockReturn {
            tenant: key.0.clone(),
            network: key.1.clone(),
            group: pool_around(facts, &key, block),
            block,
            node: me.clone(),
        });
        match bus.command(command).await {
            Ok(revision) => tracing::info!(network = %key.1, %block, %revision, "block returned"),
            // Not ours according to the log, mostly: the facts will say so.
            Err(AskError::Rejected {
                rejection,
                revision,
            }) => {
                tracing::info!(network = %key.1, %block, %rejection, "block not returned");
                refused.insert((key, block), revision);
                done = false;
            }
            Err(AskError::Unreachable(reason)) => {
                tracing::debug!(%block, reason, "block not returned yet");
                done = false;
            }
        }
    }
    for (key, address, to) in due.ceding {
        let command = Command::BlockCede(BlockCede {
            tenant: key.0.clone(),
            network: key.1.clone(),
            group: pool_of(facts, &key, address),
            address,
            from: me.clone(),
            to,
        });
        match bus.command(command).await {
            Ok(_) => {}
            Err(AskError::Rejected { revision, .. }) => {
                refused.insert((key, IpNet::from(address)), revision);
                done = false;
            }
            Err(AskError::Unreachable(_)) => done = false,
        }
    }
    done
}

/// The group whose pool the address is of.
pub(super) fn pool_of(facts: &Projection, key: &NetworkKey, address: IpAddr) -> Option<GroupName> {
    let network = facts.network(&key.0, &key.1)?;
    network.pool_of(address).map(|(group, _)| group.clone())
}

/// The group whose pool the block is of.
fn pool_around(facts: &Projection, key: &NetworkKey, block: IpNet) -> Option<GroupName> {
    facts.network(&key.0, &key.1)?.pool_around(block).cloned()
}

#[cfg(test)]
mod tests {
    use bus_schema::AddressRange;

    use super::*;
    use crate::endpoint::fixture::{endpoint, facts, group, ip, key, network, node};
    use crate::projection::GroupFact;

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

    fn unused(facts: &Projection, records: &[Record]) -> Vec<String> {
        let due = due(
            facts,
            &BTreeSet::new(),
            &Refused::new(),
            &ledger(records),
            &node("a"),
        );
        due.unused.iter().map(|(_, it)| it.to_string()).collect()
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
    fn a_ceded_address_goes_back_after_its_use() {
        let facts = facts(network(&[("10.0.0.9/32", "a")]));
        let attached = Record::Attached {
            endpoint: Box::new(endpoint("e1", "10.0.0.9")),
        };
        let detached = Record::Detached {
            id: endpoint("e1", "10.0.0.9").id,
            at: 1,
        };
        // Ceded a moment ago, for an endpoint that isn't there yet; or for nobody, whose netplugin
        // was killed or gave up too early.
        let asked = BTreeSet::from([(key(), ip("10.0.0.9"))]);
        let waiting = due(
            &facts,
            &asked,
            &Refused::new(),
            &Ledger::default(),
            &node("a"),
        );
        assert_eq!(waiting, Due::default());
        assert_eq!(unused(&facts, &[]), ["10.0.0.9/32"]);
        assert!(unused(&facts, std::slice::from_ref(&attached)).is_empty());
        assert_eq!(unused(&facts, &[attached, detached]), ["10.0.0.9/32"]);
        let reserved = Record::Reserved {
            key: key(),
            address: ip("10.0.0.9"),
        };
        assert!(unused(&facts, &[reserved]).is_empty());
    }

    #[test]
    fn what_is_given_back_is_asked_for_until_the_log_says_so() {
        let block = MINE.parse().unwrap();
        let records = [
            Record::Returning { key: key(), block },
            Record::Ceding {
                key: key(),
                address: ip("10.0.0.33"),
                to: node("b"),
            },
        ];
        let held = facts(network(&[(MINE, "a"), ("10.0.0.32/28", "a")]));
        let nobody = BTreeSet::new();
        let before = due(
            &held,
            &nobody,
            &Refused::new(),
            &ledger(&records),
            &node("a"),
        );
        assert_eq!(before.returning, [(key(), block)]);
        assert_eq!(before.ceding, [(key(), ip("10.0.0.33"), node("b"))]);
        assert!(before.settled.is_empty());

        let gone = facts(network(&[("10.0.0.32/28", "a"), ("10.0.0.33/32", "b")]));
        let after = due(
            &gone,
            &nobody,
            &Refused::new(),
            &ledger(&records),
            &node("a"),
        );
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
}
