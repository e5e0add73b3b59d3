//! Answers requests to this node, which come by the bus: rule counters from the kernel, traces from the
//! facts, DNS answers for its containers with their reasons, and the examination of its machine.

use std::path::PathBuf;

use bus_schema::TenantName;
use bus_schema::lookup::{Lookup, Outcome, Resolution};
use bus_schema::node::{Flow, NodeReply, NodeRequest};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::cleanup::Cleaner;
use crate::docker::sandbox_of;
use crate::doctor;
use crate::endpoint::{Owner, Snapshot};
use crate::outer_drops::OuterDrops;
use node_core::desired::{Params, domain_name, trace, zone};
use node_core::projection::{EndpointsView, Projection};
use node_core::resource::Place;
use node_datapath::Datapath;
use node_dns::{DnsHandle, ask_engine};

/// Limits the requests that wait; a caller beyond it waits to send.
pub const MAX_WAITING_QUESTIONS: usize = 64;

#[derive(Debug)]
pub struct Question {
    pub request: NodeRequest,
    pub answer: oneshot::Sender<NodeReply>,
}

/// Sends a request and waits for the answer.
pub async fn ask(questions: &mpsc::Sender<Question>, request: NodeRequest) -> NodeReply {
    let (answer, answered) = oneshot::channel();
    let sent = questions.send(Question { request, answer }).await;
    let reply = match sent {
        Ok(()) => answered.await.ok(),
        Err(_) => None,
    };
    reply.unwrap_or_else(|| NodeReply::Refused {
        reason: "netplugin is stopping".to_owned(),
    })
}

/// The sources of the answers.
#[derive(Debug)]
pub struct Inquiry {
    pub params: Params,
    pub datapath: Datapath,
    pub facts: watch::Receiver<Projection>,
    pub view: watch::Receiver<EndpointsView>,
    pub dns: DnsHandle,
    pub cleaner: Cleaner,
    pub outer_drops: OuterDrops,
    pub snapshots: watch::Receiver<Snapshot>,
    /// The engine's socket.
    pub engine: Option<PathBuf>,
}

impl Inquiry {
    /// Answers until all senders are gone.
    pub async fn run(self, mut questions: mpsc::Receiver<Question>) {
        let (mut examinations, mut cleanups) = (JoinSet::new(), JoinSet::new());
        let mut resolutions = JoinSet::new();
        while let Some(Question { request, answer }) = questions.recv().await {
            let reply = match request {
                NodeRequest::Examine => {
                    self.examine(&mut examinations, answer);
                    continue;
                }
                NodeRequest::CleanUp => {
                    let cleaner = self.cleaner.clone();
                    cleanups.spawn(async move {
                        let _ = answer.send(NodeReply::CleanedUp(cleaner.clean().await));
                    });
                    while cleanups.try_join_next().is_some() {}
                    continue;
                }
                NodeRequest::Counters { tenant } => self.counters(&tenant).await,
                NodeRequest::Trace(flow) => self.trace(&flow),
                NodeRequest::Resolve(lookup) => {
                    while resolutions.try_join_next().is_some() {}
                    let resolution = self.dns.explain(&lookup);
                    let docker = self.docker_container(&lookup);
                    resolutions.spawn_blocking(move || {
                        let resolution = with_engine(resolution, &lookup, docker);
                        let _ = answer.send(NodeReply::Resolved(resolution));
                    });
                    continue;
                }
                other => NodeReply::Refused {
                    reason: format!("this node doesn't answer `{}`", other.verb()),
                },
            };
            // The caller may be gone.
            let _ = answer.send(reply);
        }
    }

    /// The engine's socket and the container of the engine that asks, if it is one.
    fn docker_container(&self, lookup: &Lookup) -> Option<(PathBuf, String)> {
        let engine = self.engine.clone()?;
        let snapshot = self.snapshots.borrow();
        let mut endpoints = snapshot.endpoints.values();
        let asker = endpoints.find(|it| {
            it.tenant == lookup.tenant
                && it.addresses.contains(&lookup.from)
                && matches!(it.owner, Owner::Docker { .. })
        })?;
        Some((engine, asker.container.clone()?))
    }

    /// Examines the machine in a task, since it takes seconds. One runs at a time, since two would
    /// disturb each other.
    fn examine(&self, running: &mut JoinSet<()>, answer: oneshot::Sender<NodeReply>) {
        while running.try_join_next().is_some() {}
        if !running.is_empty() {
            let reason = "another examination is running; try again".to_owned();
            let _ = answer.send(NodeReply::Refused { reason });
            return;
        }
        let (params, datapath) = (self.params.clone(), self.datapath.clone());
        let facts = self.facts.borrow().clone();
        let drops = self.outer_drops.clone();
        let view = self.view.borrow().clone();
        let locals = self.snapshots.borrow().endpoints.clone();
        running.spawn(async move {
            let examination =
                doctor::examine(&params, &datapath, (&facts, &view, &locals), &drops).await;
            let _ = answer.send(NodeReply::Examined(examination));
        });
    }

    /// The counters of a tenant's rules on this node.
    async fn counters(&self, tenant: &TenantName) -> NodeReply {
        let kind = self.params.kind;
        let place = Place::Domain(domain_name(kind, tenant));
        let zone = zone(&self.facts.borrow(), tenant, kind);
        match self.datapath.counters(&place, zone).await {
            Ok(rules) => NodeReply::Counters { rules },
            Err(error) => NodeReply::Refused {
                reason: error.to_string(),
            },
        }
    }

    fn trace(&self, flow: &Flow) -> NodeReply {
        let (facts, view) = (self.facts.borrow().clone(), self.view.borrow().clone());
        let me = (&self.params.node, self.params.kind);
        match trace(&facts, &view, me, flow) {
            Ok(trace) => NodeReply::Traced(trace),
            Err(reason) => NodeReply::Refused { reason },
        }
    }
}

/// Adds the answer of Docker's own resolver, which the container asks first. Blocks.
fn with_engine(
    mut resolution: Resolution,
    lookup: &Lookup,
    docker: Option<(PathBuf, String)>,
) -> Resolution {
    let Some((engine, container)) = docker else {
        return resolution;
    };
    let answer = sandbox_of(&engine, &container).and_then(|it| ask_engine(&it, lookup));
    match answer {
        Ok(mut answer) => {
            // About other names the host's resolvers don't set AA either.
            answer.first &= resolution.outcome == Outcome::Found;
            resolution.engine = Some(answer);
        }
        Err(error) => resolution.because.push(format!(
            "Docker's own resolver, which the container asks first, can't be asked: {error}"
        )),
    }
    resolution
}
