//! Endpoints in memory, without journal, bus or datapath: addresses are assigned in order, and in the
//! namespaces of a private engine a veth and two routes form a routed network of one host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bus_schema::{
    Egress, EndpointId, GroupId, GroupName, GroupSpec, MacAddr, NetworkName, NetworkSpec, Pool,
    Rejection, TenantName, Vni,
};
use node::docker::Endpoints;
use node::endpoint::{Attach, AttachError, Attachment, Claim, Description, LocalEndpoint, Reserve};
use node_core::projection::{GroupFact, NetworkFact, Projection};
use tokio::sync::watch;

type Address = (TenantName, NetworkName, IpAddr);

#[derive(Debug, Clone)]
pub(crate) struct MemoryEndpoints {
    state: Arc<Mutex<State>>,
    projection: watch::Receiver<Projection>,
    /// A process in the engine's network namespace; without it no interfaces are created.
    netns: Option<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) endpoints: BTreeMap<EndpointId, LocalEndpoint>,
    pub(crate) reserved: BTreeSet<Address>,
    pub(crate) promised: BTreeSet<Address>,
    pub(crate) described: Vec<(EndpointId, Description)>,
    /// Each attach and reservation waits for ever, as with a bus that doesn't answer.
    pub(crate) hang: bool,
    /// The node hasn't read the log yet.
    pub(crate) has_unread_log: bool,
    /// The kernel refuses each endpoint with this reason.
    pub(crate) refuses: Option<String>,
    last: u32,
}

impl MemoryEndpoints {
    pub(crate) fn new(projection: watch::Receiver<Projection>, netns: Option<u32>) -> Self {
        Self {
            state: Arc::default(),
            projection,
            netns,
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics with it")
    }

    pub(crate) fn find(&self, address: &str) -> Option<LocalEndpoint> {
        let address: IpAddr = address.parse().expect("an address");
        let state = self.state();
        let mut all = state.endpoints.values();
        all.find(|it| it.addresses.contains(&address)).cloned()
    }

    fn pool(&self, tenant: &TenantName, network: &NetworkName) -> Result<Pool, AttachError> {
        let projection = self.projection.borrow();
        match projection.network(tenant, network) {
            Some(fact) if !fact.closing => Ok(fact.spec.v4.clone()),
            Some(_) => Err(Rejection::NetworkClosing {
                tenant: tenant.clone(),
                network: network.clone(),
            }
            .into()),
            None => Err(Rejection::NetworkUnknown {
                tenant: tenant.clone(),
                network: network.clone(),
            }
            .into()),
        }
    }

    async fn hang(&self) {
        if self.state().hang {
            std::future::pending::<()>().await;
        }
    }

    fn ip(&self, line: &str) {
        let Some(pid) = self.netns else { return };
        let pid = pid.to_string();
        let done = std::process::Command::new("nsenter")
            .args(["-t", &pid, "-n", "ip"])
            .args(line.split_whitespace())
            .output()
            .expect("nsenter runs");
        assert!(done.status.success(), "ip {line}: {done:?}");
    }
}

impl State {
    fn is_used(&self, address: &Address) -> bool {
        self.reserved.contains(address)
            || self.promised.contains(address)
            || self.endpoints.values().any(|it| {
                (&it.tenant, &it.network) == (&address.0, &address.1)
                    && it.addresses.contains(&address.2)
            })
    }
}

impl Endpoints for MemoryEndpoints {
    async fn reserve(&self, ask: Reserve) -> Result<IpAddr, AttachError> {
        self.hang().await;
        let pool = self.pool(&ask.tenant, &ask.network)?;
        let mut state = self.state();
        let key = |address| (ask.tenant.clone(), ask.network.clone(), address);
        let address = match ask.address {
            Some(address)
                if state.is_used(&key(address))
                    && !(ask.claim == Claim::Task && state.promised.contains(&key(address))) =>
            {
                return Err(AttachError::AddressInUse(address, "another".to_owned()));
            }
            Some(address) => address,
            None => loop {
                state.last += 1;
                let address = nth(&pool, state.last);
                if pool.is_assignable(address) && !state.is_used(&key(address)) {
                    break address;
                }
            },
        };
        match ask.claim {
            Claim::Promise => state.promised.insert(key(address)),
            Claim::Container | Claim::Task => state.reserved.insert(key(address)),
        };
        Ok(address)
    }

    async fn release(
        &self,
        tenant: TenantName,
        network: NetworkName,
        address: IpAddr,
        claim: Claim,
    ) -> Result<(), AttachError> {
        let address = (tenant, network, address);
        match claim {
            Claim::Promise => self.state().promised.remove(&address),
            Claim::Container | Claim::Task => self.state().reserved.remove(&address),
        };
        Ok(())
    }

    fn reserved(&self) -> Vec<Address> {
        self.state().reserved.iter().cloned().collect()
    }

    fn promised(&self) -> Vec<Address> {
        self.state().promised.iter().cloned().collect()
    }

