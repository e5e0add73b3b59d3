//! The endpoints of the whole cluster, by names and addresses.
//!
//! Pure; a snapshot is a cheap clone. It holds the endpoints that other nodes published and those of
//! this node's own journal. An endpoint that depends on a later revision than this node has applied
//! is held back until then, and one of a node that is no member until it is one. The bus and the
//! endpoints' manager feed it; DNS, Docker and `status` read it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bus_schema::{Endpoint, EndpointEvent, EndpointId, NodeName, Revision, TenantName};
use imbl::{OrdMap, OrdSet};
use serde::{Deserialize, Serialize};

use super::{NodeFact, TenantFact};
use crate::maps;

/// The number of remembered messages that exceed a limit.
const MAX_EXCESS: usize = 64;

/// An endpoint by its id and its node: a machine that was cloned with its state folder may publish the
/// ids of the original.
type EndpointKey = (EndpointId, NodeName);

/// Endpoints by id and node, and in their tenant by name and by address.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointsView {
    applied: Revision,
    shown: OrdMap<EndpointKey, Arc<Endpoint>>,
    held: OrdMap<EndpointKey, (Revision, Arc<Endpoint>)>,
    tenants: OrdMap<TenantName, Index>,
    /// Endpoints of one container, which lives on one node.
    containers: OrdMap<(NodeName, String), OrdSet<EndpointKey>>,
    /// The applied revision at which the recalled endpoints were saved.
    recalled: Revision,
    /// The nodes whose endpoints are shown; absent: all.
    members: Option<OrdMap<NodeName, NodeFact>>,
    /// The tenants' facts of the log.
    intent: OrdMap<TenantName, TenantFact>,
    /// The full name of each tenant's groups: only their members have these names.
    groups: OrdMap<TenantName, OrdSet<String>>,
    /// Members whose status is missing.
    silent: OrdSet<NodeName>,
    completeness: Completeness,
    /// What exceeds the limits in messages about endpoints of other nodes, by their subject.
    excess: OrdMap<String, String>,
}

/// The names and addresses of one tenant.
#[derive(Debug, Clone, Default, PartialEq)]
struct Index {
    /// By `NAME.NETWORK` in lower case: DNS compares without case (RFC 4343). No network's name holds a
    /// dot, so that the key is unambiguous.
    names: OrdMap<String, OrdMap<(IpAddr, EndpointKey), Arc<Endpoint>>>,
    /// The number of names that end with `.` and the key.
    above: OrdMap<String, usize>,
    /// The owners of an address; closed endpoints come last: their address may be another's now.
    addresses: OrdMap<IpAddr, Vec<Arc<Endpoint>>>,
}

/// The endpoints of other nodes in a view, with the revision that was applied then.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Remembered {
    applied: Revision,
    /// Each with the revision that must be applied before it is shown.
    endpoints: Vec<(Revision, Endpoint)>,
}

/// Whether an endpoint that is missing from a view is missing from the cluster, too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Completeness {
    /// The view is all that can be read.
    #[default]
    Complete,
    /// The stream is about to be read for the first time.
    Awaited,
    /// The stream was read from its start to its end once.
    Read,
}

impl EndpointsView {
    /// The endpoints with a name, an alias or a group of a network, given as `NAME.NETWORK` in lower
    /// case, and their addresses. If it is the name of a group, only the group's members.
    pub fn resolve(
        &self,
        tenant: &TenantName,
        name: &str,
    ) -> impl Iterator<Item = (IpAddr, &Endpoint)> {
        let bearers = self.tenants.get(tenant).and_then(|it| it.names.get(name));
        let is_group = self.is_group(tenant, name);
        let bearers = bearers.into_iter().flatten();
        let bearers = bearers.filter(move |(_, it)| !is_group || is_member(it, name));
        bearers.map(|((address, _), endpoint)| (*address, endpoint.as_ref()))
    }

    /// Whether `NAME.NETWORK`, in lower case, is the name of a group.
    pub fn is_group(&self, tenant: &TenantName, name: &str) -> bool {
        let groups = self.groups.get(tenant);
        groups.is_some_and(|it| it.contains(name))
    }

