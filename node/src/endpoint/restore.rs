//! Restores the endpoints that a damaged or missing journal has lost: their containers still run.
//!
//! An endpoint whose device is in the kernel is restored from the copy of the journal's endpoints,
//! else from this node's messages on the bus, else from the kernel, which has no id and no name.
//! Until that is done the reconciler changes nothing, and no address is allocated.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::node::{DomainKind, LogState};
use bus_schema::{Endpoint, EndpointId};
use tokio::sync::watch;

use super::ledger::Record;
use super::message::ManagerMessage;
use super::{EndpointsHandle, LocalEndpoint, Owner};
use node_core::desired::{domain_name, interface_names};
use node_core::projection::Projection;
use node_core::resource::{Element, Object, Place, State, Uplink};
use node_datapath::{Datapath, DatapathError, Scope};
use runtime::pause;

/// The pause before a failed observation of the kernel is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The sources of endpoints other than the journal.
#[derive(Debug)]
pub struct RestoreSources {
    pub datapath: Datapath,
    /// The copy of the journal's endpoints.
    pub copy: Vec<LocalEndpoint>,
    pub facts: watch::Receiver<Projection>,
    pub log: watch::Receiver<LogState>,
}

/// Whether the kernel holds a device of any endpoint.
pub async fn any_in_kernel(datapath: &Datapath) -> Result<bool, DatapathError> {
    Ok(!devices(&datapath.observe(&Scope::All).await?).is_empty())
}

/// Restores the lost endpoints; never ends.
pub async fn run(endpoints: EndpointsHandle, sources: RestoreSources) {
    let mut restoring = Restoring { endpoints, sources };
    while let Err(error) = restoring.run().await {
        tracing::warn!(%error, "can't observe the kernel to restore endpoints");
        pause(RETRY_PAUSE).await;
    }
    std::future::pending::<()>().await;
}

impl EndpointsHandle {
    /// The endpoints that this node had published before it started; absent until the stream is read.
    fn published(&self) -> watch::Receiver<Option<Vec<Endpoint>>> {
        self.published.subscribe()
    }

    pub(crate) fn set_published(&self, endpoints: Vec<Endpoint>) {
        self.published.send_replace(Some(endpoints));
    }

    /// Adds endpoints that the journal lost, also if the disk refuses writes.
    pub(crate) async fn restore_records(&self, records: Vec<Record>) {
        let restored = self
            .ask(|result| ManagerMessage::Restore(records, result))
            .await;
        // It fails only if the manager has ended.
        restored.ok();
    }
}

struct Restoring {
    endpoints: EndpointsHandle,
    sources: RestoreSources,
}

impl Restoring {
    async fn run(&mut self) -> Result<(), DatapathError> {
        let copy = self.sources.copy.clone();
        if !self.restore("the journal's copy", copy).await?.is_empty() {
            let mut published = self.endpoints.published();
            let published = published.wait_for(Option::is_some).await;
            let published = published.map_or_else(|_| None, |it| it.clone());
            let published: Vec<_> = published.iter().flatten().map(of_published).collect();
            if !self.restore("the bus", published).await?.is_empty() {
                // In sync, the facts have the network and the group of an address.
                let in_sync = |log: &LogState| *log == LogState::InSync;
                self.sources.log.wait_for(in_sync).await.ok();
                let observed = self.sources.datapath.observe(&Scope::All).await?;
                let facts = self.sources.facts.borrow().clone();
                let kind = self.sources.datapath.kind();
                let lost = lost(&observed, &self.endpoints.list());
                let found = lost.iter();
                let found = found.filter_map(|(device, place)| {
                    of_kernel(&observed, (device, place), &facts, kind)
                });
                let found: Vec<_> = found.collect();
                for (device, place) in self.restore("the kernel", found).await? {
                    tracing::error!(device, %place, "no source has the endpoint of this device: removing it");
                }
            }
        }
        self.endpoints.restore_records(vec![Record::Complete]).await;
        tracing::info!("every endpoint in the kernel is in the journal");
        Ok(())
    }

    /// Restores the endpoints of `found` that are in the kernel and not in the journal. Returns the
    /// devices whose endpoints are still unknown.
    async fn restore(
        &self,
        from: &str,
        found: Vec<LocalEndpoint>,
    ) -> Result<BTreeMap<String, Place>, DatapathError> {
        let observed = self.sources.datapath.observe(&Scope::All).await?;
        let known = self.endpoints.list();
        let lost_before = lost(&observed, &known);
        let is_used = |address: &IpAddr| known.iter().any(|it| it.addresses.contains(address));
        let records: Vec<Record> = found
            .into_iter()
            .filter(|it| lost_before.contains_key(&it.host_interface))
            .filter(|it| !known.iter().any(|known| known.id == it.id))
            .filter(|it| !it.addresses.iter().any(is_used))
            .map(|it| {
                tracing::warn!(endpoint = %it, from, "restored an endpoint that the journal had lost");
                Record::Attached {
                    endpoint: Box::new(it),
                }
            })
            .collect();
        self.endpoints.restore_records(records).await;
        Ok(lost(&observed, &self.endpoints.list()))
    }
}

