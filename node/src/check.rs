//! `netplugin check`: whether this kernel takes what a node asks of it, before a node stakes
//! itself on it.
//!
//! No list of features, which would lag behind the code: a tenant's network, group, policy and
//! endpoint are programmed by the datapath itself, in a network namespace that goes away with
//! the check, and read back. Callers: `main`, and by it the unit's `ExecStartPre`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use bus_schema::node::DomainKind;
use bus_schema::policy::{
    Action, Direction, GroupSpec, PortRange, Priority, Protocol, Rule, RuleSpec,
};
use bus_schema::{
    EndpointId, GroupId, GroupName, InvalidName, MacAddr, MachineId, NetworkName, NetworkSpec,
    NodeName, PolicyName, Pool, RuleId, TenantName, Vni,
};
use imbl::OrdMap;
use ipnet::{IpNet, Ipv4Net};

use crate::endpoint::{LocalEndpoint, Locals, Owner};
use node_core::desired::{self, Params, Programs};
use node_core::projection::{GroupFact, NetworkFact, NodeFact, PolicyFact, Projection};
use node_core::reconcile::diff;
use node_datapath::{BatchError, DatapathError, Scope, Scratch};

/// Why this machine can't be a node.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error("this machine refuses {failed} of {attempted} changes that a node makes, {first}")]
    Refused {
        failed: usize,
        attempted: usize,
        /// The others mostly follow from it.
        first: String,
    },
    #[error("this kernel took the datapath and shows another one; to be done again: {0}")]
    Differs(String),
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// Programs a small cluster's domain; answers with the kind of domain that a node would have here.
/// `folder` isn't there yet, nor afterwards; network namespaces can be bound in it.
pub async fn check(folder: &Path, kind: Option<DomainKind>) -> Result<DomainKind, CheckError> {
    let scratch = Scratch::open(folder, kind).await?;
    let datapath = scratch.datapath();
    let params = Params {
        node: NodeName::new("here")?,
        kind: datapath.kind(),
        vtep: IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
        underlay_mtu: 1500,
    };
    let (facts, locals) = trial(&params)?;
    let wanted = desired::desired(&facts, &locals, &params, &mut Programs::default());
    let before = datapath.observe(&Scope::All).await?;
    let done = datapath.execute(&diff(&before, &wanted)).await;
    done.map_err(|error| refused(&error))?;
    let left = diff(&datapath.observe(&Scope::All).await?, &wanted);
    if !left.is_empty() {
        let left = left.iter().map(ToString::to_string);
        return Err(CheckError::Differs(left.collect::<Vec<_>>().join("; ")));
    }
    Ok(params.kind)
}

fn refused(error: &BatchError) -> CheckError {
    let first = error.failures.first();
    let first = first.map(|it| format!("first of all {}: {}", it.op, it.error));
    CheckError::Refused {
        failed: error.failures.len(),
        attempted: error.attempted,
        first: first.unwrap_or_default(),
    }
}

/// A network across two nodes, and in it one endpoint of a group with one rule.
fn trial(params: &Params) -> Result<(Projection, Locals), InvalidName> {
    let tenant = TenantName::new("trial")?;
    let network = NetworkName::new("net")?;
    let group = GroupName::new("web")?;
    let policy = PolicyName::new("rules")?;
    let rule = RuleId::new("1")?;
    let there = NodeName::new("there")?;
    let [subnet, ours, theirs] = [(0, 24), (0, 25), (128, 25)]
        .map(|(last, length)| Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 1, last), length));
    let address = IpAddr::V4(Ipv4Addr::new(198, 18, 1, 1));

    let mut facts = Projection::default();
    let mut node = |name: &NodeName, vtep| {
        let fact = NodeFact::new(MachineId(name.to_string()), vtep);
        facts.nodes.insert(name.clone(), fact);
    };
    node(&params.node, params.vtep);
    node(&there, IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2)));

    let of = facts.open(&tenant);
    of.networks.insert(
        network.clone(),
        NetworkFact {
            spec: NetworkSpec {
                tenant: tenant.clone(),
                name: network.clone(),
                vni: Vni(1),
                v4: Pool {
                    subnet: IpNet::V4(subnet),
                    gateway: IpAddr::V4(Ipv4Addr::new(198, 18, 1, 254)),
                    range: None,
                },
                v6: None,
                docker_name: None,
            },
            closing: false,
            blocks: [
                (IpNet::V4(ours), params.node.clone()),
                (IpNet::V4(theirs), there),
            ]
            .into_iter()
            .collect(),
            pools: OrdMap::new(),
        },
    );
    of.groups.insert(
        group.clone(),
        GroupFact {
            spec: GroupSpec {
                tenant: tenant.clone(),
                network: network.clone(),
                name: group.clone(),
                id: GroupId(2),
                policies: [policy.clone()].into_iter().collect(),
                docker_name: None,
                pool: None,
            },
            closing: false,
            newer: false,
        },
    );
    let deny = Rule {
        id: rule.clone(),
        number: 1,
        spec: RuleSpec {
            direction: Direction::In,
            priority: Priority::DEFAULT,
            action: Action::Deny,
            protocol: Some(Protocol::TCP),
            ports: vec![PortRange {
                first: 80,
                last: 89,
            }],
            peer: None,
        },
    };
    of.policies.insert(
        policy,
        PolicyFact {
            rules: [(rule, deny)].into_iter().collect(),
            ..PolicyFact::default()
        },
    );

    let id = EndpointId::new("trial")?;
    let (host_interface, peer_interface) = desired::interface_names(&id);
    let endpoint = LocalEndpoint {
        id: id.clone(),
        tenant,
        network,
        group: Some(group),
        addresses: vec![address],
        mac: MacAddr::of_endpoint(address),
        host_interface,
        peer_interface,
        owner: Owner::Namespace {
            path: String::new(),
            interface: "eth0".to_owned(),
            cni: None,
        },
        name: None,
        aliases: Vec::new(),
        container: None,
    };
    let locals = [(id, Arc::new(endpoint))].into_iter().collect();
    Ok((facts, locals))
}
