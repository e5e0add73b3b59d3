//! The compiled rules of a domain, made of layers that have no key in common.
//!
//! Each layer depends on its own facts, and only the differences between the layers of before and
//! now are applied. So the result is a function of the facts, and an event costs what it changes.

use std::collections::{BTreeMap, BTreeSet};

use bus_schema::policy::{Direction, Rule};
use bus_schema::{GroupId, GroupName, PolicyName, RuleId, TenantName};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::chains;
use super::nft_program::{ChainScope, NftProgram};
use crate::maps;
use crate::policy::Cache;
use crate::projection::{GroupFact, TenantFact};
use crate::resource::{
    Chain, Element, Key, Object, Place, Resource, Resources, RuleBody, Statement,
};

/// The parts of a domain's rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    /// The groups whose members may open connections, and whose connections continue.
    AllowedSources,
    /// The groups of the local endpoints' addresses.
    Members,
    /// The revision of the rules.
    Revision,
    /// The chains that compare levels.
    Levels,
    /// The counters of a policy's rules.
    Counters(PolicyName),
    /// The chains and maps of a program.
    Program(String),
    /// The elements by which groups jump to a program.
    Dispatch(String),
}

/// The groups whose rules this node evaluates, by their policies.
type Users = BTreeMap<(Vec<PolicyName>, Direction), Vec<GroupId>>;

/// A domain's compiled rules and the facts that they were made of.
#[derive(Debug, Clone)]
pub(super) struct DomainRules {
    place: Place,
    zone: u16,
    groups: OrdMap<GroupName, GroupFact>,
    /// The groups that may open no connections; absent: no group may.
    closed: Option<BTreeSet<GroupId>>,
    here: BTreeSet<GroupId>,
    users: Users,
    policies: BTreeMap<PolicyName, OrdMap<RuleId, Rule>>,
    programs: BTreeMap<String, NftProgram>,
    levels: BTreeSet<u8>,
    layers: BTreeMap<Layer, Resources>,
    all: Resources,
}

impl DomainRules {
    pub(super) fn new(place: Place, zone: u16) -> Self {
        Self {
            place,
            zone,
            groups: OrdMap::new(),
            closed: None,
            here: BTreeSet::new(),
            users: Users::new(),
            policies: BTreeMap::new(),
            programs: BTreeMap::new(),
            levels: BTreeSet::new(),
            layers: BTreeMap::new(),
            all: Resources::new(),
        }
    }

    pub(super) fn is_of(&self, place: &Place, zone: u16) -> bool {
        self.place == *place && self.zone == zone
    }

