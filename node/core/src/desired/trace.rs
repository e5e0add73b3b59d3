//! Traces a connection: the decision about it and the route of its packets, in words of `ip`.

use std::net::IpAddr;

use bus_schema::node::{DomainKind, Flow, Trace};
use bus_schema::{Endpoint, GroupId, NodeName, TenantName};

use super::{domain_name, trace_outside, vxlan_name};
use crate::policy::{Cache, Deciding, End, decide};
use crate::projection::{EndpointsView, Projection};

/// Decides about a connection to an endpoint of `me`, or of one of `me` to an address outside of the
/// tenant; an error names the reason why `me` can't.
pub fn trace(
    facts: &Projection,
    view: &EndpointsView,
    (me, kind): (&NodeName, DomainKind),
    flow: &Flow,
) -> Result<Trace, String> {
    let end = |address: IpAddr| {
        let found = view.at(&flow.tenant, address);
        found.ok_or_else(|| format!("no endpoint of tenant {} has {address}", flow.tenant))
    };
    let from = end(flow.from)?;
    if trace_outside::leads_outside(facts, view, flow) {
        return trace_outside::trace(facts, from, (me, kind), flow);
    }
    let to = end(flow.to)?;
    if to.node != *me {
        let node = &to.node;
        return Err(format!(
            "{} is on node {node}, which decides: ask it",
            flow.to
        ));
    }
    let Some(tenant) = facts.tenants.get(&flow.tenant) else {
        return Err(format!("it doesn't know tenant {} yet", flow.tenant));
    };
    let deciding = Deciding {
        tenant,
        from: &End::Endpoint(from.group.clone()),
        to: &End::Endpoint(to.group.clone()),
    };
    let mut trace = decide(&deciding, flow, &mut Cache::default());
    let shut = [from, to].into_iter().find_map(|end| end.closed.clone());
    if let Some(reason) = shut {
        trace.allowed = false;
        trace.closed.get_or_insert(reason);
    }
    trace.route = route(facts, (from, to), kind, flow);
    Ok(trace)
}

fn route(
    facts: &Projection,
    (from, to): (&Endpoint, &Endpoint),
    kind: DomainKind,
    flow: &Flow,
) -> Vec<String> {
    let id = stamp(facts, &flow.tenant, from);
    let mut route = vec![format!(
        "node {}: from {} iif {} mark {:#x}",
        from.node, flow.from, from.interface, id.0
    )];
    if from.node != to.node {
        let network = facts.network(&to.tenant, &to.network);
        let block = network.and_then(|network| network.block_of(flow.to));
        if let (Some(network), Some((block, _))) = (network, block) {
            let device = vxlan_name(network.spec.vni);
            route.push(format!("{block} via {} dev {device} onlink", to.vtep));
            route.push(format!(
                "vxlan id {} dstport {} local {} remote {} gbp {:#x}",
                network.spec.vni, facts.settings.vxlan_port, from.vtep, to.vtep, id.0
            ));
        }
    }
    let domain = domain_name(kind, &flow.tenant);
    route.push(format!(
        "node {}: {} dev {} in {domain}",
        to.node, flow.to, to.interface
    ));
    route
}

pub(super) fn stamp(facts: &Projection, tenant: &TenantName, endpoint: &Endpoint) -> GroupId {
    let group = endpoint.group.as_ref();
    let fact = group.and_then(|group| facts.group_fact(tenant, group));
    fact.map_or(GroupId::UNGROUPED, |fact| fact.spec.id)
}
