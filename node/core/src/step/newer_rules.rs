//! Places whose rules in the kernel may be newer than this node's facts are protected.
//!
//! A disk can lose facts, or refuse them while the kernel follows the log, and a newer build reads no
//! facts that an older one saved. So each place carries the revision of its rules
//! ([`Element::Applied`]). Until this node is in sync, a place with a newer revision isn't changed:
//! older rules would allow what was denied since. A place without a revision was made by a build that
//! wrote none, so its rules may be newer, too. Pure.

use std::collections::BTreeMap;

use bus_schema::Revision;

use super::failures::is_blamed;
use super::{Memory, Trouble};
use crate::reconcile::Op;
use crate::resource::{Element, Key, Object, Place, Resource, State};

/// The parts of the kernel's state that this node's older facts may not change.
#[derive(Debug, Default)]
pub(super) struct Protection {
    /// Absent: the kernel wasn't read yet, and nothing is changed.
    places: Option<NewerRules>,
    journal_incomplete: bool,
    /// Why ops were held back.
    held_back: Option<Trouble>,
}

/// The protected places.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NewerRules(BTreeMap<Place, Rules>);

/// The rules of a place.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    /// The revision in the kernel, if it has one.
    revision: Option<Revision>,
    all: Vec<Key>,
}

impl NewerRules {
    /// Protects the places that have rules.
    pub(super) fn of(observed: &State) -> Self {
        let mut places: BTreeMap<Place, Rules> = BTreeMap::new();
        for resource in observed.resources() {
            let object = &resource.object;
            if object.decides() || matches!(object, Object::Table(_)) {
                let rules = places.entry(resource.place.clone()).or_default();
                rules.revision = rules.revision.max(applied(resource));
                rules.all.push(resource.key());
            }
        }
        Self(places)
    }

    /// Ends the protection of places whose revision the facts have reached (`want` is the desired
    /// state), and of places where somebody deleted a rule: all older rules are better than some
    /// newer ones.
    pub(super) fn reach(&mut self, known: &State, want: &State) {
        if self.0.is_empty() {
            return;
        }
        let is_there = |key: &Key| known.get(key).is_some();
        self.0.retain(|_, rules| rules.all.iter().all(is_there));
        for resource in want.resources() {
            if let Some(now) = applied(resource)
                && let Some(rules) = self.0.get(&resource.place)
                && rules.revision.is_some_and(|then| now >= then)
            {
                self.0.remove(&resource.place);
            }
        }
    }

    /// The facts of a node in sync are as new as any rules.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn newest(&self) -> Option<Revision> {
        self.0.values().filter_map(|it| it.revision).max()
    }

    /// The ops that may be executed, and those in protected places. The host's rules concern all
    /// domains: while the host is protected, so are they.
    pub(super) fn divide(&self, ops: Vec<Op>) -> (Vec<Op>, Vec<Op>) {
        if self.0.is_empty() {
            return (ops, Vec::new());
        }
        let host = self.0.contains_key(&Place::Host);
        let is_protected = |op: &Op| host || self.0.contains_key(op.place());
        ops.into_iter().partition(|op| !is_protected(op))
    }
}

impl Protection {
    pub(super) fn has_begun(&self) -> bool {
        self.places.is_some()
    }

    /// Everything was read. A node that moves to the other kind of domain reads for the first time
    /// when it is in sync.
    pub(super) fn begin(&mut self, known: &State, was_in_sync: bool) {
        self.places.get_or_insert_with(|| match was_in_sync {
            true => NewerRules::default(),
            false => NewerRules::of(known),
        });
        self.held_back = None;
    }

    /// The facts are of another log. Before the kernel was read, there is nothing to protect yet, and
    /// nothing may be changed.
    pub(super) fn begin_anew(&mut self, known: &State) {
        if let Some(places) = &mut self.places {
            *places = NewerRules::of(known);
        }
    }

    pub(super) fn clear(&mut self) {
        if let Some(places) = &mut self.places {
            places.clear();
        }
        self.held_back = None;
    }

    /// Whether the journal has become complete.
    pub(super) fn follow_journal(&mut self, is_incomplete: bool) -> bool {
        std::mem::replace(&mut self.journal_incomplete, is_incomplete) && !is_incomplete
    }

    pub(super) fn held_back(&self) -> Option<&Trouble> {
        self.held_back.as_ref()
    }

    /// The ops that may be executed, and those that are held back.
    fn divide(&mut self, ops: Vec<Op>, known: &State, want: &State) -> (Vec<Op>, Vec<Op>) {
        let Some(places) = &mut self.places else {
            return (Vec::new(), Vec::new());
        };
        places.reach(known, want);
        let (ops, back) = match self.journal_incomplete {
            true => (Vec::new(), ops),
            false => places.divide(ops),
        };
        if !back.is_empty() {
            self.held_back = Some(match self.journal_incomplete {
                true => Trouble::JournalIncomplete,
                false => Trouble::NewerRules {
                    newest: places.newest(),
                },
            });
        }
        (ops, back)
    }
}

