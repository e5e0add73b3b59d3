//! What others ask of this node: `contiv.node.<me>.…`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message};
use bus_schema::codec;
use bus_schema::node::{LogState, NodeReply, NodeRequest, NodeStatus};
use bus_schema::rejection::EndpointUse;
use bus_schema::{ClusterId, GroupName, NetworkName, NodeName, Revision, TenantName};
use futures::StreamExt;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::Facts;
use super::status::stamped;
use crate::endpoint::{AttachError, Ceding, EndpointsHandle, LocalEndpoint};
use crate::inquiry::{self, Question};
use node_core::projection::Projection;
use runtime::pause;

/// Netmaster waits five seconds for a drain.
const DRAIN: Duration = Duration::from_secs(4);
/// Netmaster waits four seconds for the answer.
const NODE_DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Requests worked on at once.
const AT_ONCE: usize = 64;
const RETRY: Duration = Duration::from_secs(1);

/// What the answers are made of. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub me: NodeName,
    pub endpoints: EndpointsHandle,
    pub questions: mpsc::Sender<Question>,
    pub facts: watch::Receiver<Projection>,
    pub folded: Facts,
    pub status: watch::Receiver<NodeStatus>,
    pub log: watch::Receiver<LogState>,
    pub accept: mpsc::Sender<Accept>,
}

/// An operator says that the foreign log on the bus is the one to follow from now on.
#[derive(Debug)]
pub(super) struct Accept {
    pub cluster: ClusterId,
    /// Why not.
    pub answer: oneshot::Sender<Result<(), String>>,
}

impl Service {
    /// Answers for ever, except while this node is no member and its name may be another machine's.
    pub(super) async fn run(self, client: Client) {
        let mut log = self.log.clone();
        loop {
            tokio::select! {
                () = self.serve(&client) => {}
                _ = log.wait_for(LogState::is_outside) => {}
            }
            if log.wait_for(|log| !log.is_outside()).await.is_err() {
                return;
            }
        }
    }

    async fn serve(&self, client: &Client) {
        let all = format!("contiv.node.{}.*", self.me);
        let mut requests = match client.subscribe(all).await {
            Ok(requests) => requests,
            Err(error) => {
                tracing::warn!(%error, "can't serve requests to this node");
                return pause(RETRY).await;
            }
        };
        let room = Arc::new(Semaphore::new(AT_ONCE));
        while let Some(message) = requests.next().await {
            let Ok(permit) = room.clone().acquire_owned().await else {
                return;
            };
            let (service, client) = (self.clone(), client.clone());
            tokio::spawn(async move {
                let _permit = permit;
                service.answer(&client, message).await;
            });
        }
    }

    async fn answer(&self, client: &Client, message: Message) {
        let Some(reply_to) = message.reply else {
            return;
        };
        let reply = match codec::from_bytes::<NodeRequest>(&message.payload) {
            Ok(request) => self.work(request).await,
            Err(error) => NodeReply::Refused {
                reason: error.to_string(),
            },
        };
        let reply = codec::to_bytes(&reply);
        if let Err(error) = client.publish(reply_to, reply.into()).await {
            tracing::debug!(%error, "an answer got lost");
        }
    }

    async fn work(&self, request: NodeRequest) -> NodeReply {
        match request {
            NodeRequest::Steps { revisions } => NodeReply::Steps(self.folded.steps(&revisions)),
            NodeRequest::Status => {
                NodeReply::Status(Box::new(stamped(self.status.borrow().clone())))
            }
            NodeRequest::Drain {
                tenant,
                network,
                revision,
            } => self.drain(tenant, network, revision).await,
            NodeRequest::DrainGroup {
                tenant,
                group,
                revision,
            } => self.drain_group(tenant, group, revision).await,
            request @ (NodeRequest::Counters { .. }
            | NodeRequest::Trace(_)
            | NodeRequest::Resolve(_)
            | NodeRequest::CleanUp
            | NodeRequest::Examine) => inquiry::ask(&self.questions, request).await,
            NodeRequest::Cede {
                tenant,
                network,
                address,
                to,
                promised,
            } => {
                let ceding = Ceding {
                    key: (tenant, network),
                    address,
                    to,
                    promised,
                };
                match self.endpoints.cede(ceding).await {
                    Ok(()) => NodeReply::Done,
                    Err(AttachError::AddressInUse(_, id)) => NodeReply::Refused {
                        reason: format!("it is in use by endpoint {id}"),
                    },
                    Err(error) => NodeReply::Refused {
                        reason: error.to_string(),
                    },
                }
            }
            NodeRequest::Spare { pool, v6, revision } => {
                match self.endpoints.spare(&pool, v6, revision).await {
                    Ok(spare) => NodeReply::Spare(spare),
                    Err(error) => NodeReply::Refused {
                        reason: error.to_string(),
                    },
                }
            }
            NodeRequest::ReturnBlock { pool, v6 } => {
                gave_up(self.endpoints.return_block(pool, v6).await)
            }
            NodeRequest::CedeAny {
                pool,
                v6,
                to,
                count,
            } => gave_up(self.endpoints.cede_any(pool, v6, to, count).await),
            NodeRequest::DrainNode { revision } => self.drain_node(revision).await,
            NodeRequest::AcceptLog { cluster } => self.accept(cluster).await,
        }
    }

    async fn accept(&self, cluster: ClusterId) -> NodeReply {
        let refused = |reason: &str| NodeReply::Refused {
            reason: reason.to_owned(),
        };
        if !matches!(*self.log.borrow(), LogState::Foreign { .. }) {
            return refused("it follows its own log; there is nothing to accept");
        }
        let (answer, answered) = oneshot::channel();
        if self.accept.try_send(Accept { cluster, answer }).is_err() {
            return refused("another request to accept a log is being worked on");
        }
        match tokio::time::timeout(DRAIN, answered).await {
            Ok(Ok(Ok(()))) => NodeReply::Done,
            Ok(Ok(Err(reason))) => refused(&reason),
            _ => refused("its log isn't foreign any more, or the bus is away; try again"),
        }
    }

