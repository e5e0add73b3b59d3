//! One direction of all of a group's policies.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use bus_schema::policy::{Direction, Peer, Protocol, Rule};
use bus_schema::{GroupId, PolicyName, RuleId};
use imbl::{OrdMap, OrdSet};
use ipnet::{IpNet, Ipv4Net, Ipv4Subnets};

use super::{Line, Ranked, Value, better};
use crate::projection::TenantFact;

/// Compiled rules. A clone shares what neither changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    /// Direction and policies in words: what tells it from the tenant's others.
    pub name: String,
    pub lines: OrdMap<Spot, Arc<Line>>,
    /// Every rule in it, by its number.
    pub rules: OrdMap<u32, (PolicyName, RuleId)>,
    /// The rules at each spot, the best first.
    at: OrdMap<Spot, OrdSet<Arc<Ranked>>>,
    /// How many rules each level has, and how many nets each length.
    levels: OrdMap<u8, usize>,
    lengths: OrdMap<u8, usize>,
    peers: OrdMap<Option<Peer>, About>,
}

/// Whom a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spot {
    Group(GroupId),
    Net(Ipv4Net),
    Anybody,
}

/// What is said about a peer, as the rules name it; `None` is anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
struct About {
    /// Whom it stands for at the moment: nobody when it isn't there.
    spots: Arc<[Spot]>,
    rules: OrdSet<Arc<Ranked>>,
}

fn resolve(tenant: &TenantFact, peer: Option<&Peer>) -> Arc<[Spot]> {
    match peer {
        None => [Spot::Anybody].into(),
        Some(Peer::Group { group }) => {
            let group = tenant.groups.get(group).into_iter();
            group.map(|it| Spot::Group(it.spec.id)).collect()
        }
        Some(Peer::Network { network }) => {
            let network = tenant.networks.get(network).into_iter();
            let pools = network.flat_map(|it| it.spec.pools());
            let nets = pools.filter_map(|pool| match pool.subnet {
                IpNet::V4(net) => Some(Spot::Net(net.trunc())),
                IpNet::V6(_) => None,
            });
            nets.collect()
        }
        Some(Peer::Addresses { range }) => match (range.first, range.last) {
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST)) => {
                [Spot::Anybody].into()
            }
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                Ipv4Subnets::new(first, last, 0).map(Spot::Net).collect()
            }
            _ => Arc::default(),
        },
    }
}

/// A rule and the policy that it is of.
pub(super) type Of<'a> = (&'a PolicyName, &'a Rule);

/// What makes another program of one.
#[derive(Debug, Default)]
pub(super) struct Changes<'a> {
    pub(super) gone: Vec<Of<'a>>,
    pub(super) came: Vec<Of<'a>>,
    /// Peers that may stand for others now.
    pub(super) moved: Vec<Peer>,
}

impl Program {
    pub(super) fn named(name: String) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// What it is after these changes: the same as if it were made of all rules at once. `None`:
    /// they don't concern it.
    pub(super) fn changed(
        &self,
        tenant: &TenantFact,
        direction: Direction,
        changes: Changes<'_>,
    ) -> Option<Self> {
        let mut changing = Changing {
            tenant,
            program: self.clone(),
            touched: BTreeSet::new(),
            changed: false,
        };
        let concerned = |(_, rule): &Of<'_>| rule.spec.direction == direction;
        for rule in changes.gone.into_iter().filter(concerned) {
            changing.remove(rule);
        }
        for peer in changes.moved {
            changing.see_again(peer);
        }
        for rule in changes.came.into_iter().filter(concerned) {
            changing.add(rule);
        }
        changing.changed.then(|| changing.done())
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The best rule for a connection with a peer.
    pub fn find(
        &self,
        (group, address): (GroupId, Ipv4Addr),
        protocol: Protocol,
        port: u16,
    ) -> Option<Value> {
        let nets = self.lengths().filter_map(|length| {
            let net = Ipv4Net::new(address, length).ok()?;
            Some(Spot::Net(net.trunc()))
        });
        let spots = [Spot::Group(group)].into_iter().chain(nets);
        let lines = spots
            .chain([Spot::Anybody])
            .filter_map(|it| self.lines.get(&it));
        lines.fold(None, |best, line| better(best, line.find(protocol, port)))
    }

    /// The levels that its rules have.
    pub fn levels(&self) -> impl Iterator<Item = u8> {
        self.levels.keys().copied()
    }

    /// The lengths of the prefixes that its rules are about, the longest first.
    pub fn lengths(&self) -> impl Iterator<Item = u8> {
        self.lengths.keys().rev().copied()
    }
}

/// A program on which rules come and go; lines are made at the end.
struct Changing<'a> {
    tenant: &'a TenantFact,
    program: Program,
    touched: BTreeSet<Spot>,
    changed: bool,
}

