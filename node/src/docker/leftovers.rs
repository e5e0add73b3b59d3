//! Releases leftovers: endpoints and addresses in the node's journal that the engine doesn't have,
//! because it crashed before it stored them, or was replaced by an empty one. `engine` calls this when
//! it connects, at intervals, and on request.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::EndpointId;

use super::client::{EngineError, Member};
use super::driver::endpoint_id;
use super::endpoints::{Endpoints, Reserved};
use super::engine::{Engine, EngineSession, differs};
use super::plan::is_contiv;
use super::swarm::SwarmAddresses;
use crate::endpoint::{Claim, LocalEndpoint, Owner};

/// Endpoints and addresses younger than this aren't leftovers: while the engine creates an endpoint,
/// its list doesn't have it yet. The engine's calls take 5 s at most.
const NEW_ENDPOINT_GRACE: Duration = Duration::from_secs(15);

impl<E: Endpoints> Engine<E> {
    /// Describes each local endpoint from the engine's lists and releases leftovers. Returns a line
    /// for each leftover.
    pub(super) async fn describe_all(
        &self,
        session: &mut EngineSession,
        thorough: bool,
    ) -> Result<Vec<String>, EngineError> {
        let mut done = Vec::new();
        for (network, endpoints) in self.local() {
            let members = session.client.members(&network).await?.unwrap_or_default();
            let members: BTreeMap<EndpointId, Member> = members
                .into_iter()
                .filter_map(|member| Some((endpoint_id(&member.endpoint).ok()?, member)))
                .collect();
            for endpoint in endpoints {
                match members.get(&endpoint.id) {
                    Some(member) if member.container.starts_with("ep-") => {}
                    Some(member) => {
                        if thorough || differs(&endpoint, member) {
                            self.describe(session, member.clone());
                        }
                    }
                    None => done.extend(self.release_leftover(&endpoint).await),
                }
            }
        }
        done.extend(self.release_reserved(session).await?);
        done.extend(self.end_promises(session).await);
        Ok(done)
    }

    /// Releases addresses that the swarm's manager requested and no task has: the manager crashed
    /// before it used them, or lost its leadership and the next leader has released them.
    async fn end_promises(&self, session: &EngineSession) -> Vec<String> {
        let idle = self.settled(self.driver.endpoints.promised());
        if idle.is_empty() {
            return Vec::new();
        }
        let in_use = match session.client.swarm().await {
            SwarmAddresses::InUse(in_use) => in_use,
            SwarmAddresses::NotManaged => BTreeSet::new(),
            SwarmAddresses::NotAvailable => return Vec::new(),
        };
        let ended = self.release_unused(idle, &in_use, Claim::Promise).await;
        let told = ended.into_iter().map(|it| format!("{it}: no task has it"));
        told.inspect(|what| tracing::info!("{what}")).collect()
    }

    /// Releases addresses that the engine requested and used for no endpoint: it crashed in between.
    async fn release_reserved(&self, session: &EngineSession) -> Result<Vec<String>, EngineError> {
        let leftover = self.settled(self.driver.endpoints.reserved());
        if leftover.is_empty() {
            return Ok(Vec::new());
        }
        let mut in_use = BTreeSet::new();
        for network in session.found.iter().filter(|it| is_contiv(&it.driver)) {
            let members = session.client.members(&network.id).await?;
            in_use.extend(members.into_iter().flatten().filter_map(|it| it.address));
        }
        let freed = self.release_unused(leftover, &in_use, Claim::Container);
        let told = freed.await.into_iter();
        let told = told.map(|it| format!("{it}: the engine doesn't use it"));
        Ok(told.inspect(|what| tracing::warn!("{what}")).collect())
    }

    /// Drops the addresses that the engine may be about to use.
    fn settled(&self, mut addresses: Vec<Reserved>) -> Vec<Reserved> {
        addresses.retain(|it| !self.driver.reserved_within(&it.2, NEW_ENDPOINT_GRACE));
        addresses
    }

    /// Releases the addresses that aren't in use; returns a line for each.
    async fn release_unused(
        &self,
        addresses: Vec<Reserved>,
        in_use: &BTreeSet<IpAddr>,
        claim: Claim,
    ) -> Vec<String> {
        let mut released = Vec::new();
        for (tenant, network, address) in addresses {
            if in_use.contains(&address) {
                continue;
            }
            let what = format!("- address {address} in {tenant}:{network}");
            let endpoints = &self.driver.endpoints;
            match endpoints.release(tenant, network, address, claim).await {
                Ok(()) => released.push(what),
                Err(error) => {
                    tracing::warn!(%address, ?claim, %error, "can't release a leftover address");
                }
            }
        }
        released
    }

    fn local(&self) -> BTreeMap<String, Vec<LocalEndpoint>> {
        let mut by_network: BTreeMap<String, Vec<LocalEndpoint>> = BTreeMap::new();
        for endpoint in self.driver.endpoints.list() {
            if let Owner::Docker { network_id } = &endpoint.owner {
                by_network
                    .entry(network_id.clone())
                    .or_default()
                    .push(endpoint);
            }
        }
        by_network
    }

    async fn release_leftover(&self, endpoint: &LocalEndpoint) -> Option<String> {
        let id = &endpoint.id;
        if self.driver.was_called_within(id, NEW_ENDPOINT_GRACE) {
            return None;
        }
        tracing::warn!(%id, network = %endpoint.network, "the engine doesn't have this endpoint any more: detaching it");
        if let Err(error) = self.driver.detach(id.clone()).await {
            tracing::warn!(%id, %error, "can't detach a leftover endpoint");
            return None;
        }
        for address in &endpoint.addresses {
            let (tenant, network) = (endpoint.tenant.clone(), endpoint.network.clone());
            let released =
                self.driver
                    .endpoints
                    .release(tenant, network, *address, Claim::Container);
            if let Err(error) = released.await {
                tracing::warn!(%id, %address, %error, "can't release a leftover address");
            }
        }
        Some(format!("- {endpoint}: the engine doesn't have it"))
    }
}
