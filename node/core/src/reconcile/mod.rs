//! Compares two states and orders the ops that lead from the first to the second.
//!
//! Pure, and about kernel objects only. Objects that aren't in the observed state aren't touched; the
//! observer adds only objects with our marks. The step calls [`diff`] with the last known state after
//! an event, and with the observed state at a resync.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use crate::resource::{
    Element, Key, Kind, Object, Place, Resource, Route, RouteTarget, State, Uplink,
};

/// One change of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Creates the resource, or sets it if it exists.
    Put(Resource),
    /// Replaces `from`, which has the same key, without a gap where the kernel can. A device in a
    /// wrong place has another key there.
    Change { from: Resource, to: Resource },
    /// Deletes the resource; it is no error if it doesn't exist.
    Delete(Resource),
    /// Deletes the conntrack entries of an address that left an endpoint: its next owner inherits no
    /// connection.
    FlushConntrack {
        place: Place,
        zone: u16,
        address: IpAddr,
    },
}

impl Op {
    pub fn place(&self) -> &Place {
        match self {
            Self::Put(it) | Self::Delete(it) | Self::Change { to: it, .. } => &it.place,
            Self::FlushConntrack { place, .. } => place,
        }
    }

    /// The resource that is put, deleted or, with its new settings, changed.
    pub fn resource(&self) -> Option<&Resource> {
        match self {
            Self::Put(it) | Self::Delete(it) | Self::Change { to: it, .. } => Some(it),
            Self::FlushConntrack { .. } => None,
        }
    }

    /// The resource that is there after this op.
    pub fn made(&self) -> Option<&Resource> {
        match self {
            Self::Put(it) | Self::Change { to: it, .. } => Some(it),
            Self::Delete(_) | Self::FlushConntrack { .. } => None,
        }
    }

    /// The resource that isn't there any more after this op.
    pub fn deleted(&self) -> Option<&Resource> {
        match self {
            Self::Delete(it) => Some(it),
            Self::Put(_) | Self::Change { .. } | Self::FlushConntrack { .. } => None,
        }
    }

    /// Whether connections are decided by its resource: see [`Object::decides`].
    pub fn decides(&self) -> bool {
        self.resource().is_some_and(|it| it.object.decides())
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put(resource) => write!(f, "+ {resource}"),
            Self::Change { to, .. } => write!(f, "~ {to}"),
            Self::Delete(resource) => write!(f, "- {resource}"),
            Self::FlushConntrack {
                place,
                zone,
                address,
            } => write!(f, "- conntrack {address} zone {zone} in {place}"),
        }
    }
}

/// The ops that lead from `observed` to `desired`, in a safe order.
///
/// Both must have the same scope: a resource that only `observed` has is deleted.
pub fn diff(observed: &State, desired: &State) -> Vec<Op> {
    let (less, mut more) = observed.differences(desired);
    let misplaced = misplaced_devices(&less, &more);
    let moved: BTreeSet<Key> = misplaced.values().map(Resource::key).collect();
    let recreated = lost_with_device(observed, &less, desired);
    let again = recreated.iter().filter_map(|key| desired.get(key));
    more.extend(again.cloned());
    let mut ops = Vec::new();
    for (key, want) in more.iter() {
        let have = observed.get(key).or_else(|| misplaced.get(key));
        ops.extend(have.and_then(|have| flush_of(have, Some(want), observed)));
        match have.filter(|_| !recreated.contains(key)) {
            None => ops.push(Op::Put(want.clone())),
            Some(have) if have == want => {}
            Some(have) if must_be_recreated(have, want) => {
                ops.push(Op::Delete(have.clone()));
                ops.push(Op::Put(want.clone()));
            }
            Some(have) => ops.push(Op::Change {
                from: have.clone(),
                to: want.clone(),
            }),
        }
    }
    for (key, have) in less.iter() {
        if desired.get(key).is_none() {
            ops.extend(flush_of(have, None, observed));
            if !recreated.contains(key) && !moved.contains(key) && is_undone(have) {
                ops.push(Op::Delete(have.clone()));
            }
        }
    }
    order(&mut ops);
    ops
}

