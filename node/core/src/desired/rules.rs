//! What decides about connections in a domain, made of layers that have no key in common.
//!
//! Each layer follows its own facts; of all of them together only what differs from before is
//! touched. So the result is a function of the facts, and an event costs what it changes.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::policy::{Direction, Rule};
use bus_schema::{GroupId, GroupName, PolicyName, RuleId, TenantName};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::program::{self, Sheet, Written};
use crate::maps;
use crate::policy::Cache;
use crate::projection::{GroupFact, TenantFact};
use crate::resource::{Chain, Element, Key, Object, Place, Resource, Resources, Step, Steps};

/// The parts of a domain's rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// The groups that packets may be of.
    Known,
    /// The local endpoints' groups.
    Members,
    /// The revision of all of it.
    Revision,
    /// The comparisons of levels.
    Levels,
    /// What counts a policy's rules.
    Hits(PolicyName),
    /// A program, and what leads groups to it.
    Program(String),
    Leads(String),
}

/// Groups by their policies: those whose rules are decided here.
type Users = BTreeMap<(Vec<PolicyName>, Direction), Vec<GroupId>>;

/// A domain's rules as they were made last, and what they were made of.
#[derive(Debug, Clone)]
pub(super) struct Ruled {
    place: Place,
    zone: u16,
    groups: OrdMap<GroupName, GroupFact>,
    /// The groups that open no connections; absent: all.
    closed: Option<BTreeSet<GroupId>>,
    here: BTreeSet<GroupId>,
    users: Users,
    policies: BTreeMap<PolicyName, OrdMap<RuleId, Rule>>,
    written: BTreeMap<String, Written>,
    levels: BTreeSet<u8>,
    layers: BTreeMap<Layer, Resources>,
    all: Resources,
}

impl Ruled {
    pub(super) fn new(place: Place, zone: u16) -> Self {
        Self {
            place,
            zone,
            groups: OrdMap::new(),
            closed: None,
            here: BTreeSet::new(),
            users: Users::new(),
            policies: BTreeMap::new(),
            written: BTreeMap::new(),
            levels: BTreeSet::new(),
            layers: BTreeMap::new(),
            all: Resources::new(),
        }
    }

    pub(super) fn is_of(&self, place: &Place, zone: u16) -> bool {
        self.place == *place && self.zone == zone
    }

    /// The rules by these facts; `members` are the local endpoints' elements, and `here` their
    /// groups. A tenant of which newer events tell knows nobody, so no connections are opened.
    pub(super) fn follow(
        &mut self,
        (tenant, fact): (&TenantName, &TenantFact),
        (members, here): (&Resources, &BTreeSet<GroupId>),
        compiled: &mut Cache,
    ) -> Resources {
        let first = self.layers.is_empty();
        let regrouped = first || !self.groups.ptr_eq(&fact.groups);
        let closed = (!fact.newer).then(|| fact.closed_groups());
        let mut layers = BTreeMap::new();
        let known = match self.layers.get(&Layer::Known) {
            Some(known) if !regrouped && self.closed == closed => known.clone(),
            _ => self.known(fact, closed.as_ref()),
        };
        layers.insert(Layer::Known, known);
        layers.insert(Layer::Members, members.clone());
        let used_otherwise = regrouped || self.here != *here;
        if used_otherwise {
            self.users = users(fact, here);
        }
        self.groups = fact.groups.clone();
        self.closed = closed;
        self.here.clone_from(here);
        if fact.newer {
            self.policies.clear();
        } else {
            layers.insert(Layer::Revision, self.revision(fact));
            self.programs((tenant, fact), used_otherwise, compiled, &mut layers);
        }
        compiled.sweep(tenant);
        self.merge(layers);
        self.all.clone()
    }

    fn programs(
        &mut self,
        (tenant, fact): (&TenantName, &TenantFact),
        used_otherwise: bool,
        compiled: &mut Cache,
        layers: &mut BTreeMap<Layer, Resources>,
    ) {
        let mut written = std::mem::take(&mut self.written);
        let mut levels = BTreeSet::new();
        let users = std::mem::take(&mut self.users);
        for ((policies, direction), groups) in &users {
            let program = compiled.program((tenant, fact), policies, *direction);
            if program.is_empty() {
                continue;
            }
            levels.extend(program.levels());
            let name = program.name.clone();
            let sheet = || Sheet {
                place: self.place.clone(),
                zone: self.zone,
                direction: *direction,
            };
            let before = written.remove(&name);
            let mut now = before.unwrap_or_else(|| Written::new(sheet(), &name));
            now.follow(&program);
            layers.insert(Layer::Program(name.clone()), now.rules().clone());
            let leads = Layer::Leads(name.clone());
            let there = self.layers.get(&leads).filter(|_| !used_otherwise);
            let there = there.cloned();
            let there = there.unwrap_or_else(|| self.leads(groups, *direction, &now.entry()));
            layers.insert(leads, there);
            self.written.insert(name, now);
            for policy in policies {
                self.hits(policy, fact, layers);
            }
        }
        self.users = users;
        self.policies
            .retain(|policy, _| layers.contains_key(&Layer::Hits(policy.clone())));
        let same = self
            .layers
            .get(&Layer::Levels)
            .filter(|_| self.levels == levels);
        let all = same.cloned();
        let all = all.unwrap_or_else(|| {
            collected(program::levels(&self.place, self.zone, &levels).into_iter())
        });
        layers.insert(Layer::Levels, all);
        self.levels = levels;
    }

