//! Watches conntrack's tables: how full they are, and which endpoints have had connections refused
//! because they have too many. For Prometheus, and as alarms.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::TenantName;
use bus_schema::node::{Alarm, DomainKind, Grade};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::endpoint::Snapshot;
use crate::metrics::{self, increase};
use crate::status::listed;
use node_core::desired::{Params, domain_name, tenants, zone};
use node_core::endpoint::Locals;
use node_core::projection::Projection;
use node_core::resource::Place;
use node_datapath::{ConntrackUsage, Datapath, DatapathError, RefusedConnections};
use runtime::{pause, send_if_changed};

const READ_INTERVAL: Duration = Duration::from_secs(5);
/// In VRFs the entries of each tenant are counted by a dump of the whole table, no more than so many
/// entries a second.
const COUNTED_ENTRIES_PER_SECOND: u32 = 10_000;
/// From this part of a table on there is an alarm, in percent.
const NEARLY_FULL_PERCENT: u64 = 80;

/// Reads the kernel's tables at intervals.
#[derive(Debug)]
pub struct ConnectionWatch {
    pub params: Params,
    pub datapath: Datapath,
    pub facts: watch::Receiver<Projection>,
    pub snapshots: watch::Receiver<Snapshot>,
    pub last: LastReading,
}

/// The state after a reading.
#[derive(Debug, Default)]
pub struct LastReading {
    /// The refused packets of each place.
    refused: BTreeMap<Place, u64>,
    /// The tenants whose entries were counted.
    counted: BTreeSet<TenantName>,
    /// The time of the last dump of the whole table.
    dumped_at: Option<Instant>,
}

impl LastReading {
    /// Forgets the places of tenants that are gone, and returns those whose entries were counted.
    fn forget_gone(
        &mut self,
        kind: DomainKind,
        tenants: &BTreeSet<TenantName>,
    ) -> BTreeSet<TenantName> {
        let places: BTreeSet<Place> = tenants.iter().map(|it| place_of(kind, it)).collect();
        self.refused.retain(|place, _| places.contains(place));
        let gone = &self.counted - tenants;
        self.counted.clone_from(tenants);
        gone
    }

    /// Whether the whole table, with so many entries, is to be dumped now.
    fn must_dump(&mut self, entries: u32, now: Instant) -> bool {
        let seconds = u64::from(entries / COUNTED_ENTRIES_PER_SECOND);
        let interval = READ_INTERVAL.max(Duration::from_secs(seconds));
        let must = self.dumped_at.is_none_or(|at| now >= at + interval);
        if must {
            self.dumped_at = Some(now);
        }
        must
    }
}

/// The place whose conntrack table has a tenant's entries.
fn place_of(kind: DomainKind, tenant: &TenantName) -> Place {
    match kind {
        DomainKind::Vrf => Place::Host,
        DomainKind::Netns => Place::Domain(domain_name(kind, tenant)),
    }
}

/// The facts of one reading.
struct Reading {
    facts: Projection,
    locals: Locals,
    kind: DomainKind,
    tenants: BTreeSet<TenantName>,
}

impl ConnectionWatch {
    /// Reads the tables every [`READ_INTERVAL`], for ever.
    pub async fn run(mut self, alarms: watch::Sender<Vec<Alarm>>) {
        loop {
            let now = self.read().await;
            send_if_changed(&alarms, now);
            pause(READ_INTERVAL).await;
        }
    }

    /// A table that can't be read, as that of a domain that isn't made yet, leaves out its own alarms.
    async fn read(&mut self) -> Vec<Alarm> {
        let facts = self.facts.borrow().clone();
        let locals = self.snapshots.borrow().endpoints.clone();
        let reading = Reading {
            tenants: tenants(&facts, &locals, &self.params),
            kind: self.params.kind,
            facts,
            locals,
        };
        for tenant in self.last.forget_gone(reading.kind, &reading.tenants) {
            metrics::conntrack_entries(tenant.as_str(), 0);
        }
        let mut alarms = or_none(self.read_host(&reading).await);
        if reading.kind == DomainKind::Netns {
            for tenant in &reading.tenants {
                alarms.extend(or_none(self.read_domain(&reading, tenant).await));
            }
        }
        alarms
    }

