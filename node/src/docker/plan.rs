//! What to do so that the engine's networks are those of the log. Pure.
//!
//! Ours are the networks that bear our label; what somebody made by hand is never removed or
//! replaced, whatever it stands for.

use std::collections::BTreeMap;

use bus_schema::NetworkSpec;
use bus_schema::node::Alarm;

use super::pool::{self, Meaning};
use crate::projection::Projection;

/// On every Docker network that netplugin made.
pub(super) const LABEL: &str = "contiv.made-by";
pub(super) const LABEL_VALUE: &str = "netplugin";
pub(super) const DRIVER: &str = "contiv";

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

    fn stands_for(&self, spec: &NetworkSpec, projection: &Projection) -> bool {
        let subnet = self
            .pools
            .first()
            .and_then(|(subnet, _)| subnet.parse().ok());
        self.driver == DRIVER
            && pool::resolve(projection, &self.options, subnet) == Ok(Meaning::of(spec))
            && (!self.is_ours() || self.pools == pools(spec))
    }
}

/// Subnet and gateway of each of a network's families, as text.
pub(super) fn pools(spec: &NetworkSpec) -> Vec<(String, String)> {
    spec.pools()
        .map(|pool| (pool.subnet.to_string(), pool.gateway.to_string()))
        .collect()
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Done first: a network that was removed and created again may need the same name.
    pub(super) remove: Vec<Found>,
    pub(super) create: Vec<NetworkSpec>,
    pub(super) alarms: Vec<Alarm>,
}

/// Nothing is removed unless `in_sync`: before the log is replayed, a network that isn't known yet
/// looks like one that was removed.
pub(super) fn plan(projection: &Projection, found: &[Found], in_sync: bool) -> Plan {
    let mut plan = Plan::default();
    let mut keep = Vec::new();
    for fact in projection
        .tenants
        .values()
        .flat_map(|t| t.networks.values())
    {
        let spec = &fact.spec;
        let name = spec.docker_network();
        let same_name: Vec<&Found> = found.iter().filter(|found| found.name == name).collect();
        match same_name.iter().find(|f| f.stands_for(spec, projection)) {
            Some(found) => keep.push(found.id.as_str()),
            None if fact.closing => keep.extend(same_name.iter().map(|f| f.id.as_str())),
            None => match same_name.iter().find(|found| !found.is_ours()) {
                Some(stranger) => plan.alarms.push(taken(spec, stranger)),
                None if same_name.is_empty() || in_sync => plan.create.push(spec.clone()),
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

fn taken(spec: &NetworkSpec, stranger: &Found) -> Alarm {
    let name = &stranger.name;
    Alarm {
        code: "docker-network-taken".to_owned(),
        text: format!(
            "the engine has a network `{name}` of driver `{}` that stands for something else, so network {} of tenant {} has no Docker network on this node: remove it with `docker network rm {name}`, netplugin then creates ours",
            stranger.driver, spec.name, spec.tenant
        ),
    }
}
