//! Notices what others change in the kernel.
//!
//! One listener in each namespace of ours hears rtnetlink's and nftables' multicast groups, and
//! passes on what may be about something of ours and wasn't asked for by us. It decides nothing:
//! the core compares with what it knows, and looks at everything when that doesn't fit. What isn't
//! multicast (settings in `/proc/sys`) is found by the slow resync.

use std::io;

use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::netns::Namespace;
use super::wire::{attributes, messages};
use super::{nft, observe};
use crate::resource::{ROUTE_PROTOCOL, TABLE};

/// Signs that wait for the core. When there are more, the last one says so.
pub(super) const WAITING: usize = 256;

const NETLINK_ROUTE: isize = 0;
const NETLINK_NETFILTER: isize = 12;
/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE` of `linux/rtnetlink.h`.
const ROUTE_GROUPS: [u32; 4] = [1, 3, 5, 7];
/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`.
const NFT_GROUPS: [u32; 1] = [7];
/// The subsystem of nftables; its messages name their table in their first attribute.
const NFT: u16 = 10;
const TABLE_NAME: u16 = 1;

/// What may be a change of something of ours by somebody else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sign {
    /// Somebody changed a route, a neighbor, an address or a rule of ours, or more happened than
    /// could be heard.
    Changed,
    /// A device with a name of ours was gone when this was said.
    Gone(String),
    /// A device with a name of ours was down when this was said.
    Down(String),
}

/// Listens in one namespace until it is dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Monitor {
    /// `ours` are the ports of our own rtnetlink sockets.
    pub(super) async fn start(
        namespace: &Namespace,
        ours: Vec<u32>,
        signs: mpsc::Sender<Sign>,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let open = |protocol, groups: &'static [u32]| {
            let runtime = runtime.clone();
            namespace.run(move || {
                let _guard = runtime.enter();
                let mut socket = TokioSocket::new(protocol)?;
                socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
                for group in groups {
                    socket.socket_mut().add_membership(*group)?;
                }
                Ok(socket)
            })
        };
        let route = open(NETLINK_ROUTE, &ROUTE_GROUPS).await?;
        let nft = open(NETLINK_NETFILTER, &NFT_GROUPS).await?;
        let of_route = move |bytes: &[u8]| route_signs(bytes, &ours);
        let route = tokio::spawn(listen(route, signs.clone(), of_route));
        let nft = tokio::spawn(listen(nft, signs, nft_signs));
        Ok(Self {
            _tasks: [route, nft].map(AbortOnDropHandle::new),
        })
    }
}

async fn listen(socket: TokioSocket, signs: mpsc::Sender<Sign>, read: impl Fn(&[u8]) -> Vec<Sign>) {
    loop {
        let found = match socket.recv_from_full().await {
            Ok((bytes, _)) => read(&bytes),
            // ENOBUFS: the kernel dropped some.
            Err(error) if error.raw_os_error() == Some(nix::Error::ENOBUFS as i32) => {
                vec![Sign::Changed]
            }
            Err(error) => {
                tracing::warn!(%error, "can't hear any more what others change; looking now and then");
                return;
            }
        };
        for sign in found {
            if let Err(mpsc::error::TrySendError::Closed(_)) = signs.try_send(sign) {
                return;
            }
        }
    }
}

fn route_signs(bytes: &[u8], ours: &[u32]) -> Vec<Sign> {
    let mut signs = Vec::new();
    let mut rest = bytes;
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
        let length = (message.header.length as usize).next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
        let port = message.header.port_number;
        if let NetlinkPayload::InnerMessage(message) = message.payload {
            let by_others = port != 0 && !ours.contains(&port);
            signs.extend(route_sign(&message, by_others));
        }
    }
    signs
}

/// What the kernel does on its own to routes and neighbors follows from what happens to their
/// device, which is told as well.
fn route_sign(message: &RouteNetlinkMessage, by_others: bool) -> Option<Sign> {
    use RouteNetlinkMessage::{
        DelAddress, DelLink, DelNeighbour, DelRoute, NewAddress, NewLink, NewNeighbour, NewRoute,
    };
    let ours = |link: &LinkMessage| {
        observe::name(link)
            .filter(|it| is_ours(it))
            .map(str::to_owned)
    };
    match message {
        DelLink(link) => ours(link).map(Sign::Gone),
        NewLink(link) if link.header.flags.contains(LinkFlags::Up) => {
            ours(link).filter(|_| by_others).map(|_| Sign::Changed)
        }
        NewLink(link) => ours(link).map(Sign::Down),
        NewRoute(route) | DelRoute(route) => {
            let ours = route.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL);
            (ours && by_others).then_some(Sign::Changed)
        }
        // VXLAN never says who deletes an FDB entry; we do it seldom, and look once more then.
        DelNeighbour(entry) if entry.header.family == AddressFamily::Bridge => Some(Sign::Changed),
        // One that is deleted is told of as failed, by who deletes it, and then gone, by nobody.
        NewNeighbour(_) | DelNeighbour(_) | NewAddress(_) | DelAddress(_) => {
            by_others.then_some(Sign::Changed)
        }
        _ => None,
    }
}

/// Devices of a domain: its own, endpoints' and VXLAN's.
fn is_ours(name: &str) -> bool {
    ["cv", "cx", "cd"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// What another process than an `nft` of ours did to our table.
fn nft_signs(bytes: &[u8]) -> Vec<Sign> {
    let ours = messages(bytes).filter(|message| message.kind >> 8 == NFT);
    let foreign = ours.filter(|message| {
        let body = message.payload.get(4..).unwrap_or_default();
        let table = attributes(body).find(|(kind, _)| *kind == TABLE_NAME);
        let table = table.and_then(|(_, name)| name.strip_suffix(&[0]));
        table == Some(TABLE.as_bytes()) && !nft::is_ours(message.port)
    });
    foreign.take(1).map(|_| Sign::Changed).collect()
}