    async fn read_host(&mut self, reading: &Reading) -> Result<Vec<Alarm>, DatapathError> {
        let usage = self.datapath.conntrack_usage(&Place::Host).await?;
        metrics::conntrack_entries("", usage.entries.into());
        metrics::conntrack_max(usage.max);
        let mut alarms: Vec<Alarm> = nearly_full("this host", usage).into_iter().collect();
        if reading.kind == DomainKind::Vrf {
            let of = &reading.tenants;
            alarms.extend(or_none(self.refused(reading, Place::Host, of).await));
            if self.last.must_dump(usage.entries, Instant::now()) {
                self.count_zones(reading).await?;
            }
        }
        Ok(alarms)
    }

    async fn read_domain(
        &mut self,
        reading: &Reading,
        tenant: &TenantName,
    ) -> Result<Vec<Alarm>, DatapathError> {
        let place = place_of(reading.kind, tenant);
        let usage = self.datapath.conntrack_usage(&place).await?;
        metrics::conntrack_entries(tenant.as_str(), usage.entries.into());
        let full = nearly_full(&format!("tenant {tenant}"), usage);
        let of = BTreeSet::from([tenant.clone()]);
        let refused = or_none(self.refused(reading, place, &of).await);
        Ok(full.into_iter().chain(refused).collect())
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
        of: &BTreeSet<TenantName>,
    ) -> Result<Option<Alarm>, DatapathError> {
        let RefusedConnections { packets, lately } =
            self.datapath.refused_connections(&place).await?;
        let before = self.last.refused.insert(place, packets);
        // Packets before netplugin's start are of an unknown time.
        let new = before.map_or(0, |it| increase(it, packets));
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

/// The result of one table; nothing if it can't be read.
fn or_none<T: Default>(read: Result<T, DatapathError>) -> T {
    read.unwrap_or_else(|error| {
        tracing::debug!(%error, "can't read a conntrack table");
        T::default()
    })
}

fn nearly_full(owner: &str, usage: ConntrackUsage) -> Option<Alarm> {
    let ConntrackUsage { entries, max } = usage;
    let full = u64::from(entries) * 100 >= u64::from(max) * NEARLY_FULL_PERCENT;
    (full && max > 0).then(|| {
        let text = format!(
            "the conntrack table of {owner} holds {entries} of {max} entries; a full one accepts no new connection: lower `netctl net update NETWORK --max-connections N`, or raise the sysctl net.netfilter.nf_conntrack_max and restart netplugin, which reads it when it starts"
        );
        Alarm::new(Grade::Warning, "conntrack-full", text)
    })
}

fn too_many(names: Vec<String>) -> Option<Alarm> {
    let names = listed(names)?;
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

    #[test]
    fn whole_table_is_dumped_the_less_often_the_larger_it_is() {
        let (mut last, begin) = (LastReading::default(), Instant::now());
        let mut dumps =
            |entries, second| last.must_dump(entries, begin + Duration::from_secs(second));
        assert!(dumps(100, 0), "the first time");
        assert!(!dumps(100, 4) && dumps(100, 5));
        assert!(!dumps(200_000, 24) && dumps(200_000, 25));
    }

    #[test]
    fn tenants_that_are_gone_are_forgotten() {
        let [red, blue] = ["red", "blue"].map(|it| TenantName::new(it).expect("a name"));
        let kind = DomainKind::Netns;
        let mut last = LastReading::default();
        let [none, of_red, of_blue] = [vec![], vec![&red], vec![&blue]]
            .map(|it| it.into_iter().cloned().collect::<BTreeSet<_>>());
        assert_eq!(last.forget_gone(kind, &(&of_red | &of_blue)), none);
        for tenant in [&red, &blue] {
            last.refused.insert(place_of(kind, tenant), 1);
        }
        assert_eq!(last.forget_gone(kind, &of_red), of_blue);
        let left: Vec<&Place> = last.refused.keys().collect();
        assert_eq!(left, [&place_of(kind, &red)]);
        assert_eq!(last.forget_gone(kind, &of_red), none, "told once");
    }
}
