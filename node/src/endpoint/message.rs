//! The messages that the manager's thread receives, and the parts of its answers.

use std::net::IpAddr;

use bus_schema::{EndpointId, NodeName, PoolKey};
use ipnet::IpNet;
use tokio::sync::oneshot;

use super::in_progress::InProgressGuard;
use super::ledger::{NetworkKey, Record};
use super::{Attach, AttachError, Claim, Description, LocalEndpoint, Reserve};

/// Receives the result of one message.
pub(super) type ResultSender<T> = oneshot::Sender<Result<T, AttachError>>;

/// A message to the manager's thread.
#[derive(Debug)]
pub(super) enum ManagerMessage {
    Reserve(Reserve, RestPeriod, ResultSender<Attempt<IpAddr>>),
    Release(NetworkKey, IpAddr, Claim, ResultSender<()>),
    Attach(Attach, RestPeriod, ResultSender<Attempt<Attached>>),
    Detach(EndpointId, ResultSender<u64>),
    Describe(EndpointId, Description, ResultSender<()>),
    /// Allocates no more addresses from the block, so that it can be returned. The result is the
    /// generation in which no endpoint had any of them.
    Return(NetworkKey, IpNet, ResultSender<u64>),
    /// Picks a block of the pool (IPv6: true) in which no address is used, and starts its return.
    ReturnAny(PoolKey, bool, ResultSender<BlockReturn>),
    Cede(CedeRequest, ResultSender<GiveUp>),
    /// Picks free addresses of the pool (IPv6: true) for another node.
    CedeAny(PoolKey, bool, NodeName, u16, ResultSender<Vec<GiveUp>>),
    /// Journals the records, behind all earlier messages.
    Write(Vec<Record>, ResultSender<()>),
    /// Restores records that the journal has lost.
    Restore(Vec<Record>, ResultSender<()>),
}

/// Another node's request for an address of this node's block.
#[derive(Debug, Clone)]
pub(crate) struct CedeRequest {
    pub key: NetworkKey,
    pub address: IpAddr,
    pub to: NodeName,
    /// The requester runs the task to which the address was promised.
    pub promised: bool,
}

/// A block or an address that the journal records as given up. The command to netmaster is next.
#[derive(Debug)]
pub(super) struct GiveUp {
    pub key: NetworkKey,
    pub block: IpNet,
    /// Absent: the block is returned; else its one address is ceded.
    pub to: Option<NodeName>,
    /// The kernel has dropped the endpoint that had the address when the reconciler has applied this
    /// generation.
    pub generation: u64,
    /// No other task sends the command until this is dropped.
    pub guard: InProgressGuard<(NetworkKey, IpNet)>,
}

/// The return of a block that netmaster requested.
#[derive(Debug)]
pub(super) enum BlockReturn {
    Started(GiveUp),
    /// Another task waits for netmaster's reply already.
    InProgress(NetworkKey, IpNet),
}

/// Whether an address that was freed a moment ago may be allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RestPeriod {
    Required,
    Waived,
}

/// The result of one attempt that doesn't wait.
#[derive(Debug)]
pub(super) enum Attempt<T> {
    Done(T),
    /// The block that holds this address, or any block, has to be leased first.
    NeedsBlock(Option<IpAddr>),
    /// This node has only addresses that were freed a moment ago.
    OnlyRecent,
}

#[derive(Debug)]
pub(super) struct Attached {
    pub endpoint: LocalEndpoint,
    /// The kernel has the endpoint when the reconciler has applied this generation.
    pub generation: u64,
    /// False: it was attached before.
    pub fresh: bool,
}
