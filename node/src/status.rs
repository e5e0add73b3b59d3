//! The node's status, collected from all parts.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::healing::Healing;
use bus_schema::node::{
    Alarm, DomainKind, EGRESS, EngineStatus, Grade, LogState, NodeStatus, STATUS_EVERY_MS,
};
use bus_schema::surroundings::Surroundings;
use bus_schema::{NetworkName, NodeName};
use tokio::sync::watch;

use crate::endpoint::{Kernel, LocalEndpoint, Locals, OwnEndpoints, Published, Snapshot};
use crate::identity::Identity;
use crate::mark_rules;
use crate::metrics;
use crate::reconciler::Progress;
use crate::store::Saved;
use crate::underlay::Change;
use node_core::projection::{EndpointsView, Projection, full_name};
use node_dns::DnsHandle;
use runtime::{pause, send_if_changed};

/// The names in the text of one alarm.
const MAX_LISTED: usize = 10;

/// The channels from which the status is collected.
#[derive(Debug)]
pub struct StatusSources {
    pub me: Identity,
    pub domain: DomainKind,
    pub log: watch::Receiver<LogState>,
    pub progress: watch::Receiver<Progress>,
    pub facts: watch::Receiver<Projection>,
    /// The state of the facts on disk.
    pub saved: watch::Receiver<Saved>,
    pub view: watch::Receiver<EndpointsView>,
    pub snapshots: watch::Receiver<Snapshot>,
    pub kernel: watch::Receiver<Kernel>,
    pub published: watch::Receiver<Published>,
    /// Whether the machine still has the underlay's address.
    pub address: watch::Receiver<Change>,
    pub surroundings: watch::Receiver<Surroundings>,
    pub engine: watch::Receiver<Option<EngineStatus>>,
    pub engine_alarms: watch::Receiver<Vec<Alarm>>,
    pub dns: DnsHandle,
    pub healing: watch::Receiver<Healing>,
    pub connection_alarms: watch::Receiver<Vec<Alarm>>,
    pub uplink_alarms: watch::Receiver<Vec<Alarm>>,
    /// Alarms of the start: of damaged files.
    pub alarms: Vec<Alarm>,
}

impl StatusSources {
    pub fn status(&self) -> NodeStatus {
        let facts = self.facts.borrow();
        let snapshot = self.snapshots.borrow().clone();
        let published = self.published.borrow().clone();
        let own = OwnEndpoints::of(&snapshot, &self.kernel.borrow());
        let endpoints = snapshot.endpoints;
        let log = self.log.borrow().clone();
        let progress = self.progress.borrow().clone();
        let mut alarms: Vec<Alarm> = log_alarm(&log).into_iter().collect();
        let saved = self.saved.borrow().clone();
        let refused = saved.trouble.as_ref().or(saved.state.as_ref());
        alarms.extend(refused.map(|why| disk_alarm(why, &saved)));
        alarms.extend(stranded(&facts, &endpoints, &self.me.node));
        alarms.extend(nameless(&facts, &endpoints));
        alarms.extend(progress.trouble.map(|it| wrong("datapath", it.to_string())));
        let foreign_drops = progress.foreign_drops.iter();
        alarms.extend(foreign_drops.map(|it| wrong("host-firewall", it.to_string())));
        alarms.extend(moved(&self.address.borrow(), self.me.vtep));
        alarms.extend(newer(&facts));
        alarms.extend(published.trouble.as_deref().map(unpublished));
        alarms.extend(too_long(&published));
        alarms.extend(excess(&self.view.borrow()));
        let surroundings = self.surroundings.borrow().clone();
        let marks = &surroundings.mark_rules;
        alarms.extend(mark_rules::alarm(marks, &facts, self.domain));
        let dns = self.dns.troubles().into_iter();
        alarms.extend(dns.map(|(of, why)| wrong("dns", format!("no name server for {of}: {why}"))));
        alarms.extend(self.alarms.iter().cloned());
        alarms.extend(self.engine_alarms.borrow().iter().cloned());
        alarms.extend(self.connection_alarms.borrow().iter().cloned());
        alarms.extend(self.uplink_alarms.borrow().iter().cloned());
        alarms.sort_by_key(|it| it.grade);
        let member = facts.nodes.get(&self.me.node);
        NodeStatus {
            node: self.me.node.clone(),
            machine: self.me.machine.clone(),
            vtep: self.me.vtep,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            // Revisions that a restart would forget don't count.
            applied: progress.applied.min(saved.revision),
            log,
            engine: self.engine.borrow().clone(),
            domain: self.domain,
            endpoints: endpoints.len() as u64,
            unpublished: published.missing_count(&own),
            blocks: facts.blocks_of(&self.me.node) as u64,
            drained: member.is_some_and(|it| it.drained),
            left: member.is_some_and(|it| it.left),
            alarms,
            dns: Some(self.dns.counters()),
            healing: Some(Box::new(self.healing.borrow().clone())),
            at: None,
            surroundings: Some(Box::new(surroundings)),
            carries: vec![EGRESS.to_owned()],
        }
    }

