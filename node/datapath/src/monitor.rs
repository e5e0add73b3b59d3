//! Notices changes that others make in the kernel.
//!
//! One listener in each of our namespaces joins the multicast groups of rtnetlink and nftables, and
//! passes on the changes that others made and that may be about our objects. It decides nothing: the
//! reconciler compares with what it last observed, and does a full resync if that differs. Settings in
//! `/proc/sys` have no multicast group: the reconciler polls those.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netlink_packet_route::link::{LinkFlags, LinkMessage};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::netlink::Socket;
use super::netns::Namespace;
use super::observe::device_object;
use super::wire::{NETLINK_NETFILTER, attributes, messages};
use super::{attributes, command};
use node_core::desired::is_own_device;
use node_core::resource::{Object, Place, ROUTE_PROTOCOL, TABLE};

/// Changes that wait for the reconciler; more of them are passed on as one [`KernelChange::Changed`].
const MAX_WAITING_CHANGES: usize = 256;
/// The receive buffer: the kernel notifies of a transaction with ten thousand elements at once.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

const NETLINK_ROUTE: isize = 0;
/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV4_RULE` of `linux/rtnetlink.h`.
const ROUTE_GROUPS: [u32; 5] = [1, 3, 5, 7, 8];
/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`.
const NFT_GROUPS: [u32; 1] = [7];
/// The subsystem of nftables; its messages name their table in their first attribute.
const NFT: u16 = 10;
const TABLE_NAME: u16 = 1;
/// `NFT_MSG_` `NEWTABLE`, `DELTABLE`, `NEWCHAIN`, `DELCHAIN`, `NEWRULE`, `DELRULE` of
/// `linux/netfilter/nf_tables.h`.
const NFT_RULES: [u16; 6] = [0, 2, 3, 5, 6, 8];

/// A change that may be somebody else's, of one of our kernel objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelChange {
    /// Somebody changed a route, a neighbor, an address or a rule of ours, or notifications were lost.
    Changed,
    /// Somebody changed our table in this place's netfilter.
    Rules(Place),
    /// Somebody changed rules that aren't ours, which may drop our packets.
    HostFirewall,
    /// A device with one of our names was gone.
    Gone(String),
    /// A device with one of our names was down.
    Down(String),
    /// A device with one of our names got other settings, or another VRF.
    Altered(String),
    /// A device of ours got another name.
    Renamed { from: String, to: String },
}

/// The sender of [`KernelChanges`], which every listener has.
#[derive(Debug, Clone)]
pub(super) struct ChangeSender {
    changes: mpsc::Sender<KernelChange>,
    overflowed: Arc<AtomicBool>,
}

/// The receiver of all listeners' changes.
#[derive(Debug)]
pub struct KernelChanges {
    changes: mpsc::Receiver<KernelChange>,
    overflowed: Arc<AtomicBool>,
}

pub(super) fn channel() -> (ChangeSender, KernelChanges) {
    let (sender, receiver) = mpsc::channel(MAX_WAITING_CHANGES);
    let overflowed = Arc::new(AtomicBool::new(false));
    let sender = ChangeSender {
        changes: sender,
        overflowed: Arc::clone(&overflowed),
    };
    let changes = KernelChanges {
        changes: receiver,
        overflowed,
    };
    (sender, changes)
}

