//! Reads the uplinks' traffic and drops, and the host's routes that their pool collides with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use bus_schema::subnet;
use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::link::LinkAttribute;
use netlink_packet_route::route::RouteAttribute;

use super::attributes::{name, route_ip};
use super::{Datapath, DatapathError, failure};
use node_core::desired::is_own_device;
use node_core::resource::{Place, Uplink, UplinkDrop};

/// The packets that passed an uplink since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UplinkTraffic {
    pub packets_out: u64,
    pub bytes_out: u64,
    pub packets_in: u64,
    pub bytes_in: u64,
}

/// The longest prefix of a route that stands for a default route: VPNs have two halves of it.
const MAX_DEFAULT_PREFIX: u8 = 1;

impl Datapath {
    /// The traffic of each uplink, by the name of its end on the host.
    pub async fn uplink_traffic(&self) -> Result<BTreeMap<String, UplinkTraffic>, DatapathError> {
        let links = self.inner.host.socket.links().await;
        let links = links.map_err(failure("list devices", &Place::Host))?;
        let ends = links.iter().filter_map(|link| {
            let name = name(link).filter(|it| it.starts_with(Uplink::HOST_PREFIX))?;
            let counted = link.attributes.iter().find_map(|it| match it {
                LinkAttribute::Stats64(counted) => Some(UplinkTraffic {
                    packets_out: counted.rx_packets,
                    bytes_out: counted.rx_bytes,
                    packets_in: counted.tx_packets,
                    bytes_in: counted.tx_bytes,
                }),
                _ => None,
            });
            Some((name.to_owned(), counted?))
        });
        Ok(ends.collect())
    }

    /// Counts the packets that were dropped at uplinks by the rules in a place's table.
    pub async fn uplink_drops(
        &self,
        place: &Place,
    ) -> Result<BTreeMap<UplinkDrop, u64>, DatapathError> {
        let read = async { self.nftables(&place.netfilter()).await?.counters().await };
        let counted = read.await.map_err(failure("read counters", place))?;
        let of = |reason: UplinkDrop| Some((reason, *counted.get(&reason.counter())?));
        Ok(UplinkDrop::ALL.into_iter().filter_map(of).collect())
    }

    /// The destinations of others' routes, in all tables of the host, that overlap a pool of uplinks.
    pub async fn routes_over(&self, pool: Ipv4Net) -> Result<BTreeSet<IpNet>, DatapathError> {
        let socket = &self.inner.host.socket;
        let failed = || failure("list routes", &Place::Host);
        let links = socket.links().await.map_err(failed())?;
        let routes = socket.routes().await.map_err(failed())?;
        let ours: BTreeSet<u32> = links
            .iter()
            .filter(|link| name(link).is_some_and(is_own_device))
            .map(|link| link.header.index)
            .collect();
        let others = routes.iter().filter(|route| {
            let by =
                |it: &RouteAttribute| matches!(it, RouteAttribute::Oif(it) if ours.contains(it));
            !route.attributes.iter().any(by)
        });
        let nets = others.filter_map(|route| {
            let to = route.attributes.iter().find_map(|it| match it {
                RouteAttribute::Destination(to) => route_ip(to),
                _ => None,
            });
            let to = to.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            IpNet::new(to, route.header.destination_prefix_length).ok()
        });
        let overlaps = |net: &IpNet| {
            net.prefix_len() > MAX_DEFAULT_PREFIX && subnet::overlap(*net, pool.into())
        };
        Ok(nets.filter(overlaps).collect())
    }
}