impl Memory {
    /// Leaves out ops in protected places. Endpoints that can't come up without them fail.
    pub(super) fn protect(&mut self, ops: Vec<Op>, want: &State) -> Vec<Op> {
        let (ops, back) = self.protection.divide(ops, &self.known, want);
        let Some(why) = self.protection.held_back.as_ref().map(ToString::to_string) else {
            return ops;
        };
        let kind = self.params.kind;
        for op in back.iter().filter(|op| opens(op)) {
            let endpoints = &mut self.endpoints;
            let blamed = endpoints
                .locals
                .values()
                .filter(|it| is_blamed(op, it, kind));
            let failed = blamed.map(|it| (it.id.clone(), why.clone()));
            endpoints.failed.extend(failed);
        }
        ops
    }
}

/// Whether an endpoint can't be reached without it.
fn opens(op: &Op) -> bool {
    matches!(op, Op::Put(it) if matches!(it.object, Object::Veth(_) | Object::Up(_)))
}

fn applied(resource: &Resource) -> Option<Revision> {
    match &resource.object {
        Object::Element(Element::Applied { revision, .. }) => Some(*revision),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::node::DomainKind;

    use super::*;
    use crate::desired::domain_name;
    use crate::desired::fixture::{Facts, kinds, red};
    use crate::reconcile::diff;

    /// Facts of a tenant that were last changed at this revision.
    fn facts(changed: u64, endpoints: &[&str]) -> Facts {
        let mut facts = Facts::two_nodes();
        for (number, name) in endpoints.iter().enumerate() {
            facts = facts.endpoint(name, &format!("20.1.1.{number}"));
        }
        facts.projection.open(&red()).changed = Revision(changed);
        facts
    }

    /// How many ops may be executed and how many are held back.
    fn divided(kernel: &State, to: &Facts, kind: DomainKind) -> (usize, usize) {
        let want = to.desired(kind);
        let mut newer = NewerRules::of(kernel);
        newer.reach(kernel, &want);
        let (done, back) = newer.divide(diff(kernel, &want));
        (done.len(), back.len())
    }

    #[test]
    fn place_of_a_newer_revision_is_protected() {
        for kind in kinds() {
            let kernel = facts(9, &["web"]).desired(kind);
            let (done, back) = divided(&kernel, &facts(8, &["web", "old"]), kind);
            assert_eq!(done, 0);
            assert!(back > 2, "{back}");
            for changed in [9, 10] {
                let (done, back) = divided(&kernel, &facts(changed, &["web", "new"]), kind);
                assert!(done > 2, "{done}");
                assert_eq!(back, 0, "{changed}");
            }
        }
    }

    #[test]
    fn place_without_a_revision_is_protected_if_it_has_rules() {
        for kind in kinds() {
            let whole = facts(9, &["web"]).desired(kind);
            let older = whole.resources().filter(|it| applied(it).is_none());
            let older: State = older.cloned().collect();
            assert_eq!(divided(&older, &facts(20, &[]), kind).0, 0);
            assert_eq!(divided(&State::default(), &facts(0, &["web"]), kind).1, 0);
        }
    }

    #[test]
    fn newer_host_protects_all_domains() {
        for kind in kinds() {
            let mut now = facts(9, &["web"]);
            now.projection.changed = Revision(5);
            let kernel = now.desired(kind);
            let mut older = facts(10, &["web", "new"]);
            older.projection.changed = Revision(4);
            assert_eq!(divided(&kernel, &older, kind).0, 0);
        }
    }

    #[test]
    fn place_without_its_rules_is_not_protected() {
        for kind in kinds() {
            let kernel = facts(9, &["web"]).desired(kind);
            let older = facts(8, &["web"]).desired(kind);
            let is_rule =
                |it: &&Resource| it.object.decides() || matches!(it.object, Object::Table(_));
            let left: State = kernel
                .resources()
                .filter(|it| !is_rule(it))
                .cloned()
                .collect();
            let mut newer = NewerRules::of(&kernel);
            newer.reach(&left, &older);
            let (done, back) = newer.divide(diff(&left, &older));
            assert!(back.is_empty() && !done.is_empty(), "{back:?}");
        }
    }

    #[test]
    fn place_that_lost_one_rule_is_not_protected() {
        for kind in kinds() {
            let kernel = facts(9, &["web"]).desired(kind);
            let older = facts(8, &["web"]).desired(kind);
            let place = Place::Domain(domain_name(kind, &red()));
            let element = |it: &&Resource| {
                matches!(&it.object, Object::Element(it) if it.decides()) && it.place == place
            };
            let flushed = kernel.resources().find(element).map(Resource::key);
            let mut left = kernel.clone();
            left.remove(&flushed.expect("a domain has elements"));
            let mut newer = NewerRules::of(&kernel);
            newer.reach(&left, &older);
            assert!(!newer.0.contains_key(&place));
            let mut newer = NewerRules::of(&kernel);
            newer.reach(&kernel, &older);
            assert!(newer.0.contains_key(&place));
        }
    }

    #[test]
    fn node_in_sync_protects_nothing() {
        let kernel = facts(9, &["web"]).desired(DomainKind::Vrf);
        let mut newer = NewerRules::of(&kernel);
        newer.clear();
        let ops = diff(&kernel, &facts(1, &[]).desired(DomainKind::Vrf));
        assert!(newer.divide(ops).1.is_empty());
    }
}
