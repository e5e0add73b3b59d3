//! A program: the compiled rules of one direction of all of a group's policies.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bus_schema::policy::{Action, Direction, Peer, Protocol, Rule};
use bus_schema::{GroupId, PolicyName, RuleId};
use imbl::{OrdMap, OrdSet};
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};

use super::{PortTable, Ranked, Value, better};
use crate::projection::TenantFact;

/// Compiled rules. A clone shares all that neither copy changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// Direction and policies as text, unique within the tenant.
    pub name: String,
    pub port_tables: OrdMap<PeerKey, Arc<PortTable>>,
    /// All rules of the program by their numbers.
    pub rules: OrdMap<u32, (PolicyName, RuleId)>,
    /// The rules of each key, the best first.
    rules_of: OrdMap<PeerKey, OrdSet<Arc<Ranked>>>,
    /// The number of rules of each level, and of keys of each prefix length.
    levels: OrdMap<u8, usize>,
    lengths: OrdMap<u8, usize>,
    peers: OrdMap<Option<Peer>, PeerRules>,
}

/// The key of a port table: the peer of the packets that are looked up in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerKey {
    Group(GroupId),
    Net(Ipv4Net),
    Anybody,
    /// Some group, of an address whose group isn't known: the rules that allow connections to groups. The
    /// sender's node looks it up, and denies only if the receiver's would, whatever the group is.
    SomeGroup,
}

/// The rules about one peer, as the rules name it; without a peer a rule is about anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
struct PeerRules {
    /// The keys that the peer resolves to at the moment: none when it doesn't exist.
    keys: Arc<[PeerKey]>,
    rules: OrdSet<Arc<Ranked>>,
}

/// The keys of a peer.
fn resolve(tenant: &TenantFact, peer: Option<&Peer>) -> Arc<[PeerKey]> {
    match peer {
        None => [PeerKey::Anybody].into(),
        Some(Peer::Group { group }) => {
            let group = tenant.groups.get(group).into_iter();
            group.map(|it| PeerKey::Group(it.spec.id)).collect()
        }
        Some(Peer::Network { network }) => {
            let network = tenant.networks.get(network).into_iter();
            let pools = network.flat_map(|it| it.spec.pools());
            let nets = pools.filter_map(|pool| match pool.subnet {
                IpNet::V4(net) => Some(PeerKey::Net(net.trunc())),
                IpNet::V6(_) => None,
            });
            nets.collect()
        }
        Some(Peer::World) => [PeerKey::Group(GroupId::WORLD)].into(),
        Some(Peer::Addresses { range }) => match (range.first, range.last) {
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST)) => {
                [PeerKey::Anybody].into()
            }
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).map(PeerKey::Net).collect()
            }
            _ => Arc::default(),
        },
    }
}

/// A rule and its policy.
pub(super) type PolicyRule<'a> = (&'a PolicyName, &'a Rule);

/// A change of a program's inputs.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    pub(super) removed: Vec<PolicyRule<'a>>,
    pub(super) added: Vec<PolicyRule<'a>>,
    /// Peers that may resolve to other keys now.
    pub(super) repointed: Vec<Peer>,
}

impl Program {
    pub(super) fn named(name: String) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// The program after these changes, equal to one that is compiled of all rules at once. `None`:
    /// the changes don't concern it.
    pub(super) fn changed(
        &self,
        tenant: &TenantFact,
        direction: Direction,
        changes: Changes<'_>,
    ) -> Option<Self> {
        let mut changing = ProgramChange {
            tenant,
            direction,
            program: self.clone(),
            touched: BTreeSet::new(),
            changed: false,
        };
        let concerned = |(_, rule): &PolicyRule<'_>| rule.spec.direction == direction;
        for rule in changes.removed.into_iter().filter(concerned) {
            changing.remove(rule);
        }
        for peer in changes.repointed {
            changing.resolve_again(peer);
        }
        for rule in changes.added.into_iter().filter(concerned) {
            changing.add(rule);
        }
        changing.changed.then(|| changing.done())
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The best rule for a connection with a peer.
    pub fn best_rule(
        &self,
        (group, address): (GroupId, Ipv4Addr),
        protocol: Protocol,
        port: u16,
    ) -> Option<Value> {
        self.best_of(PeerKey::Group(group), address, (protocol, port))
    }

    fn best_of(
        &self,
        group: PeerKey,
        address: Ipv4Addr,
        (protocol, port): (Protocol, u16),
    ) -> Option<Value> {
        let nets = self.lengths().filter_map(|length| {
            let net = Ipv4Net::new(address, length).ok()?;
            Some(PeerKey::Net(net.trunc()))
        });
        let keys = [group].into_iter().chain(nets);
        let tables = keys
            .chain([PeerKey::Anybody])
            .filter_map(|it| self.port_tables.get(&it));
        tables.fold(None, |best, table| {
            better(best, table.best_rule(protocol, port))
        })
    }

    /// The best rule for a connection to an address whose group isn't known, by a sender's node. If it
    /// denies, the group's best rule denies, too, whichever group it is. The kernel decides it; tests
    /// compare.
    #[cfg(any(test, feature = "testing"))]
    pub fn best_rule_of_any_group(
        &self,
        address: Ipv4Addr,
        protocol: Protocol,
        port: u16,
    ) -> Option<Value> {
        self.best_of(PeerKey::SomeGroup, address, (protocol, port))
    }

    /// The levels of its rules.
    pub fn levels(&self) -> impl Iterator<Item = u8> {
        self.levels.keys().copied()
    }

    /// The lengths of the prefixes among its keys, the longest first.
    pub fn lengths(&self) -> impl Iterator<Item = u8> {
        self.lengths.keys().rev().copied()
    }
}

/// A program while its rules change; port tables are rebuilt at the end.
struct ProgramChange<'a> {
    tenant: &'a TenantFact,
    direction: Direction,
    program: Program,
    touched: BTreeSet<PeerKey>,
    changed: bool,
}

