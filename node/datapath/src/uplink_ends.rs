//! The two ends of an uplink, which the kernel makes and deletes together.

use std::io;

use netlink_packet_route::RouteNetlinkMessage as Message;

use super::execute::Execution;
use super::messages;
use super::netlink::{Mode, is_absence};
use node_core::resource::{Place, Uplink, Veth};

impl Execution<'_> {
    /// Sets an uplink's end that exists; a new one is made with the domain's end.
    pub(super) async fn put_host_end(&self, place: &Place, veth: &Veth) -> io::Result<()> {
        let socket = self.datapath.socket(place).await?;
        let Some(link) = socket.link(&veth.name).await? else {
            return Ok(());
        };
        let message = messages::link_settings(&link, (veth.mac, veth.mtu), None);
        self.change(place, Message::SetLink(message), Mode::Set)
            .await
    }

    /// Deletes the host's end of an uplink whose other end somebody took away.
    pub(super) async fn delete_lone_end(&self, place: &Place, veth: &Veth) -> io::Result<()> {
        let Some(other) = Uplink::other_end(&veth.name) else {
            return Ok(());
        };
        if self
            .datapath
            .socket(place)
            .await?
            .link(&veth.name)
            .await?
            .is_some()
        {
            return Ok(());
        }
        match self.index(&Place::Host, &other).await {
            Ok(index) => self.delete_link(&Place::Host, index).await,
            Err(error) if is_absence(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
