//! Answers requests to this node, which come by the bus: rule counters from the kernel, traces from the
//! facts, DNS answers for its containers with their reasons, and the examination of its machine.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bus_schema::TenantName;
use bus_schema::lookup::{EngineAnswer, Lookup, Outcome, Resolution};
use bus_schema::node::{Flow, NodeReply, NodeRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
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

/// Limits the questions that an engine's resolver is asked at a time. An answer takes up to four seconds,
/// and each holds one of the node's places for requests.
const MAX_ENGINE_QUESTIONS: usize = 4;

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
        let places = Arc::new(Semaphore::new(MAX_ENGINE_QUESTIONS));
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
                    let docker = self.engine_question(&lookup, &places);
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

    /// The question to the engine's resolver, if a container of the engine asks.
    fn engine_question(&self, lookup: &Lookup, places: &Arc<Semaphore>) -> Option<EngineQuestion> {
        let engine = self.engine.clone()?;
        let snapshot = self.snapshots.borrow();
        let mut endpoints = snapshot.endpoints.values();
        let asker = endpoints.find(|it| {
            it.tenant == lookup.tenant
                && it.addresses.contains(&lookup.from)
                && matches!(it.owner, Owner::Docker { .. })
        })?;
        Some(EngineQuestion {
            engine,
            container: asker.container.clone()?,
            place: Arc::clone(places).try_acquire_owned().ok(),
        })
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

/// A question to the resolver of an engine.
#[derive(Debug)]
struct EngineQuestion {
    /// The engine's socket.
    engine: PathBuf,
    /// The container that asks.
    container: String,
    /// Absent: as many as may be are asked already.
    place: Option<OwnedSemaphorePermit>,
}

impl EngineQuestion {
    /// Blocks.
    fn ask(&self, lookup: &Lookup) -> io::Result<EngineAnswer> {
        if self.place.is_none() {
            return Err(io::Error::other(format!(
                "this node asks {MAX_ENGINE_QUESTIONS} such questions at a time; try again"
            )));
        }
        ask_engine(&sandbox_of(&self.engine, &self.container)?, lookup)
    }
}

/// Adds the answer of Docker's own resolver, which the container asks first. Blocks.
fn with_engine(
    mut resolution: Resolution,
    lookup: &Lookup,
    docker: Option<EngineQuestion>,
) -> Resolution {
    let Some(question) = docker else {
        return resolution;
    };
    match question.ask(lookup) {
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

#[cfg(test)]
mod tests {
    use bus_schema::lookup::RecordKind;

    use super::*;

    #[test]
    fn question_beyond_the_places_is_answered_without_the_engine() {
        let places = Arc::new(Semaphore::new(1));
        let lookup = Lookup {
            tenant: TenantName::default_tenant(),
            from: "20.1.1.1".parse().unwrap(),
            name: "web".to_owned(),
            record: RecordKind::A,
        };
        let ask = || {
            let resolution = Resolution {
                outcome: Outcome::Found,
                records: Vec::new(),
                ttl: 5,
                because: Vec::new(),
                refused: false,
                engine: None,
            };
            let question = EngineQuestion {
                engine: PathBuf::from("/nonexistent/docker.sock"),
                container: "c1".to_owned(),
                place: Arc::clone(&places).try_acquire_owned().ok(),
            };
            with_engine(resolution, &lookup, Some(question)).because
        };
        let held = Arc::clone(&places).try_acquire_owned();
        assert!(ask()[0].ends_with("try again"), "{:?}", ask());
        drop(held);
        for _ in 0..2 {
            assert!(ask()[0].contains("No such file"), "{:?}", ask());
        }
    }
}
