//! From what is to what should be: the difference of two states as ordered ops.
//!
//! Pure, and knows kernel nouns only. What isn't in the observed state isn't touched; the observer
//! puts in only what bears our marks. The daemon calls [`diff`] with the desired state of before
//! after an event, and with the observed state after a start and now and then.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use crate::resource::{Element, Key, Kind, Object, Place, Resource, Route, RouteTarget, State};

/// One change of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Makes it so, whether or not it is there.
    Put(Resource),
    /// Takes the place of `from`, which has the same key, without a gap where the kernel can.
    Change { from: Resource, to: Resource },
    /// Gone after it, also when it was gone before.
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

/// The ops that lead from `observed` to `desired`, in the order in which they are safe.
///
/// Both must be of the same scope: what only `observed` knows is deleted.
pub fn diff(observed: &State, desired: &State) -> Vec<Op> {
    let (less, mut more) = observed.apart(desired);
    let fresh = lost_with_device(observed, &less, desired);
    let again = fresh.iter().filter_map(|key| desired.get(key));
    more.extend(again.cloned());
    let mut ops = Vec::new();
    for (key, want) in more.iter() {
        let have = observed.get(key);
        ops.extend(have.and_then(|have| farewell(have, Some(want), observed)));
        match have.filter(|_| !fresh.contains(key)) {
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
            ops.extend(farewell(have, None, observed));
            if !fresh.contains(key) && is_undone(have) {
                ops.push(Op::Delete(have.clone()));
            }
        }
    }
    order(&mut ops);
    ops
}

/// Puts ops in the order of the specification.
///
/// First what goes, from the outside in: routes before the neighbors they use, the port down, then
/// devices, the domain last. Then what comes, from the inside out: the domain, its table, its
/// settings, devices, addresses. Then the firewall of each place, what comes and what goes in one
/// transaction: maps and chains before the elements that lead to them, and away after those. Then the
/// connections of addresses that are free again. Last what opens: ports, routes after neighbors,
/// and the way through others' firewalls.
pub fn order(ops: &mut [Op]) {
    let at = |stage, rank, it: &Resource| (stage, None, rank, Some(it.key()));
    let in_transaction = |rank, it: &Resource| (2, Some(it.place.clone()), rank, Some(it.key()));
    ops.sort_by_cached_key(|op| match op {
        Op::Delete(it) => match it.object.kind() {
            Kind::Map => in_transaction(5, it),
            Kind::Chain => in_transaction(4, it),
            Kind::Element => in_transaction(2, it),
            kind => at(0, reversed(kind), it),
        },
        Op::Put(it) | Op::Change { to: it, .. } => match it.object.kind() {
            Kind::Map => in_transaction(0, it),
            Kind::Chain => in_transaction(1, it),
            Kind::Element => in_transaction(3, it),
            kind @ (Kind::Up | Kind::Neighbor | Kind::Fdb | Kind::Route) => at(4, kind as i32, it),
            kind @ Kind::DockerUserRule => at(4, kind as i32, it),
            kind => at(1, kind as i32, it),
        },
        Op::FlushConntrack { place, address, .. } => {
            let id = address.to_string();
            let (place, kind) = (place.clone(), Kind::Route);
            (3, None, 0, Some(Key { place, kind, id }))
        }
    });
}

fn reversed(kind: Kind) -> i32 {
    -(kind as i32)
}

/// The keys whose resources go away with a device, a domain or a table that is deleted or made
/// anew; of what is the same in both only what is on something made anew, as nothing is wanted on
/// what goes. `less` is `observed` without what is the same.
fn lost_with_device(observed: &State, less: &State, desired: &State) -> BTreeSet<Key> {
    let mut devices = BTreeSet::new();
    let mut domains = BTreeSet::new();
    let mut tables = BTreeSet::new();
    let mut anew = false;
    for (key, have) in less.iter() {
        let want = desired.get(key);
        let goes = want.is_none_or(|want| must_be_recreated(have, want));
        match (&have.object, want.map(|it| &it.object)) {
            (Object::Vxlan(_) | Object::Veth(_), _) if goes => {
                devices.insert((&key.place, key.id.as_str()));
            }
            (Object::Table(have), Some(Object::Table(want))) if want.empties(have) => {
                tables.insert(key.place.clone());
            }
            (Object::Domain(_), _) if goes => {
                domains.insert(&key.place);
            }
            _ => continue,
        }
        anew |= want.is_some();
    }
    let emptied = |key: &Key| {
        matches!(key.kind, Kind::Map | Kind::Chain | Kind::Element)
            && tables.contains(&key.place.netfilter())
    };
    let lost = |key: &Key, resource: &Resource| {
        emptied(key)
            || resource.object.device().is_some_and(|device| {
                domains.contains(&key.place) || devices.contains(&(&key.place, device))
            })
    };
    let all = if anew { observed } else { less };
    let lost = all.iter().filter(|(key, resource)| lost(key, resource));
    lost.map(|(key, _)| key.clone()).collect()
}

/// The kernel can't change these settings of a device in place.
fn must_be_recreated(have: &Resource, want: &Resource) -> bool {
    match (&have.object, &want.object) {
        (Object::Vxlan(have), Object::Vxlan(want)) => {
            (have.vni, have.port, have.local) != (want.vni, want.port, want.local)
        }
        (Object::Domain(have), Object::Domain(want)) => have != want,
        _ => false,
    }
}

/// Settings stay as they are when nobody wants them otherwise.
fn is_undone(resource: &Resource) -> bool {
    !matches!(resource.object, Object::Sysctl(_))
}

/// The farewells of which [`diff`] can't know: a veth that died took its route along, so of an
/// endpoint that was `known` and isn't wanted any more nothing is observed.
pub fn farewells(known: &State, observed: &State, desired: &State) -> Vec<Op> {
    let routes = known.iter().filter(|(key, _)| key.kind == Kind::Route);
    let gone = routes.filter(|(key, have)| observed.get(key) != Some(have));
    let said = gone.filter_map(|(key, have)| farewell(have, desired.get(key), known));
    said.collect()
}

/// What else must happen when a resource goes or changes: the connections of an address end when
/// its endpoint is another one or none.
fn farewell(have: &Resource, want: Option<&Resource>, known: &State) -> Option<Op> {
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
    let zone = zone.and_then(|it| match &it.object {
        Object::Element(element) => element.zone(),
        _ => None,
    });
    Some(Op::FlushConntrack {
        place: have.place.clone(),
        zone: zone.unwrap_or(0),
        address,
    })
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