    /// Waits for the revision, then names the endpoints in the way, or waits until no block is
    /// left; giving them back is [`settle`](crate::endpoint::settle)'s.
    async fn drain(
        &self,
        tenant: TenantName,
        network: NetworkName,
        revision: Revision,
    ) -> NodeReply {
        let until = Instant::now() + DRAIN;
        if let Err(reason) = self.reach(revision, until).await {
            return NodeReply::Refused { reason };
        }
        let mut facts = self.facts.clone();
        let users = self.users(|it| it.tenant == tenant && it.network == network);
        if !users.is_empty() {
            return NodeReply::InUse { endpoints: users };
        }
        let empty = facts.wait_for(|facts| {
            let network = facts.network(&tenant, &network);
            network.is_none_or(|it| it.blocks_of(&self.me).next().is_none())
        });
        match tokio::time::timeout_at(until, empty).await {
            Ok(_) => NodeReply::Done,
            Err(_) => NodeReply::Refused {
                reason: "its blocks aren't returned yet".to_owned(),
            },
        }
    }

    /// Waits for the revision, then names the endpoints that run here, or waits until no block is left;
    /// returning them is [`settle`](crate::endpoint::settle)'s.
    async fn drain_node(&self, revision: Revision) -> NodeReply {
        let until = Instant::now() + NODE_DRAIN_TIMEOUT;
        let refused = |reason| NodeReply::Refused { reason };
        if let Err(reason) = self.reach(revision, until).await {
            return refused(reason);
        }
        // Whoever was let in before that revision was applied is in the journal behind this.
        if let Err(error) = self.endpoints.settled(Vec::new()).await {
            return refused(error.to_string());
        }
        let endpoints = self.users(|_| true);
        if !endpoints.is_empty() {
            return NodeReply::InUse { endpoints };
        }
        let mut facts = self.facts.clone();
        let returned = facts.wait_for(|facts| facts.blocks_of(&self.me) == 0);
        match tokio::time::timeout_at(until, returned).await {
            Ok(_) => NodeReply::Done,
            Err(_) => NodeReply::HoldsBlocks {
                reason: self.keeps_blocks(),
            },
        }
    }

    /// Why the node holds blocks although no endpoint runs here.
    fn keeps_blocks(&self) -> String {
        let list = |all: Vec<(TenantName, NetworkName, IpAddr)>| {
            let all = all.into_iter();
            let all: Vec<String> = all
                .map(|(tenant, network, address)| format!("{address} of {tenant}:{network}"))
                .collect();
            all.join(", ")
        };
        let (reserved, promised) = (self.endpoints.reserved(), self.endpoints.promised());
        match (reserved.is_empty(), promised.is_empty()) {
            (false, _) => format!(
                "its container engine has reserved {} for containers that start; `netctl node cleanup {}` returns what was left over",
                list(reserved),
                self.me
            ),
            (true, false) => format!(
                "it manages a swarm and promised {} to tasks; demote it first (`docker node demote`)",
                list(promised)
            ),
            (true, true) => "its blocks aren't returned yet".to_owned(),
        }
    }

    /// From the revision of its closing on, nothing is attached to the group any more; so there
    /// is nobody in it when there is nobody now.
    async fn drain_group(
        &self,
        tenant: TenantName,
        group: GroupName,
        revision: Revision,
    ) -> NodeReply {
        let until = Instant::now() + DRAIN;
        if let Err(reason) = self.reach(revision, until).await {
            return NodeReply::Refused { reason };
        }
        // Whoever was let in before that revision was applied is in the journal behind this.
        if let Err(error) = self.endpoints.settled(Vec::new()).await {
            let reason = error.to_string();
            return NodeReply::Refused { reason };
        }
        let endpoints = self.users(|it| it.tenant == tenant && it.group.as_ref() == Some(&group));
        if endpoints.is_empty() {
            return NodeReply::Done;
        }
        NodeReply::InUse { endpoints }
    }

    /// Waits until this node knows the revision, also after a restart.
    async fn reach(&self, revision: Revision, until: Instant) -> Result<(), String> {
        let (mut facts, mut saved) = (self.facts.clone(), self.folded.saved());
        let reached = async {
            facts.wait_for(|facts| facts.applied >= revision).await.ok();
            saved
                .wait_for(|saved| saved.revision >= revision)
                .await
                .ok();
        };
        if tokio::time::timeout_at(until, reached).await.is_ok() {
            return Ok(());
        }
        let why = saved.borrow().trouble.clone();
        let why = why.map_or_else(String::new, |why| {
            format!(", because its disk takes no writes ({why})")
        });
        Err(format!("it hasn't applied revision {revision} yet{why}"))
    }

    fn users(&self, of: impl Fn(&LocalEndpoint) -> bool) -> Vec<EndpointUse> {
        let endpoints = self.endpoints.snapshots().borrow().endpoints.clone();
        endpoints
            .values()
            .filter(|endpoint| of(endpoint))
            .filter_map(|endpoint| {
                Some(EndpointUse {
                    endpoint: endpoint.id.clone(),
                    node: self.me.clone(),
                    name: endpoint.name.clone(),
                    address: *endpoint.addresses.first()?,
                })
            })
            .collect()
    }
}

fn gave_up(outcome: Result<Revision, AttachError>) -> NodeReply {
    match outcome {
        Ok(revision) => NodeReply::GaveUp { revision },
        Err(error) => NodeReply::Refused {
            reason: error.to_string(),
        },
    }
}
