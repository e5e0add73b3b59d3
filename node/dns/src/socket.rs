//! Opens a server's sockets inside its domain.
//!
//! A socket stays in the namespace in which it was opened and can be used by any thread, so a
//! separate thread enters the namespace, opens the sockets and ends.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use bus_schema::node::DomainKind;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;

use node_core::resource::{DNS_ADDRESS, dns_port};

const MAX_BACKLOG_CONNECTIONS: i32 = 64;
/// Room for the queries that arrive while the server's thread doesn't run. The kernel's default holds a
/// few hundred, so that a burst of one asker drops the others' queries; this holds some thousand.
const RECEIVE_BUFFER_BYTES: usize = 2 << 20;

/// The namespace or device in which a server listens on [`DNS_ADDRESS`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketPlace {
    /// In the host's namespace.
    Host,
    /// In this network namespace, by its path.
    Namespace(PathBuf),
    /// In the host's namespace, bound to this VRF device.
    Vrf(String),
}

/// Opening a server's sockets can fail for these reasons.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("can't enter the namespace {path}: {error}")]
    Namespace { path: String, error: io::Error },
    #[error(
        "can't listen on {DNS_ADDRESS}:{port}{place}: {error}; another program there may listen on port {port} of every address"
    )]
    Bind {
        place: String,
        port: u16,
        error: io::Error,
    },
    #[error("can't start a thread: {0}")]
    Thread(io::Error),
}

/// Distinguishes a namespace from a later one with the same path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlaceIdentity {
    device: u64,
    inode: u64,
}

#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) udp: tokio::net::UdpSocket,
    pub(super) tcp: tokio::net::TcpListener,
}

impl SocketPlace {
    /// The port on which its server listens.
    fn port(&self) -> u16 {
        match self {
            Self::Host | Self::Namespace(_) => dns_port(DomainKind::Netns),
            Self::Vrf(_) => dns_port(DomainKind::Vrf),
        }
    }

    pub(super) fn identity(&self) -> Option<PlaceIdentity> {
        let path = match self {
            Self::Host => return None,
            Self::Namespace(path) => path.clone(),
            Self::Vrf(device) => PathBuf::from("/sys/class/net").join(device).join("ifindex"),
        };
        if let Self::Vrf(_) = self {
            // The kernel doesn't reuse a device's index soon.
            let inode = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
            return Some(PlaceIdentity { device: 0, inode });
        }
        let metadata = std::fs::metadata(path).ok()?;
        Some(PlaceIdentity {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

pub(super) async fn open(place: &SocketPlace) -> Result<Sockets, SocketError> {
    let (sender, opened) = oneshot::channel();
    let inside = place.clone();
    std::thread::Builder::new()
        .name("dns-sockets".to_owned())
        .spawn(move || {
            // It fails if the server was stopped meanwhile.
            let _ = sender.send(open_here(&inside));
        })
        .map_err(SocketError::Thread)?;
    let (udp, tcp) = opened
        .await
        .map_err(|_| SocketError::Thread(io::Error::other("it ended early")))??;
    let bind = |error| bind_error(place, error);
    Ok(Sockets {
        udp: tokio::net::UdpSocket::from_std(udp.into()).map_err(bind)?,
        tcp: tokio::net::TcpListener::from_std(tcp.into()).map_err(bind)?,
    })
}

/// Opens both sockets; leaves the thread in the domain's namespace.
fn open_here(place: &SocketPlace) -> Result<(Socket, Socket), SocketError> {
    if let SocketPlace::Namespace(path) = place {
        let error = |error| SocketError::Namespace {
            path: path.display().to_string(),
            error,
        };
        let file = File::open(path).map_err(error)?;
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|e| error(e.into()))?;
    }
    let both = || -> io::Result<(Socket, Socket)> {
        let udp = bound_socket(place, Type::DGRAM, Protocol::UDP)?;
        let tcp = bound_socket(place, Type::STREAM, Protocol::TCP)?;
        tcp.listen(MAX_BACKLOG_CONNECTIONS)?;
        Ok((udp, tcp))
    };
    both().map_err(|error| bind_error(place, error))
}

fn bound_socket(place: &SocketPlace, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    if kind == Type::DGRAM {
        setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    }
    if kind == Type::STREAM {
        // Connections of the previous server may still be in TIME_WAIT.
        socket.set_reuse_address(true)?;
    }
    // The address may be put on its device a moment later.
    socket.set_freebind_v4(true)?;
    if matches!(place, SocketPlace::Host) {
        // Share the port with another program's server on port 53 of every address. VRFs have a
        // port of their own, and each socket is bound to its device.
        socket.set_reuse_port(true)?;
    }
    if let SocketPlace::Vrf(device) = place {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.bind(&SocketAddr::from((DNS_ADDRESS, place.port())).into())?;
    Ok(socket)
}

fn bind_error(place: &SocketPlace, error: io::Error) -> SocketError {
    SocketError::Bind {
        place: match place {
            SocketPlace::Host => String::new(),
            SocketPlace::Namespace(path) => format!(" in {}", path.display()),
            SocketPlace::Vrf(device) => format!(" on {device}"),
        },
        port: place.port(),
        error,
    }
}