    /// The name of an endpoint by which it can be asked for: its own, unless a group without it has that
    /// name.
    pub fn name_of<'a>(&self, endpoint: &'a Endpoint) -> Option<&'a str> {
        let name = endpoint.name.as_deref()?;
        let full = full_name(name, endpoint.network.as_str());
        let taken = self.is_group(&endpoint.tenant, &full) && !is_member(endpoint, &full);
        (!taken).then_some(name)
    }

    /// Whether names end with `.` and this one, which is in lower case. Such a name exists, too
    /// (RFC 8020).
    pub fn is_above(&self, tenant: &TenantName, name: &str) -> bool {
        let index = self.tenants.get(tenant);
        index.is_some_and(|it| it.above.contains_key(name))
    }

    /// The endpoint with an address: the sender of a DNS query, or the subject of a PTR query.
    pub fn at(&self, tenant: &TenantName, address: IpAddr) -> Option<&Endpoint> {
        let index = self.tenants.get(tenant)?;
        let bearers = index.addresses.get(&address)?;
        bearers.first().map(AsRef::as_ref)
    }

    /// The tenant's facts of the log.
    pub fn intent_of(&self, tenant: &TenantName) -> Option<&TenantFact> {
        self.intent.get(tenant)
    }

    /// The tenants in which an endpoint has this address.
    pub fn tenants_at(&self, address: IpAddr) -> BTreeSet<TenantName> {
        let tenants = self.tenants.iter();
        let with = tenants.filter(|(_, index)| index.addresses.contains_key(&address));
        with.map(|(tenant, _)| tenant.clone()).collect()
    }

    /// The endpoint itself and the others of its container.
    pub fn beside<'a>(&'a self, endpoint: &'a Endpoint) -> impl Iterator<Item = &'a Endpoint> {
        let others = container_of(endpoint).and_then(|key| self.containers.get(&key));
        let others = others
            .into_iter()
            .flatten()
            .filter_map(|key| self.shown.get(key));
        let others = others.filter(|other| other.id != endpoint.id);
        std::iter::once(endpoint).chain(others.map(AsRef::as_ref))
    }

    /// The endpoints that differ: as they are here, and as they are in `later`.
    pub fn changes<'a>(
        &'a self,
        later: &'a Self,
    ) -> impl Iterator<Item = (Option<&'a Endpoint>, Option<&'a Endpoint>)> {
        let endpoint = |(_, endpoint): (_, &'a Arc<Endpoint>)| endpoint.as_ref();
        maps::differing(&self.shown, &later.shown)
            .map(move |(old, new)| (old.map(endpoint), new.map(endpoint)))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.shown.values().map(AsRef::as_ref)
    }

    pub fn len(&self) -> usize {
        self.shown.len()
    }

    pub fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// Whether the node that published the endpoint is silent.
    pub fn is_silent(&self, endpoint: &Endpoint) -> bool {
        !self.silent.is_empty() && self.silent.contains(&endpoint.node)
    }

    /// Whether a name that isn't in the view doesn't exist.
    pub fn is_complete(&self) -> bool {
        self.completeness != Completeness::Awaited
    }

    /// Sets whether the stream is about to be read for the first time; it has no effect once the stream
    /// was read.
    pub fn await_stream(&mut self, awaited: bool) {
        if self.completeness != Completeness::Read {
            self.completeness = match awaited {
                true => Completeness::Awaited,
                false => Completeness::Complete,
            };
        }
    }

    pub fn silent(&self) -> &OrdSet<NodeName> {
        &self.silent
    }

    pub fn set_silent(&mut self, silent: OrdSet<NodeName>) {
        self.silent = silent;
    }

    /// What was ignored in the last message of each subject, since it exceeds a limit.
    pub fn excess(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.excess.iter();
        all.map(|(subject, why)| (subject.as_str(), why.as_str()))
    }

    /// Notes what exceeds a limit in the last message of a subject; absent: nothing. A bounded number
    /// is remembered.
    pub fn note_excess(&mut self, subject: &str, why: Option<String>) {
        match why {
            Some(why) if self.excess.len() < MAX_EXCESS || self.excess.contains_key(subject) => {
                self.excess.insert(subject.to_owned(), why);
            }
            Some(_) => {}
            None => {
                self.excess.remove(subject);
            }
        }
    }

    /// Folds in an event of another node's endpoint.
    pub fn hear(&mut self, event: EndpointEvent) {
        match event {
            EndpointEvent::Up { endpoint, applied } => {
                let endpoint = Arc::new(endpoint);
                if applied <= self.applied && self.is_member(&endpoint.node) {
                    self.show(endpoint);
                } else {
                    self.hold(applied, endpoint);
                }
            }
            EndpointEvent::Down { id, node, .. } => self.remove(&id, &node),
            EndpointEvent::Healed { .. } | EndpointEvent::Unknown => {}
        }
    }

    /// Shows an endpoint at once.
    pub fn show(&mut self, endpoint: Arc<Endpoint>) {
        let key = key_of(&endpoint);
        self.hide(&key);
        self.held.remove(&key);
        let index = self.tenants.entry(endpoint.tenant.clone()).or_default();
        for name in names_of(&endpoint) {
            if !index.names.contains_key(&name) {
                for above in all_above(&name) {
                    *index.above.entry(above.to_owned()).or_default() += 1;
                }
            }
            let bearers = index.names.entry(name).or_default();
            for address in endpoint.addresses() {
                bearers.insert((address, key.clone()), endpoint.clone());
            }
        }
        for address in endpoint.addresses() {
            let bearers = index.addresses.entry(address).or_default();
            let place = match endpoint.closed {
                Some(_) => bearers.len(),
                None => 0,
            };
            bearers.insert(place, endpoint.clone());
        }
        if let Some(container) = container_of(&endpoint) {
            let endpoints = self.containers.entry(container).or_default();
            endpoints.insert(key.clone());
        }
        self.shown.insert(key, endpoint);
    }

    /// Removes a node's endpoint.
    pub fn remove(&mut self, id: &EndpointId, node: &NodeName) {
        let key = (id.clone(), node.clone());
        self.held.remove(&key);
        self.hide(&key);
    }

    /// Advances to an applied revision with these members: shows endpoints that were held back for it,
    /// and hides those of removed nodes.
    pub fn advance(&mut self, applied: Revision, members: &OrdMap<NodeName, NodeFact>) {
        self.applied = applied;
        let known = self.members.as_ref();
        // Facts that are older than the recalled endpoints lack members of that time.
        let current = applied >= self.recalled;
        if current && !known.is_some_and(|known| known.ptr_eq(members)) {
            self.members = Some(members.clone());
            let all = self.shown.values();
            let gone = all.filter(|endpoint| !members.contains_key(&endpoint.node));
            for endpoint in gone.cloned().collect::<Vec<_>>() {
                self.hide(&key_of(&endpoint));
                self.hold(Revision(0), endpoint);
            }
        }
        let held = self.held.values();
        let due = held.filter(|(needs, it)| *needs <= applied && self.is_member(&it.node));
        let due: Vec<Arc<Endpoint>> = due.map(|(_, endpoint)| endpoint.clone()).collect();
        for endpoint in due {
            self.show(endpoint);
        }
    }

    /// Follows the tenants' facts of the log.
    pub fn follow_intent(&mut self, intent: &OrdMap<TenantName, TenantFact>) {
        for (old, new) in maps::differing(&self.intent.clone(), intent) {
            let groups = |it: Option<(_, &TenantFact)>| it.map(|(_, it)| it.groups.clone());
            if groups(old).is_some_and(|old| groups(new).is_some_and(|new| old.ptr_eq(&new))) {
                continue;
            }
            let Some((tenant, fact)) = new else {
                self.groups
                    .remove(old.map(|(tenant, _)| tenant).expect("one of both"));
                continue;
            };
            let specs = fact.groups.values().map(|it| &it.spec);
            let names = specs.map(|it| full_name(it.name.as_str(), it.network.as_str()));
            self.groups.insert(tenant.clone(), names.collect());
        }
        self.intent = intent.clone();
    }

    /// The endpoints of other nodes, to be saved over a restart.
    pub fn of_others(&self, me: &NodeName) -> Remembered {
        let shown = self.shown.values().map(|endpoint| (Revision(0), endpoint));
        let held = self.held.values().map(|(needs, it)| (*needs, it));
        let others = shown.chain(held).filter(|(_, it)| it.node != *me);
        Remembered {
            applied: self.applied.max(self.recalled),
            endpoints: others
                .map(|(needs, endpoint)| (needs, Endpoint::clone(endpoint)))
                .collect(),
        }
    }

    /// Restores the result of [`Self::of_others`] of before a restart.
    pub fn recall(&mut self, before: Remembered) {
        self.recalled = before.applied;
        for (needs, endpoint) in before.endpoints {
            self.hold(needs, Arc::new(endpoint));
        }
    }

    /// Invalidates the recalled revision, which was another log's.
    pub fn is_of_no_log(&mut self) {
        self.recalled = Revision(0);
    }

    /// Removes the endpoints that other nodes don't publish any more, after the stream was read from its
    /// start. The view is complete then.
    pub fn prune(&mut self, heard: &BTreeSet<(EndpointId, NodeName)>, me: &NodeName) {
        let known = self.shown.keys().chain(self.held.keys());
        let gone = known.filter(|key| key.1 != *me && !heard.contains(*key));
        for (id, node) in gone.cloned().collect::<Vec<_>>() {
            self.remove(&id, &node);
        }
        self.completeness = Completeness::Read;
    }

    fn is_member(&self, node: &NodeName) -> bool {
        let members = self.members.as_ref();
        members.is_none_or(|members| members.contains_key(node))
    }

    fn hold(&mut self, needs: Revision, endpoint: Arc<Endpoint>) {
        self.held.insert(key_of(&endpoint), (needs, endpoint));
    }

    fn hide(&mut self, key: &EndpointKey) {
        let Some(endpoint) = self.shown.remove(key) else {
            return;
        };
        if let Some(index) = self.tenants.get_mut(&endpoint.tenant) {
            index.remove(&endpoint);
            if index.addresses.is_empty() && index.names.is_empty() {
                self.tenants.remove(&endpoint.tenant);
            }
        }
        if let Some(container) = container_of(&endpoint)
            && let Some(endpoints) = self.containers.get_mut(&container)
        {
            endpoints.remove(key);
            if endpoints.is_empty() {
                self.containers.remove(&container);
            }
        }
    }
}

