//! Ends connections that a policy doesn't allow any more, when an operator orders it.
//!
//! The order is one event in the log (`PolicyApplied`). Each node executes it once, when its kernel
//! holds the rules of that revision, and writes the cluster and the revision into a file. A node
//! without that file ignores the orders that are in the log by then.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use bus_schema::node::Flow;
use bus_schema::{ClusterId, GroupId, PolicyName, Revision, TenantName};
use tokio::sync::watch;

use crate::endpoint::Locals;
use crate::frames::replace;
use node_core::desired::{Params, domain_name, zone};
use node_core::policy::{Cache, End, must_end};
use node_core::projection::{EndpointsView, Projection, TenantFact};
use node_core::resource::Place;
use node_core::step::Trouble;
use node_datapath::{Connection, Datapath, DatapathError};

/// The last order that was executed.
type Done = (ClusterId, Revision);

#[derive(Debug)]
pub struct Enforcement {
    path: PathBuf,
    view: watch::Receiver<EndpointsView>,
    done: Option<Done>,
    /// `done` isn't on disk yet.
    unsaved: bool,
}

impl Enforcement {
    /// Reads the file of the process before.
    pub fn open(path: PathBuf, view: watch::Receiver<EndpointsView>) -> Self {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let done = parse(&text);
        let unsaved = false;
        Self {
            path,
            view,
            done,
            unsaved,
        }
    }

    /// Executes the orders that are due. To be called when the kernel holds the facts' rules.
    pub(super) async fn run(
        &mut self,
        facts: &Projection,
        locals: &Locals,
        params: &Params,
        datapath: &Datapath,
    ) -> Result<(), Trouble> {
        let Some(cluster) = facts.cluster else {
            return Ok(());
        };
        let policies = facts.tenants.values().flat_map(|it| it.policies.values());
        let asked = policies.filter_map(|policy| policy.enforced).max();
        let asked = asked.unwrap_or(Revision(0));
        let done = match self.done {
            Some((of, done)) if of == cluster => done,
            _ => {
                self.remember((cluster, asked));
                return Ok(());
            }
        };
        if asked <= done {
            self.save();
            return Ok(());
        }
        for (name, fact) in &facts.tenants {
            let due = fact.policies.iter();
            let due = due.filter(|(_, policy)| policy.enforced.is_some_and(|it| it > done));
            let due: Vec<_> = due.map(|(name, _)| name.clone()).collect();
            let here = locals.values().any(|it| it.tenant == *name);
            if !due.is_empty() && here {
                let place = Place::Domain(domain_name(params.kind, name));
                let zone = zone(facts, name, params.kind);
                let all = datapath.connections(&place, zone).await;
                let all = all.map_err(trouble)?;
                let these = self.denied((name, fact), locals, &due, all);
                let ended = datapath.end(&place, these).await;
                let ended = ended.map_err(trouble)?;
                tracing::info!(tenant = %name, ?due, ended, "ended what these policies don't allow");
            }
        }
        self.remember((cluster, asked));
        Ok(())
    }

