//! The promises of the step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::ClusterId;
use bus_schema::node::LogState;

use super::kernel::{Kernel, Outcome, endpoint_routes};
use crate::projection::Projection;
use crate::reconcile::Op;
use crate::resource::{Element, Key, Kind, Object, Place, Resource, State};

/// An address within a domain.
type PlacedAddress = (Place, IpAddr);

/// A released address whose connections aren't ended yet.
#[derive(Debug)]
struct Released {
    /// Absent: it was never an endpoint's of this node.
    device: Option<String>,
    was_tried: bool,
}

#[derive(Debug, Default)]
pub(super) struct Checks {
    desired: State,
    state: Option<LogState>,
    cluster: Option<ClusterId>,
    was_in_sync: bool,
    has_read: bool,
    /// Every key that this process wanted.
    own: BTreeSet<Key>,
    /// Rules that were refused.
    refused_rules: BTreeSet<Key>,
    /// The devices to which addresses' routes lead.
    owners: BTreeMap<PlacedAddress, String>,
    released: BTreeMap<PlacedAddress, Released>,
    /// Places where a deletion or a route failed since a resync succeeded: another program may have
    /// deleted the old route without a notification, so the node may flush again.
    uncertain: BTreeSet<Place>,
    is_resync: bool,
}

impl Checks {
    /// The kernel was read: only now the process knows of the routes before its start.
    pub(super) fn read(&mut self, kernel: &Kernel) {
        self.has_read = true;
        self.is_resync = true;
        self.find_owners(kernel);
    }

    fn find_owners(&mut self, kernel: &Kernel) {
        self.owners.extend(kernel.endpoint_routes());
        self.find_released(&endpoint_routes(self.desired.resources()));
    }

    pub(super) fn reused(&mut self, place: Place, address: IpAddr) {
        let released = Released {
            device: None,
            was_tried: false,
        };
        self.released.insert((place, address), released);
    }

    /// A step begins.
    pub(super) fn begin(&mut self, desired: &State, facts: &Projection, state: &LogState) {
        if self.cluster.is_some() && self.cluster != facts.cluster {
            self.was_in_sync = false;
            self.own.clear();
        }
        self.cluster = facts.cluster;
        self.was_in_sync |= *state == LogState::InSync;
        self.state = Some(state.clone());
        self.desired = desired.clone();
        self.own.extend(desired.iter().map(|(key, _)| key.clone()));
        let wanted = endpoint_routes(desired.resources());
        let is_back = |address: &PlacedAddress, it: &Released| {
            it.device.is_some() && !it.was_tried && wanted.get(address) == it.device.as_ref()
        };
        for (address, it) in std::mem::take(&mut self.released) {
            match it.device.clone().filter(|_| is_back(&address, &it)) {
                Some(device) => self.owners.insert(address, device).is_some(),
                None => self.released.insert(address, it).is_some(),
            };
        }
        self.find_released(&wanted);
    }

    fn find_released(&mut self, wanted: &BTreeMap<PlacedAddress, String>) {
        for (address, device) in std::mem::take(&mut self.owners) {
            if wanted.get(&address) == Some(&device) {
                self.owners.insert(address, device);
            } else {
                let released = Released {
                    device: Some(device),
                    was_tried: false,
                };
                self.released.insert(address, released);
            }
        }
    }

    /// Ops were executed, with these outcomes; the kernel before and after them.
    pub(super) fn executed(
        &mut self,
        ops: &[Op],
        outcomes: &[Outcome],
        (before, after): (&State, &Kernel),
    ) {
        for (op, outcome) in ops.iter().zip(outcomes) {
            self.may_be_done(op);
            match op {
                Op::Put(it) | Op::Change { to: it, .. } => self.put(it, outcome, (before, after)),
                Op::FlushConntrack { place, address, .. } => self.flushed(place, *address, outcome),
                Op::Delete(_) => {}
            }
        }
        let results = ops.iter().zip(outcomes);
        if std::mem::take(&mut self.is_resync) && outcomes.iter().all(Outcome::is_ok) {
            self.uncertain.clear();
        }
        let is_route = |op: &Op| {
            op.resource()
                .is_some_and(|it| it.object.kind() == Kind::Route)
        };
        let failed = results
            .filter(|(_, outcome)| outcome.is_err())
            .map(|(op, _)| op);
        let failed = failed.filter(|op| op.deleted().is_some() || is_route(op));
        self.uncertain.extend(failed.map(|op| op.place().clone()));
        // A route that is still there is released by the next plan, again.
        if self.has_read {
            self.find_owners(after);
        }
    }