/// Sorts ops; this order is the specification.
///
/// 0. Deletions, from the outside in: routes before the neighbors they use, the port down, then
///    devices, the unreachable routes that confine them, the domain last.
/// 1. Creations, from the inside out: the domain, its table, its settings, devices, addresses.
/// 2. The firewall of each place in one transaction: maps and chains are put before the elements that
///    lead to them, and deleted after those.
/// 3. Conntrack flushes of addresses that are free again.
/// 4. Openings: ports, routes after neighbors and after the unreachable ones that confine them, and the
///    rules in `DOCKER-USER`.
pub fn order(ops: &mut [Op]) {
    let at = |stage, rank, it: &Resource| (stage, None, rank, Some(it.key()));
    let in_transaction = |rank, it: &Resource| (2, Some(it.place.clone()), rank, Some(it.key()));
    ops.sort_by_cached_key(|op| match op {
        Op::Delete(it) => match it.object.kind() {
            Kind::Map => in_transaction(5, it),
            Kind::Chain => in_transaction(4, it),
            Kind::Element => in_transaction(2, it),
            // It confines the device's routes.
            Kind::Route if is_unreachable(it) => at(0, reversed(Kind::DomainSysctl), it),
            kind => at(0, reversed(kind), it),
        },
        Op::Put(it) | Op::Change { to: it, .. } => match it.object.kind() {
            Kind::Map => in_transaction(0, it),
            Kind::Chain => in_transaction(1, it),
            Kind::Element => in_transaction(3, it),
            kind @ (Kind::Up | Kind::Neighbor | Kind::Fdb) => at(4, kind as i32, it),
            kind @ Kind::Route if is_unreachable(it) => at(4, kind as i32, it),
            kind @ Kind::Route => at(5, kind as i32, it),
            kind @ Kind::DockerUserRule => at(5, kind as i32, it),
            kind => at(1, kind as i32, it),
        },
        Op::FlushConntrack { place, address, .. } => {
            let id = address.to_string();
            let (place, kind) = (place.clone(), Kind::Route);
            (3, None, 0, Some(Key { place, kind, id }))
        }
    });
}

fn is_unreachable(resource: &Resource) -> bool {
    let Object::Route(route) = &resource.object else {
        return false;
    };
    route.target == RouteTarget::Unreachable
}

fn reversed(kind: Kind) -> i32 {
    -(kind as i32)
}

/// The keys of resources that the kernel deletes with a device, a domain or a table that is deleted
/// or recreated. Of resources that are equal in both states only those on recreated objects are
/// among them, as nothing is desired on a deleted one. `less` is `observed` without the equal ones.
fn lost_with_device(observed: &State, less: &State, desired: &State) -> BTreeSet<Key> {
    let mut devices: BTreeMap<&Place, BTreeSet<Cow<'_, str>>> = BTreeMap::new();
    let mut domains = BTreeSet::new();
    let mut tables = BTreeSet::new();
    let mut recreates = false;
    for (key, have) in less.iter() {
        let want = desired.get(key);
        let goes = want.is_none_or(|want| must_be_recreated(have, want));
        match (&have.object, want.map(|it| &it.object)) {
            (Object::Vxlan(_) | Object::Veth(_), _) if goes => {
                devices
                    .entry(&key.place)
                    .or_default()
                    .insert((&key.id).into());
                if let Some(other) = Uplink::other_end(&key.id) {
                    devices
                        .entry(&Place::Host)
                        .or_default()
                        .insert(other.into());
                }
            }
            (Object::Table(have), Some(Object::Table(want))) if want.empties(have) => {
                tables.insert((key.place.clone(), Some(want.family)));
            }
            (Object::Domain(_), _) if goes => {
                domains.insert(&key.place);
            }
            _ => continue,
        }
        recreates |= want.is_some();
    }
    let emptied = |key: &Key, resource: &Resource| {
        matches!(key.kind, Kind::Map | Kind::Chain | Kind::Element)
            && tables.contains(&(key.place.netfilter(), resource.object.family()))
    };
    let lost = |key: &Key, resource: &Resource| {
        emptied(key, resource)
            || resource.object.device().is_some_and(|device| {
                let gone = devices.get(&key.place);
                domains.contains(&key.place) || gone.is_some_and(|it| it.contains(device))
            })
    };
    let all = if recreates { observed } else { less };
    let lost = all.iter().filter(|(key, resource)| lost(key, resource));
    lost.map(|(key, _)| key.clone()).collect()
}

