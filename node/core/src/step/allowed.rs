//! Which ops may be executed at which time. Pure.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::reconcile::Op;
use crate::resource::{Element, Key, Kind, Object, Resource, State};

/// The kinds of ops that may be executed now.
#[derive(Debug)]
pub(super) struct Allowed {
    /// False while the log is replayed: resources are only added.
    pub(super) changes: bool,
    /// Resources may be deleted that this process never wanted.
    pub(super) deletes_of_others: bool,
}

/// The resources that this process has wanted before the first sweep, which it may delete before
/// the sweep.
///
/// The sweep is the first step that succeeds in sync with the log.
#[derive(Debug, Default)]
pub(super) struct OwnKeys {
    keys: BTreeSet<Key>,
    swept: bool,
}

impl OwnKeys {
    /// After the sweep all of our resources may be deleted, so no key is remembered.
    pub(super) fn remember(&mut self, want: &State) {
        if !self.swept {
            self.keys.extend(want.iter().map(|(key, _)| key.clone()));
        }
    }

    pub(super) fn sweep(&mut self) {
        *self = Self {
            keys: BTreeSet::new(),
            swept: true,
        };
    }

    pub(super) fn is_swept(&self) -> bool {
        self.swept
    }

    fn contains(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }
}

impl Allowed {
    pub(super) fn of(
        &self,
        ops: Vec<Op>,
        (have, want): (&State, &State),
        own: &OwnKeys,
    ) -> Vec<Op> {
        let deletable = |key: &Key| self.changes && (self.deletes_of_others || own.contains(key));
        // A map that is wanted holds exactly the wanted elements, so others may be deleted.
        let is_of_wanted_map = |resource: &Resource| match &resource.object {
            Object::Element(Element::VmapEntry { map, .. }) => {
                let map = Object::Map(map.clone()).at(&resource.place);
                self.changes && want.get(&map.key()).is_some()
            }
            _ => false,
        };
        let stays: BTreeSet<Key> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Delete(resource) if !is_of_wanted_map(resource) => Some(resource.key()),
                _ => None,
            })
            .filter(|key| !deletable(key))
            .collect();
        let goes_with_device = |route: &Key| {
            let device = have.get(route).and_then(|it| it.object.device());
            device.is_some_and(|device| {
                let device = Key {
                    place: route.place.clone(),
                    kind: Kind::Device,
                    id: device.to_owned(),
                };
                want.get(&device).is_none() && deletable(&device)
            })
        };
        // An address is flushed if its route is put or changed, or may be deleted, itself or with its
        // device.
        let is_executed = |op: &&Op| self.changes || matches!(op, Op::Put(_));
        let moved = ops.iter().filter(is_executed);
        let moved: BTreeSet<Key> = moved.filter_map(|op| Some(op.made()?.key())).collect();
        let is_flushed = |key: &Key| moved.contains(key) || deletable(key) || goes_with_device(key);
        ops.into_iter()
            .filter(|op| match op {
                // A device that must be created anew stays as it is while it may not be deleted.
                Op::Put(resource) | Op::Delete(resource) => !stays.contains(&resource.key()),
                Op::Change { .. } => self.changes,
                Op::FlushConntrack { place, address, .. } => is_flushed(&Key {
                    place: place.clone(),
                    kind: Kind::Route,
                    id: IpNet::from(*address).to_string(),
                }),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::node::DomainKind;

    use super::*;
    use crate::desired::fixture::Facts;
    use crate::reconcile::diff;
    use crate::resource::{Address, Field, Place, RuleMap, Target, Up};

    fn address(text: &str) -> Resource {
        let address = Object::Address(Address {
            device: "lo".to_owned(),
            address: text.parse().unwrap(),
        });
        address.at(&Place::Host)
    }

    fn ops(changes: bool, deletes_of_others: bool, wanted: &[Resource]) -> Vec<String> {
        let device = "lo".to_owned();
        let up = Object::Up(Up { device }).at(&Place::Host);
        let observed: State = [address("10.0.0.1"), address("10.0.0.2")]
            .into_iter()
            .collect();
        let desired: State = [address("10.0.0.1"), up].into_iter().collect();
        let allowed = Allowed {
            changes,
            deletes_of_others,
        };
        let mut own = OwnKeys::default();
        own.remember(&wanted.iter().cloned().collect());
        let ops = allowed.of(diff(&observed, &desired), (&observed, &desired), &own);
        ops.iter()
            .map(|op| op.to_string()[..1].to_owned())
            .collect()
    }

    #[test]
    fn others_resources_stay_before_the_first_sweep() {
        assert_eq!(ops(true, false, &[]), ["+"]);
        assert_eq!(ops(true, false, &[address("10.0.0.2")]), ["-", "+"]);
        assert_eq!(ops(true, true, &[]), ["-", "+"]);
    }

    #[test]
    fn wanted_map_loses_elements_that_others_wanted() {
        let map = |name: &str| RuleMap {
            name: name.to_owned(),
            field: Field::Mark,
        };
        let line = |of: &str, key| {
            let (map, to) = (map(of), Target::Goto("l0_1".to_owned()));
            Element::VmapEntry { map, key, to }.at(&Place::Host)
        };
        let maps = ["v0_ours", "v0_other"].map(|it| Object::Map(map(it)).at(&Place::Host));
        let mut observed: State = maps.into_iter().collect();
        for (of, key) in [("v0_ours", 1), ("v0_ours", 2), ("v0_other", 3)] {
            observed.insert(line(of, key));
        }
        let ours = Object::Map(map("v0_ours")).at(&Place::Host);
        let wanted: State = [ours, line("v0_ours", 1)].into_iter().collect();
        let allowed = Allowed {
            changes: true,
            deletes_of_others: false,
        };
        let ops = allowed.of(
            diff(&observed, &wanted),
            (&observed, &wanted),
            &OwnKeys::default(),
        );
        assert_eq!(ops, [Op::Delete(line("v0_ours", 2))]);
    }

    /// The addresses that are flushed between two states before the first sweep.
    fn flushed(from: &Facts, to: &Facts, wanted: &State) -> Vec<String> {
        let kind = DomainKind::Netns;
        let allowed = Allowed {
            changes: true,
            deletes_of_others: false,
        };
        let mut own = OwnKeys::default();
        own.remember(wanted);
        let (from, to) = (from.desired(kind), to.desired(kind));
        let ops = allowed.of(diff(&from, &to), (&from, &to), &own);
        let flushes = ops.iter().filter_map(|op| match op {
            Op::FlushConntrack { address, .. } => Some(address.to_string()),
            _ => None,
        });
        flushes.collect()
    }

    #[test]
    fn address_is_flushed_with_its_own_route() {
        let one = Facts::two_nodes().endpoint("mine", "20.1.1.1");
        let both = one.clone().endpoint("others", "20.1.1.2");
        let none = Facts::two_nodes();
        let wanted = one.desired(DomainKind::Netns);
        assert_eq!(flushed(&both, &none, &wanted), ["20.1.1.1"]);
        let moved = none.endpoint("next", "20.1.1.1");
        assert_eq!(flushed(&one, &moved, &State::default()), ["20.1.1.1"]);
    }

    #[test]
    fn replay_only_adds_resources() {
        assert_eq!(ops(false, true, &[address("10.0.0.2")]), ["+"]);
    }

    #[test]
    fn own_keys_are_empty_after_the_sweep() {
        let state: State = [address("10.0.0.1")].into_iter().collect();
        let mut own = OwnKeys::default();
        own.remember(&state);
        assert!(own.contains(&address("10.0.0.1").key()));
        own.sweep();
        own.remember(&state);
        assert!(own.keys.is_empty());
    }
}