    /// Updates the status after each change of a part.
    pub async fn keep(mut self, status: watch::Sender<NodeStatus>) {
        loop {
            let now = self.status();
            metrics::status(&now);
            send_if_changed(&status, now);
            let closed = tokio::select! {
                changed = self.log.changed() => changed.is_err(),
                changed = self.progress.changed() => changed.is_err(),
                changed = self.facts.changed() => changed.is_err(),
                changed = self.saved.changed() => changed.is_err(),
                changed = self.snapshots.changed() => changed.is_err(),
                changed = self.address.changed() => changed.is_err(),
                changed = self.surroundings.changed() => changed.is_err(),
                changed = self.published.changed() => changed.is_err(),
                changed = self.engine.changed() => changed.is_err(),
                changed = self.healing.changed() => changed.is_err(),
                changed = self.engine_alarms.changed() => changed.is_err(),
                changed = self.connection_alarms.changed() => changed.is_err(),
                changed = self.uplink_alarms.changed() => changed.is_err(),
                // Name servers have no channel.
                () = pause(Duration::from_millis(STATUS_EVERY_MS)) => false,
            };
            if closed {
                return;
            }
        }
    }
}

fn wrong(code: &str, text: impl Into<String>) -> Alarm {
    Alarm::new(Grade::Wrong, code, text)
}

fn log_alarm(log: &LogState) -> Option<Alarm> {
    match log {
        LogState::Foreign { reason } => Some(wrong("foreign-log", reason)),
        LogState::Refused { reason } => Some(wrong("node-refused", reason)),
        LogState::Removed => Some(wrong("node-removed", LogState::REMOVED)),
        LogState::CatchingUp | LogState::InSync | LogState::Disconnected { .. } => None,
    }
}

fn disk_alarm(why: &str, saved: &Saved) -> Alarm {
    let text = format!(
        "this node's disk takes no writes: {why}; events after revision {} are enforced, but a restart would forget them, and attaching an endpoint may fail: make room in the state folder, or mount it writable",
        saved.revision
    );
    wrong("disk", text)
}

fn moved(change: &Change, vtep: IpAddr) -> Option<Alarm> {
    let then = match change {
        Change::None => return None,
        Change::To(other) => format!("it is {other} now, and netplugin starts again with it"),
        Change::Gone(why) => {
            format!("{why}; give it back, or restart netplugin with another --underlay")
        }
    };
    let text = format!(
        "no interface has the underlay's address {vtep} any more, so no packet passes between this node and others: {then}"
    );
    Some(wrong("underlay-address", text))
}

fn unpublished(trouble: &str) -> Alarm {
    wrong(
        "unpublished",
        format!(
            "this node exchanges no endpoints with other nodes, so names are missing or old: {trouble}"
        ),
    )
}

/// The alarm of endpoints of this node that the bus refuses for their length.
pub(crate) fn too_long(published: &Published) -> Option<Alarm> {
    let (id, why) = published.too_long.first_key_value()?;
    let others = others(published.too_long.len() - 1);
    Some(wrong(
        "limit",
        format!(
            "the stream ENDPOINTS refuses an endpoint of this node for its length, so other nodes don't know it: {id}: {why}{others}; give it fewer or shorter names, or run `netmaster init`, which sets the stream's limit"
        ),
    ))
}

