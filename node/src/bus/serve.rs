//! Answers the requests to this node: `contiv.node.<me>.…`.

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
use tokio::time::{Instant, timeout, timeout_at};

use super::Facts;
use super::status::stamped;
use crate::endpoint::{AttachError, CedeRequest, EndpointsHandle, LocalEndpoint};
use crate::inquiry::{self, Question};
use runtime::pause;

/// The limit of a drain of a network or a group, and of an accept; netmaster waits five seconds.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);
/// The limit of a drain of the node; netmaster waits four seconds.
const NODE_DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// The number of requests that are answered at once.
const MAX_CONCURRENT_REQUESTS: usize = 64;
const SUBSCRIBE_RETRY_PAUSE: Duration = Duration::from_secs(1);

const NOT_RETURNED: &str = "its blocks aren't returned yet";

/// Answers requests. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Service {
    pub me: NodeName,
    pub endpoints: EndpointsHandle,
    pub questions: mpsc::Sender<Question>,
    pub facts: Facts,
    pub status: watch::Receiver<NodeStatus>,
    pub log: watch::Receiver<LogState>,
    pub accept: mpsc::Sender<AcceptLog>,
}

/// An operator's request to follow the foreign log on the bus from now on.
#[derive(Debug)]
pub(super) struct AcceptLog {
    pub cluster: ClusterId,
    pub answer: oneshot::Sender<Result<(), AcceptLogError>>,
}

/// The reason why the foreign log isn't followed.
#[derive(Debug, thiserror::Error)]
pub(super) enum AcceptLogError {
    #[error("it can't remove the facts of its own log from its disk: {0}")]
    Disk(std::io::Error),
    #[error("the log on the bus is of cluster {0}")]
    OtherCluster(ClusterId),
    #[error("the bus holds no cluster: run `netmaster init` first")]
    NoCluster,
}

/// A revision that this node hasn't applied yet.
#[derive(Debug, thiserror::Error)]
#[error("it hasn't applied revision {revision} yet{}", because(.disk.as_deref()))]
struct NotApplied {
    revision: Revision,
    /// The reason why its disk refuses writes.
    disk: Option<String>,
}

fn because(disk: Option<&str>) -> String {
    disk.map_or_else(String::new, |why| {
        format!(", because its disk takes no writes ({why})")
    })
}

