//! What may be done to the kernel at which time.

use std::collections::BTreeSet;

use ipnet::IpNet;

use node_core::reconcile::Op;
use node_core::resource::{Element, Key, Kind, Object, Resource, State};

/// What may be done now.
#[derive(Debug)]
pub(super) struct Allowed {
    /// False while the log is replayed: only what is new and local is put.
    pub(super) changes: bool,
    /// Of what this process never wanted.
    pub(super) deletes_of_others: bool,
}

/// What this process has wanted before the first sweep: it may be deleted again before it.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    keys: BTreeSet<Key>,
    swept: bool,
}

impl Wanted {
    /// After the sweep everything may be deleted, and nothing needs to be remembered.
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
    pub(super) fn of(&self, ops: Vec<Op>, want: &State, wanted: &Wanted) -> Vec<Op> {
        let deletable =
            |key: &Key| self.changes && (self.deletes_of_others || wanted.contains(key));
        // A map that is wanted is wanted with what is to be in it, and nothing else.
        let is_of_ours = |resource: &Resource| match &resource.object {
            Object::Element(Element::VmapEntry { map, .. }) => {
                let map = Object::Map(map.clone()).at(&resource.place);
                self.changes && want.get(&map.key()).is_some()
            }
            _ => false,
        };
        let kept: BTreeSet<Key> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Delete(resource) if !is_of_ours(resource) => Some(resource.key()),
                _ => None,
            })
            .filter(|key| !deletable(key))
            .collect();
        let moved: BTreeSet<Key> = ops.iter().filter_map(|op| Some(op.made()?.key())).collect();
        // An address is forgotten when its route may go or change.
        let forgotten = |key: &Key| self.changes && (moved.contains(key) || deletable(key));
        ops.into_iter()
            .filter(|op| match op {
                // A device that must be made anew stays as it is while it may not be deleted.
                Op::Put(resource) | Op::Delete(resource) => !kept.contains(&resource.key()),
                Op::Change { .. } => self.changes,
                Op::FlushConntrack { place, address, .. } => forgotten(&Key {
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
    use node_core::desired::fixture::Facts;
    use node_core::reconcile::diff;
    use node_core::resource::{Address, Field, Place, RuleMap, Target, Up};

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
        let mut before = Wanted::default();
        before.remember(&wanted.iter().cloned().collect());
        let ops = allowed.of(diff(&observed, &desired), &desired, &before);
        ops.iter()
            .map(|op| op.to_string()[..1].to_owned())
            .collect()
    }

    #[test]
    fn nothing_of_others_is_deleted_before_the_first_sweep() {
        assert_eq!(ops(true, false, &[]), ["+"]);
        assert_eq!(ops(true, false, &[address("10.0.0.2")]), ["-", "+"]);
        assert_eq!(ops(true, true, &[]), ["-", "+"]);
    }

    #[test]
    fn a_wanted_map_holds_nothing_of_before_whoever_wanted_it() {
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
        let ops = allowed.of(diff(&observed, &wanted), &wanted, &Wanted::default());
        assert_eq!(ops, [Op::Delete(line("v0_ours", 2))]);
    }

    /// Which addresses are forgotten on the way from one state to another, before the first sweep.
    fn forgotten(from: &Facts, to: &Facts, wanted: &State) -> Vec<String> {
        let kind = DomainKind::Netns;
        let allowed = Allowed {
            changes: true,
            deletes_of_others: false,
        };
        let mut before = Wanted::default();
        before.remember(wanted);
        let (from, to) = (from.desired(kind), to.desired(kind));
        let ops = allowed.of(diff(&from, &to), &to, &before);
        let forgets = ops.iter().filter_map(|op| match op {
            Op::FlushConntrack { address, .. } => Some(address.to_string()),
            _ => None,
        });
        forgets.collect()
    }

    #[test]
    fn an_address_is_forgotten_with_its_own_route_whatever_else_is_kept() {
        let one = Facts::two_nodes().endpoint("mine", "20.1.1.1");
        let both = one.clone().endpoint("others", "20.1.1.2");
        let none = Facts::two_nodes();
        let wanted = one.desired(DomainKind::Netns);
        assert_eq!(forgotten(&both, &none, &wanted), ["20.1.1.1"]);
        let moved = none.endpoint("next", "20.1.1.1");
        assert_eq!(forgotten(&one, &moved, &State::default()), ["20.1.1.1"]);
    }

    #[test]
    fn while_the_log_is_replayed_things_are_only_added() {
        assert_eq!(ops(false, true, &[address("10.0.0.2")]), ["+"]);
    }

    #[test]
    fn nothing_is_remembered_from_the_sweep_on() {
        let state: State = [address("10.0.0.1")].into_iter().collect();
        let mut wanted = Wanted::default();
        wanted.remember(&state);
        assert!(wanted.contains(&address("10.0.0.1").key()));
        wanted.sweep();
        wanted.remember(&state);
        assert!(wanted.keys.is_empty());
    }
}