impl ChangeSender {
    /// Returns false if the receiver is gone.
    fn send(&self, change: KernelChange) -> bool {
        match self.changes.try_send(change) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.overflowed.store(true, Ordering::Relaxed);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

impl KernelChanges {
    /// Waits for the next change. Nothing is lost when this is cancelled.
    pub async fn next(&mut self) -> KernelChange {
        match self.changes.recv().await {
            Some(_) if self.overflowed.swap(false, Ordering::Relaxed) => KernelChange::Changed,
            Some(change) => change,
            None => std::future::pending().await,
        }
    }

    /// Drops the waiting changes, for a full resync finds them. It returns renames and changes of our
    /// tables, which the reconciler reverts before the resync.
    pub fn clear(&mut self) -> Vec<KernelChange> {
        self.overflowed.store(false, Ordering::Relaxed);
        let mut kept = Vec::new();
        while let Ok(change) = self.changes.try_recv() {
            if matches!(
                change,
                KernelChange::Renamed { .. } | KernelChange::Rules(_)
            ) {
                kept.push(change);
            }
        }
        kept
    }
}

/// The ports of our sockets.
#[derive(Debug)]
pub(super) struct Ours {
    pub(super) route: Vec<u32>,
    pub(super) nftables: u32,
}

/// Listens in one namespace until it is dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Monitor {
    /// Starts to listen in the namespace of `place`, in which `socket` is.
    pub(super) async fn start(
        place: Place,
        namespace: &Namespace,
        socket: &Socket,
        ours: Ours,
        changes: ChangeSender,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        let open = |protocol, groups: &'static [u32]| {
            let runtime = runtime.clone();
            namespace.run(move || {
                let _guard = runtime.enter();
                let mut socket = TokioSocket::new(protocol)?;
                socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
                setsockopt(socket.socket_ref(), RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
                for group in groups {
                    socket.socket_mut().add_membership(*group)?;
                }
                Ok(socket)
            })
        };
        let route = open(NETLINK_ROUTE, &ROUTE_GROUPS).await?;
        let nft = open(NETLINK_NETFILTER, &NFT_GROUPS).await?;
        let mut links = Links {
            ours: ours.route,
            known: BTreeMap::new(),
        };
        for link in socket.links().await? {
            links.learn(&link);
        }
        let of_route = move |bytes: &[u8]| links.changes(bytes);
        let route = tokio::spawn(listen(route, changes.clone(), of_route));
        let nft = tokio::spawn(listen(nft, changes, move |bytes| {
            nft_changes(bytes, ours.nftables, &place)
        }));
        Ok(Self {
            _tasks: [route, nft].map(AbortOnDropHandle::new),
        })
    }
}

async fn listen(
    socket: TokioSocket,
    changes: ChangeSender,
    mut read: impl FnMut(&[u8]) -> Vec<KernelChange>,
) {
    loop {
        let found = match socket.recv_from_full().await {
            Ok((bytes, _)) => read(&bytes),
            // ENOBUFS: the kernel dropped some.
            Err(error) if error.raw_os_error() == Some(nix::Error::ENOBUFS as i32) => {
                vec![KernelChange::Changed]
            }
            Err(error) => {
                tracing::warn!(%error, "can't listen to kernel changes any more; only the periodic resync finds them");
                return;
            }
        };
        if !found.into_iter().all(|change| changes.send(change)) {
            return;
        }
    }
}

/// The devices of a namespace, which rtnetlink's messages name by index.
struct Links {
    ours: Vec<u32>,
    /// Devices of the namespace by their index.
    known: BTreeMap<u32, Device>,
}

/// A device as its last notification described it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    name: String,
    /// Its MAC address, MTU and kind; absent: it is of a kind that we don't make.
    object: Option<Object>,
    /// The index of its VRF or bridge.
    master: Option<u32>,
}

impl Links {
    fn learn(&mut self, link: &LinkMessage) {
        if let Some(name) = attributes::name(link) {
            let device = Device {
                name: name.to_owned(),
                object: device_object(link),
                master: attributes::master(link),
            };
            self.known.insert(link.header.index, device);
        }
    }