/// The devices that somebody took out of their VRF, or put into another one, by the keys that they
/// should have. They are put back in place: a port that is created anew has lost its container.
fn misplaced_devices(less: &State, more: &State) -> BTreeMap<Key, Resource> {
    let mut misplaced = BTreeMap::new();
    for (key, have) in less.iter().filter(|(key, _)| key.kind == Kind::Device) {
        let elsewhere = more.find(Kind::Device, &key.id).filter(|want| {
            want.place != have.place
                && want.place.netfilter() == have.place.netfilter()
                && less.get(&want.key()).is_none()
                && !must_be_recreated(have, want)
        });
        if let Some(want) = elsewhere {
            misplaced.insert(want.key(), have.clone());
        }
    }
    misplaced
}

/// Whether the kernel can't change the settings of the device in place.
fn must_be_recreated(have: &Resource, want: &Resource) -> bool {
    match (&have.object, &want.object) {
        (Object::Vxlan(have), Object::Vxlan(want)) => {
            (have.vni, have.port, have.local) != (want.vni, want.port, want.local)
        }
        (Object::Domain(have), Object::Domain(want)) => have != want,
        _ => false,
    }
}

/// Whether a resource that isn't desired is deleted: settings keep their value, and other VRFs need the
/// rule, too.
fn is_undone(resource: &Resource) -> bool {
    !matches!(resource.object, Object::Sysctl(_) | Object::VrfRule(_))
}

/// The endpoint routes that vanished from the kernel, each with the conntrack flush that is due if its
/// endpoint isn't desired any more. If a veth vanished, the kernel removed its route, too, so [`diff`]
/// finds nothing to delete.
pub fn lost_routes(known: &State, observed: &State) -> Vec<(Resource, Op)> {
    // The host's routes lead to uplinks: nobody else gets the address of one.
    let is_endpoints = |key: &Key| key.kind == Kind::Route && key.place != Place::Host;
    let routes = known.iter().filter(|(key, _)| is_endpoints(key));
    let gone = routes.filter(|(key, have)| observed.get(key) != Some(have));
    let lost = gone.filter_map(|(_, have)| Some((have.clone(), flush_of(have, None, known)?)));
    lost.collect()
}

/// Whether both are routes to the same endpoint.
pub fn is_same_way(one: &Resource, other: &Resource) -> bool {
    let device = |it| route_to_device(it).map(|(device, _)| device);
    device(one).is_some() && device(one) == device(other)
}

/// The conntrack flush of a resource that is deleted or changed: an address is flushed when its route
/// leads to another endpoint or to none.
fn flush_of(have: &Resource, want: Option<&Resource>, known: &State) -> Option<Op> {
    let (device, address) = route_to_device(have)?;
    if want
        .and_then(route_to_device)
        .is_some_and(|(to, _)| to == device)
    {
        return None;
    }
    let of_device = Element::Zone {
        interface: device.to_owned(),
        zone: 0,
    };
    let zone = known.get(&of_device.at(&have.place).key());
    // The device's element may be gone before its route: all devices of a domain have one zone.
    let zone = zone.and_then(zone_of_device).or_else(|| {
        let here = known.of(&have.place);
        here.resources().find_map(zone_of_device)
    });
    Some(Op::FlushConntrack {
        place: have.place.clone(),
        zone: zone.unwrap_or(0),
        address,
    })
}

fn zone_of_device(resource: &Resource) -> Option<u16> {
    match &resource.object {
        Object::Element(Element::Zone { zone, .. }) => Some(*zone),
        _ => None,
    }
}

/// The device and the address of an endpoint's route.
fn route_to_device(resource: &Resource) -> Option<(&str, IpAddr)> {
    match &resource.object {
        Object::Route(Route {
            destination,
            target: RouteTarget::Device(device),
        }) => Some((device, destination.addr())),
        _ => None,
    }
}
