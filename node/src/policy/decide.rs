//! What becomes of a new connection, by the same lines that the kernel walks.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::node::{Flow, Trace, TraceEnd};
use bus_schema::policy::{Action, Direction};
use bus_schema::{GroupId, GroupName};

use super::Cache;
use crate::projection::TenantFact;

/// What a decision is made of, besides the flow.
#[derive(Debug)]
pub struct Deciding<'a> {
    pub tenant: &'a TenantFact,
    /// The sender's group; absent: in none.
    pub from: Option<&'a GroupName>,
    pub to: Option<&'a GroupName>,
}

/// What the rules of both ends say; the route is left out.
pub fn decide(of: &Deciding<'_>, flow: &Flow, cache: &mut Cache) -> Trace {
    let closed = |reason: String| Trace {
        allowed: false,
        ends: Vec::new(),
        closed: Some(reason),
        route: Vec::new(),
    };
    if of.tenant.newer {
        let newer = "an event about this tenant needs a newer netplugin: upgrade this node";
        return closed(newer.to_owned());
    }
    let (Some(from), Some(to)) = (id(of.tenant, of.from), id(of.tenant, of.to)) else {
        let gone = [of.from, of.to].into_iter().flatten();
        let mut gone = gone.filter(|group| !of.tenant.groups.contains_key(*group));
        let name = gone.next().map(ToString::to_string).unwrap_or_default();
        return closed(format!("group {name} doesn't exist any more"));
    };
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (flow.from, flow.to) else {
        return closed("IPv6 isn't carried".to_owned());
    };
    let mut ends = Vec::new();
    for (direction, group, peer) in [
        (Direction::Out, of.from, (to, destination)),
        (Direction::In, of.to, (from, source)),
    ] {
        let end = say(of.tenant, flow, (direction, group, peer), cache);
        ends.push(end);
    }
    Trace {
        allowed: ends.iter().all(|end| end.action == Action::Allow),
        ends,
        closed: None,
        route: Vec::new(),
    }
}

fn id(tenant: &TenantFact, group: Option<&GroupName>) -> Option<GroupId> {
    match group {
        Some(name) => tenant.groups.get(name).map(|group| group.spec.id),
        None => Some(GroupId::UNGROUPED),
    }
}

type End<'a> = (Direction, Option<&'a GroupName>, (GroupId, Ipv4Addr));

fn say(tenant: &TenantFact, flow: &Flow, end: End<'_>, cache: &mut Cache) -> TraceEnd {
    let (direction, group, peer) = end;
    let fact = group.and_then(|name| tenant.groups.get(name));
    let policies = fact.map(|fact| fact.spec.policies.as_slice());
    let program = cache.program(
        (&flow.tenant, tenant),
        policies.unwrap_or_default(),
        direction,
    );
    let port = flow.port.unwrap_or_default();
    let found = program.find(peer, flow.protocol, port);
    TraceEnd {
        direction,
        group: group.cloned(),
        action: found.map_or(Action::Allow, super::Value::action),
        rule: found.and_then(|value| program.rules.get(&value.number()).cloned()),
    }
}
