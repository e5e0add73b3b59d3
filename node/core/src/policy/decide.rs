//! Decides about a new connection by the same programs that the kernel evaluates.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::node::{Flow, Trace, TraceEnd};
use bus_schema::policy::{Action, Direction};
use bus_schema::{GroupId, GroupName};

use super::Cache;
use crate::projection::TenantFact;

/// The inputs of a decision, besides the flow.
#[derive(Debug)]
pub struct Deciding<'a> {
    pub tenant: &'a TenantFact,
    pub from: &'a End,
    pub to: &'a End,
}

/// The owner of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// An endpoint, perhaps in a group.
    Endpoint(Option<GroupName>),
    /// An address in no subnet of the tenant: its endpoints reach it through their node.
    World,
    /// No known endpoint.
    Unknown,
}

/// Evaluates the rules of both ends; the route is left out.
pub fn decide(of: &Deciding<'_>, flow: &Flow, cache: &mut Cache) -> Trace {
    let closed = |reason: String| Trace {
        allowed: false,
        ends: Vec::new(),
        closed: Some(reason),
        route: Vec::new(),
        translation: None,
    };
    if let Some(reason) = of.tenant.closed_by_newer(None) {
        return closed(reason);
    }
    let both = [(of.from, flow.from), (of.to, flow.to)];
    for (end, address) in both {
        match end {
            End::Unknown => return closed(format!("no endpoint has the address {address}")),
            End::Endpoint(Some(group)) if !of.tenant.groups.contains_key(group) => {
                return closed(format!("group {group} doesn't exist any more"));
            }
            End::Endpoint(group) => {
                if let Some(reason) = of.tenant.closed_by_newer(group.as_ref()) {
                    return closed(reason);
                }
            }
            End::World => {}
        }
    }
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (flow.from, flow.to) else {
        return closed("IPv6 isn't carried".to_owned());
    };
    let id = |end: &End| match end {
        End::Endpoint(group) => id(of.tenant, group.as_ref()).unwrap_or(NO_GROUP),
        End::World => GroupId::WORLD,
        End::Unknown => NO_GROUP,
    };
    let mut ends = Vec::new();
    for (direction, own, peer) in [
        (Direction::Out, of.from, (id(of.to), destination)),
        (Direction::In, of.to, (id(of.from), source)),
    ] {
        if let End::Endpoint(group) = own {
            let side = (direction, group.as_ref(), peer);
            ends.push(decide_end(of.tenant, flow, side, cache));
        }
    }
    Trace {
        allowed: ends.iter().all(|end| end.action == Action::Allow),
        ends,
        closed: None,
        route: Vec::new(),
        translation: None,
    }
}

/// Whether the rules let a member of the group, or of none, send a connection to an address that no
/// endpoint has.
pub fn may_leave(
    tenant: &TenantFact,
    group: Option<&GroupName>,
    flow: &Flow,
    cache: &mut Cache,
) -> bool {
    let end = decide_leaving(tenant, group, flow, cache);
    end.is_some_and(|end| end.action == Action::Allow)
}

/// The verdict of the `out` rules on a connection of a member of the group, or of none, to an address that
/// no endpoint has; `None` if the group may open none.
pub fn decide_leaving(
    tenant: &TenantFact,
    group: Option<&GroupName>,
    flow: &Flow,
    cache: &mut Cache,
) -> Option<TraceEnd> {
    if id(tenant, group).is_none() || tenant.closed_by_newer(group).is_some() {
        return None;
    }
    let peer = match tenant.has_subnet_around(flow.to) {
        true => NO_GROUP,
        false => GroupId::WORLD,
    };
    // Peers are IPv4 addresses: to an IPv6 address rules about any peer apply.
    let to = match flow.to {
        IpAddr::V4(to) => to,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let side = (Direction::Out, group, (peer, to));
    Some(decide_end(tenant, flow, side, cache))
}

/// The id that no group has.
const NO_GROUP: GroupId = GroupId(0);

fn id(tenant: &TenantFact, group: Option<&GroupName>) -> Option<GroupId> {
    match group {
        Some(name) => tenant.groups.get(name).map(|group| group.spec.id),
        None => Some(GroupId::UNGROUPED),
    }
}

type Side<'a> = (Direction, Option<&'a GroupName>, (GroupId, Ipv4Addr));

fn decide_end(tenant: &TenantFact, flow: &Flow, side: Side<'_>, cache: &mut Cache) -> TraceEnd {
    let (direction, group, peer) = side;
    let fact = group.and_then(|name| tenant.groups.get(name));
    let policies = fact.map(|fact| fact.spec.policies.as_slice());
    let program = cache.program(
        (&flow.tenant, tenant),
        policies.unwrap_or_default(),
        direction,
    );
    let port = flow.port.unwrap_or_default();
    let found = program.best_rule(peer, flow.protocol, port);
    TraceEnd {
        direction,
        group: group.cloned(),
        action: found.map_or(Action::Allow, super::Value::action),
        rule: found.and_then(|value| program.rules.get(&value.number()).cloned()),
    }
}
