//! The text of an event in `netctl events`.

use bus_schema::{AggregateId, Egress, EndpointEvent, Event, PolicyName};

use super::super::{pool, rule};

/// The pool of a lease event: `TENANT:NETWORK`, or `TENANT:NETWORK/GROUP`.
fn pool_of(event: &Event) -> String {
    let Some(AggregateId::Leases(pool)) = event.aggregate() else {
        return String::new();
    };
    let network = format!("{}:{}", pool.tenant, pool.network);
    match pool.group {
        None => network,
        Some(group) => format!("{network}/{group}"),
    }
}

pub(super) fn of_event(event: &Event) -> String {
    match event {
        Event::ClusterCreated(e) => format!("cluster {}", e.cluster),
        Event::ClusterChanged(e) => {
            let (first, last) = e.settings.vni_range;
            format!("packet tags {first}-{last}")
        }
        Event::Barrier | Event::Unknown => String::new(),
        Event::LogAccepted(e) => {
            let ahead = e
                .ahead
                .iter()
                .map(|(node, it)| format!("{node} had applied {it}"));
            format!(
                "that ended at {}: {}",
                e.end,
                ahead.collect::<Vec<_>>().join(", ")
            )
        }
        Event::TenantCreated(e) => e.tenant.to_string(),
        Event::TenantRemoved(e) => e.tenant.to_string(),
        Event::TenantOpened(e) => e.tenant.to_string(),
        Event::TenantClosed(e) => e.tenant.to_string(),
        Event::NodeJoined(e) => format!("{} VTEP {} machine {}", e.node, e.vtep, e.machine),
        Event::NodeRemoved(e) if e.lost => format!("{} as lost", e.node),
        Event::NodeRemoved(e) => e.node.to_string(),
        Event::NodeDrained(e) => format!("{} takes no new endpoints", e.node),
        Event::NodeUncordoned(e) => format!("{} takes new endpoints again", e.node),
        Event::NodeLeft(e) => format!("{} takes no new endpoints and withdrew its names", e.node),
        Event::VniAssigned(e) => format!("{} to {}:{}", e.vni, e.tenant, e.network),
        Event::VniReleased(e) => format!("{} of {}:{}", e.vni, e.tenant, e.network),
        Event::NetworkCreated(e) => {
            let spec = &e.network;
            let pools: Vec<String> = spec
                .pools()
                .map(|p| format!("subnet {} gateway {}", pool::show(p), p.gateway))
                .collect();
            let name = format!("{}:{}", spec.tenant, spec.name);
            let out = out(spec.egress, spec.allow_metadata.then_some(true));
            format!("{name} {} packet tag {}{out}", pools.join(" "), spec.vni)
        }
        Event::NetworkUpdated(e) => {
            let settings = limit_of(e.max_connections) + &out(e.egress, e.allow_metadata);
            format!("{}:{}{settings}", e.tenant, e.network)
        }
        Event::TenantUpdated(e) => {
            let egress = e.egress.map(|it| format!(" new networks: egress {it}"));
            let egress = egress.unwrap_or_default();
            format!("{}{}{egress}", e.tenant, limit_of(e.max_connections))
        }
        Event::NetworkClosing(e) => format!("{}:{}", e.tenant, e.network),
        Event::NetworkReopened(e) => format!("{}:{}", e.tenant, e.network),
        Event::NetworkRemoved(e) if e.forced => format!("{}:{} by force", e.tenant, e.network),
        Event::NetworkRemoved(e) => format!("{}:{}", e.tenant, e.network),
        Event::GroupCreated(e) => {
            let spec = &e.group;
            let name = format!("{}:{} in {}", spec.tenant, spec.name, spec.network);
            let pool = spec.pool.map(|range| format!(" pool {range}"));
            let pool = pool.unwrap_or_default();
            format!(
                "{name} id {}{pool}{}",
                spec.id.0,
                policies_of(&spec.policies)
            )
        }
        Event::GroupUpdated(e) => format!("{}:{}{}", e.tenant, e.group, policies_of(&e.policies)),
        Event::GroupClosing(e) => format!("{}:{}", e.tenant, e.group),
        Event::GroupReopened(e) => format!("{}:{}", e.tenant, e.group),
        Event::GroupRemoved(e) if e.forced => format!("{}:{} by force", e.tenant, e.group),
        Event::GroupRemoved(e) => format!("{}:{}", e.tenant, e.group),
        Event::PolicyCreated(e) => format!("{}:{}", e.tenant, e.policy),
        Event::PolicyRemoved(e) => format!("{}:{}", e.tenant, e.policy),
        Event::PolicyApplied(e) => format!("{}:{} to connections", e.tenant, e.policy),
        Event::RuleAdded(e) => {
            let rule = rule::line(&e.rule.spec);
            format!("{}:{} {}: {rule}", e.tenant, e.policy, e.rule.id)
        }
        Event::RuleRemoved(e) => format!("{}:{} {}", e.tenant, e.policy, e.rule),
        Event::LeasesOpened(_)
        | Event::LeasesClosing(_)
        | Event::LeasesReopened(_)
        | Event::LeasesClosed(_) => pool_of(event),
        Event::BlockLeased(e) => format!("{} {} to {}", pool_of(event), e.block, e.node),
        Event::BlockReturned(e) => format!("{} {} by {}", pool_of(event), e.block, e.node),
        Event::PoolReserved(e) => format!("{}:{} {} for {}", e.tenant, e.network, e.range, e.group),
        Event::PoolReleased(e) => format!("{}:{} of {}", e.tenant, e.network, e.group),
        Event::BlockCeded(e) => {
            let address = format!("{} {}", pool_of(event), e.address);
            format!("{address} by {} to {}", e.from, e.to)
        }
        Event::BlockRevoked(e) => {
            format!("{}:{} {} from {}", e.tenant, e.network, e.block, e.node)
        }
    }
}