impl Index {
    fn loses_one_below(&mut self, name: &str) {
        if let Some(below) = self.above.get_mut(name) {
            *below -= 1;
            if *below == 0 {
                self.above.remove(name);
            }
        }
    }

    fn remove(&mut self, endpoint: &Endpoint) {
        let key = key_of(endpoint);
        for name in names_of(endpoint) {
            let Some(bearers) = self.names.get_mut(&name) else {
                continue;
            };
            for address in endpoint.addresses() {
                bearers.remove(&(address, key.clone()));
            }
            if bearers.is_empty() {
                self.names.remove(&name);
                all_above(&name).for_each(|above| self.loses_one_below(above));
            }
        }
        for address in endpoint.addresses() {
            let Some(bearers) = self.addresses.get_mut(&address) else {
                continue;
            };
            bearers.retain(|bearer| (&bearer.id, &bearer.node) != (&key.0, &key.1));
            if bearers.is_empty() {
                self.addresses.remove(&address);
            }
        }
    }
}

/// Whether the endpoint is in the group with this full name. No group's name has a dot.
fn is_member(endpoint: &Endpoint, name: &str) -> bool {
    let group = endpoint.group.as_ref().map(|it| it.as_str());
    group.is_some_and(|group| {
        let own = name.split_once('.').map(|(own, _)| own);
        own.is_some_and(|own| own.eq_ignore_ascii_case(group))
    })
}

/// `b.c` and `c` of `a.b.c`.
fn all_above(name: &str) -> impl Iterator<Item = &str> {
    let mut names = std::iter::successors(Some(name), |it| Some(it.split_once('.')?.1));
    names.next();
    names
}

fn key_of(endpoint: &Endpoint) -> EndpointKey {
    (endpoint.id.clone(), endpoint.node.clone())
}

fn container_of(endpoint: &Endpoint) -> Option<(NodeName, String)> {
    let container = endpoint.container.clone()?;
    Some((endpoint.node.clone(), container))
}

/// All names of an endpoint, with its network's.
fn names_of(endpoint: &Endpoint) -> BTreeSet<String> {
    let names = endpoint.name.iter().chain(&endpoint.aliases);
    let group = endpoint.group.iter().map(|group| group.as_str());
    let all = names.map(String::as_str).chain(group);
    all.map(|name| full_name(name, endpoint.network.as_str()))
        .collect()
}

/// `NAME.NETWORK`, as the index has it.
pub fn full_name(name: &str, network: &str) -> String {
    let mut full = String::with_capacity(name.len() + 1 + network.len());
    full += name;
    full.push('.');
    full += network;
    full.make_ascii_lowercase();
    full
}
