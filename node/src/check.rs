//! `netplugin check`: tests whether this kernel has all features that a node needs.
//!
//! It uses no list of features, which would lag behind the code: the datapath itself programs a tenant's
//! network, group, policy and endpoint in a temporary network namespace and reads them back. `main`
//! calls it, also for the unit's `ExecStartPre`, and `doctor`.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus_schema::node::DomainKind;
use bus_schema::policy::{
    Action, Direction, GroupSpec, PortRange, Priority, Protocol, Rule, RuleSpec,
};
use bus_schema::{
    Egress, EndpointId, GroupId, GroupName, InvalidName, MacAddr, MachineId, NetworkName,
    NetworkSpec, NodeName, PolicyName, Pool, RuleId, TenantName, Vni,
};
use imbl::OrdMap;
use ipnet::{IpNet, Ipv4Net};

use crate::endpoint::{LocalEndpoint, Locals, Owner};
use crate::surroundings::ResolverFiles;
use crate::{mark_rules, uplinks};
use node_core::desired::{self, Params, Programs};
use node_core::projection::{GroupFact, NetworkFact, NodeFact, PolicyFact, Projection};
use node_core::reconcile::diff;
use node_core::resource::Uplink;
use node_datapath::{BatchError, Datapath, DatapathError, Options, Scope, Scratch};

/// This machine can't be a node, for one of these reasons.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    #[error("the kernel refused {failed} of {attempted} changes that a node makes; {first}")]
    Refused {
        failed: usize,
        attempted: usize,
        /// The first failure; the others mostly follow from it.
        first: String,
    },
    #[error("the kernel accepted the datapath, but reading it back differs; operations left: {0}")]
    Differs(String),
    #[error(transparent)]
    Name(#[from] InvalidName),
}

/// Programs a small cluster's domain; returns the kind of domain that a node would have here. `folder`
/// is created and removed; network namespaces must be bindable in it.
pub async fn check(folder: &Path, kind: Option<DomainKind>) -> Result<DomainKind, CheckError> {
    let scratch = Scratch::open(folder, kind).await?;
    let datapath = scratch.datapath();
    let params = Params {
        node: NodeName::new("here")?,
        kind: datapath.kind(),
        vtep: IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1)),
        underlay_mtu: 1500,
        underlay_interface: String::new(),
        uplink_pool: Uplink::DEFAULT_POOL,
        resolvers: Default::default(),
        max_connections: 65_536,
        outer_mark: None,
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

/// The warnings about networks of this host that the pool of the uplinks overlaps, and about its routing
/// rules by the packet mark, as far as they can be read.
pub async fn warnings(netns_dir: PathBuf, kind: DomainKind, uplink_pool: Ipv4Net) -> Vec<String> {
    let options = Options {
        host: None,
        netns_dir,
        kind: Some(kind),
    };
    let Ok(datapath) = Datapath::open(options).await else {
        return vec![];
    };
    let resolvers = ResolverFiles::default().read().addresses();
    let alarm = uplinks::collision(&datapath, uplink_pool, &resolvers).await;
    let overlap = alarm.ok().flatten().map(|it| it.text);
    let rules = datapath.mark_rules().await.unwrap_or_default();
    let marks = mark_rules::warning(&rules);
    overlap.into_iter().chain(marks).collect()
}

fn refused(error: &BatchError) -> CheckError {
    let first = error.failures.first();
    let first = first.map(|it| format!("first failure: {}: {}", it.op, it.error));
    CheckError::Refused {
        failed: error.failures.len(),
        attempted: error.attempted,
        first: first.unwrap_or_default(),
    }
}

/// The names in the trial.
struct TrialNames {
    tenant: TenantName,
    network: NetworkName,
    group: GroupName,
    policy: PolicyName,
    rule: RuleId,
    peer: NodeName,
}

/// A network across two nodes, and in it one endpoint of a group with one rule.
fn trial(params: &Params) -> Result<(Projection, Locals), InvalidName> {
    let names = TrialNames {
        tenant: TenantName::new("trial")?,
        network: NetworkName::new("net")?,
        group: GroupName::new("web")?,
        policy: PolicyName::new("rules")?,
        rule: RuleId::new("1")?,
        peer: NodeName::new("there")?,
    };
    let mut facts = Projection::default();
    for (name, vtep) in [
        (&params.node, params.vtep),
        (&names.peer, IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2))),
    ] {
        let fact = NodeFact::new(MachineId(name.to_string()), vtep);
        facts.nodes.insert(name.clone(), fact);
    }
    let tenant = facts.open(&names.tenant);
    let network = names.network_fact(&params.node);
    tenant.networks.insert(names.network.clone(), network);
    tenant
        .groups
        .insert(names.group.clone(), names.group_fact());
    let policy = names.policy_fact();
    tenant.policies.insert(names.policy.clone(), policy);
    let endpoint = names.endpoint()?;
    let locals = [(endpoint.id.clone(), Arc::new(endpoint))].into_iter();
    Ok((facts, locals.collect()))
}

impl TrialNames {
    fn network_fact(&self, node: &NodeName) -> NetworkFact {
        let net =
            |last, length| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(198, 18, 1, last), length));
        let blocks = [
            (net(0, 25), node.clone()),
            (net(128, 25), self.peer.clone()),
        ];
        NetworkFact {
            spec: NetworkSpec {
                egress: Some(Egress::Nat),
                ..NetworkSpec::new(
                    self.tenant.clone(),
                    self.network.clone(),
                    Vni(1),
                    Pool {
                        subnet: net(0, 24),
                        gateway: IpAddr::V4(Ipv4Addr::new(198, 18, 1, 254)),
                        range: None,
                    },
                )
            },
            closing: false,
            blocks: blocks.into_iter().collect(),
            pools: OrdMap::new(),
        }
    }

    fn group_fact(&self) -> GroupFact {
        GroupFact {
            spec: GroupSpec {
                tenant: self.tenant.clone(),
                network: self.network.clone(),
                name: self.group.clone(),
                id: GroupId(2),
                policies: [self.policy.clone()].into_iter().collect(),
                docker_name: None,
                pool: None,
            },
            closing: false,
            newer: false,
        }
    }

    fn policy_fact(&self) -> PolicyFact {
        let deny = Rule {
            id: self.rule.clone(),
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
        PolicyFact {
            rules: [(self.rule.clone(), deny)].into_iter().collect(),
            ..PolicyFact::default()
        }
    }

    fn endpoint(&self) -> Result<LocalEndpoint, InvalidName> {
        let id = EndpointId::new("trial")?;
        let address = IpAddr::V4(Ipv4Addr::new(198, 18, 1, 1));
        let (host_interface, peer_interface) = desired::interface_names(&id);
        Ok(LocalEndpoint {
            id,
            tenant: self.tenant.clone(),
            network: self.network.clone(),
            group: Some(self.group.clone()),
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
            mtu: None,
        })
    }
}