    fn changes(&mut self, bytes: &[u8]) -> Vec<KernelChange> {
        let mut changes = Vec::new();
        let mut rest = bytes;
        while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) {
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            let port = message.header.port_number;
            if let NetlinkPayload::InnerMessage(message) = message.payload {
                let by_others = port != 0 && !self.ours.contains(&port);
                changes.extend(self.change(&message, by_others));
            }
        }
        changes
    }

    /// The kernel changes routes and neighbors on its own only if their device changes, and notifies of
    /// that, too.
    fn change(&mut self, message: &RouteNetlinkMessage, by_others: bool) -> Option<KernelChange> {
        use RouteNetlinkMessage::{
            DelAddress, DelLink, DelNeighbour, DelRoute, DelRule, NewAddress, NewLink,
            NewNeighbour, NewRoute, NewRule,
        };
        match message {
            DelLink(link) => {
                let name = self.known.remove(&link.header.index)?.name;
                is_own_device(&name).then_some(KernelChange::Gone(name))
            }
            NewLink(link) => self.link(link, by_others),
            NewRoute(route) | DelRoute(route) => {
                let ours = route.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL);
                (ours && by_others).then_some(KernelChange::Changed)
            }
            NewRule(rule) | DelRule(rule) => {
                (by_others && attributes::is_vrf_rule(rule)).then_some(KernelChange::Changed)
            }
            // VXLAN never names the author of a deleted FDB entry; we delete one seldom, and then resync
            // once more.
            DelNeighbour(entry) if entry.header.family == AddressFamily::Bridge => self
                .bears_ours(entry.header.ifindex)
                .then_some(KernelChange::Changed),
            // For a deleted neighbor come two notifications: failed, with the author, and then gone,
            // without one.
            NewNeighbour(entry) | DelNeighbour(entry) => (by_others
                && self.bears_ours(entry.header.ifindex))
            .then_some(KernelChange::Changed),
            NewAddress(address) | DelAddress(address) => (by_others
                && self.bears_ours(address.header.index))
            .then_some(KernelChange::Changed),
            _ => None,
        }
    }

    fn link(&mut self, link: &LinkMessage, by_others: bool) -> Option<KernelChange> {
        let before = self.known.get(&link.header.index).cloned();
        self.learn(link);
        let after = self.known.get(&link.header.index)?;
        let now = &after.name;
        match before {
            Some(before) if before.name != *now && is_own_device(&before.name) => {
                let (from, to) = (before.name, now.clone());
                return Some(KernelChange::Renamed { from, to });
            }
            _ if !is_own_device(now) => return None,
            // The kernel never names the author of such a change; the reconciler compares.
            Some(before) if before != *after => return Some(KernelChange::Altered(now.clone())),
            _ => {}
        }
        if !link.header.flags.contains(LinkFlags::Up) {
            return Some(KernelChange::Down(now.clone()));
        }
        by_others.then_some(KernelChange::Changed)
    }

    /// Whether it is our device, the loopback device with addresses of ours, or an unknown one.
    fn bears_ours(&self, index: u32) -> bool {
        let device = self.known.get(&index);
        device.is_none_or(|it| is_own_device(&it.name) || it.name == "lo")
    }
}

/// The changes of our table, or of somebody's rules, that neither our commands made nor our socket with
/// this port.
fn nft_changes(bytes: &[u8], port: u32, place: &Place) -> Vec<KernelChange> {
    let (mut ours, mut others) = (false, false);
    for message in messages(bytes) {
        let by_us = message.port == port || command::is_ours(message.port);
        if message.kind >> 8 != NFT || by_us {
            continue;
        }
        let body = message.payload.get(4..).unwrap_or_default();
        let table = attributes(body).find(|(kind, _)| *kind == TABLE_NAME);
        let table = table.and_then(|(_, name)| name.strip_suffix(&[0]));
        match table {
            Some(table) if table == TABLE.as_bytes() => ours = true,
            _ => others |= NFT_RULES.contains(&(message.kind & 0xff)),
        }
    }
    let changes = [
        (ours, KernelChange::Rules(place.clone())),
        (others, KernelChange::HostFirewall),
    ];
    let changes = changes.into_iter().filter(|(is, _)| *is);
    changes.map(|(_, change)| change).collect()
}
