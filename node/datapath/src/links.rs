//! The host's devices and addresses, and a device's state.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkFlags;

use super::netlink::Mode;
use super::observe::device_object;
use super::{Datapath, DatapathError, attributes, failure, messages, sysctl};
use node_core::resource::{Key, Place, Resource, Sysctl};

/// An address of the host, with its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    pub device: String,
    pub address: IpNet,
    pub mtu: u32,
    /// The VRF that the device is in.
    pub vrf: Option<String>,
}

impl Datapath {
    /// Whether a device is up; `None` when there is no such device.
    pub async fn is_up(&self, place: &Place, device: &str) -> Result<Option<bool>, DatapathError> {
        let read = async { self.socket(place).await?.link(device).await };
        let link = read.await.map_err(failure("read a device", place))?;
        Ok(link.map(|link| link.header.flags.contains(LinkFlags::Up)))
    }

    /// Whether a device of ours has the settings of `known`, and is in its VRF.
    pub async fn is_as_known(&self, known: &Resource) -> Result<bool, DatapathError> {
        let place = &known.place;
        let read = async {
            let socket = self.socket(place).await?;
            let Some(link) = socket.link(&known.key().id).await? else {
                return Ok(false);
            };
            let in_vrf = match place {
                Place::Domain(vrf) if place.own_namespace().is_none() => {
                    let vrf = socket.index(vrf).await?;
                    vrf.is_some() && attributes::master(&link) == vrf
                }
                Place::Host | Place::Domain(_) => true,
            };
            Ok(in_vrf && device_object(&link).as_ref() == Some(&known.object))
        };
        read.await.map_err(failure("read a device", place))
    }

    /// Whether each of these settings has its value. They are read in one namespace, that of the first.
    pub async fn has_settings(&self, settings: Vec<(Key, Sysctl)>) -> Result<bool, DatapathError> {
        let Some((Key { place, .. }, _)) = settings.first() else {
            return Ok(true);
        };
        let place = place.clone();
        let read = async {
            let namespace = self.namespace(&place).await?;
            let is_set = |(_, wanted): (Key, Sysctl)| sysctl::read(wanted.clone()) == Some(wanted);
            let read = move || Ok(settings.into_iter().all(is_set));
            namespace.run(read).await
        };
        read.await.map_err(failure("read settings", &place))
    }

    /// Renames the device `now` to `name`, its former name; it is down then.
    pub async fn rename_back(
        &self,
        place: &Place,
        now: &str,
        name: &str,
    ) -> Result<(), DatapathError> {
        let rename = async {
            let socket = self.socket(place).await?;
            let Some(link) = socket.link(now).await? else {
                return Ok(());
            };
            let index = link.header.index;
            // Another device was made before the rename was noticed.
            if let Some(other) = socket.link(name).await? {
                let message = messages::link_up(other.header.index, false);
                socket
                    .change(RouteNetlinkMessage::DelLink(message), Mode::Set)
                    .await?;
            }
            for message in [
                messages::link_up(index, false),
                messages::link_name(index, name),
            ] {
                let message = RouteNetlinkMessage::SetLink(message);
                socket.change(message, Mode::Set).await?;
            }
            Ok(())
        };
        rename.await.map_err(failure("rename a device", place))
    }

    /// The MTU of the host's device that has `address`; `None` when no device has it.
    pub async fn link_mtu(&self, address: IpAddr) -> Result<Option<u32>, DatapathError> {
        let mut all = self.host_addresses().await?.into_iter();
        let Some(found) = all.find(|it| it.address.addr() == address) else {
            return Ok(None);
        };
        let HostAddress { device, mtu, .. } = found;
        match found.vrf {
            None => Ok(Some(mtu)),
            Some(vrf) => Err(DatapathError::UnderlayInVrf {
                address,
                device,
                vrf,
            }),
        }
    }

    /// The host's addresses, each with its device; the underlay's is one of them.
    pub async fn host_addresses(&self) -> Result<Vec<HostAddress>, DatapathError> {
        let socket = &self.inner.host.socket;
        let failed = || failure("list addresses", &Place::Host);
        let links = socket.links().await.map_err(failed())?;
        let addresses = socket.addresses().await.map_err(failed())?;
        let found = addresses.iter().filter_map(|message| {
            let link = links
                .iter()
                .find(|it| it.header.index == message.header.index)?;
            let ip = message.attributes.iter().find_map(|it| match it {
                AddressAttribute::Address(ip) => Some(*ip),
                _ => None,
            })?;
            Some(HostAddress {
                device: attributes::name(link)?.to_owned(),
                address: IpNet::new(ip, message.header.prefix_len).ok()?,
                mtu: attributes::mtu(link),
                vrf: attributes::master(link)
                    .and_then(|master| links.iter().find(|it| it.header.index == master))
                    .filter(|master| attributes::vrf_table(master).is_some())
                    .and_then(attributes::name)
                    .map(str::to_owned),
            })
        });
        Ok(found.collect())
    }
}
