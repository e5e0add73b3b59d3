//! The IPAM driver's calls: pools are networks of the log, addresses come from the node's blocks.
//!
//! An address is handed out as a /32 (/128): the container's network is its gateway and routes.
//! An address is reserved first and belongs to an endpoint after `CreateEndpoint`; the engine
//! releases it after `DeleteEndpoint`, or when the endpoint couldn't be made.
//!
//! A swarm's task has its address from the manager: its node promises it out of its own blocks,
//! until the manager releases it. The node where the task starts has it ceded, like any other
//! address that is asked for by name.

use std::net::IpAddr;

use ipnet::IpNet;

use super::driver::{Driver, DriverError, parse};
use super::endpoints::Endpoints;
use super::pool::{self, PoolId, Space};
use super::protocol::{
    ADDRESS_TYPE, ADDRESS_TYPE_GATEWAY, ReleaseAddress, RequestAddress, RequestPool,
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
                reason: "contiv gives every node its own block: leave --ip-range out".to_owned(),
            });
        }
        let options = call.options.clone().unwrap_or_default();
        let projection = self.projection.borrow();
        let unresolved = |error| self.unresolved(error);
        let meaning = pool::resolve(&projection, &options, subnet).map_err(unresolved)?;
        let v6 = subnet.map_or(call.v6, |subnet| subnet.addr().is_ipv6());
        let spec = meaning.spec(&projection).map_err(unresolved)?;
        let subnet = pool::pool_of(spec, v6)?.subnet;
        let space = Space::named(&call.address_space);
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
            let pool = pool::pool_of(spec, id.v6)?;
            (pool.subnet, pool.gateway)
        };
        let kind = call.options.as_ref().and_then(|o| o.get(ADDRESS_TYPE));
        if kind.is_some_and(|kind| kind == ADDRESS_TYPE_GATEWAY) {
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
        self.has_reserved(reserved);
        Ok(IpNet::from(reserved))
    }

    /// What isn't reserved, or belongs to a network that is gone, is free.
    pub(super) async fn release_address(&self, call: &ReleaseAddress) -> Result<(), DriverError> {
        let id: PoolId = call.pool_id.parse()?;
        let address = call.address.split('/').next().unwrap_or_default();
        let address: IpAddr = parse("an address", address)?;
        let (tenant, network) = (id.meaning.tenant, id.meaning.network);
        let endpoints = &self.endpoints;
        let released = endpoints.release(tenant, network, address, claim(id.space));
        match released.await {
            Err(AttachError::Rejected(rejection)) => {
                tracing::debug!(%address, %rejection, "released an address of what is gone");
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

fn claim(space: Space) -> Claim {
    match space {
        Space::Engine => Claim::Container,
        Space::Tasks => Claim::Task,
        Space::Swarm => Claim::Promise,
    }
}
