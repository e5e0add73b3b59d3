//! The default route of a container in a network without a way out: any other default route of the
//! container has precedence, so that the network takes no way out from it.
//!
//! The container needs a default route nevertheless: the tenant's other networks may be created later,
//! names are asked of any resolver, and the domain refuses connections out at once.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use bus_schema::{MacAddr, Vni};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};

use super::attributes::mac;
use super::messages;
use super::netlink::{Mode, Socket, apart, is_presence};
use super::netns::Namespace;

/// The lowest metric of these routes; other programs use far lower ones.
const FIRST_METRIC: u32 = 1 << 30;

/// The metric of the fallback route of this network. A container may have one for each of its networks.
pub fn fallback_metric(vni: Vni) -> u32 {
    FIRST_METRIC | vni.0
}

/// Whether it is the fallback route of a network.
pub(super) fn is_fallback(route: &RouteMessage) -> bool {
    let mut attributes = route.attributes.iter();
    attributes.any(|it| matches!(it, RouteAttribute::Priority(metric) if *metric >= FIRST_METRIC))
}

/// Adds the route to a namespace, unless it is there.
pub(super) async fn add(
    socket: &Socket,
    index: u32,
    gateway: IpAddr,
    metric: u32,
) -> io::Result<()> {
    let mut message = messages::via(default(gateway), gateway, Some(index));
    message.attributes.push(RouteAttribute::Priority(metric));
    let added = socket.change(Message::NewRoute(message), Mode::Create);
    match added.await {
        Err(error) if is_presence(&error) => Ok(()),
        result => result,
    }
}

/// All addresses of the gateway's family.
pub(super) fn default(gateway: IpAddr) -> IpNet {
    match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

/// A fallback route in a container whose interface an engine has set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FallbackRoute {
    /// The namespace's path, for example `/run/docker/netns/34e4b99ad516`.
    pub netns: PathBuf,
    /// Of the container's interface.
    pub mac: MacAddr,
    pub gateway: IpAddr,
    pub metric: u32,
}

impl FallbackRoute {
    /// Adds the route. Done again, or in a namespace without such an interface, it changes nothing.
    pub async fn ensure(self) -> io::Result<()> {
        let namespace = Namespace::open(&self.netns)?;
        apart(&namespace, async move |socket| {
            let links = socket.links().await?;
            let is_its = |link: &&LinkMessage| mac(link) == self.mac;
            match links.iter().find(is_its) {
                Some(link) => add(&socket, link.header.index, self.gateway, self.metric).await,
                None => Ok(()),
            }
        })
        .await
    }
}