impl Changing<'_> {
    fn remove(&mut self, (policy, rule): Of<'_>) {
        self.changed = true;
        let ranked = ranked(policy, rule);
        self.program.rules.remove(&rule.number);
        count(&mut self.program.levels, ranked.value.level(), -1);
        let Some(about) = self.program.peers.get_mut(&rule.spec.peer) else {
            return;
        };
        about.rules.remove(&ranked);
        let spots = Arc::clone(&about.spots);
        if about.rules.is_empty() {
            self.program.peers.remove(&rule.spec.peer);
        }
        self.go(&ranked, &spots);
    }

    fn add(&mut self, (policy, rule): Of<'_>) {
        self.changed = true;
        let ranked = ranked(policy, rule);
        let peer = &rule.spec.peer;
        let name = (policy.clone(), rule.id.clone());
        self.program.rules.insert(rule.number, name);
        count(&mut self.program.levels, ranked.value.level(), 1);
        let about = self.program.peers.entry(peer.clone());
        let about = about.or_insert_with(|| About {
            spots: resolve(self.tenant, peer.as_ref()),
            rules: OrdSet::new(),
        });
        about.rules.insert(Arc::clone(&ranked));
        let spots = Arc::clone(&about.spots);
        self.come(&ranked, &spots);
    }

    /// What is said about a peer goes with it, when it stands for others now.
    fn see_again(&mut self, peer: Peer) {
        let now = resolve(self.tenant, Some(&peer));
        let Some(about) = self.program.peers.get_mut(&Some(peer)) else {
            return;
        };
        if about.spots == now {
            return;
        }
        self.changed = true;
        let before = std::mem::replace(&mut about.spots, Arc::clone(&now));
        for rule in about.rules.clone() {
            self.go(&rule, &before);
            self.come(&rule, &now);
        }
    }

    fn go(&mut self, rule: &Arc<Ranked>, spots: &[Spot]) {
        for spot in spots {
            if let Some(rules) = self.program.at.get_mut(spot) {
                rules.remove(rule);
            }
            self.touched.insert(*spot);
        }
    }

    fn come(&mut self, rule: &Arc<Ranked>, spots: &[Spot]) {
        for spot in spots {
            let rules = self.program.at.entry(*spot).or_default();
            rules.insert(Arc::clone(rule));
            self.touched.insert(*spot);
        }
    }

    fn done(mut self) -> Program {
        for spot in self.touched {
            let rules = self.program.at.get(&spot).filter(|it| !it.is_empty());
            let by = match rules {
                Some(rules) => {
                    let line = Line::new(rules.iter().map(|rule| &**rule));
                    let before = self.program.lines.insert(spot, line.into());
                    isize::from(before.is_none())
                }
                None => {
                    self.program.at.remove(&spot);
                    let before = self.program.lines.remove(&spot);
                    -isize::from(before.is_some())
                }
            };
            if let Spot::Net(net) = spot {
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
