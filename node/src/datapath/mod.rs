//! The code that talks to the kernel: rtnetlink, nft, `/proc/sys/net`, namespaces.
//!
//! Both kinds of domain go one way, with parameters: the namespace of the socket, the table, the
//! master device, the firewall's place. What an attach costs is in proportion to the endpoint.
//! Callers: the daemon's datapath actor, alone; nothing else changes the kernel.
//!
//! - [`Datapath::open`] → capabilities checked, `domain=auto` decided; [`Datapath::kind`].
//! - [`Datapath::observe`] → [`State`] of what bears our marks, all or one [`Scope`].
//! - [`Datapath::execute`] ← ops of [`diff`](crate::reconcile::diff); every failure is reported.
//! - [`Datapath::place_peer`], [`Datapath::remove_peer`] for endpoints of bare namespaces.
//! - An attach is `execute(&diff(&before, &desired_domain(…)))`: the veth is created with the rest,
//!   its peer waits in the host's namespace under `peer_interface`.

use std::net::IpAddr;
use std::path::PathBuf;

use bus_schema::MacAddr;
use bus_schema::node::DomainKind;
use ipnet::IpNet;

use crate::reconcile::Op;
use crate::resource::{Place, State};

/// Where and how to work.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host's network namespace; absent: this process's.
    pub host: Option<PathBuf>,
    /// Where domains of kind netns are bound, usually `/run/netns`.
    pub netns_dir: PathBuf,
    /// Absent: VRF when the kernel has it, else netns.
    pub kind: Option<DomainKind>,
}

/// What to observe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    Of(Place),
}

/// The container's end of an endpoint, to be set up in a namespace that isn't an engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSetup {
    /// Its name in the host's namespace, where it waits.
    pub peer: String,
    /// The namespace's path, for example `/run/netns/web`.
    pub netns: PathBuf,
    /// Its name there.
    pub interface: String,
    /// Put on the interface as /32 (or /128).
    pub addresses: Vec<IpAddr>,
    /// The gateway of each family. The default route leads there, unless the namespace has one.
    pub gateways: Vec<IpAddr>,
    /// The network's subnets, routed through this interface when the default route is another's.
    pub subnets: Vec<IpNet>,
    pub mac: MacAddr,
    pub mtu: u32,
}

/// What the kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    pub vrf: bool,
}

/// Why the datapath can't be opened, or an observation failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error(
        "netplugin may not configure networks: start it as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    NotPermitted,
    #[error(
        "this kernel has no VRF devices: load the module `vrf`, or start netplugin with --domain=netns"
    )]
    NoVrf,
    #[error("can't use network namespace {path}: {reason}")]
    Namespace { path: String, reason: String },
    #[error("can't {what} in {place}: {reason}")]
    Kernel {
        what: String,
        place: String,
        reason: String,
    },
    #[error("nft refused a change in {place}: {reason}")]
    Nft { place: String, reason: String },
}

/// An op that failed, and why.
#[derive(Debug)]
pub struct Failure {
    pub op: Op,
    pub error: DatapathError,
}

/// The ops of a batch that failed. The others are done; what failed shows again in the next
/// difference with what is observed.
#[derive(Debug, thiserror::Error)]
#[error("{} of {attempted} changes failed: {}", .failures.len(), list(.failures))]
pub struct BatchError {
    pub attempted: usize,
    pub failures: Vec<Failure>,
}

fn list(failures: &[Failure]) -> String {
    let lines = failures.iter().map(|it| format!("{}: {}", it.op, it.error));
    lines.collect::<Vec<_>>().join("; ")
}

/// The one door to the kernel. Cheap to clone; a clone is the same door.
#[derive(Debug, Clone)]
pub struct Datapath {
    kind: DomainKind,
}

impl Datapath {
    /// Checks what the process may do and what the kernel can, and picks the kind of domain.
    pub async fn open(options: Options) -> Result<Self, DatapathError> {
        let _ = options;
        Err(DatapathError::NotPermitted)
    }

    pub fn kind(&self) -> DomainKind {
        self.kind
    }

    /// What is in the kernel and ours.
    pub async fn observe(&self, scope: &Scope) -> Result<State, DatapathError> {
        let _ = scope;
        Ok(State::default())
    }

    /// Does the ops in their order. One that fails doesn't keep the others from being done, except
    /// that a port isn't brought up when its firewall failed.
    pub async fn execute(&self, ops: &[Op]) -> Result<(), BatchError> {
        let _ = ops;
        Ok(())
    }

    /// Moves a waiting peer into a namespace and configures it there. Done again, it changes
    /// nothing.
    pub async fn place_peer(&self, setup: &PeerSetup) -> Result<(), DatapathError> {
        let _ = setup;
        Ok(())
    }

    /// A device of the host's namespace by one of its addresses or its name: the MTU of the
    /// underlay. `None` when there is none.
    pub async fn link_mtu(&self, address: IpAddr) -> Result<Option<u32>, DatapathError> {
        let _ = address;
        Ok(None)
    }

    /// The path of a domain's namespace, for sockets that must be opened in it; `None` for a VRF,
    /// where they are bound to the device `place` instead.
    pub fn netns_of(&self, place: &Place) -> Option<PathBuf> {
        let _ = place;
        None
    }
}
