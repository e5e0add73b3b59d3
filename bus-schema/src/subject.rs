//! Subjects and streams.
//!
//! ```text
//! contiv.log._cluster.{cluster,accepted}         the log (stream LOG): events that span tenants
//! contiv.log._cluster.{tenant,node,vni}.<name>
//! contiv.log._barrier                            barriers, outside of every fence
//! contiv.log.<tenant>.intent.<kind>.<name>       a tenant's intent
//! contiv.log.<tenant>.lease.<network>[.<group>]  a network's blocks, or a group's pool's
//! contiv.endpoint.<tenant>.<node>.<id>           endpoints (stream ENDPOINTS)
//! contiv.endpoint._cluster.<node>.healed         a node's repairs (in ENDPOINTS, too)
//! contiv.events.<the subject behind contiv.>     both, republished after commit: the public tail
//! contiv.api.v1.<noun>.<verb>                    requests to netmaster
//! contiv.node.<node>.<verb>                      requests to a node
//! contiv.status.<node>                           a node's status
//! ```

use crate::{
    AggregateId, Command, Endpoint, Event, GroupName, NetworkName, NodeName, PolicyName, PoolKey,
    Query, TenantName,
};

/// The stream of the log.
pub const LOG: &str = "LOG";
/// The stream of endpoints, last message per subject.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// The messages of ENDPOINTS, kept by age.
pub const HISTORY: &str = "HISTORY";

/// All streams of a cluster.
pub const STREAMS: [&str; 3] = [LOG, ENDPOINTS, HISTORY];

/// The message for a bus without a stream of this name.
pub fn missing(stream: &str) -> String {
    match stream {
        LOG => "the stream LOG doesn't exist on this bus: `netmaster init` starts a cluster; where there was one, restore its stream from a backup instead".to_owned(),
        _ => format!("the stream {stream} doesn't exist on this bus: `netmaster init` creates it again and changes nothing else"),
    }
}

/// The message for a bus that answers, but acknowledges no write. (Tried with
/// nats-server 2.15 on a full disk: it answers reads, never answers writes, and goes on so after
/// room was made, until it is restarted.)
pub const NOT_WRITTEN: &str = "nats-server answers but acknowledges no write: it has no majority of its servers, or its disk is full or broken (its log says `write error`); make room, then restart nats-server: it writes nothing before";

/// The message for a bus without JetStream. (nats-server 2.15 switches it
/// off when it can't write a stream's own files.)
pub const NO_JETSTREAM: &str = "nats-server runs without JetStream: start it with this project's nats.conf, or with -js (--jetstream); where it ran with it before, its disk is full or broken: make room, then restart nats-server";

pub const LOG_ALL: &str = "contiv.log.>";
pub const ENDPOINT_ALL: &str = "contiv.endpoint.>";
pub const EVENTS_ALL: &str = "contiv.events.>";
pub const STATUS_ALL: &str = "contiv.status.*";
/// The streams republish committed messages here; the rest of the subject follows.
pub const EVENTS_LOG: &str = "contiv.events.log.>";
pub const EVENTS_ENDPOINT: &str = "contiv.events.endpoint.>";
/// Prefix of the API; noun and verb follow.
pub const API: &str = "contiv.api.v1";
/// Name of the NATS service, and of the queue group of its members.
pub const SERVICE: &str = "netmaster";

/// The subject of barriers. No aggregate's filter matches it, so a barrier doesn't refuse an append.
const BARRIER: &str = "contiv.log._barrier";

/// It replaces the tenant in the subjects of events that span tenants. No tenant has this name: names
/// start with a letter or a digit.
const CLUSTER: &str = "_cluster";

