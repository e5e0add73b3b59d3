//! A state of the kernel: resources by their keys, place by place.

use imbl::OrdMap;

use super::{Domain, Key, Object, Place, Resource};
use crate::maps;

/// A part of the kernel's configuration that is ours, desired or observed.
///
/// A clone is cheap and shares with its origin what neither changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State(OrdMap<Place, Part>);

/// Resources by their keys.
pub type Resources = OrdMap<Key, Resource>;

/// What sits in one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Part {
    things: Resources,
    /// What decides about connections: many, and a change is about few of them.
    rules: Resources,
}

impl Part {
    fn iter(&self) -> impl Iterator<Item = (&Key, &Resource)> {
        self.things.iter().chain(self.rules.iter())
    }

    fn is_empty(&self) -> bool {
        self.things.is_empty() && self.rules.is_empty()
    }
}

impl State {
    /// Takes the resource in; one with the same key is replaced.
    pub fn insert(&mut self, resource: Resource) {
        let part = self.0.entry(resource.place.clone()).or_default();
        let resources = match resource.object.decides() {
            true => &mut part.rules,
            false => &mut part.things,
        };
        resources.insert(resource.key(), resource);
    }

    /// What decides about connections in `place` is this.
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
        self.0.values().flat_map(Part::iter)
    }

    pub fn resources(&self) -> impl Iterator<Item = &Resource> {
        self.iter().map(|(_, resource)| resource)
    }

    pub fn is_empty(&self) -> bool {
        self.0.values().all(Part::is_empty)
    }

    pub fn len(&self) -> usize {
        self.iter().count()
    }

    /// What of it sits in `place`.
    pub fn of(&self, place: &Place) -> Self {
        let part = self.0.get(place).cloned();
        Self(part.map(|it| (place.clone(), it)).into_iter().collect())
    }

    /// The places of `before` and `now` are as in `now`.
    pub fn replace(&mut self, before: &Self, now: &Self) {
        for place in before.0.keys() {
            self.0.remove(place);
        }
        self.merge(now);
    }

    /// Takes in another one's places; those that both know are as there.
    pub fn merge(&mut self, other: &Self) {
        for (place, part) in &other.0 {
            self.0.insert(place.clone(), part.clone());
        }
    }

    /// Both without what both hold: what they share is skipped, not compared.
    pub fn apart(&self, other: &Self) -> (Self, Self) {
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

    /// The domains that it knows.
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
