//! Takes endpoints' ports down where no rules of ours stand and none can be put: up they would be
//! open. They come up again after their firewall, as at an attach.

use std::io;

use netlink_packet_route::RouteNetlinkMessage as Message;

use super::netlink::Mode;
use super::observe::name;
use super::{Datapath, messages, nft};
use node_core::resource::Place;

/// Where a table that stands as it did before guards its ports, nothing is done: the rules of
/// before are better than a domain that lies still.
pub(super) async fn unguarded(datapath: &Datapath, place: &Place) {
    let done = match is_guarded(datapath, place).await {
        Ok(true) => return,
        Ok(false) => shut(datapath, place).await,
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
    let namespace = datapath.namespace(&place.netfilter()).await?;
    let Some(listing) = nft::list(&namespace).await? else {
        return Ok(false);
    };
    let stands = |chain: &str| listing.rules.chains.iter().any(|it| it.name == chain);
    // The first and the last of a packet's way.
    Ok(stands("ingress") && stands("passing"))
}

/// How many there were.
async fn shut(datapath: &Datapath, place: &Place) -> io::Result<usize> {
    let socket = datapath.socket(place).await?;
    let mut ports = 0;
    for link in socket.links().await? {
        if name(&link).is_some_and(|it| it.starts_with("cv")) {
            let message = messages::link_up(link.header.index, false);
            socket.change(Message::SetLink(message), Mode::Set).await?;
            ports += 1;
        }
    }
    Ok(ports)
}
