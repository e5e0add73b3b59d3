//! Watches the uplinks: each tenant's packets out and in and the dropped ones, for Prometheus; and
//! whether the pool of their addresses collides with another network, as an alarm.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::TenantName;
use bus_schema::node::{Alarm, DomainKind, Grade};
use bus_schema::surroundings::Surroundings;
use ipnet::Ipv4Net;
use tokio::sync::watch;

use crate::metrics::{self, increase};
use crate::status::listed;
use node_core::desired::{Params, domain_name, is_covered, uplink};
use node_core::projection::Projection;
use node_core::resource::{Place, Uplink, UplinkDrop};
use node_datapath::{Datapath, DatapathError, UplinkTraffic};
use runtime::{pause, send_if_changed};

/// Prometheus usually reads as often.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// Reads the kernel at intervals.
#[derive(Debug)]
pub struct UplinkWatch {
    pub params: Params,
    pub datapath: Datapath,
    pub facts: watch::Receiver<Projection>,
    pub surroundings: watch::Receiver<Surroundings>,
    pub last: UplinkCounters,
}

/// The counters at the last reading.
#[derive(Debug, Default)]
pub struct UplinkCounters {
    traffic: BTreeMap<TenantName, UplinkTraffic>,
    drops: BTreeMap<(Place, UplinkDrop), u64>,
}

impl UplinkWatch {
    /// Reads every [`READ_INTERVAL`], for ever.
    pub async fn run(mut self, alarms: watch::Sender<Vec<Alarm>>) {
        loop {
            match self.read().await {
                Ok(now) => {
                    send_if_changed(&alarms, now);
                }
                Err(error) => tracing::debug!(%error, "can't read the uplinks"),
            }
            pause(READ_INTERVAL).await;
        }
    }

    async fn read(&mut self) -> Result<Vec<Alarm>, DatapathError> {
        let facts = self.facts.borrow().clone();
        let tenants = facts.tenants.iter();
        let uplinks = tenants.filter_map(|(name, fact)| Some((name, uplink(fact, &self.params)?)));
        let uplinks: BTreeMap<&TenantName, Uplink> = uplinks.collect();
        metrics::uplinks(free(self.params.uplink_pool, uplinks.len()));
        let mut alarms: Vec<Alarm> = covered(&facts, &self.params).into_iter().collect();
        if uplinks.is_empty() {
            self.last = UplinkCounters::default();
            return Ok(alarms);
        }
        self.count(&uplinks).await?;
        let resolvers = self.surroundings.borrow().resolvers.clone();
        let pool = self.params.uplink_pool;
        alarms.extend(collision(&self.datapath, pool, &resolvers).await?);
        Ok(alarms)
    }

    /// Counts what is new, and forgets the counters of uplinks that are gone.
    async fn count(
        &mut self,
        uplinks: &BTreeMap<&TenantName, Uplink>,
    ) -> Result<(), DatapathError> {
        let traffic = self.datapath.uplink_traffic().await?;
        let mut places = BTreeSet::from([Place::Host]);
        for (tenant, uplink) in uplinks {
            let now = traffic
                .get(&uplink.host_device)
                .copied()
                .unwrap_or_default();
            let last = self.last.traffic.insert((*tenant).clone(), now);
            metrics::uplink_traffic(tenant.as_str(), since(last.unwrap_or_default(), now));
            if self.params.kind == DomainKind::Netns {
                places.insert(Place::Domain(domain_name(self.params.kind, tenant)));
            }
        }
        self.last.traffic.retain(|it, _| uplinks.contains_key(it));
        self.last.drops.retain(|(it, _), _| places.contains(it));
        for place in places {
            for (reason, now) in self.datapath.uplink_drops(&place).await? {
                let last = self.last.drops.insert((place.clone(), reason), now);
                metrics::uplink_drops(reason, increase(last.unwrap_or_default(), now));
            }
        }
        Ok(())
    }
}

fn since(last: UplinkTraffic, now: UplinkTraffic) -> UplinkTraffic {
    UplinkTraffic {
        packets_out: increase(last.packets_out, now.packets_out),
        bytes_out: increase(last.bytes_out, now.bytes_out),
        packets_in: increase(last.packets_in, now.packets_in),
        bytes_in: increase(last.bytes_in, now.bytes_in),
    }
}

/// The addresses of the pool that no uplink has.
fn free(pool: Ipv4Net, uplinks: usize) -> u64 {
    let all = 1_u64 << (32 - pool.prefix_len());
    all.saturating_sub(2 * uplinks as u64)
}

/// The alarm about tenants that have no uplink because a subnet of theirs covers addresses of the pool.
fn covered(facts: &Projection, params: &Params) -> Option<Alarm> {
    let tenants = facts.tenants.iter();
    let names = tenants.filter(|(_, fact)| is_covered(fact, params));
    let names = listed(names.map(|(name, _)| name.to_string()).collect())?;
    let pool = params.uplink_pool;
    let text = format!(
        "subnets of these tenants cover addresses of {pool}, from which this node's ways out are numbered, so their containers have no way out: {names}; start netplugin with another --uplink-pool"
    );
    Some(Alarm::new(Grade::Warning, "uplink-pool", text))
}

/// The alarm about a network of the host or a resolver in the pool of the uplinks' addresses.
pub async fn collision(
    datapath: &Datapath,
    pool: Ipv4Net,
    resolvers: &[IpAddr],
) -> Result<Option<Alarm>, DatapathError> {
    let routes = datapath.routes_over(pool).await?;
    let resolvers = resolvers.iter().filter(|it| match it {
        IpAddr::V4(it) => pool.contains(it),
        IpAddr::V6(_) => false,
    });
    let routes = routes.iter().map(|it| format!("the route to {it}"));
    let names = routes.chain(resolvers.map(|it| format!("the resolver {it}")));
    Ok(listed(names.collect()).map(|names| {
        let text = format!(
            "{pool}, from which this node's ways out are numbered, overlaps {names}: start netplugin with another --uplink-pool, a network that is used nowhere else"
        );
        Alarm::new(Grade::Wrong, "uplink-pool", text)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counter_of_an_uplink_that_was_made_anew_counts_from_zero() {
        assert_eq!((increase(0, 7), increase(7, 9), increase(9, 2)), (7, 2, 2));
    }

    #[test]
    fn uplinks_take_two_addresses_each() {
        assert_eq!(free(Uplink::DEFAULT_POOL, 3), 131_066);
    }
}
