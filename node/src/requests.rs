//! The requests that the parts of the node send through the bus: commands to netmaster, and requests to
//! other nodes.
//!
//! A request waits for a bounded time, and fails at once while the bus is away or its log is foreign.

use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{Command, CommandId, NodeName, Rejection, Revision};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// The length of the queue; when it is full, the caller waits.
const MAX_QUEUED_REQUESTS: usize = 256;

/// The reason why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Netmaster rejected the command.
    #[error("{rejection}")]
    Rejected {
        rejection: Box<Rejection>,
        /// Netmaster decided by the log up to here.
        revision: Revision,
        /// Whether each sending of the command was rejected: else one may still be accepted.
        is_final: bool,
    },
    /// There was no answer, the request couldn't be sent, or netmaster couldn't decide
    /// ([`Rejection::is_undecided`]). The command may have happened.
    #[error("{0}")]
    Unreachable(String),
}

/// A request to send.
#[derive(Debug)]
pub enum BusRequest {
    Command {
        id: CommandId,
        command: Command,
        answer: oneshot::Sender<Result<Revision, BusError>>,
    },
    Node {
        node: NodeName,
        request: NodeRequest,
        answer: oneshot::Sender<Result<NodeReply, BusError>>,
    },
}

/// Sends requests. Cheap to clone; all clones use one connection.
#[derive(Debug, Clone)]
pub struct BusHandle {
    requests: mpsc::Sender<BusRequest>,
}

impl BusHandle {
    /// The handle, and the queue of its requests.
    pub fn new() -> (Self, mpsc::Receiver<BusRequest>) {
        let (requests, queue) = mpsc::channel(MAX_QUEUED_REQUESTS);
        (Self { requests }, queue)
    }

    /// Sends netmaster a command. The result is the revision that holds its outcome.
    pub async fn command(&self, command: Command) -> Result<Revision, BusError> {
        self.command_as(CommandId(Uuid::new_v4()), command).await
    }

    /// Sends netmaster a command with this id: of all commands with one id one happens.
    pub async fn command_as(&self, id: CommandId, command: Command) -> Result<Revision, BusError> {
        let (answer, answered) = oneshot::channel();
        let request = BusRequest::Command {
            id,
            command,
            answer,
        };
        self.send(request, answered).await
    }

    /// Sends another node a request.
    pub async fn node(&self, node: NodeName, request: NodeRequest) -> Result<NodeReply, BusError> {
        let (answer, answered) = oneshot::channel();
        let request = BusRequest::Node {
            node,
            request,
            answer,
        };
        self.send(request, answered).await
    }

    async fn send<T>(
        &self,
        request: BusRequest,
        answered: oneshot::Receiver<Result<T, BusError>>,
    ) -> Result<T, BusError> {
        let gone = || BusError::Unreachable("netplugin is stopping".to_owned());
        self.requests.send(request).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}
