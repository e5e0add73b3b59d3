//! A compiled program as nft chains and verdict maps.
//!
//! A name is a letter, the domain's zone and a digest of the program's name: `p` is the program's
//! first chain, `g` and `n` are its maps by group and by prefix, `l` is the chain of a port table, with
//! its peer key. `m` is the chain that compares a level and `v` the map of those chains, for all
//! programs of the domain. A port table's chain sets the mark to its result; `m` copies it to the
//! connection's mark if that holds a worse one:
//!
//! ```text
//! chain p7_…       { meta priority vmap @g7_…
//!                    ip saddr & 255.255.255.0 vmap @n7_…_24
//!                    jump l7_…_any }
//! chain l7_…_g0003 { meta l4proto 6 th dport 80 meta mark set 0x62000007 goto m7_98 }
//! chain m7_98      { ct mark > 0x62ffffff ct mark set meta mark }
//! ```
//!
//! Maps have names and chains few anonymous maps, because the kernel searches all maps of a table
//! for a free name for each anonymous one (`nf_tables_set_alloc_name`).
//!
//! Updates are incremental: unchanged port tables keep their chains.

use std::collections::BTreeSet;
use std::sync::Arc;

use bus_schema::GroupId;
use bus_schema::policy::Direction;
use imbl::ordmap::DiffItem;

use super::chains::ChainWriter;
use super::names;
use crate::policy::{PeerKey, PortTable, Program};
use crate::resource::{
    Chain, Element, Field, Key, Kind, Object, Place, Resources, RuleBody, RuleMap, Statement,
    Target,
};

/// The domain of a program's chains, and its direction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChainScope {
    pub(super) place: Place,
    pub(super) zone: u16,
    pub(super) direction: Direction,
}

/// A program and its nft resources.
#[derive(Debug, Clone)]
pub(super) struct NftProgram {
    scope: ChainScope,
    /// Zone and digest, which are in all of its names.
    head: String,
    program: Arc<Program>,
    rules: Resources,
}

impl NftProgram {
    /// An empty program.
    pub(super) fn new(scope: ChainScope, name: &str) -> Self {
        Self {
            head: format!("{}_{}", scope.zone, names::hex(name, 12)),
            scope,
            program: Arc::default(),
            rules: Resources::new(),
        }
    }

    /// The name of its first chain.
    pub(super) fn entry(&self) -> String {
        format!("p{}", self.head)
    }

    pub(super) fn rules(&self) -> &Resources {
        &self.rules
    }

    /// Updates the resources to the program of now.
    pub(super) fn update(&mut self, program: &Arc<Program>) {
        if Arc::ptr_eq(&self.program, program) {
            return;
        }
        let before = std::mem::replace(&mut self.program, Arc::clone(program));
        for item in before.port_tables.diff(&program.port_tables) {
            let (key, table) = match item {
                DiffItem::Add(key, table)
                | DiffItem::Update {
                    new: (key, table), ..
                } => (*key, Some(&**table)),
                DiffItem::Remove(key, _) => (*key, None),
            };
            self.update_port_table(key, table);
        }
        self.update_vmaps(&before, program);
        self.update_entry(program);
    }

    fn update_port_table(&mut self, key: PeerKey, table: Option<&PortTable>) {
        let name = self.name_of(key);
        let chains = table.map_or_else(Vec::new, |table| {
            let mut writer = ChainWriter {
                zone: self.scope.zone,
                name: &name,
                chains: Vec::new(),
            };
            writer.port_table(table);
            writer.chains
        });
        let wanted: BTreeSet<&str> = chains.iter().map(|(name, _)| name.as_str()).collect();
        let gone: Vec<Key> = self.chains_except(&name, &wanted);
        for key in gone {
            self.rules.remove(&key);
        }
        for (name, rules) in chains {
            self.chain(name, rules);
        }
        let Some((vmap, key)) = self.vmap_of(key) else {
            return;
        };
        let to = Target::Jump(name);
        let entry = Element::VmapEntry { map: vmap, key, to };
        let entry = Object::Element(entry);
        match table {
            Some(_) => self.put(entry),
            None => self.remove(entry),
        }
    }

    /// The existing chains of a port table, without the `wanted` ones; `chain` is its first chain.
    fn chains_except(&self, chain: &str, wanted: &BTreeSet<&str>) -> Vec<Key> {
        let first = Key {
            place: self.scope.place.clone(),
            kind: Kind::Chain,
            id: chain.to_owned(),
        };
        let from = self.rules.range(first.clone()..).map(|(key, _)| key);
        let same = from.take_while(|key| key.kind == first.kind && key.id.starts_with(chain));
        same.filter(|key| !wanted.contains(key.id.as_str()))
            .cloned()
            .collect()
    }

