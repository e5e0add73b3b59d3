//! Handles the engine's calls to the IPAM driver. Pools are networks of the log, and addresses come
//! from the node's blocks.
//!
//! An address is assigned as a /32 (/128): a container reaches its network by its gateway and routes.
//! An address is reserved first and belongs to an endpoint after `CreateEndpoint`; the engine
//! releases it after `DeleteEndpoint`, or if the endpoint can't be created.
//!
//! The swarm's manager assigns a task's address: the manager's node promises it from its own blocks,
//! until the manager releases it. The node on which the task starts requests it from that node, like
//! any other explicit address.

use std::net::IpAddr;

use ipnet::IpNet;

use super::driver::{Driver, DriverError, parse};
use super::endpoints::Endpoints;
use super::meaning;
use super::pool_id::{AddressSpace, PoolId};
use super::protocol::{
    ADDRESS_TYPE_KEY, GATEWAY_ADDRESS_TYPE, ReleaseAddress, RequestAddress, RequestPool,
};
use crate::endpoint::{AttachError, Claim, Reserve};

impl<E: Endpoints> Driver<E> {
    /// The pool's id and its subnet.
    pub(super) fn request_pool(&self, call: &RequestPool) -> Result<(PoolId, IpNet), DriverError> {
        let subnet = match call.pool.as_str() {
            "" => None,
            text => Some(parse::<IpNet>("a subnet", text)?.trunc()),
        };
        if !call.sub_pool.is_empty() {
            return Err(DriverError::Value {
                what: "--ip-range",
                text: call.sub_pool.clone(),
                reason: "each node has its own block of addresses: leave --ip-range out".to_owned(),
            });
        }
        let options = call.options.clone().unwrap_or_default();
        let projection = self.projection.borrow();
        let unresolved = |error| self.unresolved(error);
        let meaning = meaning::resolve(&projection, &options, subnet).map_err(unresolved)?;
        let v6 = subnet.map_or(call.v6, |subnet| subnet.addr().is_ipv6());
        let spec = meaning.spec(&projection).map_err(unresolved)?;
        let subnet = meaning::pool_of(spec, v6)?.subnet;
        let space = AddressSpace::named(&call.address_space);
        Ok((PoolId { space, v6, meaning }, subnet))
    }

    pub(super) async fn request_address(
        &self,
        call: &RequestAddress,
    ) -> Result<IpNet, DriverError> {
        let id: PoolId = call.pool_id.parse()?;
        let asked = match call.address.as_str() {
            "" => None,
            text => Some(parse::<IpAddr>("an address", text)?),
        };
        let (subnet, gateway) = {
            let projection = self.projection.borrow();
            let spec = id.meaning.spec(&projection);
            let spec = spec.map_err(|error| self.unresolved(error))?;
            let pool = meaning::pool_of(spec, id.v6)?;
            (pool.subnet, pool.gateway)
        };
        let kind = call.options.as_ref().and_then(|o| o.get(ADDRESS_TYPE_KEY));
        if kind.is_some_and(|kind| kind == GATEWAY_ADDRESS_TYPE) {
            return match asked {
                Some(asked) if asked != gateway => Err(DriverError::Value {
                    what: "--gateway",
                    text: asked.to_string(),
                    reason: format!("the network's gateway is {gateway}: leave --gateway out"),
                }),
                Some(_) | None => Ok(IpNet::new_assert(gateway, subnet.prefix_len())),
            };
        }
        let reserved = self
            .endpoints
            .reserve(Reserve {
                tenant: id.meaning.tenant,
                network: id.meaning.network,
                group: id.meaning.group,
                address: asked,
                claim: claim(id.space),
            })
            .await?;
        self.note_reserved(reserved);
        Ok(IpNet::from(reserved))
    }

    /// Releases an address. One that isn't reserved, or whose network is gone, is no error.
    pub(super) async fn release_address(&self, call: &ReleaseAddress) -> Result<(), DriverError> {
        let id: PoolId = call.pool_id.parse()?;
        let address = call.address.split('/').next().unwrap_or_default();
        let address: IpAddr = parse("an address", address)?;
        let (tenant, network) = (id.meaning.tenant, id.meaning.network);
        let endpoints = &self.endpoints;
        let released = endpoints.release(tenant, network, address, claim(id.space));
        match released.await {
            Err(AttachError::Rejected(rejection)) => {
                tracing::debug!(%address, %rejection, "released an address of a network that is gone");
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

fn claim(space: AddressSpace) -> Claim {
    match space {
        AddressSpace::Engine => Claim::Container,
        AddressSpace::Tasks => Claim::Task,
        AddressSpace::Swarm => Claim::Promise,
    }
}
