//! Handles the engine's calls to the network driver: networks and endpoints.
//!
//! No call waits for the engine (it may hold its own locks during the call), and each can be
//! repeated: after a crash the engine calls again, for objects that exist or are gone.
//! `server` calls it; `ipam` has the calls about addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bus_schema::{Egress, EndpointId, MacAddr, Pool, subnet};
use ipnet::IpNet;
use serde_json::{Map, Value};
use tokio::sync::watch;

pub(super) use super::driver_error::DriverError;
use super::endpoints::Endpoints;
use super::meaning::{self, Meaning, Unresolved};
use super::networks::Networks;
use super::protocol::{
    AllocateNetwork, CreateEndpoint, CreateNetwork, DriverInterface, EndpointRef, GENERIC_KEY,
    INTERNAL_KEY, InterfaceName, IpamData, Joined, NetworkRef, PORT_MAP_KEY, StaticRoute,
};
use super::sandboxes::Sandboxes;
use crate::endpoint::{Attach, AttachError, LocalEndpoint, Owner};
use crate::surroundings::ResolverFiles;
use node_core::projection::Projection;
use runtime::lock;

/// Times of calls are kept for this long, which is longer than any use of
/// [`Driver::was_called_within`].
const CALL_MEMORY: Duration = Duration::from_secs(60);

/// The state of the calls; one for the process.
#[derive(Debug)]
pub(super) struct Driver<E> {
    pub(super) endpoints: E,
    pub(super) projection: watch::Receiver<Projection>,
    pub(super) networks: Networks,
    pub(super) sandboxes: Sandboxes,
    files: ResolverFiles,
    /// Time of the last call about each endpoint: an endpoint that the engine is creating isn't in its
    /// list yet.
    last_calls: Mutex<BTreeMap<EndpointId, Instant>>,
    /// Time at which this process reserved each address: the engine may not use it yet.
    reserved: Mutex<BTreeMap<IpAddr, Instant>>,
}

impl<E: Endpoints> Driver<E> {
    pub(super) fn new(
        endpoints: E,
        projection: watch::Receiver<Projection>,
        networks: Networks,
        files: ResolverFiles,
    ) -> Self {
        Self {
            files,
            endpoints,
            projection,
            networks,
            sandboxes: Sandboxes::default(),
            last_calls: Mutex::default(),
            reserved: Mutex::default(),
        }
    }

    pub(super) fn create_network(&self, call: &CreateNetwork) -> Result<(), DriverError> {
        let options = call.options.as_ref();
        let pools = call.ipv4.iter().chain(&call.ipv6).flatten();
        let meaning = self.resolve_options(&generic_options(options), pools)?;
        if options.and_then(|options| options.get(INTERNAL_KEY)) == Some(&Value::Bool(true))
            && meaning.spec(&self.projection.borrow())?.egress() != Egress::None
        {
            return Err(DriverError::Internal {
                tenant: meaning.tenant,
                network: meaning.network,
            });
        }
        self.networks.insert(&call.network_id, meaning)?;
        Ok(())
    }

    /// Resolves a swarm's network and returns the options for the nodes that create it.
    pub(super) fn allocate_network(
        &self,
        call: &AllocateNetwork,
    ) -> Result<BTreeMap<String, String>, DriverError> {
        let pools = call.ipv4.iter().chain(&call.ipv6).flatten();
        let options = call.options.clone().unwrap_or_default();
        Ok(self.resolve_options(&options, pools)?.options())
    }