    async fn start_attach(&self, ask: Attach) -> Result<Attachment, AttachError> {
        self.hang().await;
        let pool = self.pool(&ask.tenant, &ask.network)?;
        let known = self.state().endpoints.get(&ask.id).cloned();
        if let Some(endpoint) = known {
            return if endpoint.addresses == ask.addresses {
                Ok(attachment(endpoint, &pool))
            } else {
                Err(AttachError::EndpointDiffers(ask.id))
            };
        }
        let tail = &ask.id.as_str()[..10];
        let endpoint = LocalEndpoint {
            mac: MacAddr::of_endpoint(ask.addresses[0]),
            host_interface: format!("cv{tail}"),
            peer_interface: format!("cp{tail}"),
            id: ask.id,
            tenant: ask.tenant,
            network: ask.network,
            group: ask.group,
            addresses: ask.addresses,
            owner: ask.owner,
            name: None,
            aliases: Vec::new(),
            container: None,
            mtu: None,
        };
        let (host, peer, mac) = (
            &endpoint.host_interface,
            &endpoint.peer_interface,
            endpoint.mac,
        );
        self.ip(&format!(
            "link add {host} type veth peer name {peer} address {mac}"
        ));
        self.ip(&format!("link set {host} up"));
        self.ip(&format!("addr replace {}/32 dev lo", pool.gateway));
        self.ip(&format!(
            "route replace {}/32 dev {host}",
            endpoint.addresses[0]
        ));
        let mut state = self.state();
        for address in &endpoint.addresses {
            let key = (endpoint.tenant.clone(), endpoint.network.clone(), *address);
            state.reserved.remove(&key);
        }
        state
            .endpoints
            .insert(endpoint.id.clone(), endpoint.clone());
        Ok(attachment(endpoint, &pool))
    }

    async fn wait_until_in_kernel(&self, id: EndpointId) -> Result<(), AttachError> {
        self.hang().await;
        let state = self.state();
        match &state.refuses {
            Some(reason) => Err(AttachError::Datapath(reason.clone())),
            None if state.endpoints.contains_key(&id) => Ok(()),
            None => Err(AttachError::EndpointUnknown(id)),
        }
    }

    async fn start_detach(&self, id: EndpointId) -> Result<(), AttachError> {
        let removed = self.state().endpoints.remove(&id);
        let endpoint = removed.ok_or(AttachError::EndpointUnknown(id))?;
        if let Some(pid) = self.netns {
            // It fails if the kernel removed the interface with the container's namespace.
            std::process::Command::new("nsenter")
                .args(["-t", &pid.to_string(), "-n", "ip", "link", "del"])
                .arg(&endpoint.host_interface)
                .output()
                .expect("nsenter runs");
        }
        Ok(())
    }

    fn has_read_log(&self) -> bool {
        !self.state().has_unread_log
    }

    fn list(&self) -> Vec<LocalEndpoint> {
        self.state().endpoints.values().cloned().collect()
    }

    fn endpoint(&self, id: &EndpointId) -> Option<LocalEndpoint> {
        self.state().endpoints.get(id).cloned()
    }

    async fn describe(&self, id: EndpointId, told: Description) -> Result<(), AttachError> {
        let mut state = self.state();
        let endpoint = state.endpoints.get_mut(&id);
        let endpoint = endpoint.ok_or_else(|| AttachError::EndpointUnknown(id.clone()))?;
        endpoint.name = Some(told.name.clone());
        endpoint.container = Some(told.container.clone());
        endpoint.aliases = told.aliases.clone().unwrap_or_default();
        state.described.push((id, told));
        Ok(())
    }
}

fn nth(pool: &Pool, n: u32) -> IpAddr {
    match pool.subnet.network() {
        IpAddr::V4(first) => IpAddr::V4((u32::from(first) + n).into()),
        IpAddr::V6(_) => panic!("the tests' pools are IPv4"),
    }
}

fn attachment(endpoint: LocalEndpoint, pool: &Pool) -> Attachment {
    Attachment {
        endpoint,
        gateways: vec![pool.gateway],
        mtu: 1450,
    }
}

/// A network whose gateway is the last address before the broadcast address.
pub(crate) fn network(tenant: &str, name: &str, subnet: &str) -> NetworkSpec {
    let subnet: ipnet::IpNet = subnet.parse().expect("a subnet");
    let gateway = match subnet.broadcast() {
        IpAddr::V4(last) => IpAddr::V4((u32::from(last) - 1).into()),
        IpAddr::V6(_) => panic!("the tests' subnets are IPv4"),
    };
    NetworkSpec {
        egress: Some(Egress::Nat),
        ..NetworkSpec::new(
            TenantName::new(tenant).expect("a name"),
            NetworkName::new(name).expect("a name"),
            Vni(7),
            Pool {
                subnet,
                gateway,
                range: None,
            },
        )
    }
}

/// Adds a group to an existing network.
pub(crate) fn add_group(projection: &mut Projection, tenant: &str, network: &str, group: &str) {
    let spec = GroupSpec {
        tenant: TenantName::new(tenant).expect("a name"),
        network: NetworkName::new(network).expect("a name"),
        name: GroupName::new(group).expect("a name"),
        id: GroupId::FIRST,
        policies: Vec::new(),
        docker_name: None,
        pool: None,
    };
    let tenant = projection.tenants.get_mut(&spec.tenant);
    let groups = &mut tenant.expect("the tenant is there").groups;
    let (name, closing) = (spec.name.clone(), false);
    groups.insert(
        name,
        GroupFact {
            spec,
            closing,
            newer: false,
        },
    );
    projection.applied = projection.applied.next();
}

pub(crate) fn add(projection: &mut Projection, spec: NetworkSpec) {
    let tenant = projection.open(&spec.tenant);
    let name = spec.name.clone();
    let fact = NetworkFact {
        spec,
        closing: false,
        pools: Default::default(),
        blocks: Default::default(),
    };
    tenant.networks.insert(name, fact);
    projection.applied = projection.applied.next();
}