impl ProgramChange<'_> {
    fn remove(&mut self, (policy, rule): PolicyRule<'_>) {
        self.changed = true;
        let ranked = ranked(policy, rule);
        self.program.rules.remove(&rule.number);
        count(&mut self.program.levels, ranked.value.level(), -1);
        let Some(peer_rules) = self.program.peers.get_mut(&rule.spec.peer) else {
            return;
        };
        peer_rules.rules.remove(&ranked);
        let keys = Arc::clone(&peer_rules.keys);
        if peer_rules.rules.is_empty() {
            self.program.peers.remove(&rule.spec.peer);
        }
        self.unlink(&ranked, &keys);
    }

    fn add(&mut self, (policy, rule): PolicyRule<'_>) {
        self.changed = true;
        let ranked = ranked(policy, rule);
        let peer = &rule.spec.peer;
        let name = (policy.clone(), rule.id.clone());
        self.program.rules.insert(rule.number, name);
        count(&mut self.program.levels, ranked.value.level(), 1);
        let peer_rules = self.program.peers.entry(peer.clone());
        let peer_rules = peer_rules.or_insert_with(|| PeerRules {
            keys: resolve(self.tenant, peer.as_ref()),
            rules: OrdSet::new(),
        });
        peer_rules.rules.insert(Arc::clone(&ranked));
        let keys = Arc::clone(&peer_rules.keys);
        self.link(&ranked, &keys);
    }

    /// Moves the rules about a peer to the keys that it resolves to now.
    fn resolve_again(&mut self, peer: Peer) {
        let now = resolve(self.tenant, Some(&peer));
        let Some(peer_rules) = self.program.peers.get_mut(&Some(peer)) else {
            return;
        };
        if peer_rules.keys == now {
            return;
        }
        self.changed = true;
        let before = std::mem::replace(&mut peer_rules.keys, Arc::clone(&now));
        for rule in peer_rules.rules.clone() {
            self.unlink(&rule, &before);
            self.link(&rule, &now);
        }
    }

    fn unlink(&mut self, rule: &Arc<Ranked>, keys: &[PeerKey]) {
        for key in self.keys_of(rule, keys) {
            if let Some(rules) = self.program.rules_of.get_mut(&key) {
                rules.remove(rule);
            }
            self.touched.insert(key);
        }
    }

    fn link(&mut self, rule: &Arc<Ranked>, keys: &[PeerKey]) {
        for key in self.keys_of(rule, keys) {
            let rules = self.program.rules_of.entry(key).or_default();
            rules.insert(Arc::clone(rule));
            self.touched.insert(key);
        }
    }

    /// The keys of a rule, by those of its peer.
    fn keys_of(&self, rule: &Ranked, of_peer: &[PeerKey]) -> Vec<PeerKey> {
        let is_group = |key: &PeerKey| match key {
            PeerKey::Group(id) => *id != GroupId::WORLD,
            _ => false,
        };
        let allows = rule.value.action() == Action::Allow;
        let some = self.direction == Direction::Out && allows && of_peer.iter().any(is_group);
        let some = some.then_some(PeerKey::SomeGroup);
        of_peer.iter().copied().chain(some).collect()
    }

    fn done(mut self) -> Program {
        for key in self.touched {
            let rules = self.program.rules_of.get(&key).filter(|it| !it.is_empty());
            let by = match rules {
                Some(rules) => {
                    let table = PortTable::new(rules.iter().map(|rule| &**rule));
                    let before = self.program.port_tables.insert(key, table.into());
                    isize::from(before.is_none())
                }
                None => {
                    self.program.rules_of.remove(&key);
                    let before = self.program.port_tables.remove(&key);
                    -isize::from(before.is_some())
                }
            };
            if let PeerKey::Net(net) = key {
                count(&mut self.program.lengths, net.prefix_len(), by);
            }
        }
        self.program
    }
}

fn count(counts: &mut OrdMap<u8, usize>, key: u8, by: isize) {
    let now = counts.get(&key).copied().unwrap_or_default();
    match now.saturating_add_signed(by) {
        0 => counts.remove(&key),
        now => counts.insert(key, now),
    };
}

fn ranked(policy: &PolicyName, rule: &Rule) -> Arc<Ranked> {
    let spec = &rule.spec;
    Arc::new(Ranked {
        value: Value::new(spec.priority, spec.action, rule.number),
        policy: policy.clone(),
        id: rule.id.clone(),
        protocol: spec.protocol,
        ports: spec.ports.clone(),
    })
}
