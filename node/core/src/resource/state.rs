//! A state of the kernel: its resources by their keys, place by place.

use imbl::OrdMap;

use super::{Domain, Key, Kind, Object, Place, Resource, Sysctl};
use crate::maps;

/// Our part of the kernel's configuration, desired or observed.
///
/// A clone is cheap: it shares all that neither copy changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State(OrdMap<Place, PlaceState>);

/// Resources by their keys.
pub type Resources = OrdMap<Key, Resource>;

/// The resources of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct PlaceState {
    things: Resources,
    /// Resources that decide about connections: there are many, and a change touches few of them.
    rules: Resources,
}

impl PlaceState {
    fn iter(&self) -> impl Iterator<Item = (&Key, &Resource)> {
        self.things.iter().chain(self.rules.iter())
    }

    /// The resources of this kind, which decide about no connections; `place` is that of all of them.
    fn of_kind(&self, place: &Place, kind: Kind) -> impl Iterator<Item = (&Key, &Resource)> {
        let first = Key {
            place: place.clone(),
            kind,
            id: String::new(),
        };
        let things = self.things.range(first..);
        things.take_while(move |(key, _)| key.kind == kind)
    }

    fn is_empty(&self) -> bool {
        self.things.is_empty() && self.rules.is_empty()
    }
}

impl State {
    /// Inserts the resource and replaces one with the same key.
    pub fn insert(&mut self, resource: Resource) {
        let part = self.0.entry(resource.place.clone()).or_default();
        let resources = match resource.object.decides() {
            true => &mut part.rules,
            false => &mut part.things,
        };
        resources.insert(resource.key(), resource);
    }

    /// Replaces all resources of `place` that decide about connections.
    pub fn set_rules(&mut self, place: &Place, rules: Resources) {
        self.0.entry(place.clone()).or_default().rules = rules;
    }

    pub fn remove(&mut self, key: &Key) {
        if let Some(part) = self.0.get_mut(&key.place)
            && part.things.remove(key).is_none()
        {
            part.rules.remove(key);
        }
    }

    pub fn get(&self, key: &Key) -> Option<&Resource> {
        let part = self.0.get(&key.place)?;
        part.things.get(key).or_else(|| part.rules.get(key))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Resource)> {
        self.0.values().flat_map(PlaceState::iter)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.iter().map(|(_, resource)| resource)
    }

    pub fn is_empty(&self) -> bool {
        self.0.values().all(PlaceState::is_empty)
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// The part of the state that is in `place`.
    pub fn of(&self, place: &Place) -> Self {
        let part = self.0.get(place).cloned();
        Self(part.map(|it| (place.clone(), it)).into_iter().collect())
    }

    /// Replaces the places of `before` and `now` by those of `now`.
    pub fn replace(&mut self, before: &Self, now: &Self) {
        for place in before.0.keys() {
            self.0.remove(place);
        }
        self.merge(now);
    }

    /// Takes over the places of `other`, also those that both have.
    pub fn merge(&mut self, other: &Self) {
        for (place, part) in &other.0 {
            self.0.insert(place.clone(), part.clone());
        }
    }

    /// Both states without the resources that are equal in them; shared parts are skipped, not
    /// compared.
    pub fn differences(&self, other: &Self) -> (Self, Self) {
        let (mut one, mut two) = (self.clone(), other.clone());
        for (place, part) in &self.0 {
            if let Some(other) = other.0.get(place) {
                let (own, others) = (&mut one.0[place], &mut two.0[place]);
                (own.rules, others.rules) = differing(&part.rules, &other.rules);
                (own.things, others.things) = differing(&part.things, &other.things);
            }
        }
        (one, two)
    }

    /// The resources of this kind in `place`; a kind of resources that decide about no connections.
    pub fn of_kind(&self, place: &Place, kind: Kind) -> impl Iterator<Item = (&Key, &Resource)> {
        let part = self.0.get(place).into_iter();
        part.flat_map(move |part| part.of_kind(place, kind))
    }

    /// The resource of this kind and name, in whichever place it is.
    pub fn find(&self, kind: Kind, id: &str) -> Option<&Resource> {
        self.0.keys().find_map(|place| {
            self.get(&Key {
                place: place.clone(),
                kind,
                id: id.to_owned(),
            })
        })
    }

    /// At most `limit` settings whose keys are greater than `after`; absent: from the first one.
    pub fn settings_after(&self, after: Option<&Key>, limit: usize) -> Vec<(Key, Sysctl)> {
        let places = self.0.iter();
        let places = places.filter(|(place, _)| after.is_none_or(|key| **place >= key.place));
        let settings = places.flat_map(|(place, part)| {
            let of_kind = |kind| part.of_kind(place, kind);
            of_kind(Kind::DomainSysctl).chain(of_kind(Kind::DeviceSysctl))
        });
        let settings = settings.filter_map(|(key, resource)| match &resource.object {
            Object::Sysctl(setting) if after.is_none_or(|after| key > after) => {
                Some((key.clone(), setting.clone()))
            }
            _ => None,
        });
        settings.take(limit).collect()
    }

    /// The domains in this state.
    pub fn domains(&self) -> impl Iterator<Item = (&Place, &Domain)> {
        let things = self.0.values().flat_map(|part| part.things.values());
        things.filter_map(|resource| match &resource.object {
            Object::Domain(domain) => Some((&resource.place, domain)),
            _ => None,
        })
    }
}

fn differing(one: &Resources, other: &Resources) -> (Resources, Resources) {
    let (mut only_one, mut only_other) = (Resources::new(), Resources::new());
    for (old, new) in maps::differing(one, other) {
        only_one.extend(old.map(|(key, it)| (key.clone(), it.clone())));
        only_other.extend(new.map(|(key, it)| (key.clone(), it.clone())));
    }
    (only_one, only_other)
}

impl Extend<Resource> for State {
    fn extend<T: IntoIterator<Item = Resource>>(&mut self, resources: T) {
        for resource in resources {
            self.insert(resource);
        }
    }
}

impl FromIterator<Resource> for State {
    fn from_iter<T: IntoIterator<Item = Resource>>(resources: T) -> Self {
        let mut state = Self::default();
        state.extend(resources);
        state
    }
}