    /// The name of a port table's first chain.
    fn name_of(&self, key: PeerKey) -> String {
        let head = &self.head;
        match key {
            PeerKey::Group(id) => format!("l{head}_g{:04x}", id.0),
            PeerKey::Net(net) => {
                format!(
                    "l{head}_n{:08x}{:02}",
                    net.network().to_bits(),
                    net.prefix_len()
                )
            }
            PeerKey::Anybody => format!("l{head}_any"),
            PeerKey::SomeGroup => format!("l{head}_some"),
        }
    }

    /// The verdict map, and the key in it, that lead to a port table's chain.
    fn vmap_of(&self, key: PeerKey) -> Option<(RuleMap, u32)> {
        match key {
            PeerKey::Group(id) => Some((self.by_group(), id.0.into())),
            PeerKey::Net(net) => Some((self.by_net(net.prefix_len()), net.network().to_bits())),
            // The mark of an address whose group isn't known.
            PeerKey::SomeGroup => Some((self.by_group(), 0)),
            PeerKey::Anybody => None,
        }
    }

    fn by_group(&self) -> RuleMap {
        RuleMap {
            name: format!("g{}", self.head),
            field: self.group_field(),
        }
    }

    fn group_field(&self) -> Field {
        match self.scope.direction {
            Direction::In => Field::Priority,
            Direction::Out => Field::Mark,
        }
    }

    fn by_net(&self, length: u8) -> RuleMap {
        RuleMap {
            name: format!("n{}_{length:02}", self.head),
            field: Field::Source,
        }
    }

    fn update_vmaps(&mut self, before: &Program, now: &Program) {
        let stays: BTreeSet<u8> = now.lengths().collect();
        for length in before.lengths().filter(|it| !stays.contains(it)) {
            self.remove(Object::Map(self.by_net(length)));
        }
        for length in stays {
            self.put(Object::Map(self.by_net(length)));
        }
        let map = Object::Map(self.by_group());
        if has_groups(now) {
            self.put(map);
        } else {
            self.remove(map);
        }
    }

    /// Updates the first chain, which looks the peer up in one map after another.
    fn update_entry(&mut self, program: &Program) {
        if program.is_empty() {
            let key = self.key_of(self.entry());
            self.rules.remove(&key);
            return;
        }
        let mut rules = Vec::new();
        if has_groups(program) {
            if self.scope.direction == Direction::Out {
                rules.push(RuleBody(vec![Statement::SetMark(0)]));
                rules.push(RuleBody(vec![Statement::SetMarkByPool]));
                rules.push(RuleBody(vec![Statement::SetMarkByMember]));
            }
            let (field, map) = (self.group_field(), self.by_group().name);
            rules.push(RuleBody(vec![Statement::NamedVmap(
                field,
                Statement::FULL_MASK,
                map,
            )]));
        }
        let field = match self.scope.direction {
            Direction::In => Field::Source,
            Direction::Out => Field::Destination,
        };
        for length in program.lengths() {
            let map = self.by_net(length).name;
            let mask = u32::MAX << (32 - u32::from(length));
            rules.push(RuleBody(vec![Statement::NamedVmap(field, mask, map)]));
        }
        if program.port_tables.contains_key(&PeerKey::Anybody) {
            let chain = self.name_of(PeerKey::Anybody);
            rules.push(RuleBody(vec![Statement::Verdict(Target::Jump(chain))]));
        }
        self.chain(self.entry(), rules);
    }

    fn key_of(&self, id: String) -> Key {
        Key {
            place: self.scope.place.clone(),
            kind: Kind::Chain,
            id,
        }
    }

    /// Puts a chain; an equal one stays the same value.
    fn chain(&mut self, name: String, rules: Vec<RuleBody>) {
        let key = self.key_of(name);
        if let Some(Object::Chain(there)) = self.rules.get(&key).map(|it| &it.object)
            && there.is_of(&rules)
        {
            return;
        }
        let chain = Object::Chain(Chain::compiled(&key.id, rules).into());
        self.rules.insert(key, chain.at(&self.scope.place));
    }

    fn put(&mut self, object: Object) {
        let resource = object.at(&self.scope.place);
        let key = resource.key();
        if self.rules.get(&key) != Some(&resource) {
            self.rules.insert(key, resource);
        }
    }

    fn remove(&mut self, object: Object) {
        self.rules.remove(&object.at(&self.scope.place).key());
    }
}

fn has_groups(program: &Program) -> bool {
    let groups = PeerKey::Group(GroupId(0))..=PeerKey::Group(GroupId(u16::MAX));
    program.port_tables.range(groups).next().is_some()
}