    /// The rules of these facts; `members` are the local endpoints' elements, and `here` their
    /// groups. A tenant with newer events has no allowed sources, so no connections are opened.
    pub(super) fn update(
        &mut self,
        (tenant, fact): (&TenantName, &TenantFact),
        (members, here): (&Resources, &BTreeSet<GroupId>),
        compiled: &mut Cache,
    ) -> Resources {
        let first = self.layers.is_empty();
        let regrouped = first || !self.groups.ptr_eq(&fact.groups);
        let closed = (!fact.newer).then(|| fact.closed_groups());
        let mut layers = BTreeMap::new();
        let sources = match self.layers.get(&Layer::AllowedSources) {
            Some(sources) if !regrouped && self.closed == closed => sources.clone(),
            _ => self.sources(fact, closed.as_ref()),
        };
        layers.insert(Layer::AllowedSources, sources);
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
            self.update_programs((tenant, fact), used_otherwise, compiled, &mut layers);
        }
        compiled.sweep(tenant);
        self.merge(layers);
        self.all.clone()
    }

    fn update_programs(
        &mut self,
        (tenant, fact): (&TenantName, &TenantFact),
        used_otherwise: bool,
        compiled: &mut Cache,
        layers: &mut BTreeMap<Layer, Resources>,
    ) {
        let mut before = std::mem::take(&mut self.programs);
        let mut levels = BTreeSet::new();
        let users = std::mem::take(&mut self.users);
        for ((policies, direction), groups) in &users {
            let program = compiled.program((tenant, fact), policies, *direction);
            if program.is_empty() {
                continue;
            }
            levels.extend(program.levels());
            let name = program.name.clone();
            let scope = || ChainScope {
                place: self.place.clone(),
                zone: self.zone,
                direction: *direction,
            };
            let mut now = match before.remove(&name) {
                Some(before) => before,
                None => NftProgram::new(scope(), &name),
            };
            now.update(&program);
            layers.insert(Layer::Program(name.clone()), now.rules().clone());
            let layer = Layer::Dispatch(name.clone());
            let same = self.layers.get(&layer).filter(|_| !used_otherwise);
            let same = same.cloned();
            let dispatch = same.unwrap_or_else(|| self.dispatch(groups, *direction, &now.entry()));
            layers.insert(layer, dispatch);
            self.programs.insert(name, now);
            for policy in policies {
                self.counters(policy, fact, layers);
            }
        }
        self.users = users;
        self.policies
            .retain(|policy, _| layers.contains_key(&Layer::Counters(policy.clone())));
        let same = self
            .layers
            .get(&Layer::Levels)
            .filter(|_| self.levels == levels);
        let all = same.cloned();
        let all = all.unwrap_or_else(|| {
            collected(chains::levels(&self.place, self.zone, &levels).into_iter())
        });
        layers.insert(Layer::Levels, all);
        self.levels = levels;
    }

    /// The counters of a policy's rules; only those of added and removed rules are touched.
    fn counters(
        &mut self,
        policy: &PolicyName,
        fact: &TenantFact,
        layers: &mut BTreeMap<Layer, Resources>,
    ) {
        let layer = Layer::Counters(policy.clone());
        if layers.contains_key(&layer) {
            return;
        }
        let rules = fact.policies.get(policy).map(|it| it.rules.clone());
        let rules = rules.unwrap_or_default();
        let before = self.policies.insert(policy.clone(), rules.clone());
        let before = before.unwrap_or_default();
        let mut counters = self.layers.get(&layer).cloned().unwrap_or_default();
        let counter = |rule: &Rule| {
            let (zone, rule) = (self.zone, rule.number);
            Element::RuleCounter { zone, rule }.at(&self.place)
        };
        let mut added = Vec::new();
        for (old, new) in maps::differing(&before, &rules) {
            if let Some((_, old)) = old {
                counters.remove(&counter(old).key());
            }
            added.extend(new.map(|(_, new)| counter(new)));
        }
        counters.extend(added.into_iter().map(|it| (it.key(), it)));
        layers.insert(layer, counters);
    }

    /// The elements of all groups; `closed` groups may open no connections; absent: no group may.
    fn sources(&self, fact: &TenantFact, closed: Option<&BTreeSet<GroupId>>) -> Resources {
        let zone = self.zone;
        let groups = fact.groups.values().map(|group| group.spec.id);
        let elements = groups.chain([GroupId::UNGROUPED]).flat_map(|group| {
            let pair = Element::EstablishedPair { zone, group };
            let source = Element::AllowedSource { zone, group };
            let template = Element::CtMarkTemplate { zone, group };
            let open = closed.is_some_and(|it| !it.contains(&group));
            let opening = [source, template].into_iter().filter(move |_| open);
            opening.chain([pair])
        });
        collected(elements.map(|it| it.at(&self.place)))
    }

    fn dispatch(&self, groups: &[GroupId], direction: Direction, entry: &str) -> Resources {
        let jump = |group: &GroupId| {
            let element = Element::Program {
                zone: self.zone,
                direction,
                group: *group,
                chain: entry.to_owned(),
            };
            element.at(&self.place)
        };
        collected(groups.iter().map(jump))
    }

    fn revision(&self, fact: &TenantFact) -> Resources {
        let revision = fact.ruled().0 as u16;
        let body = RuleBody(vec![Statement::SetCtMark(u32::from(revision) << 16)]);
        let chain = Chain::compiled(&format!("r{}_", self.zone), vec![body]);
        let zone = self.zone;
        let chain_of = Element::RevisionChain {
            zone,
            chain: chain.name.clone(),
        };
        let revision = Element::Revision { zone, revision };
        let elements = [chain_of, revision].map(Object::Element);
        let objects = elements.into_iter().chain([Object::Chain(chain.into())]);
        collected(objects.map(|it| it.at(&self.place)))
    }

    /// Applies the differences between the layers of before and now. Removals come first, because a
    /// resource may move from one layer to another.
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
            // `out` rules of senders on any node are evaluated here, `in` rules of local receivers only.
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