impl Service {
    /// Answers for ever, except while this node is no member: its name may be another machine's.
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
                return pause(SUBSCRIBE_RETRY_PAUSE).await;
            }
        };
        let room = Arc::new(Semaphore::new(MAX_CONCURRENT_REQUESTS));
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
            Ok(request) => self.reply_to(request).await,
            Err(error) => refused(error.to_string()),
        };
        let reply = codec::to_bytes(&reply);
        if let Err(error) = client.publish(reply_to, reply.into()).await {
            tracing::debug!(%error, "an answer wasn't sent");
        }
    }

    async fn reply_to(&self, request: NodeRequest) -> NodeReply {
        match request {
            NodeRequest::Steps { revisions } => NodeReply::Steps(self.facts.steps(&revisions)),
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
                let request = CedeRequest {
                    key: (tenant, network),
                    address,
                    to,
                    promised,
                };
                match self.endpoints.cede(request).await {
                    Ok(()) => NodeReply::Done,
                    Err(AttachError::AddressInUse(_, id)) => {
                        refused(format!("it is in use by endpoint {id}"))
                    }
                    Err(error) => refused(error.to_string()),
                }
            }
            NodeRequest::Spare { pool, v6, revision } => {
                match self.endpoints.spare(&pool, v6, revision).await {
                    Ok(spare) => NodeReply::Spare(spare),
                    Err(error) => refused(error.to_string()),
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
        if !matches!(*self.log.borrow(), LogState::Foreign { .. }) {
            return refused("it follows its own log; there is nothing to accept");
        }
        let (answer, answered) = oneshot::channel();
        let request = AcceptLog { cluster, answer };
        if self.accept.try_send(request).is_err() {
            return refused("another request to accept a log is in progress");
        }
        match timeout(DRAIN_TIMEOUT, answered).await {
            Ok(Ok(Ok(()))) => NodeReply::Done,
            Ok(Ok(Err(error))) => refused(error.to_string()),
            _ => refused("its log isn't foreign any more, or the bus is away; try again"),
        }
    }

    /// Waits for the revision, then lists the network's endpoints, or waits until no block is left.
    /// [`Settler`](crate::endpoint::Settler) returns the blocks.
    async fn drain(
        &self,
        tenant: TenantName,
        network: NetworkName,
        revision: Revision,
    ) -> NodeReply {
        let until = Instant::now() + DRAIN_TIMEOUT;
        if let Err(error) = self.wait_for_revision(revision, until).await {
            return refused(error.to_string());
        }
        let mut facts = self.facts.subscribe();
        let endpoints = self.endpoints_where(|it| it.tenant == tenant && it.network == network);
        if !endpoints.is_empty() {
            return NodeReply::InUse { endpoints };
        }
        let empty = facts.wait_for(|facts| {
            let network = facts.network(&tenant, &network);
            network.is_none_or(|it| it.blocks_of(&self.me).next().is_none())
        });
        match timeout_at(until, empty).await {
            Ok(_) => NodeReply::Done,
            Err(_) => refused(NOT_RETURNED),
        }
    }

    /// Waits for the revision, then lists all endpoints of this node, or waits until no block is left.
    /// [`Settler`](crate::endpoint::Settler) returns the blocks.
    async fn drain_node(&self, revision: Revision) -> NodeReply {
        let until = Instant::now() + NODE_DRAIN_TIMEOUT;
        if let Err(error) = self.wait_for_revision(revision, until).await {
            return refused(error.to_string());
        }
        // Endpoints that were attached before the revision was applied are in the journal behind this.
        if let Err(error) = self.endpoints.write_records(Vec::new()).await {
            return refused(error.to_string());
        }
        let endpoints = self.endpoints_where(|_| true);
        if !endpoints.is_empty() {
            return NodeReply::InUse { endpoints };
        }
        let mut facts = self.facts.subscribe();
        let returned = facts.wait_for(|facts| facts.blocks_of(&self.me) == 0);
        match timeout_at(until, returned).await {
            Ok(_) => NodeReply::Done,
            Err(_) => NodeReply::HoldsBlocks {
                reason: self.why_blocks_are_held(),
            },
        }
    }

    /// The reason why the node holds blocks although no endpoint runs here.
    fn why_blocks_are_held(&self) -> String {
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
            (true, true) => NOT_RETURNED.to_owned(),
        }
    }

    /// Waits for the revision, then lists the group's endpoints. From the revision of its closing on no
    /// endpoint is attached to the group, so an empty group stays empty.
    async fn drain_group(
        &self,
        tenant: TenantName,
        group: GroupName,
        revision: Revision,
    ) -> NodeReply {
        let until = Instant::now() + DRAIN_TIMEOUT;
        if let Err(error) = self.wait_for_revision(revision, until).await {
            return refused(error.to_string());
        }
        // Endpoints that were attached before the revision was applied are in the journal behind this.
        if let Err(error) = self.endpoints.write_records(Vec::new()).await {
            return refused(error.to_string());
        }
        let endpoints =
            self.endpoints_where(|it| it.tenant == tenant && it.group.as_ref() == Some(&group));
        if endpoints.is_empty() {
            return NodeReply::Done;
        }
        NodeReply::InUse { endpoints }
    }

    /// Waits until the facts and the disk have the revision.
    async fn wait_for_revision(
        &self,
        revision: Revision,
        until: Instant,
    ) -> Result<(), NotApplied> {
        let (mut facts, mut saved) = (self.facts.subscribe(), self.facts.saved());
        let reached = async {
            facts.wait_for(|facts| facts.applied >= revision).await.ok();
            saved
                .wait_for(|saved| saved.revision >= revision)
                .await
                .ok();
        };
        if timeout_at(until, reached).await.is_ok() {
            return Ok(());
        }
        let disk = saved.borrow().trouble.clone();
        Err(NotApplied { revision, disk })
    }

    fn endpoints_where(&self, of: impl Fn(&LocalEndpoint) -> bool) -> Vec<EndpointUse> {
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

fn refused(reason: impl Into<String>) -> NodeReply {
    NodeReply::Refused {
        reason: reason.into(),
    }
}

fn gave_up(outcome: Result<Revision, AttachError>) -> NodeReply {
    match outcome {
        Ok(revision) => NodeReply::GaveUp { revision },
        Err(error) => refused(error.to_string()),
    }
}
