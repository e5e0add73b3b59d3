//! What the rest of the node asks of the bus: commands to netmaster, requests to other nodes.
//!
//! A request waits a bounded time and fails at once while the bus is away or its log is foreign.

use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{Command, CommandId, NodeName, Rejection, Revision};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// Requests that wait to be sent; the caller waits when it is full.
const ASKS: usize = 256;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Netmaster decided against it.
    #[error("{rejection}")]
    Rejected {
        rejection: Box<Rejection>,
        /// It decided by what the log said up to here.
        revision: Revision,
    },
    /// Nobody answered, nobody could be asked, or netmaster couldn't decide
    /// ([`Rejection::is_undecided`]). A command may have happened.
    #[error("{0}")]
    Unreachable(String),
}

/// A request on its way to the bus.
#[derive(Debug)]
pub enum Ask {
    Command {
        id: CommandId,
        command: Command,
        answer: oneshot::Sender<Result<Revision, AskError>>,
    },
    Node {
        node: NodeName,
        request: NodeRequest,
        answer: oneshot::Sender<Result<NodeReply, AskError>>,
    },
}

/// Cheap to clone; a clone asks on the same connection.
#[derive(Debug, Clone)]
pub struct BusHandle {
    asks: mpsc::Sender<Ask>,
}

impl BusHandle {
    /// The handle, and the end that serves it.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (asks, served) = mpsc::channel(ASKS);
        (Self { asks }, served)
    }

    /// Has netmaster do a command; gives the revision that holds its outcome.
    pub async fn command(&self, command: Command) -> Result<Revision, AskError> {
        self.command_as(CommandId(Uuid::new_v4()), command).await
    }

    /// [`Self::command`] under an id of the caller's: of those with one id netmaster carries out one.
    pub async fn command_as(&self, id: CommandId, command: Command) -> Result<Revision, AskError> {
        let (answer, answered) = oneshot::channel();
        let ask = Ask::Command {
            id,
            command,
            answer,
        };
        self.ask(ask, answered).await
    }

    pub async fn node(&self, node: NodeName, request: NodeRequest) -> Result<NodeReply, AskError> {
        let ask = |answer| Ask::Node {
            node,
            request,
            answer,
        };
        let (answer, answered) = oneshot::channel();
        self.ask(ask(answer), answered).await
    }

    async fn ask<T>(
        &self,
        ask: Ask,
        answered: oneshot::Receiver<Result<T, AskError>>,
    ) -> Result<T, AskError> {
        let gone = || AskError::Unreachable("netplugin is stopping".to_owned());
        self.asks.send(ask).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}
