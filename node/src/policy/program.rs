//! One direction of all of a group's policies.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bus_schema::policy::{Direction, Peer, Protocol, Rule};
use bus_schema::{GroupId, PolicyName, RuleId};
use imbl::OrdMap;
use ipnet::IpNet;

use super::addresses::{Addresses, Interval, Listed};
use super::{Line, Match, Value, better};
use crate::projection::TenantFact;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Program {
    pub groups: BTreeMap<GroupId, Arc<Line>>,
    pub addresses: Addresses,
    pub anybody: Line,
    /// Every rule in it, by its number.
    pub rules: BTreeMap<u32, (PolicyName, RuleId)>,
}

/// Whom a named peer stands for at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Resolved {
    Group(GroupId),
    Addresses(Vec<Interval>),
    /// It isn't there: the rule is about nobody.
    Nobody,
}

pub(super) fn resolve(tenant: &TenantFact, peer: &Peer) -> Resolved {
    match peer {
        Peer::Group { group } => match tenant.groups.get(group) {
            Some(group) => Resolved::Group(group.spec.id),
            None => Resolved::Nobody,
        },
        Peer::Network { network } => match tenant.networks.get(network) {
            Some(network) => {
                let subnets = network.spec.pools().filter_map(|pool| match pool.subnet {
                    IpNet::V4(net) => Some((net.network(), net.broadcast())),
                    IpNet::V6(_) => None,
                });
                Resolved::Addresses(subnets.collect())
            }
            None => Resolved::Nobody,
        },
        Peer::Addresses { range } => match (range.first, range.last) {
            (std::net::IpAddr::V4(first), std::net::IpAddr::V4(last)) => {
                Resolved::Addresses(vec![(first, last)])
            }
            _ => Resolved::Nobody,
        },
    }
}

impl Program {
    /// Merges the policies' rules of one direction.
    pub(super) fn new(
        policies: &[(PolicyName, OrdMap<RuleId, Rule>)],
        direction: Direction,
        resolved: &BTreeMap<Peer, Resolved>,
    ) -> Self {
        let all = policies
            .iter()
            .flat_map(|(policy, rules)| rules.values().map(move |rule| (policy, rule)));
        let mut merged: Vec<_> = all
            .filter(|(_, rule)| rule.spec.direction == direction)
            .map(|(policy, rule)| {
                let spec = &rule.spec;
                let value = Value::new(spec.priority, spec.action, rule.number);
                (value, policy, rule)
            })
            .collect();
        merged.sort_by(
            |(value, policy, rule), (other_value, other_policy, other)| {
                let level = value.level().cmp(&other_value.level());
                level
                    .then_with(|| rule.id.precedence(&other.id))
                    .then_with(|| policy.cmp(other_policy))
            },
        );

        let mut groups: BTreeMap<GroupId, Vec<Match<'_>>> = BTreeMap::new();
        let (mut listed, mut anybody) = (Vec::new(), Vec::new());
        for (value, _, rule) in &merged {
            let spec = &rule.spec;
            let matched = Match {
                value: *value,
                protocol: spec.protocol,
                ports: &spec.ports,
            };
            match spec.peer.as_ref().map(|peer| resolved.get(peer)) {
                None => anybody.push(matched),
                Some(Some(Resolved::Group(id))) => groups.entry(*id).or_default().push(matched),
                Some(Some(Resolved::Addresses(ranges))) => listed.push(Listed {
                    ranges: ranges.clone(),
                    protocol: spec.protocol,
                    ports: spec.ports.clone(),
                    value: *value,
                }),
                Some(None | Some(Resolved::Nobody)) => {}
            }
        }
        let mut shared: BTreeMap<Line, Arc<Line>> = BTreeMap::new();
        let groups = groups.into_iter().map(|(id, rules)| {
            let line = Line::new(rules);
            let line = shared.entry(line.clone()).or_insert_with(|| line.into());
            (id, Arc::clone(line))
        });
        Self {
            groups: groups.collect(),
            addresses: Addresses::new(listed),
            anybody: Line::new(anybody),
            rules: merged
                .iter()
                .map(|(_, policy, rule)| (rule.number, ((*policy).clone(), rule.id.clone())))
                .collect(),
        }
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
        let by_group = self.groups.get(&group);
        let by_group = by_group.and_then(|line| line.find(protocol, port));
        let by_address = self.addresses.find(address, protocol, port);
        let by_anybody = self.anybody.find(protocol, port);
        better(better(by_group, by_address), by_anybody)
    }

    /// The levels that it decides with.
    pub fn levels(&self) -> BTreeSet<u8> {
        let groups = self.groups.values().flat_map(|line| line.values());
        let addresses: Vec<Value> = match &self.addresses {
            Addresses::Classes(classes) => {
                classes.iter().flat_map(|(_, line)| line.values()).collect()
            }
            Addresses::List(rules) => rules.iter().map(|rule| rule.value).collect(),
        };
        let values = groups.chain(addresses).chain(self.anybody.values());
        values.map(Value::level).collect()
    }
}