/// The alarm of messages about endpoints of other nodes, parts of which were ignored.
pub(crate) fn excess(view: &EndpointsView) -> Option<Alarm> {
    let mut all = view.excess();
    let (subject, why) = all.next()?;
    let others = others(all.count());
    let text = format!(
        "what exceeds a limit in other nodes' messages about endpoints is ignored: {subject}: {why}{others}; see `netctl endpoint ls -a`"
    );
    Some(Alarm::new(Grade::Warning, "limit", text))
}

fn newer(facts: &Projection) -> impl Iterator<Item = Alarm> {
    let newer = facts.tenants.iter().flat_map(|(name, tenant)| {
        let groups = tenant.groups.values().filter(|it| it.newer);
        let groups = groups.map(move |it| format!("group {} of tenant {name}", it.spec.name));
        let policies = tenant.policies.iter().filter(|(_, it)| it.newer);
        let policies = policies.map(move |(it, _)| format!("policy {it} of tenant {name}"));
        let whole = tenant.newer.then(|| format!("tenant {name}"));
        whole.into_iter().chain(groups).chain(policies)
    });
    newer.map(|what| {
        wrong(
            "older-than-log",
            format!("{what} uses a feature that this netplugin doesn't have: upgrade it"),
        )
    })
}

/// An alarm of the endpoints that a group took a name from.
fn nameless(facts: &Projection, endpoints: &Locals) -> Option<Alarm> {
    let specs = facts.tenants.values().flat_map(|it| it.groups.values());
    let specs = specs.map(|it| &it.spec);
    let full = |name: &str, network: &NetworkName| full_name(name, network.as_str());
    let groups: BTreeMap<_, _> = specs
        .map(|it| ((&it.tenant, full(it.name.as_str(), &it.network)), &it.name))
        .collect();
    if groups.is_empty() {
        return None;
    }
    let taken = |endpoint: &LocalEndpoint| {
        let names = endpoint.name.iter().chain(&endpoint.aliases);
        let mut groups = names
            .filter_map(|it| groups.get(&(&endpoint.tenant, full(it, &endpoint.network))))
            .filter(|group| endpoint.group.as_ref() != Some(group));
        let name = endpoint.name.as_deref().unwrap_or(endpoint.id.as_str());
        let (tenant, network) = (&endpoint.tenant, &endpoint.network);
        Some(format!(
            "{name} in {tenant}/{network} by `{}`",
            groups.next()?
        ))
    };
    let names = listed(endpoints.values().filter_map(|it| taken(it)).collect())?;
    let text = format!(
        "a group of their network has the name of these containers, so only its members are found by it: {names}; attach them to the group or give them another name"
    );
    Some(Alarm::new(Grade::Warning, "group-name", text))
}

/// An alarm of the endpoints that are closed because this node doesn't hold their addresses any more.
fn stranded(facts: &Projection, endpoints: &Locals, me: &NodeName) -> Option<Alarm> {
    let closed = |endpoint: &&LocalEndpoint| {
        let network = facts.network(&endpoint.tenant, &endpoint.network);
        let held = |network: &node_core::projection::NetworkFact| {
            let mut addresses = endpoint.addresses.iter();
            addresses.all(|address| network.is_held_by(*address, me))
        };
        facts.cluster.is_some() && !network.is_some_and(held)
    };
    let name = |endpoint: &LocalEndpoint| {
        let name = endpoint.name.as_deref().unwrap_or(endpoint.id.as_str());
        format!("{name} in {}/{}", endpoint.tenant, endpoint.network)
    };
    let all = endpoints.values().map(|it| &**it);
    let names = listed(all.filter(closed).map(name).collect())?;
    let text = format!(
        "the addresses of these endpoints were taken from this node, and they are cut off: {names}; start their containers again"
    );
    Some(wrong("block-revoked", text))
}

/// The number of others beside the one that an alarm shows.
fn others(count: usize) -> String {
    match count {
        0 => String::new(),
        _ => format!("; and {count} more"),
    }
}

/// A list for an alarm: the first [`MAX_LISTED`] of these names in their order, and the number of the
/// others; `None` if there is none.
pub(crate) fn listed(mut names: Vec<String>) -> Option<String> {
    names.sort();
    let more = names.len().saturating_sub(MAX_LISTED);
    names.truncate(MAX_LISTED);
    if more > 0 {
        names.push(format!("{more} more"));
    }
    (!names.is_empty()).then(|| names.join(", "))
}
