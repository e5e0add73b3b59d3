//! Plans which Docker networks to create and remove, so that they follow the log. Pure.
//!
//! Our networks have our label; networks that somebody made by hand are never removed or replaced.

use std::collections::BTreeMap;

use bus_schema::node::{Alarm, Grade};
use bus_schema::{GroupSpec, NetworkSpec};

use super::meaning::{self, Meaning};
use super::swarm;
use node_core::projection::Projection;

/// A label of each Docker network that netplugin made.
pub(super) const MADE_BY_LABEL: &str = "contiv.made-by";
pub(super) const MADE_BY_VALUE: &str = "netplugin";
pub(super) const DRIVER_NAME: &str = "contiv";

/// Whether a network's driver is one of our two drivers.
pub(super) fn is_contiv(driver: &str) -> bool {
    [DRIVER_NAME, swarm::PLUGIN_NAME].contains(&driver)
}

/// A network as the engine lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EngineNetwork {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) driver: String,
    pub(super) options: BTreeMap<String, String>,
    pub(super) labels: BTreeMap<String, String>,
    /// Subnet and gateway of each family, as set at its creation.
    pub(super) pools: Vec<(String, String)>,
}

impl EngineNetwork {
    fn is_ours(&self) -> bool {
        self.driver == DRIVER_NAME
            && self
                .labels
                .get(MADE_BY_LABEL)
                .is_some_and(|v| v == MADE_BY_VALUE)
    }

    /// The id as `docker network ls` prints it, for commands: two networks may have one name.
    pub(super) fn short_id(&self) -> &str {
        self.id.get(..12).unwrap_or(&self.id)
    }

    fn belongs_to(&self, wanted: &WantedNetwork, projection: &Projection) -> bool {
        let subnet = self
            .pools
            .first()
            .and_then(|(subnet, _)| subnet.parse().ok());
        self.driver == DRIVER_NAME
            && meaning::resolve(projection, &self.options, subnet).as_ref() == Ok(&wanted.meaning)
            && (!self.is_ours() || self.pools == wanted.pools)
    }
}

/// A Docker network that should exist: one for each network and for each group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedNetwork {
    pub(super) name: String,
    pub(super) meaning: Meaning,
    pub(super) pools: Vec<(String, String)>,
    pub(super) v6: bool,
    /// Its network or group is being removed: don't create it again.
    closing: bool,
}

impl WantedNetwork {
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

fn wanted(projection: &Projection) -> impl Iterator<Item = WantedNetwork> {
    projection.tenants.values().flat_map(|tenant| {
        let networks = tenant.networks.values();
        let networks = networks.map(|fact| WantedNetwork::network(&fact.spec, fact.closing));
        let groups = tenant.groups.values().filter_map(|fact| {
            let network = tenant.networks.get(&fact.spec.network)?;
            let closing = fact.closing || network.closing;
            Some(WantedNetwork::group(&fact.spec, &network.spec, closing))
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
    /// Removed before `create`: a network that was created again may need the same name.
    pub(super) remove: Vec<EngineNetwork>,
    pub(super) create: Vec<WantedNetwork>,
    pub(super) alarms: Vec<Alarm>,
}

/// Plans the changes. Nothing is removed unless `in_sync`: before the log is replayed, a network that
/// isn't known yet looks like a removed one.
///
/// The engine may have several networks of one name, if they were made at the same time: it checks
/// the name before it makes a network. Then the stranger's stays and ours goes.
pub(super) fn plan(projection: &Projection, found: &[EngineNetwork], in_sync: bool) -> Plan {
    let mut plan = Plan::default();
    let mut keep = Vec::new();
    for wanted in wanted(projection) {
        let same_name = found.iter().filter(|found| found.name == wanted.name);
        let (ours, strangers): (Vec<_>, Vec<_>) = same_name.partition(|it| it.is_ours());
        let belongs = |it: &&&EngineNetwork| it.belongs_to(&wanted, projection);
        if strangers.iter().any(|it| belongs(&it)) {
            continue;
        }
        if wanted.closing {
            keep.extend(ours.iter().map(|it| &it.id));
        } else if let Some(stranger) = strangers.first() {
            plan.alarms.push(name_taken(&wanted, stranger));
        } else if let Some(found) = ours.iter().find(belongs) {
            keep.push(&found.id);
        } else if ours.is_empty() || in_sync {
            plan.create.push(wanted);
        } else {
            keep.extend(ours.iter().map(|it| &it.id));
        }
    }
    if in_sync {
        plan.remove = found
            .iter()
            .filter(|found| found.is_ours() && !keep.contains(&&found.id))
            .cloned()
            .collect();
    }
    plan
}

fn name_taken(wanted: &WantedNetwork, stranger: &EngineNetwork) -> Alarm {
    let name = &stranger.name;
    Alarm::new(
        Grade::Wrong,
        "docker-network-taken",
        format!(
            "the engine has a network `{name}` of driver `{}` that belongs to nothing of ours, so {} has no Docker network on this node: remove it with `docker network rm {}`, netplugin then creates ours",
            stranger.driver,
            wanted.meaning,
            stranger.short_id()
        ),
    )
}
