//! The container's end of an endpoint in a namespace that isn't an engine's.
//!
//! The interface gets a /32, the gateway a route on the link, and the default route leads through the
//! gateway: Docker configures the same from our answers.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bus_schema::MacAddr;
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, State as OperState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};

use super::attributes::{mac, mtu};
use super::fallback_route;
use super::messages;
use super::netlink::{Mode, Socket, apart, is_presence};
use super::netns::Namespace;
use super::{Datapath, DatapathError};
use node_core::resource::Place;
use runtime::pause;

/// The container's end of an endpoint, to be set up in a namespace that isn't an engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSetup {
    /// The host's end, and where it is.
    pub host: (Place, String),
    /// Its name in the host's namespace, where it is before.
    pub peer: String,
    /// The namespace's path, for example `/run/netns/web`.
    pub netns: PathBuf,
    /// Its name there.
    pub interface: String,
    /// The addresses of the interface, each as /32 (or /128).
    pub addresses: Vec<IpAddr>,
    /// The gateway of each family. The default route leads to it, unless the namespace has one.
    pub gateways: Vec<IpAddr>,
    /// The network's subnets, with a route through this interface if the default route is another's.
    pub subnets: Vec<IpNet>,
    /// The metric of the default route, if any other is to have precedence
    /// ([`fallback_metric`](super::fallback_metric)).
    pub fallback_metric: Option<u32>,
    pub mac: MacAddr,
    pub mtu: u32,
}

/// The container's end of an endpoint, as it is in its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    pub mac: MacAddr,
    pub up: bool,
    pub addresses: Vec<IpNet>,
    /// Unicast routes through it, with their gateways; without the fallback route.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

/// `LOOPBACK_IFINDEX` of `net/net_namespace.h`
const LOOPBACK: u32 = 1;

impl Datapath {
    /// Configures a peer in its namespace, where one that still waits is moved. Done again, it
    /// changes nothing.
    pub async fn place_peer(&self, setup: &PeerSetup) -> Result<(), DatapathError> {
        let path = setup.netns.display().to_string();
        place(self, setup)
            .await
            .map_err(|error| DatapathError::Namespace { path, error })
    }

    /// The state of `interface` in a container's namespace; `None`: there is none of that name.
    pub async fn peer(
        &self,
        netns: &Path,
        interface: &str,
    ) -> Result<Option<PeerState>, DatapathError> {
        let look = look(netns, interface).await;
        look.map_err(|error| DatapathError::Namespace {
            path: netns.display().to_string(),
            error,
        })
    }
}

pub(super) async fn place(datapath: &Datapath, setup: &PeerSetup) -> io::Result<()> {
    let namespace = Namespace::open(&setup.netns)?;
    let peer = Placing {
        setup: setup.clone(),
        namespace: namespace.clone(),
        host: datapath.socket(&Place::Host).await?,
        domain: datapath.socket(&setup.host.0).await?,
    };
    apart(&namespace, async move |socket| peer.place(&socket).await).await
}

/// Reads the interface of that name.
pub(super) async fn look(netns: &Path, interface: &str) -> io::Result<Option<PeerState>> {
    let interface = interface.to_owned();
    let look = async move |socket: Socket| seen(&socket, &interface).await;
    apart(&Namespace::open(netns)?, look).await
}

async fn seen(socket: &Socket, interface: &str) -> io::Result<Option<PeerState>> {
    let Some(link) = socket.link(interface).await? else {
        return Ok(None);
    };
    let index = link.header.index;
    let addresses = socket.addresses().await?;
    let of_it = addresses.iter().filter(|it| it.header.index == index);
    let nets = of_it.filter_map(|message| {
        let ip = message.attributes.iter().find_map(|it| match it {
            AddressAttribute::Address(ip) => Some(*ip),
            _ => None,
        })?;
        IpNet::new(ip, message.header.prefix_len).ok()
    });
    let through = |it: &RouteAttribute| matches!(it, RouteAttribute::Oif(oif) if *oif == index);
    let routes = socket.routes().await?;
    let routes = routes.iter().filter(|route| {
        route.header.kind == RouteType::Unicast
            && route.attributes.iter().any(through)
            && !fallback_route::is_fallback(route)
    });
    Ok(Some(PeerState {
        mac: mac(&link),
        up: link.header.flags.contains(LinkFlags::Up),
        addresses: nets.collect(),
        routes: routes.filter_map(destination).collect(),
    }))
}