    /// What counts the rules of a policy; nothing is touched but what came and went.
    fn hits(
        &mut self,
        policy: &PolicyName,
        fact: &TenantFact,
        layers: &mut BTreeMap<Layer, Resources>,
    ) {
        let layer = Layer::Hits(policy.clone());
        if layers.contains_key(&layer) {
            return;
        }
        let rules = fact.policies.get(policy).map(|it| it.rules.clone());
        let rules = rules.unwrap_or_default();
        let before = self.policies.insert(policy.clone(), rules.clone());
        let before = before.unwrap_or_default();
        let mut hits = self.layers.get(&layer).cloned().unwrap_or_default();
        let hit = |rule: &Rule| {
            let (zone, rule) = (self.zone, rule.number);
            Element::Hit { zone, rule }.at(&self.place)
        };
        let mut came = Vec::new();
        for (old, new) in maps::differing(&before, &rules) {
            if let Some((_, old)) = old {
                hits.remove(&hit(old).key());
            }
            came.extend(new.map(|(_, new)| hit(new)));
        }
        hits.extend(came.into_iter().map(|it| (it.key(), it)));
        layers.insert(layer, hits);
    }

    /// `closed` are left out of those that open connections; absent: all are.
    fn known(&self, fact: &TenantFact, closed: Option<&BTreeSet<GroupId>>) -> Resources {
        let zone = self.zone;
        let groups = fact.groups.values().map(|group| group.spec.id);
        let elements = groups.chain([GroupId::UNGROUPED]).flat_map(|group| {
            let same = Element::Same { zone, group };
            let known = Element::Known { zone, group };
            let opener = Element::Opener { zone, group };
            let open = closed.is_some_and(|it| !it.contains(&group));
            let opening = [known, opener].into_iter().filter(move |_| open);
            opening.chain([same])
        });
        collected(elements.map(|it| it.at(&self.place)))
    }

    fn leads(&self, groups: &[GroupId], direction: Direction, entry: &str) -> Resources {
        let lead = |group: &GroupId| {
            let element = Element::Program {
                zone: self.zone,
                direction,
                group: *group,
                chain: entry.to_owned(),
            };
            element.at(&self.place)
        };
        collected(groups.iter().map(lead))
    }

    fn revision(&self, fact: &TenantFact) -> Resources {
        let revision = fact.ruled().0 as u16;
        let stamp = Steps(vec![Step::Stamp(u32::from(revision) << 16)]);
        let chain = Chain::compiled(&format!("r{}_", self.zone), vec![stamp]);
        let zone = self.zone;
        let revised = Element::Revised {
            zone,
            chain: chain.name.clone(),
        };
        let revision = Element::Revision { zone, revision };
        let elements = [revised, revision].map(Object::Element);
        let objects = elements.into_iter().chain([Object::Chain(chain.into())]);
        collected(objects.map(|it| it.at(&self.place)))
    }

    /// Takes over what differs between the layers then and now: first what goes, because a thing
    /// may go from one to another.
    fn merge(&mut self, now: BTreeMap<Layer, Resources>) {
        let before = std::mem::replace(&mut self.layers, now);
        let none = Resources::new();
        let names: BTreeSet<&Layer> = before.keys().chain(self.layers.keys()).collect();
        let mut came: Vec<(Key, Resource)> = Vec::new();
        for name in names {
            let old = before.get(name).unwrap_or(&none);
            let new = self.layers.get(name).unwrap_or(&none);
            if old.ptr_eq(new) {
                continue;
            }
            for item in old.diff(new) {
                match item {
                    DiffItem::Remove(key, _) => {
                        self.all.remove(key);
                    }
                    DiffItem::Add(key, new)
                    | DiffItem::Update {
                        new: (key, new), ..
                    } => {
                        came.push((key.clone(), new.clone()));
                    }
                }
            }
        }
        self.all.extend(came);
    }
}

fn users(fact: &TenantFact, here: &BTreeSet<GroupId>) -> Users {
    let mut users = Users::new();
    for group in fact.groups.values() {
        let (id, policies) = (group.spec.id, &group.spec.policies);
        if policies.is_empty() {
            continue;
        }
        for direction in [Direction::In, Direction::Out] {
            // The rules of senders everywhere are decided here, those of receivers only here.
            if direction == Direction::Out || here.contains(&id) {
                let key = (policies.clone(), direction);
                users.entry(key).or_default().push(id);
            }
        }
    }
    users
}

fn collected(resources: impl Iterator<Item = Resource>) -> Resources {
    resources.map(|it| (it.key(), it)).collect()
}
