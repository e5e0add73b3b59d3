//! Why the datapath can't do something. The kernel's `errno` is kept.

use std::io;
use std::net::IpAddr;

use node_core::reconcile::Op;
use node_core::resource::Place;

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
    #[error(
        "{address} is in VRF {vrf} by {device}: VXLAN would be sent by the host's own table; give netplugin an underlay outside of it"
    )]
    UnderlayInVrf {
        address: IpAddr,
        device: String,
        vrf: String,
    },
    #[error("can't use network namespace {path}: {error}")]
    Namespace { path: String, error: io::Error },
    #[error("can't {what} in {place}: {error}")]
    Kernel {
        what: String,
        place: String,
        /// It has an `errno` if the kernel refused something.
        error: io::Error,
    },
}

/// An op that failed, and why.
#[derive(Debug)]
pub struct Failure {
    pub op: Op,
    pub error: DatapathError,
}

/// The ops of a batch that failed. The others are done; a failed one is in the next difference from
/// the observed state again.
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

pub(super) fn failure(what: &str, place: &Place) -> impl FnOnce(io::Error) -> DatapathError {
    let (what, place) = (what.to_owned(), place.to_string());
    move |error| DatapathError::Kernel { what, place, error }
}
