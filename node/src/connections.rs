//! Watches conntrack's tables: how full they are, and which endpoints have had connections refused
//! because they have too many. For Prometheus, and as alarms.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::TenantName;
use bus_schema::node::{Alarm, DomainKind, Grade};
use tokio::sync::watch;

use crate::endpoint::Snapshot;
use crate::metrics;
use node_core::desired::{Params, domain_name, tenants, zone};
use node_core::endpoint::Locals;
use node_core::projection::Projection;
use node_core::resource::Place;
use node_datapath::{ConntrackUsage, Datapath, DatapathError, RefusedConnections};
use runtime::pause;

const READ_INTERVAL: Duration = Duration::from_secs(5);
/// From this part of a table on there is an alarm, in percent.
const NEARLY_FULL_PERCENT: u64 = 80;
/// The endpoints that one alarm names.
const MAX_NAMED_ENDPOINTS: usize = 10;

/// Reads the kernel's tables at intervals.
#[derive(Debug)]
pub struct ConnectionWatch {
    pub params: Params,
    pub datapath: Datapath,
    pub facts: watch::Receiver<Projection>,
    pub snapshots: watch::Receiver<Snapshot>,
    /// The refused packets of each place at the last reading.
    pub refused: BTreeMap<Place, u64>,
}

/// The facts of one reading.
struct Reading {
    facts: Projection,
    locals: Locals,
    kind: DomainKind,
    tenants: Vec<TenantName>,
}

impl ConnectionWatch {
    /// Reads the tables every [`READ_INTERVAL`], for ever.
    pub async fn run(mut self, alarms: watch::Sender<Vec<Alarm>>) {
        loop {
            let now = self.read().await.unwrap_or_else(|error| {
                tracing::debug!(%error, "can't read conntrack's tables");
                Vec::new()
            });
            alarms.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
            pause(READ_INTERVAL).await;
        }
    }

    async fn read(&mut self) -> Result<Vec<Alarm>, DatapathError> {
        let facts = self.facts.borrow().clone();
        let locals = self.snapshots.borrow().endpoints.clone();
        let reading = Reading {
            tenants: tenants(&facts, &locals, &self.params).into_iter().collect(),
            kind: self.params.kind,
            facts,
            locals,
        };
        let usage = self.datapath.conntrack_usage(&Place::Host).await?;
        metrics::conntrack_entries("", usage.entries.into());
        metrics::conntrack_max(usage.max);
        let mut alarms: Vec<Alarm> = nearly_full("this host", usage).into_iter().collect();
        match reading.kind {
            DomainKind::Vrf => {
                self.count_zones(&reading).await?;
                alarms.extend(
                    self.refused(&reading, Place::Host, &reading.tenants)
                        .await?,
                );
            }
            DomainKind::Netns => {
                for tenant in &reading.tenants {
                    let place = Place::Domain(domain_name(reading.kind, tenant));
                    let usage = self.datapath.conntrack_usage(&place).await?;
                    metrics::conntrack_entries(tenant.as_str(), usage.entries.into());
                    alarms.extend(nearly_full(&format!("tenant {tenant}"), usage));
                    let of = std::slice::from_ref(tenant);
                    alarms.extend(self.refused(&reading, place, of).await?);
                }
            }
        }
        Ok(alarms)
    }

    async fn count_zones(&self, reading: &Reading) -> Result<(), DatapathError> {
        let zones = self.datapath.conntrack_zones(&Place::Host).await?;
        for tenant in &reading.tenants {
            let entries = zones.get(&zone(&reading.facts, tenant, reading.kind));
            metrics::conntrack_entries(tenant.as_str(), entries.copied().unwrap_or_default());
        }
        Ok(())
    }

    /// The alarm of the connections that were refused in a place, which is of these tenants.
    async fn refused(
        &mut self,
        reading: &Reading,
        place: Place,
        of: &[TenantName],
    ) -> Result<Option<Alarm>, DatapathError> {
        let RefusedConnections { packets, lately } =
            self.datapath.refused_connections(&place).await?;
        let before = self.refused.insert(place, packets);
        // Packets before netplugin's start are of an unknown time.
        let new = before.map_or(0, |it| packets.checked_sub(it).unwrap_or(packets));
        metrics::refused_connections(new);
        let names = lately.iter().map(|(zone_of, address, _)| {
            let tenant = of
                .iter()
                .find(|it| zone(&reading.facts, it, reading.kind) == *zone_of);
            reading.endpoint(tenant, *address)
        });
        Ok(too_many(names.collect()))
    }
}

impl Reading {
    /// The endpoint by its name, address and network.
    fn endpoint(&self, tenant: Option<&TenantName>, address: IpAddr) -> String {
        let Some(tenant) = tenant else {
            return address.to_string();
        };
        let mut locals = self.locals.values();
        let local = locals.find(|it| it.tenant == *tenant && it.addresses.contains(&address));
        let name = local.and_then(|it| it.name.as_deref());
        let fact = self.facts.tenants.get(tenant);
        let mut networks = fact.into_iter().flat_map(|it| it.networks.iter());
        let network = networks.find(|(_, it)| it.spec.v4.subnet.contains(&address));
        let network = network.map_or("", |(name, _)| name.as_str());
        match name {
            Some(name) => format!("{name} ({address}) in {tenant}/{network}"),
            None => format!("{address} in {tenant}/{network}"),
        }
    }
}

fn nearly_full(owner: &str, usage: ConntrackUsage) -> Option<Alarm> {
    let ConntrackUsage { entries, max } = usage;
    let full = u64::from(entries) * 100 >= u64::from(max) * NEARLY_FULL_PERCENT;
    (full && max > 0).then(|| {
        let text = format!(
            "the conntrack table of {owner} holds {entries} of {max} entries; a full one accepts no new connection: lower `netctl net update NETWORK --max-connections N`, or raise the sysctl net.netfilter.nf_conntrack_max"
        );
        Alarm::new(Grade::Warning, "conntrack-full", text)
    })
}

fn too_many(mut names: Vec<String>) -> Option<Alarm> {
    names.sort();
    let more = names.len().saturating_sub(MAX_NAMED_ENDPOINTS);
    names.truncate(MAX_NAMED_ENDPOINTS);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    let names = (!names.is_empty()).then(|| names.join(", "))?;
    let text = format!(
        "these endpoints have as many connections as they may open, and new ones were refused in the last minute: {names}; `netctl net update NETWORK --max-connections N` lets them open more"
    );
    Some(Alarm::new(Grade::Warning, "too-many-connections", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_nearly_full_from_four_fifths_on() {
        let usage = |entries| ConntrackUsage { entries, max: 1000 };
        assert_eq!(nearly_full("this host", usage(799)), None);
        let alarm = nearly_full("tenant blue", usage(800)).expect("an alarm");
        assert!(
            alarm.text.contains("tenant blue holds 800 of 1000"),
            "{alarm:?}"
        );
        assert_eq!(nearly_full("this host", ConntrackUsage::default()), None);
    }

    #[test]
    fn alarm_names_few_endpoints() {
        let names = (0..12).map(|it| format!("e{it:02}")).collect();
        let alarm = too_many(names).expect("an alarm");
        assert!(alarm.text.contains("e09, 2 more;"), "{alarm:?}");
        assert_eq!(too_many(Vec::new()), None);
    }
}