/// The subject of an event; `None` for an unknown one.
pub fn of_event(event: &Event) -> Option<String> {
    Some(match event {
        Event::ClusterCreated(_) | Event::ClusterChanged(_) => {
            format!("contiv.log.{CLUSTER}.cluster")
        }
        Event::Barrier => BARRIER.to_owned(),
        Event::LogAccepted(_) => format!("contiv.log.{CLUSTER}.accepted"),
        Event::TenantCreated(e) => format!("contiv.log.{CLUSTER}.tenant.{}", e.tenant),
        Event::TenantRemoved(e) => format!("contiv.log.{CLUSTER}.tenant.{}", e.tenant),
        Event::NodeJoined(e) => format!("contiv.log.{CLUSTER}.node.{}", e.node),
        Event::NodeRemoved(e) => format!("contiv.log.{CLUSTER}.node.{}", e.node),
        Event::NodeDrained(e) => format!("contiv.log.{CLUSTER}.node.{}", e.node),
        Event::NodeUncordoned(e) => format!("contiv.log.{CLUSTER}.node.{}", e.node),
        Event::NodeLeft(e) => format!("contiv.log.{CLUSTER}.node.{}", e.node),
        Event::VniAssigned(e) => format!("contiv.log.{CLUSTER}.vni.{}", e.vni),
        Event::VniReleased(e) => format!("contiv.log.{CLUSTER}.vni.{}", e.vni),

        Event::TenantOpened(e) => intent(&e.tenant, "tenant", &e.tenant),
        Event::TenantClosed(e) => intent(&e.tenant, "tenant", &e.tenant),
        Event::TenantUpdated(e) => intent(&e.tenant, "tenant", &e.tenant),
        Event::NetworkCreated(e) => intent(&e.network.tenant, "network", &e.network.name),
        Event::NetworkUpdated(e) => intent(&e.tenant, "network", &e.network),
        Event::NetworkClosing(e) => intent(&e.tenant, "network", &e.network),
        Event::NetworkReopened(e) => intent(&e.tenant, "network", &e.network),
        Event::NetworkRemoved(e) => intent(&e.tenant, "network", &e.network),

        Event::GroupCreated(e) => intent(&e.group.tenant, "group", &e.group.name),
        Event::GroupUpdated(e) => intent(&e.tenant, "group", &e.group),
        Event::GroupClosing(e) => intent(&e.tenant, "group", &e.group),
        Event::GroupReopened(e) => intent(&e.tenant, "group", &e.group),
        Event::GroupRemoved(e) => intent(&e.tenant, "group", &e.group),
        Event::PolicyCreated(e) => intent(&e.tenant, "policy", &e.policy),
        Event::PolicyRemoved(e) => intent(&e.tenant, "policy", &e.policy),
        Event::PolicyApplied(e) => intent(&e.tenant, "policy", &e.policy),
        Event::RuleAdded(e) => intent(&e.tenant, "policy", &e.policy),
        Event::RuleRemoved(e) => intent(&e.tenant, "policy", &e.policy),

        Event::LeasesOpened(e) => lease(&e.tenant, &e.network, e.group.as_ref()),
        Event::LeasesClosing(e) => lease(&e.tenant, &e.network, e.group.as_ref()),
        Event::LeasesReopened(e) => lease(&e.tenant, &e.network, e.group.as_ref()),
        Event::LeasesClosed(e) => lease(&e.tenant, &e.network, e.group.as_ref()),
        Event::BlockLeased(e) => lease(&e.tenant, &e.network, e.group.as_ref()),
        Event::BlockReturned(e) => lease(&e.tenant, &e.network, e.group.as_ref()),
        Event::BlockCeded(e) => lease(&e.tenant, &e.network, e.group.as_ref()),
        Event::BlockRevoked(e) => lease(&e.tenant, &e.network, e.group.as_ref()),
        Event::PoolReserved(e) => lease(&e.tenant, &e.network, None),
        Event::PoolReleased(e) => lease(&e.tenant, &e.network, None),

        Event::Unknown => return None,
    })
}

fn intent(tenant: &TenantName, kind: &str, name: &dyn std::fmt::Display) -> String {
    format!("contiv.log.{tenant}.intent.{kind}.{name}")
}

fn lease(tenant: &TenantName, network: &NetworkName, group: Option<&GroupName>) -> String {
    match group {
        None => format!("contiv.log.{tenant}.lease.{network}"),
        Some(group) => format!("contiv.log.{tenant}.lease.{network}.{group}"),
    }
}

/// The subjects that an aggregate owns: its fold reads them, and its appends are fenced on them.
pub fn of_aggregate(aggregate: &AggregateId) -> String {
    match aggregate {
        AggregateId::Cluster => format!("contiv.log.{CLUSTER}.>"),
        AggregateId::Tenant(tenant) => format!("contiv.log.{tenant}.intent.>"),
        AggregateId::Leases(pool) => lease(&pool.tenant, &pool.network, pool.group.as_ref()),
    }
}

/// The aggregate of a subject of the log, also if this build can't read the event; `None`: the subject
/// isn't Contiv's.
pub fn aggregate_of(subject: &str) -> Option<AggregateId> {
    let tokens: Vec<&str> = subject.strip_prefix("contiv.log.")?.split('.').collect();
    let pool = |tenant: &str, network: &str| {
        Some(PoolKey::of_network(
            &tenant.parse().ok()?,
            &network.parse().ok()?,
        ))
    };
    Some(match tokens[..] {
        [CLUSTER, _, ..] => AggregateId::Cluster,
        [tenant, "intent", _, ..] => AggregateId::Tenant(tenant.parse().ok()?),
        [tenant, "lease", network] => AggregateId::Leases(pool(tenant, network)?),
        [tenant, "lease", network, group] => AggregateId::Leases(PoolKey {
            group: Some(group.parse().ok()?),
            ..pool(tenant, network)?
        }),
        _ => return None,
    })
}