/// The host's ends of the endpoints' veths, with their places.
fn devices(observed: &State) -> BTreeMap<String, Place> {
    let devices = observed.resources().filter_map(|it| match &it.object {
        Object::Veth(veth) if Uplink::other_end(&veth.name).is_none() => {
            Some((veth.name.clone(), it.place.clone()))
        }
        _ => None,
    });
    devices.collect()
}

/// The devices of endpoints that the journal lost.
fn lost(observed: &State, known: &[LocalEndpoint]) -> BTreeMap<String, Place> {
    let mut devices = devices(observed);
    for endpoint in known {
        devices.remove(&endpoint.host_interface);
    }
    devices
}

/// An endpoint by its published form, which lacks the owner.
fn of_published(endpoint: &Endpoint) -> LocalEndpoint {
    let (_, peer_interface) = interface_names(&endpoint.id);
    LocalEndpoint {
        id: endpoint.id.clone(),
        tenant: endpoint.tenant.clone(),
        network: endpoint.network.clone(),
        group: endpoint.group.clone(),
        addresses: endpoint.addresses().collect(),
        mac: endpoint.mac,
        host_interface: endpoint.interface.clone(),
        peer_interface,
        owner: Owner::Unknown,
        name: endpoint.name.clone(),
        aliases: endpoint.aliases.clone(),
        container: endpoint.container.clone(),
        mtu: None,
    }
}

/// An endpoint by its device alone. The name of the device becomes its id.
fn of_kernel(
    observed: &State,
    (device, place): (&str, &Place),
    facts: &Projection,
    kind: DomainKind,
) -> Option<LocalEndpoint> {
    let mut tenants = facts.tenants.iter();
    let is_here = |name| Place::Domain(domain_name(kind, name)) == *place;
    let (tenant, fact) = tenants.find(|(name, _)| is_here(name))?;
    let neighbors = observed.resources().filter_map(|it| match &it.object {
        Object::Neighbor(it) if it.device == device => Some((it.address, it.mac)),
        _ => None,
    });
    let neighbors: Vec<_> = neighbors.collect();
    let (first, mac) = *neighbors.first()?;
    let stamp = observed.resources().find_map(|it| match &it.object {
        Object::Element(Element::Stamp {
            interface,
            address,
            stamp,
        }) if interface == device && *address == first => Some(*stamp),
        _ => None,
    })?;
    let mut networks = fact.networks.values();
    let network = networks.find(|it| it.spec.pools().any(|pool| pool.subnet.contains(&first)))?;
    Some(LocalEndpoint {
        id: EndpointId::new(device).ok()?,
        tenant: tenant.clone(),
        network: network.spec.name.clone(),
        group: fact.group_of(stamp).map(|it| it.spec.name.clone()),
        addresses: neighbors.into_iter().map(|(address, _)| address).collect(),
        mac,
        host_interface: device.to_owned(),
        peer_interface: device.replacen("cv", "cp", 1),
        owner: Owner::Unknown,
        name: None,
        aliases: Vec::new(),
        container: None,
        mtu: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::to_published;
    use node_core::desired::fixture::{Facts, kinds, red};

    #[test]
    fn endpoint_from_the_bus_lacks_only_its_owner() {
        let facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
        let local = facts.locals.values().next().unwrap();
        let node = "n1".parse().unwrap();
        let published = to_published(local, &node, "198.18.0.1".parse().unwrap());
        let expected = LocalEndpoint {
            owner: Owner::Unknown,
            ..local.as_ref().clone()
        };
        assert_eq!(of_published(&published), expected);
    }

    #[test]
    fn endpoint_from_the_kernel_has_addresses_and_place() {
        for kind in kinds() {
            let facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
            let local = facts.locals.values().next().unwrap();
            let observed = facts.desired(kind);
            let (device, place) = devices(&observed).pop_first().unwrap();
            let found = of_kernel(&observed, (&device, &place), &facts.projection, kind).unwrap();
            let expected = LocalEndpoint {
                id: device.parse().unwrap(),
                owner: Owner::Unknown,
                name: None,
                aliases: Vec::new(),
                container: None,
                ..local.as_ref().clone()
            };
            assert_eq!((found.tenant.clone(), found), (red(), expected));
        }
    }

    #[test]
    fn lost_devices_are_in_the_kernel_and_not_in_the_journal() {
        let facts = Facts::two_nodes()
            .endpoint("web", "20.1.1.1")
            .endpoint("db", "20.1.1.2");
        let known: Vec<LocalEndpoint> = facts
            .locals
            .values()
            .map(|it| it.as_ref().clone())
            .collect();
        for kind in kinds() {
            let observed = facts.desired(kind);
            assert!(lost(&observed, &known).is_empty());
            let lost = lost(&observed, &known[1..]);
            assert_eq!(lost.keys().next(), Some(&known[0].host_interface));
            assert_eq!(lost.len(), 1);
        }
    }
}
