//! The network driver's calls: what the engine asks about networks and endpoints.
//!
//! No call waits on the engine (it may hold its own locks while it asks us) and each can be
//! repeated: an engine that was killed asks again, about things that are there or gone.
//! `server` calls it; `ipam` holds the calls about addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bus_schema::{EndpointId, MacAddr};
use ipnet::IpNet;
use serde_json::{Map, Value};
use tokio::sync::watch;

use super::endpoints::Endpoints;
use super::networks::Networks;
use super::pool::{self, Meaning, Unresolved};
use super::protocol::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, EndpointRef, GENERIC, INTERNAL, Interface,
    InterfaceName, IpamData, Joined, NetworkRef, PORT_MAP, StaticRoute,
};
use crate::endpoint::{Attach, AttachError, LocalEndpoint, Owner};
use node_core::projection::Projection;
use runtime::lock;

/// Longer than anybody asks [`Driver::touched_within`] about.
const REMEMBER: Duration = Duration::from_secs(60);

/// Why a call failed, as the engine shows it to who typed the command.
#[derive(Debug, thiserror::Error)]
pub(super) enum DriverError {
    #[error("contiv doesn't know the call {0}: this engine needs a newer netplugin")]
    UnknownCall(String),
    #[error("the engine sent a request that can't be read: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the engine sent `{text}` as {what}: {reason}")]
    Value {
        what: &'static str,
        text: String,
        reason: String,
    },
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(
        "contiv doesn't publish ports yet: leave out -p and -P (`ports:` in a compose file); containers of the tenant reach {0} directly"
    )]
    PublishedPorts(String),
    #[error("contiv networks can't be made with --internal: leave it out")]
    Internal,
    #[error(
        "contiv needs its own addresses: add `--ipam-driver contiv --ipam-opt contiv.network=NET` to `docker network create` (in a swarm `--ipam-driver contiv-swarm:latest`)"
    )]
    ForeignIpam,
    #[error(
        "contiv gives an endpoint the MAC address {given}, after its IP address: leave --mac-address={asked} out"
    )]
    MacAddress { given: MacAddr, asked: String },
    #[error(
        "contiv doesn't know the Docker network {0}: `docker network rm` it, netplugin creates it again"
    )]
    UnknownNetwork(String),
    #[error("endpoint {0} is gone: start the container again")]
    UnknownEndpoint(EndpointId),
    #[error(
        "networks of driver `contiv` are of scope `local`, which swarm services can't use: create one with `docker network create -d contiv-swarm:latest --ipam-driver contiv-swarm:latest`"
    )]
    Swarm,
    #[error(
        "can't save the map of Docker networks: {0}; free space on the disk of the state folder and try again"
    )]
    Save(#[from] std::io::Error),
}

/// What the calls work on; one for the process.
#[derive(Debug)]
pub(super) struct Driver<E> {
    pub(super) endpoints: E,
    pub(super) projection: watch::Receiver<Projection>,
    pub(super) networks: Networks,
    /// When the engine last spoke of an endpoint: one that it is just making isn't in its list yet.
    touched: Mutex<BTreeMap<EndpointId, Instant>>,
    /// When this process reserved what the engine hasn't used yet.
    reserved: Mutex<BTreeMap<IpAddr, Instant>>,
}

impl<E: Endpoints> Driver<E> {
    pub(super) fn new(
        endpoints: E,
        projection: watch::Receiver<Projection>,
        networks: Networks,
    ) -> Self {
        Self {
            endpoints,
            projection,
            networks,
            touched: Mutex::default(),
            reserved: Mutex::default(),
        }
    }

    pub(super) fn create_network(&self, call: &CreateNetwork) -> Result<(), DriverError> {
        let options = call.options.as_ref();
        if options.and_then(|options| options.get(INTERNAL)) == Some(&Value::Bool(true)) {
            return Err(DriverError::Internal);
        }
        let pools = call.ipv4.iter().chain(&call.ipv6).flatten();
        let meaning = self.stands_for(&generic_options(options), pools)?;
        self.networks.insert(&call.network_id, meaning)?;
        Ok(())
    }

    /// What a swarm's network stands for, as options for the nodes that create it.
    pub(super) fn allocate_network(
        &self,
        call: &AllocateNetwork,
    ) -> Result<BTreeMap<String, String>, DriverError> {
        let pools = call.ipv4.iter().chain(&call.ipv6).flatten();
        let options = call.options.clone().unwrap_or_default();
        Ok(self.stands_for(&options, pools)?.options())
    }

