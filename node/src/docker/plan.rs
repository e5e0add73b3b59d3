//! What to do so that the engine's networks are those of the log. Pure.
//!
//! Ours are the networks that bear our label; what somebody made by hand is never removed or
//! replaced, whatever it stands for.

use std::collections::BTreeMap;

use bus_schema::node::{Alarm, Grade};
use bus_schema::{GroupSpec, NetworkSpec};

use super::pool::{self, Meaning};
use super::swarm;
use node_core::projection::Projection;

/// On every Docker network that netplugin made.
pub(super) const LABEL: &str = "contiv.made-by";
pub(super) const LABEL_VALUE: &str = "netplugin";
pub(super) const DRIVER: &str = "contiv";

/// Whether a network's driver is one of our two.
pub(super) fn is_contiv(driver: &str) -> bool {
    [DRIVER, swarm::DRIVER].contains(&driver)
}

/// A network as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) options: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
    /// Subnet and gateway of each family, as given at its creation.
    pub(super) pools: Vec<(String, String)>,
}

impl Found {
    fn is_ours(&self) -> bool {
        self.driver == DRIVER && self.labels.get(LABEL).is_some_and(|v| v == LABEL_VALUE)
    }

    fn stands_for(&self, wanted: &Wanted, projection: &Projection) -> bool {
        let subnet = self
            .pools
            .first()
            .and_then(|(subnet, _)| subnet.parse().ok());
        self.driver == DRIVER
            && pool::resolve(projection, &self.options, subnet).as_ref() == Ok(&wanted.meaning)
            && (!self.is_ours() || self.pools == wanted.pools)
    }
}

/// A Docker network that should be there: one for each network and for each group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) meaning: Meaning,
    pub(super) pools: Vec<(String, String)>,
    pub(super) v6: bool,
    /// What it stands for is being removed: it isn't created again.
    closing: bool,
}

impl Wanted {
    fn network(spec: &NetworkSpec, closing: bool) -> Self {
        Self {
            name: spec.docker_network(),
            meaning: Meaning::of(spec),
            pools: pools(spec),
            v6: spec.v6.is_some(),
            closing,
        }
    }

    fn group(group: &GroupSpec, network: &NetworkSpec, closing: bool) -> Self {
        let mut wanted = Self::network(network, closing);
        wanted.name = group.docker_network();
        wanted.meaning.group = Some(group.name.clone());
        wanted
    }
}

fn wanted(projection: &Projection) -> impl Iterator<Item = Wanted> {
    projection.tenants.values().flat_map(|tenant| {
        let networks = tenant.networks.values();
        let networks = networks.map(|fact| Wanted::network(&fact.spec, fact.closing));
        let groups = tenant.groups.values().filter_map(|fact| {
            let network = tenant.networks.get(&fact.spec.network)?;
            let closing = fact.closing || network.closing;
            Some(Wanted::group(&fact.spec, &network.spec, closing))
        });
        networks.chain(groups)
    })
}

/// Subnet and gateway of each of a network's families, as text.
fn pools(spec: &NetworkSpec) -> Vec<(String, String)> {
    spec.pools()
        .map(|pool| (pool.subnet.to_string(), pool.gateway.to_string()))
        .collect()
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Done first: a network that was removed and created again may need the same name.
    pub(super) remove: Vec<Found>,
    pub(super) create: Vec<Wanted>,
    pub(super) alarms: Vec<Alarm>,
}

/// Nothing is removed unless `in_sync`: before the log is replayed, a network that isn't known yet
/// looks like one that was removed.
pub(super) fn plan(projection: &Projection, found: &[Found], in_sync: bool) -> Plan {
    let mut plan = Plan::default();
    let mut keep = Vec::new();
    for wanted in wanted(projection) {
        let same_name = found.iter().filter(|found| found.name == wanted.name);
        let same_name: Vec<&Found> = same_name.collect();
        match same_name.iter().find(|f| f.stands_for(&wanted, projection)) {
            Some(found) => keep.push(found.id.as_str()),
            None if wanted.closing => keep.extend(same_name.iter().map(|f| f.id.as_str())),
            None => match same_name.iter().find(|found| !found.is_ours()) {
                Some(stranger) => plan.alarms.push(taken(&wanted, stranger)),
                None if same_name.is_empty() || in_sync => plan.create.push(wanted),
                None => keep.extend(same_name.iter().map(|f| f.id.as_str())),
            },
        }
    }
    if in_sync {
        plan.remove = found
            .iter()
            .filter(|found| found.is_ours() && !keep.contains(&found.id.as_str()))
            .cloned()
            .collect();
    }
    plan
}

fn taken(wanted: &Wanted, stranger: &Found) -> Alarm {
    let name = &stranger.name;
    Alarm::new(
        Grade::Wrong,
        "docker-network-taken",
        format!(
            "the engine has a network `{name}` of driver `{}` that stands for something else, so {} has no Docker network on this node: remove it with `docker network rm {name}`, netplugin then creates ours",
            stranger.driver, wanted.meaning
        ),
    )
}