    /// Before the node is in sync, it deletes only what it wanted itself; during a replay it only
    /// adds.
    fn may_be_done(&self, op: &Op) {
        let is_replaying = self.state == Some(LogState::CatchingUp);
        let adds = matches!(op, Op::Put(_) | Op::FlushConntrack { .. });
        assert!(!is_replaying || adds, "in a replay: {op}");
        let Op::Delete(gone) = op else { return };
        let is_of_wanted_map = match &gone.object {
            Object::Element(Element::VmapEntry { map, .. }) => {
                let map = Object::Map(map.clone()).at(&gone.place);
                self.desired.get(&map.key()).is_some()
            }
            _ => false,
        };
        let may = self.was_in_sync || self.own.contains(&gone.key()) || is_of_wanted_map;
        assert!(may, "before the node was in sync: {op}");
    }

    /// No port comes up while rules of its place failed.
    fn put(&mut self, it: &Resource, outcome: &Outcome, (before, after): (&State, &Kernel)) {
        let key = it.key();
        if it.object.kind().is_of_table() {
            match outcome {
                Ok(()) => self.refused_rules.remove(&key),
                Err(_) => self.refused_rules.insert(key),
            };
            return;
        }
        if key.kind != Kind::Up || outcome.is_err() || before.get(&key).is_some() {
            return;
        }
        for rule in &self.refused_rules {
            // Without the host's elements, packets of other nodes are dropped.
            let is_table = rule.kind == Kind::Table && rule.place == key.place.netfilter();
            let concerns = rule.place == key.place || is_table;
            let wanted = self.desired.get(rule);
            let is_missing = wanted.is_some() && after.get(rule) != wanted;
            assert!(!(concerns && is_missing), "{key:?} is up without {rule:?}");
        }
    }

    /// An address is flushed once after its release, and again only after a failure.
    fn flushed(&mut self, place: &Place, address: IpAddr, outcome: &Outcome) {
        let address = (place.clone(), address);
        let released = self.released.get_mut(&address);
        let Some(released) = released else {
            let may_repeat = self.uncertain.contains(place);
            assert!(may_repeat, "{address:?} is flushed again");
            return;
        };
        released.was_tried = true;
        if outcome.is_ok() {
            self.released.remove(&address);
        }
    }

    pub(super) fn all_flushed(&self) {
        assert!(
            self.released.is_empty(),
            "never flushed: {:?}",
            self.released
        );
    }

    /// Refused ops don't hold up the others: what doesn't depend on them is as desired.
    pub(super) fn all_but_refused(&self, desired: &State, kernel: &Kernel) {
        let is_refused = |it: &Resource| kernel.refusals.iter().any(|refusal| refusal.is_about(it));
        let missing = |it: &Resource| kernel.get(&it.key()) != Some(it);
        let late: Vec<&Resource> = desired.resources().filter(|it| missing(it)).collect();
        let has_refused = |test: &dyn Fn(&Resource) -> bool| late.iter().any(|it| test(it));
        for it in &late {
            let place = &it.place;
            let depends = match it.object.kind() {
                _ if is_refused(it) => true,
                Kind::Domain | Kind::Table if *place == Place::Host => false,
                Kind::Map | Kind::Chain | Kind::Element => has_refused(&|other| {
                    matches!(other.object.kind(), Kind::Table) && other.place == place.netfilter()
                }),
                // A port waits for the rules of its place.
                kind => has_refused(&|other| {
                    let is_on_it = other.place == *place
                        && (other.object.kind() == Kind::Domain
                            || kind != Kind::Up
                                && other.object.kind() == Kind::Up
                                && it.object.device() == other.object.device()
                            || it
                                .object
                                .device()
                                .is_some_and(|device| other.key().id == device));
                    let is_rule = other.object.kind().is_of_table()
                        && (other.place == *place || other.place == place.netfilter());
                    is_on_it && other.object.kind() < kind || kind == Kind::Up && is_rule
                }),
            };
            assert!(depends, "{it} was held up");
        }
    }
}

pub(super) fn same(name: &str, state: &State, desired: &State) {
    let (more, less) = state.differences(desired);
    let lines = |sign: &str, state: &State| -> String {
        let lines = state.resources().map(|it| format!("{sign} {it}\n"));
        lines.collect()
    };
    let difference = lines("+", &more) + &lines("-", &less);
    assert!(
        difference.is_empty(),
        "{name} isn't as desired:\n{difference}"
    );
}