    /// Ends connections of these tenants that were opened while our rules were gone: they bear no
    /// mark, or the mark of the rules' present revision although the rules deny them. Connections of
    /// earlier revisions stay: a new rule ends no connection.
    pub(super) async fn end_unchecked(
        &self,
        (facts, tenants): (&Projection, &BTreeSet<TenantName>),
        locals: &Locals,
        params: &Params,
        datapath: &Datapath,
    ) -> Result<(), Trouble> {
        for (name, fact) in facts.tenants.iter().filter(|(it, _)| tenants.contains(*it)) {
            let place = Place::Domain(domain_name(params.kind, name));
            let all = datapath
                .connections(&place, zone(facts, name, params.kind))
                .await;
            let all = all.map_err(trouble)?;
            let present = fact.ruled().0 as u16;
            let (unmarked, marked): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|it| it.opener == GroupId(0));
            let receiver = self.receiver((name, fact), locals);
            // A question to an address outside is the name server's, which nobody marks.
            let is_question = |it: &Connection, to: &End| *to == End::World && it.port == 53;
            let unmarked = unmarked.into_iter().filter(|it| {
                let to = receiver(it.to.into());
                to != End::Unknown && !is_question(it, &to)
            });
            let mut these: Vec<_> = unmarked.collect();
            let policies: Vec<_> = fact.policies.keys().cloned().collect();
            let fresh = marked.into_iter().filter(|it| it.revision == present);
            these.extend(self.denied((name, fact), locals, &policies, fresh.collect()));
            if !these.is_empty() {
                let ended = datapath.end(&place, these).await;
                let ended = ended.map_err(trouble)?;
                tracing::warn!(tenant = %name, ended, "ended connections that were opened while our rules were gone");
            }
        }
        Ok(())
    }

    /// The group of an address's endpoint, as far as this node knows.
    fn receiver(
        &self,
        (name, fact): (&TenantName, &TenantFact),
        locals: &Locals,
    ) -> impl Fn(IpAddr) -> End {
        let view = self.view.borrow().clone();
        let own = locals.values().filter(|it| it.tenant == *name).cloned();
        let own = own.flat_map(|it| {
            let addresses = it.addresses.clone();
            addresses
                .into_iter()
                .map(move |address| (address, it.group.clone()))
        });
        let own: BTreeMap<IpAddr, _> = own.collect();
        let (name, fact) = (name.clone(), fact.clone());
        move |address| match (own.get(&address), view.at(&name, address)) {
            (Some(group), _) => End::Endpoint(group.clone()),
            (None, Some(endpoint)) => End::Endpoint(endpoint.group.clone()),
            (None, None) if fact.has_subnet_around(address) => End::Unknown,
            (None, None) => End::World,
        }
    }

    /// The connections that must end.
    fn denied(
        &self,
        (name, fact): (&TenantName, &TenantFact),
        locals: &Locals,
        policies: &[PolicyName],
        mut all: Vec<Connection>,
    ) -> Vec<Connection> {
        let receiver = self.receiver((name, fact), locals);
        let mut cache = Cache::default();
        all.retain(|connection| {
            let flow = flow(name, connection);
            let ends = (opener(fact, connection.opener), receiver(flow.to));
            must_end(fact, policies, &flow, ends, &mut cache)
        });
        all
    }

    fn remember(&mut self, done: Done) {
        self.unsaved |= self.done.replace(done) != Some(done);
        self.save();
    }

    /// A disk that takes no writes has an alarm of its own and doesn't stop the enforcement.
    fn save(&mut self) {
        let Some((cluster, revision)) = self.done.filter(|_| self.unsaved) else {
            return;
        };
        let text = format!("{cluster} {revision}\n");
        match replace(&self.path, text.as_bytes()) {
            Ok(_) => self.unsaved = false,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "can't write which connections were ended; a restart ends them again");
            }
        }
    }
}

/// The sender's group by the connection's mark, which needs no other node's report.
fn opener(tenant: &TenantFact, id: GroupId) -> End {
    match tenant.group_of(id) {
        Some(group) => End::Endpoint(Some(group.spec.name.clone())),
        None if id == GroupId::UNGROUPED => End::Endpoint(None),
        None => End::Unknown,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn trouble(error: DatapathError) -> Trouble {
    Trouble::Kernel(error.to_string())
}

fn parse(text: &str) -> Option<Done> {
    let (cluster, revision) = text.trim().split_once(' ')?;
    Some((
        ClusterId(cluster.parse().ok()?),
        Revision(revision.parse().ok()?),
    ))
}

fn flow(tenant: &TenantName, connection: &Connection) -> Flow {
    let Connection { protocol, port, .. } = *connection;
    Flow {
        tenant: tenant.clone(),
        from: connection.from.into(),
        to: connection.to.into(),
        protocol,
        port: protocol.has_ports().then_some(port),
    }
}
