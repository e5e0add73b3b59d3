//! A map that stands for the kernel. It knows which resources depend on which, and refuses ops as
//! the history says.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::reconcile::Op;
use crate::resource::{Key, Kind, Object, Place, Resource, RouteTarget, State};

/// Ops that the kernel refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    Flushes,
    /// All changes of one kind of resource.
    Kind(Kind),
    /// All changes of one device.
    Device(String),
}

#[derive(Debug, Default)]
pub(super) struct Kernel {
    resources: BTreeMap<Key, Resource>,
    pub(super) refusals: Vec<Refusal>,
}

/// The result of one op.
pub(super) type Outcome = Result<(), String>;

impl Kernel {
    pub(super) fn get(&self, key: &Key) -> Option<&Resource> {
        self.resources.get(key)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.resources.keys()
    }

    pub(super) fn state(&self) -> State {
        self.resources.values().cloned().collect()
    }

    /// Our table in one netfilter.
    pub(super) fn rules(&self, place: &Place) -> State {
        let rules = self
            .resources
            .iter()
            .filter(|(key, _)| is_rule_of(key, place));
        rules.map(|(_, resource)| resource.clone()).collect()
    }

    /// The addresses whose routes lead to endpoints, with the devices.
    pub(super) fn endpoint_routes(&self) -> BTreeMap<(Place, IpAddr), String> {
        endpoint_routes(self.resources.values())
    }

    /// Executes ops in their order. A failure doesn't stop the others, but a port isn't set up if
    /// rules of its place failed.
    pub(super) fn execute(&mut self, ops: &[Op]) -> Vec<Outcome> {
        let mut open = BTreeSet::new();
        let mut outcomes = Vec::new();
        for op in ops {
            let outcome = self.one(op, &open);
            if let (Op::Put(it) | Op::Change { to: it, .. }, Err(_)) = (op, &outcome)
                && it.object.kind().is_of_table()
            {
                open.insert(it.place.clone());
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    fn one(&mut self, op: &Op, open: &BTreeSet<Place>) -> Outcome {
        if self.refusals.iter().any(|it| it.concerns(op)) {
            return Err("refused".to_owned());
        }
        match op {
            Op::Put(it) | Op::Change { to: it, .. } => {
                let place = &it.place;
                if it.object.kind() == Kind::Up
                    && (open.contains(place) || open.contains(&place.netfilter()))
                {
                    return Err("its firewall isn't in place".to_owned());
                }
                if !self.can_hold(it) {
                    return Err("nothing to put it on".to_owned());
                }
                if let Op::Change { from, .. } = op
                    && from.key() != it.key()
                {
                    self.remove(&from.key());
                }
                self.resources.insert(it.key(), it.clone());
            }
            Op::Delete(it) => self.remove(&it.key()),
            Op::FlushConntrack { .. } => {}
        }
        Ok(())
    }

    /// Adds a resource behind the node's back, if it has something to be on. A route would take an
    /// address from its endpoint, which is another matter.
    pub(super) fn add(&mut self, resource: &Resource) {
        if resource.object.kind() != Kind::Route && self.can_hold(resource) {
            self.resources.insert(resource.key(), resource.clone());
        }
    }

    /// Removes a resource and all that depend on it.
    pub(super) fn remove(&mut self, key: &Key) {
        if self.resources.remove(key).is_none() {
            return;
        }
        let (place, id) = (&key.place, key.id.as_str());
        self.resources.retain(|other, resource| match key.kind {
            Kind::Domain => {
                let stays = other.kind.is_of_table() && place.netfilter() == Place::Host;
                other.place != *place || stays
            }
            Kind::Table => {
                let family = resource.object.family().map(|it| it.to_string());
                !is_rule_of(other, place) || family.as_deref() != Some(id)
            }
            Kind::Device => other.place != *place || resource.object.device() != Some(id),
            // A device that goes down loses its neighbors and routes.
            Kind::Up => {
                let goes = matches!(other.kind, Kind::Neighbor | Kind::Route);
                other.place != *place || !goes || resource.object.device() != Some(id)
            }
            _ => true,
        });
    }

    /// Removes our table's resources in one netfilter.
    pub(super) fn tear(&mut self, place: &Place) {
        self.resources.retain(|key, _| !is_rule_of(key, place));
    }

    fn can_hold(&self, resource: &Resource) -> bool {
        let place = &resource.place;
        let has = |kind, id: &str| {
            let (place, id) = (place.clone(), id.to_owned());
            self.resources.contains_key(&Key { place, kind, id })
        };
        let has_device = |device: &str| match place {
            Place::Domain(name) if name != device && device != "lo" => has(Kind::Device, device),
            Place::Host | Place::Domain(_) => true,
        };
        let kind = resource.object.kind();
        let needs_table = kind.is_of_table() && kind != Kind::Table;
        let family = resource.object.family();
        let table = Key {
            place: place.netfilter(),
            kind: Kind::Table,
            id: family.map(|it| it.to_string()).unwrap_or_default(),
        };
        let is_of_host_table = kind.is_of_table() && place.netfilter() == Place::Host;
        let has_place = *place == Place::Host
            || kind == Kind::Domain
            || is_of_host_table
            || has(Kind::Domain, "");
        let device = resource.object.device();
        let is_up = kind != Kind::Route || device.is_none_or(|it| has(Kind::Up, it));
        has_place
            && (!needs_table || self.resources.contains_key(&table))
            && device.is_none_or(has_device)
            && is_up
    }
}

impl Refusal {
    pub(super) fn concerns(&self, op: &Op) -> bool {
        match (self, op) {
            (Self::Flushes, op) => matches!(op, Op::FlushConntrack { .. }),
            (_, Op::FlushConntrack { .. }) => false,
            (refusal, Op::Put(it) | Op::Delete(it) | Op::Change { to: it, .. }) => {
                refusal.is_about(it)
            }
        }
    }

    pub(super) fn is_about(&self, resource: &Resource) -> bool {
        match self {
            Self::Flushes => false,
            Self::Kind(kind) => resource.object.kind() == *kind,
            Self::Device(name) => {
                let key = resource.key();
                resource.object.device() == Some(name)
                    || key.kind == Kind::Device && key.id == *name
            }
        }
    }
}

pub(super) fn endpoint_routes<'a>(
    resources: impl Iterator<Item = &'a Resource>,
) -> BTreeMap<(Place, IpAddr), String> {
    let routes = resources.filter_map(|it| match &it.object {
        Object::Route(route) => match &route.target {
            RouteTarget::Device(device) => {
                Some(((it.place.clone(), route.destination.addr()), device.clone()))
            }
            _ => None,
        },
        _ => None,
    });
    routes.collect()
}

fn is_rule_of(key: &Key, place: &Place) -> bool {
    key.kind.is_of_table() && key.place.netfilter() == *place
}
