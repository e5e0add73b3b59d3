//! Places whose rules in the kernel may be newer than this node's facts.
//!
//! A disk can lose facts, or refuse them while the kernel follows the log; a newer build reads none
//! of those that an older one saved. So each place carries the revision that it is of
//! ([`Element::Applied`]), and until this node is in sync a place of a newer revision is kept as it
//! is: older rules would open what was closed since. A place without a revision was made by a build
//! that wrote none, so it may be newer, too.

use std::collections::BTreeMap;
use std::fmt;

use bus_schema::Revision;

use super::Core;
use super::allowed::Wanted;
use super::blame::is_blamed;
use node_core::projection::Projection;
use node_core::reconcile::Op;
use node_core::resource::{Element, Key, Object, Place, Resource, State};

/// Why nothing at all is changed.
const INCOMPLETE: &str = "the endpoint journal lost records: nothing in the kernel is changed until this node has found out which endpoints it has";

/// The places that are kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept(BTreeMap<Place, Rules>);

/// What decides in a place.
#[derive(Debug, Default, PartialEq, Eq)]
struct Rules {
    /// The revision in the kernel, if it has one.
    revision: Option<Revision>,
    all: Vec<Key>,
}

impl Kept {
    /// What the kernel holds when a process begins. A place without rules has nothing to keep.
    pub(super) fn of(observed: &State) -> Self {
        let mut kept: BTreeMap<Place, Rules> = BTreeMap::new();
        for resource in observed.resources() {
            let object = &resource.object;
            if object.decides() || matches!(object, Object::Table(_)) {
                let rules = kept.entry(resource.place.clone()).or_default();
                rules.revision = rules.revision.max(applied(resource));
                rules.all.push(resource.key());
            }
        }
        Self(kept)
    }

    /// Keeps a place no more whose revision the facts have reached: `want` is what they ask for. Nor
    /// one of whose rules somebody deleted any: whole older rules are better than a part of newer ones.
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

    /// Who is in sync knows all that the kernel may be of.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// The ops that may be done, and those in places that are kept. What is of all domains is the
    /// host's: while that is kept, so are they.
    pub(super) fn divide(&self, ops: Vec<Op>) -> (Vec<Op>, Vec<Op>) {
        if self.0.is_empty() {
            return (ops, Vec::new());
        }
        let host = self.0.contains_key(&Place::Host);
        let is_kept = |op: &Op| host || self.0.contains_key(op.place());
        ops.into_iter().partition(|op| !is_kept(op))
    }
}

impl Core {
    /// The facts begin anew with another log: what the kernel holds is of the one before.
    pub(super) fn notice_another_log(&mut self, facts: &Projection) {
        let now = (facts.cluster, facts.applied);
        let before = std::mem::replace(&mut self.read, now);
        if before.0.is_none() || before.0 == now.0 && before.1 <= now.1 {
            return;
        }
        self.kept = Some(Kept::of(&self.known));
        self.wanted = Wanted::default();
        self.was_in_sync = false;
        self.look.want();
    }

    pub(super) fn keep_nothing(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.clear();
        }
        self.held_back = None;
    }

    /// Leaves out what would change a place that is kept; endpoints that can't come up for that say so.
    pub(super) fn keep(&mut self, ops: Vec<Op>, want: &State) -> Vec<Op> {
        let Some(kept) = &mut self.kept else {
            return Vec::new();
        };
        kept.reach(&self.known, want);
        let (ops, back) = match self.incomplete_journal {
            true => (Vec::new(), ops),
            false => kept.divide(ops),
        };
        if back.is_empty() {
            return ops;
        }
        let why = match self.incomplete_journal {
            true => INCOMPLETE.to_owned(),
            false => kept.to_string(),
        };
        for op in back.iter().filter(|op| opens(op)) {
            for endpoint in self.locals.values() {
                if is_blamed(op, endpoint, self.params.kind) {
                    self.failed.insert(endpoint.id.clone(), why.clone());
                }
            }
        }
        self.held_back = Some(why);
        ops
    }
}

/// Whether an endpoint can't be reached without it.
fn opens(op: &Op) -> bool {
    matches!(op, Op::Put(it) if matches!(it.object, Object::Veth(_) | Object::Up(_)))
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let newest = self.0.values().filter_map(|it| it.revision).max();
        let of = newest.map_or_else(String::new, |it| format!(" of revision {it}"));
        write!(
            f,
            "the rules in this node's kernel{of} may be newer than the facts on its disk: they stay as they are, and nothing is attached, until it is in sync with the log"
        )
    }
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
    use node_core::desired::domain_name;
    use node_core::desired::fixture::{Facts, kinds, red};
    use node_core::reconcile::diff;

    /// Facts of a tenant that were last changed at this revision.
    fn facts(changed: u64, endpoints: &[&str]) -> Facts {
        let mut facts = Facts::two_nodes();
        for (number, name) in endpoints.iter().enumerate() {
            facts = facts.endpoint(name, &format!("20.1.1.{number}"));
        }
        facts.projection.open(&red()).changed = Revision(changed);
        facts
    }

    /// How many ops are done and how many are kept back on the way from what the kernel holds.
    fn divided(kernel: &State, to: &Facts, kind: DomainKind) -> (usize, usize) {
        let want = to.desired(kind);
        let mut kept = Kept::of(kernel);
        kept.reach(kernel, &want);
        let (done, back) = kept.divide(diff(kernel, &want));
        (done.len(), back.len())
    }

    #[test]
    fn a_place_of_a_newer_revision_stays_as_it_is() {
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
    fn a_place_without_a_revision_stays_as_it_is_and_one_without_rules_does_not() {
        for kind in kinds() {
            let whole = facts(9, &["web"]).desired(kind);
            let older = whole.resources().filter(|it| applied(it).is_none());
            let older: State = older.cloned().collect();
            assert_eq!(divided(&older, &facts(20, &[]), kind).0, 0);
            assert_eq!(divided(&State::default(), &facts(0, &["web"]), kind).1, 0);
        }
    }

    #[test]
    fn a_newer_host_keeps_all_domains() {
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
    fn a_place_whose_rules_are_deleted_is_not_kept() {
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
            let mut kept = Kept::of(&kernel);
            kept.reach(&left, &older);
            let (done, back) = kept.divide(diff(&left, &older));
            assert!(back.is_empty() && !done.is_empty(), "{back:?}");
        }
    }

    #[test]
    fn a_place_that_lost_a_part_of_its_rules_is_not_kept() {
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
            let mut kept = Kept::of(&kernel);
            kept.reach(&left, &older);
            assert!(!kept.0.contains_key(&place));
            let mut kept = Kept::of(&kernel);
            kept.reach(&kernel, &older);
            assert!(kept.0.contains_key(&place));
        }
    }

    #[test]
    fn in_sync_nothing_is_kept() {
        let kernel = facts(9, &["web"]).desired(DomainKind::Vrf);
        let mut kept = Kept::of(&kernel);
        kept.clear();
        let ops = diff(&kernel, &facts(1, &[]).desired(DomainKind::Vrf));
        assert!(kept.divide(ops).1.is_empty());
    }
}
