//! The container's end of an endpoint in a namespace that isn't an engine's.
//!
//! A /32 on the interface, the gateway right on the link, the default route through it: what
//! Docker makes of our answers to it, made by ourselves.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{LinkAttribute, State as OperState};
use netlink_packet_route::route::{RouteAttribute, RouteType};

use super::messages;
use super::netlink::{Mode, Socket, is_presence};
use super::netns::Namespace;
use super::observe::{mac, mtu};
use super::{Datapath, PeerSetup};
use crate::bus::pause;
use crate::resource::Place;

pub(super) async fn place(datapath: &Datapath, setup: &PeerSetup) -> io::Result<()> {
    let namespace = Namespace::open(&setup.netns)?;
    let socket = Socket::open(&namespace).await?;
    let index = arrive(datapath, setup, &namespace, &socket).await?;
    let up = Message::SetLink(messages::link_up(index, true));
    socket.change(up, Mode::Set).await?;
    carrier(datapath, setup, &socket).await?;
    if let Some(lo) = socket.index("lo").await? {
        let up = Message::SetLink(messages::link_up(lo, true));
        socket.change(up, Mode::Set).await?;
    }
    for address in &setup.addresses {
        let message = Message::NewAddress(messages::address(index, *address));
        socket.change(message, Mode::Replace).await?;
    }
    for gateway in &setup.gateways {
        routes(setup, &socket, index, *gateway).await?;
    }
    Ok(())
}

/// Waits until both ends of the veth send: the kernel starts a device's queue a moment after its
/// carrier came, and drops silently what is sent before (`linkwatch_do_dev`, under the lock that
/// the next change of a link waits for). An endpoint that is closed has no carrier.
async fn carrier(datapath: &Datapath, setup: &PeerSetup, socket: &Socket) -> io::Result<()> {
    const LOOKS: usize = 500;
    let (place, device) = &setup.host;
    let host = datapath.socket(place).await?;
    for _ in 0..LOOKS {
        if is_up(socket, &setup.interface).await? && is_up(&host, device).await? {
            break;
        }
        pause(Duration::from_millis(1)).await;
    }
    Ok(())
}

async fn is_up(socket: &Socket, device: &str) -> io::Result<bool> {
    let link = socket.link(device).await?;
    let up = LinkAttribute::OperState(OperState::Up);
    Ok(link.is_some_and(|link| link.attributes.contains(&up)))
}

/// The interface's index in the namespace, where it is moved unless it is there already.
async fn arrive(
    datapath: &Datapath,
    setup: &PeerSetup,
    namespace: &Namespace,
    socket: &Socket,
) -> io::Result<u32> {
    if let Some(link) = socket.link(&setup.interface).await? {
        if mac(&link) != setup.mac {
            let (name, path) = (&setup.interface, setup.netns.display());
            return Err(io::Error::other(format!(
                "{path} has another interface named {name}: choose another name with --interface"
            )));
        }
        return Ok(link.header.index);
    }
    let host = datapath.socket(&Place::Host).await?;
    let waiting = host.index(&setup.peer).await?.ok_or_else(|| {
        let name = &setup.peer;
        io::Error::other(format!(
            "the endpoint's interface {name} is gone: detach the endpoint and attach it again"
        ))
    })?;
    let message = messages::link_move(waiting, namespace.fd(), &setup.interface);
    host.change(Message::SetLink(message), Mode::Set).await?;
    let link = socket.link(&setup.interface).await?;
    let link = link.ok_or_else(|| io::Error::from(nix::Error::ENODEV))?;
    if mtu(&link) != setup.mtu || mac(&link) != setup.mac {
        let message = messages::link_settings(&link, setup.mac, setup.mtu);
        socket.change(Message::SetLink(message), Mode::Set).await?;
    }
    Ok(link.header.index)
}

async fn routes(setup: &PeerSetup, socket: &Socket, index: u32, gateway: IpAddr) -> io::Result<()> {
    let message = messages::on_link(IpNet::from(gateway), Some(index));
    add(socket, message).await?;
    let same_family = |net: &&IpNet| net.addr().is_ipv4() == gateway.is_ipv4();
    let default = match gateway {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    };
    let nets: Vec<IpNet> = match gateway.is_ipv4() && default_is_elsewhere(socket, index).await? {
        true => setup.subnets.iter().filter(same_family).copied().collect(),
        false => vec![default],
    };
    for net in nets {
        add(socket, messages::via(net, gateway, Some(index))).await?;
    }
    Ok(())
}

async fn add(
    socket: &Socket,
    message: netlink_packet_route::route::RouteMessage,
) -> io::Result<()> {
    match socket
        .change(Message::NewRoute(message), Mode::Create)
        .await
    {
        Err(error) if is_presence(&error) => Ok(()),
        result => result,
    }
}

/// Whether the namespace has a default route through another interface.
async fn default_is_elsewhere(socket: &Socket, index: u32) -> io::Result<bool> {
    let routes = socket.routes().await?;
    let mut defaults = routes.iter().filter(|route| {
        route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
    });
    let ours = |it: &RouteAttribute| matches!(it, RouteAttribute::Oif(oif) if *oif == index);
    Ok(defaults.any(|route| !route.attributes.iter().any(ours)))
}