/// The way out, and the access to metadata services.
fn out(egress: Option<Egress>, allow_metadata: Option<bool>) -> String {
    let egress = egress.map(|it| format!(" egress {it}"));
    let metadata = match allow_metadata {
        None => "",
        Some(true) => " with metadata services",
        Some(false) => " without metadata services",
    };
    egress.unwrap_or_default() + metadata
}

fn limit_of(connections: Option<u32>) -> String {
    match connections {
        None => String::new(),
        Some(0) => " default number of connections".to_owned(),
        Some(max) => format!(" at most {max} connections"),
    }
}

fn policies_of(policies: &[PolicyName]) -> String {
    let names: Vec<&str> = policies.iter().map(PolicyName::as_str).collect();
    match names.as_slice() {
        [] => " under no policy".to_owned(),
        names => format!(" under {}", names.join(",")),
    }
}

pub(super) fn of_endpoint_event(event: &EndpointEvent) -> String {
    match event {
        EndpointEvent::Up { endpoint: e, .. } => {
            let addresses: Vec<String> = e.addresses().map(|a| a.to_string()).collect();
            let name = e.name.as_deref().unwrap_or(e.id.as_str());
            let addresses = addresses.join(",");
            let group = e.group.as_ref().map(|g| format!("{g}."));
            format!(
                "{}:{}{} {name} {addresses} on {}",
                e.tenant,
                group.unwrap_or_default(),
                e.network,
                e.node
            )
        }
        EndpointEvent::Down {
            tenant,
            network,
            node,
            id,
            ..
        } => format!("{tenant}:{network} {id} on {node}"),
        EndpointEvent::Healed {
            node, kinds, last, ..
        } => {
            let kinds = kinds.iter().map(|(kind, count)| format!("{kind} {count}"));
            let kinds: Vec<String> = kinds.collect();
            format!("{node}: {}; last: {}", kinds.join(", "), last.what)
        }
        EndpointEvent::Unknown => String::new(),
    }
}