/// The tenant that a subject of the log names; `None`: it spans tenants, or isn't Contiv's.
pub fn tenant_of(subject: &str) -> Option<TenantName> {
    let token = subject.strip_prefix("contiv.log.")?.split('.').next()?;
    token.parse().ok()
}

/// The objects that an event may concern, by its subject alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Concerned {
    Group(TenantName, GroupName),
    Policy(TenantName, PolicyName),
    /// Anything of the tenant.
    Tenant(TenantName),
    /// Anything.
    All,
}

/// The objects that an event on this subject of the log may concern.
pub fn concerned(subject: &str) -> Concerned {
    let Some(tenant) = tenant_of(subject) else {
        return Concerned::All;
    };
    let tokens: Vec<&str> = subject.split('.').skip(3).collect();
    let of = || tenant.clone();
    let found = match tokens[..] {
        ["intent", "group", name] => name.parse().map(|it| Concerned::Group(of(), it)).ok(),
        ["intent", "policy", name] => name.parse().map(|it| Concerned::Policy(of(), it)).ok(),
        _ => None,
    };
    found.unwrap_or(Concerned::Tenant(tenant))
}

pub fn of_endpoint(endpoint: &Endpoint) -> String {
    endpoint_of(&endpoint.tenant, &endpoint.node, &endpoint.id)
}

pub fn endpoint_of(tenant: &TenantName, node: &NodeName, id: &crate::EndpointId) -> String {
    format!("contiv.endpoint.{tenant}.{node}.{id}")
}

/// The subjects on which one node's endpoints are published.
pub fn endpoints_of(node: &NodeName) -> String {
    format!("contiv.endpoint.*.{node}.*")
}

/// The subject on which a node publishes its repairs.
pub fn healed_by(node: &NodeName) -> String {
    format!("contiv.endpoint.{CLUSTER}.{node}.healed")
}

pub fn of_command(command: &Command) -> String {
    let (noun, verb) = command.verb();
    format!("{API}.{noun}.{verb}")
}

pub fn of_query(query: &Query) -> String {
    let (noun, verb) = query.verb();
    format!("{API}.{noun}.{verb}")
}

/// The subject of a request to a node; see [`crate::node::NodeRequest::verb`].
pub fn of_node(node: &NodeName, verb: &str) -> String {
    format!("contiv.node.{node}.{verb}")
}

pub fn of_status(node: &NodeName) -> String {
    format!("contiv.status.{node}")
}

/// The node of a status subject; `None`: the subject isn't Contiv's.
pub fn node_of_status(subject: &str) -> Option<NodeName> {
    subject.strip_prefix("contiv.status.")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects_name_their_tenant() {
        let tenant = tenant_of("contiv.log.blue.intent.network.web");
        assert_eq!(tenant.map(|t| t.to_string()).as_deref(), Some("blue"));
        assert_eq!(tenant_of("contiv.log._cluster.vni.7"), None);
        assert_eq!(tenant_of("something.else"), None);
    }

    #[test]
    fn subjects_name_their_aggregate() {
        let tenant: TenantName = crate::testing::name("blue");
        let (web, db) = (crate::testing::name("web"), crate::testing::name("db"));
        for aggregate in [
            AggregateId::Cluster,
            AggregateId::Tenant(tenant.clone()),
            AggregateId::Leases(PoolKey::of_network(&tenant, &web)),
            AggregateId::Leases(PoolKey::of_group(&tenant, &web, &db)),
        ] {
            let subject = of_aggregate(&aggregate).replace('>', "network.web");
            assert_eq!(aggregate_of(&subject), Some(aggregate), "{subject}");
        }
        for none in ["contiv.log.blue.lease", "contiv.log.blue.other.x", "a.b"] {
            assert_eq!(aggregate_of(none), None, "{none}");
        }
    }

    #[test]
    fn statuses_name_their_node() {
        let node = "n-1".parse().unwrap();
        assert_eq!(node_of_status(&of_status(&node)), Some(node));
        assert_eq!(node_of_status("contiv.status.a.b"), None);
        assert_eq!(node_of_status("contiv.node.n-1.status"), None);
    }

    #[test]
    fn subjects_name_the_objects_of_an_event() {
        let blue: TenantName = crate::testing::name("blue");
        let of = |rest: &str| concerned(&format!("contiv.log.blue.{rest}"));
        let web = Concerned::Group(blue.clone(), crate::testing::name("web"));
        assert_eq!(of("intent.group.web"), web);
        let p = Concerned::Policy(blue.clone(), crate::testing::name("p"));
        assert_eq!(of("intent.policy.p"), p);
        for rest in [
            "intent.network.web",
            "lease.web.db",
            "intent.group",
            "intent.group.web.more",
            "intent.group.-",
        ] {
            assert_eq!(of(rest), Concerned::Tenant(blue.clone()), "{rest}");
        }
        assert_eq!(concerned("contiv.log._cluster.vni.7"), Concerned::All);
    }
}