fn destination(route: &RouteMessage) -> Option<(IpNet, Option<IpAddr>)> {
    let address = |it: &RouteAddress| match it {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    };
    let (mut to, mut gateway) = (None, None);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(it) => to = address(it),
            RouteAttribute::Gateway(it) => gateway = address(it),
            _ => {}
        }
    }
    let all = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
    let length = route.header.destination_prefix_length;
    let net = IpNet::new(to.unwrap_or(all), length).ok()?;
    Some((net, gateway))
}

/// The set-up of a container's end, with the sockets outside of its namespace.
struct Placing {
    setup: PeerSetup,
    namespace: Namespace,
    host: Arc<Socket>,
    domain: Arc<Socket>,
}

impl Placing {
    async fn place(&self, socket: &Socket) -> io::Result<()> {
        let setup = &self.setup;
        let index = self.arrive(socket).await?;
        for index in [index, LOOPBACK] {
            let up = Message::SetLink(messages::link_up(index, true));
            socket.change(up, Mode::Set).await?;
        }
        for address in &setup.addresses {
            let message = Message::NewAddress(messages::address(index, *address));
            socket.change(message, Mode::Replace).await?;
        }
        for gateway in &setup.gateways {
            routes(setup, socket, index, *gateway).await?;
        }
        self.carrier(socket).await
    }

    /// Waits until both ends of the veth send: the kernel starts a device's queue a moment after
    /// its carrier came, and drops earlier packets silently (`linkwatch_do_dev`, under the lock that the
    /// next change of a link waits for). A closed endpoint has no carrier.
    async fn carrier(&self, socket: &Socket) -> io::Result<()> {
        const MAX_LINK_READS: usize = 500;
        let (_, device) = &self.setup.host;
        for _ in 0..MAX_LINK_READS {
            if is_up(socket, &self.setup.interface).await? && is_up(&self.domain, device).await? {
                break;
            }
            pause(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Moves the interface into the namespace unless it is there already, and returns its index.
    async fn arrive(&self, socket: &Socket) -> io::Result<u32> {
        let setup = &self.setup;
        if let Some(link) = socket.link(&setup.interface).await? {
            if mac(&link) != setup.mac {
                let taken = occupied(&setup.netns, &setup.interface);
                return Err(io::Error::other(taken));
            }
            return Ok(link.header.index);
        }
        let waiting = self.host.index(&setup.peer).await?.ok_or_else(|| {
            let name = &setup.peer;
            io::Error::other(format!(
                "the endpoint's interface {name} is gone: detach the endpoint and attach it again"
            ))
        })?;
        let message = messages::link_move(waiting, self.namespace.fd(), &setup.interface);
        self.host
            .change(Message::SetLink(message), Mode::Set)
            .await?;
        let link = socket.link(&setup.interface).await?;
        let link = link.ok_or_else(|| io::Error::from(nix::Error::ENODEV))?;
        if mtu(&link) != setup.mtu || mac(&link) != setup.mac {
            let message = messages::link_settings(&link, (setup.mac, setup.mtu), None);
            socket.change(Message::SetLink(message), Mode::Set).await?;
        }
        Ok(link.header.index)
    }
}

async fn is_up(socket: &Socket, device: &str) -> io::Result<bool> {
    let link = socket.link(device).await?;
    let up = LinkAttribute::OperState(OperState::Up);
    Ok(link.is_some_and(|link| link.attributes.contains(&up)))
}

pub(super) fn occupied(netns: &Path, interface: &str) -> String {
    let path = netns.display();
    format!("{path} has another interface named {interface}: choose another name with --interface")
}

async fn routes(setup: &PeerSetup, socket: &Socket, index: u32, gateway: IpAddr) -> io::Result<()> {
    let message = messages::on_link(IpNet::from(gateway), Some(index));
    add(socket, message).await?;
    let same_family = |net: &&IpNet| net.addr().is_ipv4() == gateway.is_ipv4();
    let gives_way = match setup.fallback_metric {
        Some(metric) => {
            fallback_route::add(socket, index, gateway, metric).await?;
            true
        }
        None => gateway.is_ipv4() && default_is_elsewhere(socket, index).await?,
    };
    let nets: Vec<IpNet> = match gives_way {
        true => setup.subnets.iter().filter(same_family).copied().collect(),
        false => vec![fallback_route::default(gateway)],
    };
    for net in nets {
        add(socket, messages::via(net, gateway, Some(index))).await?;
    }
    Ok(())
}

async fn add(socket: &Socket, message: RouteMessage) -> io::Result<()> {
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
        route.header.destination_prefix_length == 0
            && route.header.kind == RouteType::Unicast
            && !fallback_route::is_fallback(route)
    });
    let ours = |it: &RouteAttribute| matches!(it, RouteAttribute::Oif(oif) if *oif == index);
    Ok(defaults.any(|route| !route.attributes.iter().any(ours)))
}