    fn stands_for<'a>(
        &self,
        options: &BTreeMap<String, String>,
        pools: impl Iterator<Item = &'a IpamData>,
    ) -> Result<Meaning, DriverError> {
        let subnets = pools
            .filter(|data| !data.pool.is_empty())
            .map(|data| parse("a subnet", &data.pool))
            .collect::<Result<Vec<IpNet>, _>>()?;
        let named = Meaning::from_options(options)?.is_some();
        let projection = self.projection.borrow();
        let meaning = pool::resolve(&projection, options, subnets.first().copied());
        meaning.map_err(|error| match self.unresolved(error) {
            DriverError::Unresolved(Unresolved::SubnetDiffers { .. }) => DriverError::ForeignIpam,
            DriverError::Unresolved(Unresolved::NoSubnet(_)) if !named => DriverError::ForeignIpam,
            other => other,
        })
    }

    /// What a node that hasn't read the log doesn't know may exist.
    pub(super) fn unresolved(&self, error: Unresolved) -> DriverError {
        match error.is_of_an_unknown_name() && !self.endpoints.has_read_log() {
            true => AttachError::LogUnread(error.to_string()).into(),
            false => error.into(),
        }
    }

    /// What the engine believes to be without endpoints has none: a leftover goes with it.
    pub(super) async fn delete_network(&self, call: &NetworkRef) -> Result<(), DriverError> {
        for endpoint in self.endpoints.list() {
            if of_docker_network(&endpoint, &call.network_id) {
                tracing::warn!(id = %endpoint.id, "its Docker network is removed: detaching a leftover endpoint");
                self.detach(endpoint.id).await?;
            }
        }
        Ok(self.networks.remove(&call.network_id)?)
    }

    pub(super) async fn create_endpoint(
        &self,
        call: CreateEndpoint,
    ) -> Result<Interface, DriverError> {
        let given = call.interface.unwrap_or_default();
        let addresses = [&given.address, &given.address_ipv6]
            .into_iter()
            .filter(|text| !text.is_empty())
            .map(|text| parse::<IpNet>("an address", text).map(|net| net.addr()))
            .collect::<Result<Vec<IpAddr>, _>>()?;
        let first = *addresses.first().ok_or(DriverError::ForeignIpam)?;
        refuse_published_ports(call.options.as_ref(), first)?;
        let mac = MacAddr::of_endpoint(first);
        if !given.mac_address.is_empty() && given.mac_address.parse() != Ok(mac) {
            return Err(DriverError::MacAddress {
                given: mac,
                asked: given.mac_address,
            });
        }
        let meaning = self.meaning(&call.network_id)?;
        let id = endpoint_id(&call.endpoint_id)?;
        self.touch(&id);
        let attachment = self
            .endpoints
            .attach(Attach {
                id,
                tenant: meaning.tenant,
                network: meaning.network,
                group: meaning.group,
                addresses,
                owner: Owner::Docker {
                    network_id: call.network_id,
                },
                name: None,
                aliases: Vec::new(),
                container: None,
            })
            .await?;
        Ok(Interface {
            mac_address: match given.mac_address.as_str() {
                "" => attachment.endpoint.mac.to_string(),
                _ => String::new(),
            },
            ..Interface::default()
        })
    }

    pub(super) async fn delete_endpoint(&self, call: &EndpointRef) -> Result<(), DriverError> {
        self.detach(endpoint_id(&call.endpoint_id)?).await
    }

    /// Now its interface must be there: until here the engine made the container's namespace.
    ///
    /// The container's routes: its gateway on the link, and its network's subnet through it. The
    /// engine adds the default route to one of a container's networks only; the others are
    /// reached by their subnet's route.
    pub(super) async fn join(&self, call: &EndpointRef) -> Result<Joined, DriverError> {
        let endpoint = self.endpoint(&call.endpoint_id)?;
        self.touch(&endpoint.id);
        self.endpoints.attached(endpoint.id.clone()).await?;
        let meaning = Meaning {
            tenant: endpoint.tenant,
            network: endpoint.network,
            group: endpoint.group,
        };
        let projection = self.projection.borrow();
        let spec = meaning.spec(&projection)?;
        let mut joined = Joined {
            interface_name: InterfaceName {
                src_name: endpoint.peer_interface,
                dst_prefix: "eth".to_owned(),
            },
            disable_gateway_service: true,
            ..Joined::default()
        };
        for address in endpoint.addresses {
            let pool = pool::pool_of(spec, address.is_ipv6())?;
            let gateway = pool.gateway.to_string();
            joined.static_routes.extend([
                StaticRoute {
                    destination: IpNet::from(pool.gateway).to_string(),
                    route_type: StaticRoute::CONNECTED,
                    next_hop: String::new(),
                },
                StaticRoute {
                    destination: pool.subnet.to_string(),
                    route_type: StaticRoute::NEXT_HOP,
                    next_hop: gateway.clone(),
                },
            ]);
            match pool.gateway {
                IpAddr::V4(_) => joined.gateway = gateway,
                IpAddr::V6(_) => joined.gateway_ipv6 = gateway,
            }
        }
        Ok(joined)
    }

    /// Asked for after `Join` when a container has a gateway: with bindings to publish or without.
    pub(super) fn program_external_connectivity(
        &self,
        call: &EndpointRef,
    ) -> Result<(), DriverError> {
        let endpoint = self.endpoint(&call.endpoint_id)?;
        match endpoint.addresses.first() {
            Some(address) => refuse_published_ports(call.options.as_ref(), *address),
            None => Ok(()),
        }
    }

    /// Nobody joins with it again: the engine deletes the endpoint next, and in between moves its
    /// interface out of the container, unless it is gone by then.
    pub(super) async fn leave(&self, call: &EndpointRef) -> Result<(), DriverError> {
        self.detach(endpoint_id(&call.endpoint_id)?).await
    }

    /// Details of an endpoint for `docker inspect`; empty for one that is gone.
    pub(super) fn operational_info(
        &self,
        call: &EndpointRef,
    ) -> Result<BTreeMap<String, String>, DriverError> {
        let Ok(endpoint) = self.endpoint(&call.endpoint_id) else {
            return Ok(BTreeMap::new());
        };
        Ok(BTreeMap::from([
            ("contiv.interface".to_owned(), endpoint.host_interface),
            (pool::TENANT.to_owned(), endpoint.tenant.to_string()),
            (pool::NETWORK.to_owned(), endpoint.network.to_string()),
        ]))
    }

    /// Detaching what is gone is fine: the engine only wants it to be so.
    pub(super) async fn detach(&self, id: EndpointId) -> Result<(), DriverError> {
        let detached = self.endpoints.detach(id.clone()).await;
        match detached {
            Ok(()) | Err(AttachError::EndpointUnknown(_)) => {
                self.touched().remove(&id);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether the engine spoke of the endpoint less than `ago` before now.
    pub(super) fn touched_within(&self, id: &EndpointId, ago: Duration) -> bool {
        self.touched().get(id).is_some_and(|at| at.elapsed() < ago)
    }

    fn touch(&self, id: &EndpointId) {
        let mut touched = self.touched();
        touched.retain(|_, at| at.elapsed() < REMEMBER);
        touched.insert(id.clone(), Instant::now());
    }

    pub(super) fn has_reserved(&self, address: IpAddr) {
        let mut reserved = lock(&self.reserved);
        reserved.retain(|_, at| at.elapsed() < REMEMBER);
        reserved.insert(address, Instant::now());
    }

    pub(super) fn reserved_within(&self, address: &IpAddr, ago: Duration) -> bool {
        let reserved = lock(&self.reserved);
        reserved.get(address).is_some_and(|at| at.elapsed() < ago)
    }

    fn touched(&self) -> std::sync::MutexGuard<'_, BTreeMap<EndpointId, Instant>> {
        lock(&self.touched)
    }

    fn meaning(&self, network_id: &str) -> Result<Meaning, DriverError> {
        self.networks
            .get(network_id)
            .ok_or_else(|| DriverError::UnknownNetwork(network_id.to_owned()))
    }

    fn endpoint(&self, text: &str) -> Result<LocalEndpoint, DriverError> {
        let id = endpoint_id(text)?;
        let endpoint = self.endpoints.endpoint(&id);
        endpoint.ok_or(DriverError::UnknownEndpoint(id))
    }
}

pub(super) fn of_docker_network(endpoint: &LocalEndpoint, id: &str) -> bool {
    match &endpoint.owner {
        Owner::Docker { network_id } => network_id == id,
        Owner::Namespace { .. } | Owner::Unknown => false,
    }
}

pub(super) fn parse<T>(what: &'static str, text: &str) -> Result<T, DriverError>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| DriverError::Value {
        what,
        text: text.to_owned(),
        reason: error.to_string(),
    })
}

/// The engine's endpoint ids have 64 hex digits, a name has 63 characters: the first 32 digits
/// (128 random bits) are the endpoint's id.
pub(super) fn endpoint_id(text: &str) -> Result<EndpointId, DriverError> {
    let short = text.get(..32).unwrap_or(text);
    EndpointId::new(short).map_err(|error| DriverError::Value {
        what: "an endpoint's id",
        text: text.to_owned(),
        reason: error.to_string(),
    })
}

fn generic_options(options: Option<&Map<String, Value>>) -> BTreeMap<String, String> {
    let generic = options
        .and_then(|options| options.get(GENERIC))
        .and_then(Value::as_object);
    generic
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// A port that an image merely exposes isn't published.
fn refuse_published_ports(
    options: Option<&Map<String, Value>>,
    address: IpAddr,
) -> Result<(), DriverError> {
    let bindings = options
        .and_then(|options| options.get(PORT_MAP))
        .and_then(Value::as_array);
    match bindings {
        Some(bindings) if !bindings.is_empty() => {
            Err(DriverError::PublishedPorts(address.to_string()))
        }
        Some(_) | None => Ok(()),
    }
}