    fn resolve_options<'a>(
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
        let meaning = meaning::resolve(&projection, options, subnets.first().copied());
        meaning.map_err(|error| match self.unresolved(error) {
            DriverError::Unresolved(Unresolved::SubnetDiffers { .. }) => DriverError::ForeignIpam,
            DriverError::Unresolved(Unresolved::NoSubnet(_)) if !named => DriverError::ForeignIpam,
            other => other,
        })
    }

    /// Reports an unknown name as "log unread" until this node has read the log: the name may exist.
    pub(super) fn unresolved(&self, error: Unresolved) -> DriverError {
        match error.is_of_an_unknown_name() && !self.endpoints.has_read_log() {
            true => AttachError::LogUnread(error.to_string()).into(),
            false => error.into(),
        }
    }

    /// Removes a network, and its leftover endpoints: the engine removes only networks that have none.
    pub(super) async fn delete_network(&self, call: &NetworkRef) -> Result<(), DriverError> {
        for endpoint in self.endpoints.list() {
            if is_in_docker_network(&endpoint, &call.network_id) {
                tracing::warn!(id = %endpoint.id, "the Docker network is removed: detaching a leftover endpoint");
                self.detach(endpoint.id).await?;
            }
        }
        Ok(self.networks.remove(&call.network_id)?)
    }

    pub(super) async fn create_endpoint(
        &self,
        call: CreateEndpoint,
    ) -> Result<DriverInterface, DriverError> {
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
        self.note_call(&id);
        let attachment = self
            .endpoints
            .start_attach(Attach {
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
        Ok(DriverInterface {
            mac_address: match given.mac_address.as_str() {
                "" => attachment.endpoint.mac.to_string(),
                _ => String::new(),
            },
            ..DriverInterface::default()
        })
    }

    pub(super) async fn delete_endpoint(&self, call: &EndpointRef) -> Result<(), DriverError> {
        self.detach(endpoint_id(&call.endpoint_id)?).await
    }

    /// Waits until the kernel has the interface, and returns its name and the container's routes.
    /// Before this call the engine creates the container's namespace.
    ///
    /// The routes are the gateway on the link, and the network's subnet through it. The engine adds
    /// the default route to one of a container's networks only; the others are reached by their
    /// subnet's route. A network without a way out takes no part in that: its gateway isn't answered,
    /// and a fallback route follows when the container has started. Until then the host's
    /// resolvers are reached by routes of their own, since names are asked at once.
    pub(super) async fn join(&self, call: &EndpointRef) -> Result<Joined, DriverError> {
        let endpoint = self.endpoint(&call.endpoint_id)?;
        self.note_call(&endpoint.id);
        self.refuse_second_endpoint(&endpoint, &call.sandbox_key)?;
        let id = endpoint.id.clone();
        self.sandboxes.note(&id, &call.sandbox_key);
        self.endpoints.wait_until_in_kernel(id.clone()).await?;
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
            let pool = meaning::pool_of(spec, address.is_ipv6())?;
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
            match (spec.egress(), pool.gateway) {
                (Egress::None, _) if self.sandboxes.others(&id, &call.sandbox_key).is_empty() => {
                    joined.static_routes.extend(self.routes_to_resolvers(pool));
                }
                (Egress::None, _) => {}
                (Egress::Nat, IpAddr::V4(_)) => joined.gateway = gateway,
                (Egress::Nat, IpAddr::V6(_)) => joined.gateway_ipv6 = gateway,
            }
        }
        Ok(joined)
    }

    /// The routes through the pool's gateway to the resolvers outside of its subnet, which the domain's
    /// own server answers for.
    fn routes_to_resolvers(&self, pool: &Pool) -> Vec<StaticRoute> {
        let resolvers = self.files.read().addresses().into_iter();
        let of_family = |it: &IpAddr| it.is_ipv4() == pool.gateway.is_ipv4();
        let routed = resolvers.filter(|it| of_family(it) && !pool.subnet.contains(it));
        let route = |it| StaticRoute {
            destination: IpNet::from(it).to_string(),
            route_type: StaticRoute::NEXT_HOP,
            next_hop: pool.gateway.to_string(),
        };
        routed.map(route).collect()
    }

    /// Refuses a container's second endpoint in a network: the engine would fail with a text about
    /// conflicting routes, which names neither the network nor the remedy.
    fn refuse_second_endpoint(
        &self,
        endpoint: &LocalEndpoint,
        sandbox: &str,
    ) -> Result<(), DriverError> {
        let others = self.sandboxes.others(&endpoint.id, sandbox).into_iter();
        let mut others = others.filter_map(|id| self.endpoints.endpoint(&id));
        let projection = self.projection.borrow();
        let subnet_of = |it: &LocalEndpoint| {
            let fact = projection.network(&it.tenant, &it.network);
            fact.map(|fact| fact.spec.v4.subnet)
        };
        let own = subnet_of(endpoint);
        let network = (&endpoint.tenant, &endpoint.network);
        let overlaps = |it: &LocalEndpoint| {
            let pair = own.zip(subnet_of(it));
            (&it.tenant, &it.network) == network
                || pair.is_some_and(|(own, its)| subnet::overlap(own, its))
        };
        let Some(other) = others.find(overlaps) else {
            return Ok(());
        };
        let Owner::Docker { network_id } = &other.owner else {
            return Ok(());
        };
        let Some(&address) = other.addresses.first() else {
            return Ok(());
        };
        Err(DriverError::InNetwork {
            tenant: other.tenant,
            network: other.network,
            address,
            docker_network: network_id.get(..12).unwrap_or(network_id).to_owned(),
        })
    }

    /// The engine calls it after `Join` for a container with a gateway, with or without published
    /// ports.
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

    /// Detaches at once: the engine deletes the endpoint next, and in between it would move the
    /// interface out of the container.
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
            (
                meaning::TENANT_OPTION.to_owned(),
                endpoint.tenant.to_string(),
            ),
            (
                meaning::NETWORK_OPTION.to_owned(),
                endpoint.network.to_string(),
            ),
        ]))
    }

    /// Detaches an endpoint; one that is gone is no error.
    pub(super) async fn detach(&self, id: EndpointId) -> Result<(), DriverError> {
        let detached = self.endpoints.start_detach(id.clone()).await;
        match detached {
            Ok(()) | Err(AttachError::EndpointUnknown(_)) => {
                self.last_calls().remove(&id);
                self.sandboxes.forget(&id);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Whether a call about the endpoint came less than `ago` before now.
    pub(super) fn was_called_within(&self, id: &EndpointId, ago: Duration) -> bool {
        self.last_calls()
            .get(id)
            .is_some_and(|at| at.elapsed() < ago)
    }

    fn note_call(&self, id: &EndpointId) {
        let mut last_calls = self.last_calls();
        last_calls.retain(|_, at| at.elapsed() < CALL_MEMORY);
        last_calls.insert(id.clone(), Instant::now());
    }

    pub(super) fn note_reserved(&self, address: IpAddr) {
        let mut reserved = lock(&self.reserved);
        reserved.retain(|_, at| at.elapsed() < CALL_MEMORY);
        reserved.insert(address, Instant::now());
    }

    pub(super) fn reserved_within(&self, address: &IpAddr, ago: Duration) -> bool {
        let reserved = lock(&self.reserved);
        reserved.get(address).is_some_and(|at| at.elapsed() < ago)
    }

    fn last_calls(&self) -> std::sync::MutexGuard<'_, BTreeMap<EndpointId, Instant>> {
        lock(&self.last_calls)
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

pub(super) fn is_in_docker_network(endpoint: &LocalEndpoint, id: &str) -> bool {
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
        .and_then(|options| options.get(GENERIC_KEY))
        .and_then(Value::as_object);
    generic
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Refuses published ports. A port that an image merely exposes isn't published.
fn refuse_published_ports(
    options: Option<&Map<String, Value>>,
    address: IpAddr,
) -> Result<(), DriverError> {
    let bindings = options
        .and_then(|options| options.get(PORT_MAP_KEY))
        .and_then(Value::as_array);
    match bindings {
        Some(bindings) if !bindings.is_empty() => {
            Err(DriverError::PublishedPorts(address.to_string()))
        }
        Some(_) | None => Ok(()),
    }
}
