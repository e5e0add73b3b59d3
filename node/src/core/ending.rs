//! Connections that a policy doesn't allow any more, ended when an operator asks for it.
//!
//! The log says so once (`PolicyApplied`), and each node does it once, when its kernel holds the
//! rules of that revision: what was done is on disk, told by the cluster and the revision. A node
//! that has no such file starts with what is in the log by then; it ends nothing for the past.

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
use node_datapath::{Connection, Datapath};

/// What was asked for and is done.
type Done = (ClusterId, Revision);

#[derive(Debug)]
pub struct Ending {
    path: PathBuf,
    view: watch::Receiver<EndpointsView>,
    done: Option<Done>,
    /// What was done last isn't on disk yet.
    unsaved: bool,
}

impl Ending {
    /// Reads what was done before.
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

    /// Does what is due by now. To be called when the kernel holds the facts' rules.
    pub(super) async fn run(
        &mut self,
        facts: &Projection,
        locals: &Locals,
        params: &Params,
        datapath: &Datapath,
    ) -> Result<(), String> {
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
                let all = all.map_err(|error| error.to_string())?;
                let these = self.those((name, fact), locals, &due, all);
                let ended = datapath.end(&place, these).await;
                let ended = ended.map_err(|error| error.to_string())?;
                tracing::info!(tenant = %name, ?due, ended, "ended what these policies don't allow");
            }
        }
        self.remember((cluster, asked));
        Ok(())
    }

    /// Ends connections of these tenants that were opened while somebody had taken our rules away:
    /// they bear no mark, or the mark of the rules' present revision although the rules deny them.
    /// Those of earlier revisions stay: a new rule ends no connection.
    pub(super) async fn strays(
        &self,
        facts: &Projection,
        tenants: &BTreeSet<TenantName>,
        locals: &Locals,
        params: &Params,
        datapath: &Datapath,
    ) -> Result<(), String> {
        for (name, fact) in facts.tenants.iter().filter(|(it, _)| tenants.contains(*it)) {
            let place = Place::Domain(domain_name(params.kind, name));
            let all = datapath
                .connections(&place, zone(facts, name, params.kind))
                .await;
            let all = all.map_err(|error| error.to_string())?;
            let present = fact.ruled().0 as u16;
            let (unmarked, marked): (Vec<_>, Vec<_>) =
                all.into_iter().partition(|it| it.opener == GroupId(0));
            let receiver = self.receiver(name, locals);
            let unmarked = unmarked
                .into_iter()
                .filter(|it| receiver(it.to.into()) != End::Unknown);
            let mut these: Vec<_> = unmarked.collect();
            let policies: Vec<_> = fact.policies.keys().cloned().collect();
            let fresh = marked.into_iter().filter(|it| it.revision == present);
            these.extend(self.those((name, fact), locals, &policies, fresh.collect()));
            if !these.is_empty() {
                let ended = datapath.end(&place, these).await;
                let ended = ended.map_err(|error| error.to_string())?;
                tracing::warn!(tenant = %name, ended, "ended connections that were opened while our rules were gone");
            }
        }
        Ok(())
    }

    /// Who has an address, as far as this node knows.
    fn receiver(&self, name: &TenantName, locals: &Locals) -> impl Fn(IpAddr) -> End {
        let view = self.view.borrow().clone();
        let own = locals.values().filter(|it| it.tenant == *name).cloned();
        let own = own.flat_map(|it| {
            let addresses = it.addresses.clone();
            addresses
                .into_iter()
                .map(move |address| (address, it.group.clone()))
        });
        let own: BTreeMap<IpAddr, _> = own.collect();
        let name = name.clone();
        move |address| match (own.get(&address), view.at(&name, address)) {
            (Some(group), _) => End::Endpoint(group.clone()),
            (None, Some(endpoint)) => End::Endpoint(endpoint.group.clone()),
            (None, None) => End::Unknown,
        }
    }

    /// The connections that must end.
    fn those(
        &self,
        (name, fact): (&TenantName, &TenantFact),
        locals: &Locals,
        policies: &[PolicyName],
        mut all: Vec<Connection>,
    ) -> Vec<Connection> {
        let receiver = self.receiver(name, locals);
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

    /// A disk that takes no writes has an alarm of its own, and keeps nobody from what is to be done.
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

/// The sender as the connection itself tells, which needs no hearsay.
fn opener(tenant: &TenantFact, id: GroupId) -> End {
    match tenant.group_of(id) {
        Some(group) => End::Endpoint(Some(group.spec.name.clone())),
        None if id == GroupId::UNGROUPED => End::Endpoint(None),
        None => End::Unknown,
    }
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
