//! Takes endpoints' ports down if our rules aren't in place and can't be put there: ports that are up
//! would be open. They come up again after their firewall, as at an attach.

use std::io;

use bus_schema::node::DomainKind;
use netlink_packet_route::RouteNetlinkMessage as Message;

use super::attributes::name;
use super::netlink::Mode;
use super::{Datapath, messages};
use node_core::resource::{Family, Place};

/// Takes a place's ports down if it has no rules. It does nothing if a table of before is in place: old
/// rules are better than a domain without traffic.
pub(super) async fn close_ports_without_rules(datapath: &Datapath, place: &Place) {
    let done = match is_guarded(datapath, place).await {
        Ok(true) => return,
        Ok(false) => take_ports_down(datapath, place).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(0) => {}
        Ok(ports) => tracing::error!(%place, ports, "no rules are in place: the ports are closed"),
        Err(error) => {
            tracing::error!(%place, %error, "can't close the ports of a place without rules");
        }
    }
}

async fn is_guarded(datapath: &Datapath, place: &Place) -> io::Result<bool> {
    let Some(listing) = datapath.table(&place.netfilter(), Family::Inet).await? else {
        return Ok(false);
    };
    let has = |chain: &str| listing.rules.chains.iter().any(|it| it.name == chain);
    // A host that has no domains in its own namespace has the ends of their uplinks there.
    if *place == Place::Host && datapath.kind() == DomainKind::Netns {
        return Ok(has("uplink_forward"));
    }
    // A packet passes these two first and last.
    Ok(has("ingress") && has("passing"))
}

/// Returns how many ports there were.
async fn take_ports_down(datapath: &Datapath, place: &Place) -> io::Result<usize> {
    let socket = datapath.socket(place).await?;
    let mut ports = 0;
    for link in socket.links().await? {
        if name(&link).is_some_and(|it| it.starts_with("cv") || it.starts_with("cu")) {
            let message = messages::link_up(link.header.index, false);
            socket.change(Message::SetLink(message), Mode::Set).await?;
            ports += 1;
        }
    }
    Ok(ports)
}
