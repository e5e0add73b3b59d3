//! Executes ops in their order; those about elements of one table in one transaction.
//!
//! After a failure the execution goes on, with one exception: a port whose firewall failed stays down,
//! since it would be open, and a port that is up without a firewall is taken down.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bus_schema::MacAddr;
use bus_schema::node::DomainKind;
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::LinkMessage;

use super::messages::{self, Home};
use super::netlink::{Mode, Socket, apart, is_absence, is_presence};
use super::netns::{Namespace, is_namespace};
use super::observe::MAIN_TABLE;
use super::peer::occupied;
use super::{
    BatchError, Datapath, DatapathError, Failure, attributes, docker_user, nft, sysctl, unguarded,
};
use node_core::reconcile::Op;
use node_core::resource::{
    Domain, Neighbor, Object, Place, Resource, Route, Ruleset, TABLE, Up, Veth, Vxlan,
};
use runtime::pause;

/// How often a device that is being deleted is read until it is gone.
const DELETION_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// The ops that are done in one transaction with their like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    Nft,
    Conntrack,
    DockerUser,
}

/// An execution of a list of ops.
pub(super) struct Execution<'a> {
    pub(super) datapath: &'a Datapath,
    failures: Vec<Failure>,
    /// Places whose firewall failed.
    open: BTreeSet<Place>,
    /// Routing tables of VRFs that are known so far.
    tables: BTreeMap<Place, u32>,
}

impl<'a> Execution<'a> {
    pub(super) fn new(datapath: &'a Datapath) -> Self {
        Self {
            datapath,
            failures: Vec::new(),
            open: BTreeSet::new(),
            tables: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self, ops: &[Op]) -> Result<(), BatchError> {
        let mut rest = ops;
        while let [op, ..] = rest {
            let together = self.transaction(op);
            let same = |op: &&Op| together.is_some() && self.transaction(op) == together;
            let count = rest.iter().take_while(same).count().max(1);
            let (now, later) = rest.split_at(count);
            match together {
                Some((Transaction::Conntrack, place)) => self.forget(&place, now).await,
                Some((Transaction::DockerUser, place)) => self.docker_user_rules(&place, now).await,
                Some((Transaction::Nft, place)) => self.elements(&place, now).await,
                None => {
                    let result = self.one(op).await;
                    self.keep(op, result);
                }
            }
            rest = later;
        }
        if self.failures.is_empty() {
            return Ok(());
        }
        for failure in &self.failures {
            if let Some(it) = failure.op.made()
                && matches!(it.object, Object::Table(_))
            {
                unguarded::close_ports_without_rules(self.datapath, &it.place).await;
            }
        }
        Err(BatchError {
            attempted: ops.len(),
            failures: self.failures,
        })
    }

    /// The transaction that an op belongs to, and its place.
    fn transaction(&self, op: &Op) -> Option<(Transaction, Place)> {
        let together = match op.resource().map(|it| &it.object) {
            Some(Object::Element(_) | Object::Chain(_) | Object::Map(_)) => Transaction::Nft,
            Some(Object::DockerUserRule(_)) => Transaction::DockerUser,
            Some(_) => return None,
            None => Transaction::Conntrack,
        };
        Some((together, op.place().netfilter()))
    }

    pub(super) fn keep(&mut self, op: &Op, result: io::Result<()>) {
        let Err(error) = result else { return };
        let place = op.place();
        if op.made().is_some_and(|it| it.object.kind().is_of_table()) {
            self.open.insert(place.clone());
        }
        self.failures.push(Failure {
            op: op.clone(),
            error: DatapathError::Kernel {
                what: "do so".to_owned(),
                place: place.to_string(),
                error,
            },
        });
    }

    async fn docker_user_rules(&mut self, place: &Place, ops: &[Op]) {
        let rule = |it: &Resource| match it.object {
            Object::DockerUserRule(rule) => Some(rule),
            _ => None,
        };
        let put: Vec<_> = ops.iter().filter_map(|op| rule(op.made()?)).collect();
        let gone: Vec<_> = ops.iter().filter_map(|op| rule(op.deleted()?)).collect();
        let result = match self.datapath.namespace(place).await {
            Ok(namespace) => docker_user::change(&namespace, &put, &gone).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            for op in ops {
                self.keep(op, Err(copy(&error)));
            }
        }
    }

    async fn forget(&mut self, place: &Place, ops: &[Op]) {
        let gone: Vec<(u16, IpAddr)> = ops
            .iter()
            .filter_map(|op| match op {
                Op::FlushConntrack { zone, address, .. } => Some((*zone, *address)),
                _ => None,
            })
            .collect();
        let result = match self.datapath.conntrack(place).await {
            Ok(conntrack) => conntrack.forget(gone).await.map(|_| ()),
            Err(error) if is_absence(&error) => Ok(()),
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            for op in ops {
                self.keep(op, Err(copy(&error)));
            }
        }
    }

    async fn one(&mut self, op: &Op) -> io::Result<()> {
        match op {
            Op::Put(resource) | Op::Change { to: resource, .. } => self.put(resource).await,
            Op::Delete(resource) => match self.delete(resource).await {
                Err(error) if is_absence(&error) => Ok(()),
                result => result,
            },
            Op::FlushConntrack { .. } => Ok(()),
        }
    }

    async fn put(&mut self, resource: &Resource) -> io::Result<()> {
        let place = &resource.place;
        match &resource.object {
            Object::Domain(it) => self.put_domain(place, it).await,
            Object::VrfRule(_) => {
                let message = Message::NewRule(messages::vrf_rule());
                match self.change(place, message, Mode::Create).await {
                    Err(error) if is_presence(&error) => Ok(()),
                    result => result,
                }
            }
            Object::Table(it) => self.put_table(place, it).await,
            Object::Sysctl(it) => {
                let setting = it.clone();
                let namespace = self.datapath.namespace(place).await?;
                namespace.run(move || sysctl::write(&setting)).await
            }
            Object::Vxlan(it) => self.put_vxlan(place, it).await,
            Object::Veth(it) => self.put_veth(place, it).await,
            Object::Address(it) => {
                let index = self.index(place, &it.device).await?;
                let message = messages::address(index, it.address);
                let message = Message::NewAddress(message);
                self.change(place, message, Mode::Replace).await
            }
            Object::Neighbor(it) => self.put_neighbor(place, it).await,
            Object::Fdb(it) => {
                let index = self.index(place, &it.device).await?;
                let message = Message::NewNeighbour(messages::fdb(it, index));
                self.change(place, message, Mode::Replace).await
            }
            Object::Element(_) | Object::Chain(_) => Ok(()),
            Object::Map(_) | Object::DockerUserRule(_) => Ok(()),
            Object::Up(it) => self.put_up(place, it).await,
            Object::Route(it) => {
                let message = Message::NewRoute(self.route(place, it).await?);
                self.change(place, message, Mode::Replace).await
            }
        }
    }

    async fn delete(&mut self, resource: &Resource) -> io::Result<()> {
        let place = &resource.place;
        match &resource.object {
            Object::Domain(it) => self.delete_domain(place, it).await,
            Object::Table(Ruleset { family, .. }) => {
                let namespace = self.datapath.namespace(place).await?;
                let script = format!("add table {family} {TABLE}\ndelete table {family} {TABLE}\n");
                nft::apply(&namespace, script).await
            }
            Object::Vxlan(Vxlan { name, .. }) | Object::Veth(Veth { name, .. }) => {
                let index = self.index(place, name).await?;
                self.delete_link(place, index).await
            }
            Object::Address(it) => {
                let index = self.index(place, &it.device).await?;
                let message = Message::DelAddress(messages::address(index, it.address));
                self.change(place, message, Mode::Set).await
            }
            Object::Neighbor(it) => {
                let index = self.index(place, &it.device).await?;
                let message = Message::DelNeighbour(messages::neighbor(it, index));
                self.change(place, message, Mode::Set).await
            }
            Object::Fdb(it) => {
                let index = self.index(place, &it.device).await?;
                let message = Message::DelNeighbour(messages::fdb(it, index));
                self.change(place, message, Mode::Set).await
            }
            Object::Up(it) => {
                let index = self.index(place, &it.device).await?;
                let message = Message::SetLink(messages::link_up(index, false));
                self.change(place, message, Mode::Set).await
            }
            Object::Route(it) => {
                let message = Message::DelRoute(self.route(place, it).await?);
                self.change(place, message, Mode::Set).await
            }
            Object::VrfRule(_) | Object::Sysctl(_) | Object::Element(_) => Ok(()),
            Object::Chain(_) | Object::Map(_) | Object::DockerUserRule(_) => Ok(()),
        }
    }

    pub(super) async fn change(
        &self,
        place: &Place,
        message: Message,
        mode: Mode,
    ) -> io::Result<()> {
        self.datapath
            .socket(place)
            .await?
            .change(message, mode)
            .await
    }

    pub(super) async fn index(&self, place: &Place, device: &str) -> io::Result<u32> {
        let socket = self.datapath.socket(place).await?;
        let index = socket.index(device).await?;
        index.ok_or_else(|| nix::Error::ENODEV.into())
    }

    async fn put_domain(&mut self, place: &Place, domain: &Domain) -> io::Result<()> {
        let Place::Domain(name) = place else {
            return Ok(());
        };
        match domain.kind {
            DomainKind::Netns => Namespace::create(&self.datapath.path_of(name)).await,
            DomainKind::Vrf => {
                self.tables.insert(place.clone(), domain.table);
                let message = messages::vrf(name, domain.table);
                self.create_link(&Place::Host, message).await.map(|_| ())
            }
        }
    }

    async fn delete_domain(&mut self, place: &Place, domain: &Domain) -> io::Result<()> {
        let Place::Domain(name) = place else {
            return Ok(());
        };
        match domain.kind {
            DomainKind::Netns => {
                self.datapath.drop_socket(place).await;
                Namespace::remove(&self.datapath.path_of(name))
            }
            DomainKind::Vrf => {
                let index = self.index(&Place::Host, name).await?;
                self.delete_link(&Place::Host, index).await
            }
        }
    }

    /// Whether the link is new.
    async fn create_link(&self, place: &Place, message: LinkMessage) -> io::Result<bool> {
        let message = Message::NewLink(message);
        match self.change(place, message, Mode::Create).await {
            Ok(()) => Ok(true),
            Err(error) if is_presence(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes a device, and returns when it can't be seen any more. The kernel answers 10 to 20 ms later,
    /// after a grace period of RCU (`netdev_run_todo`).
    pub(super) async fn delete_link(&self, place: &Place, index: u32) -> io::Result<()> {
        let namespace = self.datapath.namespace(place).await?;
        let mut message = LinkMessage::default();
        message.header.index = index;
        let message = Message::DelLink(message);
        let delete = async move |socket: Socket| socket.change(message, Mode::Set).await;
        let mut deletion = tokio::spawn(async move { apart(&namespace, delete).await });
        let socket = self.datapath.socket(place).await?;
        loop {
            tokio::select! {
                done = &mut deletion => return done.map_err(io::Error::other)?,
                () = pause(DELETION_POLL_INTERVAL) => {}
            }
            if !socket.has(index).await? {
                return Ok(());
            }
        }
    }

    async fn put_table(&mut self, place: &Place, rules: &Ruleset) -> io::Result<()> {
        let namespace = self.datapath.namespace(place).await?;
        let present = self.datapath.table(place, rules.family).await?;
        let present = present.unwrap_or_default();
        let mut script = rules.script(&present.rules);
        if present.flagged {
            script.insert_str(0, &format!("delete table {} {TABLE}\n", rules.family));
        }
        nft::apply(&namespace, script).await?;
        if let Err(error) = self.datapath.learn(rules).await {
            tracing::warn!(%error, "can't notice rules that others replace under our comments");
        }
        Ok(())
    }

    /// The namespace or master of a new device of `place`.
    async fn home(&self, place: &Place) -> io::Result<(Home, Option<Namespace>)> {
        match place {
            Place::Domain(name) if place.own_namespace().is_none() => {
                let index = self.index(&Place::Host, name).await?;
                Ok((Home::Master(index), None))
            }
            _ => {
                let namespace = self.datapath.namespace(place).await?;
                Ok((Home::Namespace(namespace.fd()), Some(namespace)))
            }
        }
    }

    async fn put_vxlan(&mut self, place: &Place, vxlan: &Vxlan) -> io::Result<()> {
        let (home, _held) = self.home(place).await?;
        let message = messages::vxlan(vxlan, home);
        if self.create_link(&Place::Host, message).await? {
            return Ok(());
        }
        let Vxlan { vni, port, .. } = vxlan;
        let conflict =
            format!("another device of this host has VNI {vni} on port {port}: delete it");
        let settings = (vxlan.mac, vxlan.mtu);
        self.settings((place, home), &vxlan.name, settings, conflict)
            .await
    }

    async fn put_veth(&mut self, place: &Place, veth: &Veth) -> io::Result<()> {
        let Some(peer) = &veth.peer.0 else {
            return self.put_host_end(place, veth).await;
        };
        self.delete_lone_end(place, veth).await?;
        let (home, _held) = self.home(place).await?;
        // If its namespace is gone, the peer is made in the host's one.
        let sandbox = peer.sandbox.as_ref();
        let sandbox = sandbox.filter(|it| is_namespace(&it.netns));
        let sandbox = match sandbox {
            Some(it) => Some((it, Namespace::open(&it.netns)?)),
            None => None,
        };
        let at = sandbox.as_ref();
        let at = at.map(|(it, namespace)| (it.interface.as_str(), namespace.fd()));
        let message = messages::veth(veth, peer, at, home);
        if self.create_link(&Place::Host, message).await? {
            return Ok(());
        }
        let conflict = match sandbox {
            Some((it, _)) => occupied(&it.netns, &it.interface),
            None => format!("a device named {} is in the way: delete it", peer.name),
        };
        let settings = (veth.mac, veth.mtu);
        self.settings((place, home), &veth.name, settings, conflict)
            .await
    }

    /// Changes a device that exists by the kernel's answer; if it isn't in its place, another device
    /// has its name or its VNI.
    async fn settings(
        &self,
        (place, home): (&Place, Home),
        device: &str,
        settings: (MacAddr, u32),
        conflict: String,
    ) -> io::Result<()> {
        let link = self.datapath.socket(place).await?.link(device).await?;
        let link = link.ok_or_else(|| io::Error::other(conflict))?;
        let message = messages::link_settings(&link, settings, home.vrf());
        self.change(place, Message::SetLink(message), Mode::Set)
            .await
    }

    async fn put_neighbor(&mut self, place: &Place, neighbor: &Neighbor) -> io::Result<()> {
        let index = self.index(place, &neighbor.device).await?;
        let message = Message::NewNeighbour(messages::neighbor(neighbor, index));
        self.change(place, message, Mode::Replace).await
    }

    async fn put_up(&mut self, place: &Place, up: &Up) -> io::Result<()> {
        let netfilter = place.netfilter();
        if self.open.contains(place) || self.open.contains(&netfilter) {
            let reason = "its firewall isn't in place, so the port stays down";
            return Err(io::Error::other(reason));
        }
        let index = self.index(place, &up.device).await?;
        let message = Message::SetLink(messages::link_up(index, true));
        self.change(place, message, Mode::Set).await
    }

    async fn route(
        &mut self,
        place: &Place,
        route: &Route,
    ) -> io::Result<netlink_packet_route::route::RouteMessage> {
        let index = match route.target.device() {
            Some(device) => Some(self.index(place, device).await?),
            None => None,
        };
        let table = self.table(place).await?;
        Ok(messages::route(route, table, index))
    }

    async fn table(&mut self, place: &Place) -> io::Result<u32> {
        let Place::Domain(name) = place else {
            return Ok(MAIN_TABLE);
        };
        if place.own_namespace().is_some() {
            return Ok(MAIN_TABLE);
        }
        if let Some(table) = self.tables.get(place) {
            return Ok(*table);
        }
        let socket = self.datapath.socket(place).await?;
        let link = socket.link(name).await?.ok_or(nix::Error::ENODEV)?;
        let table = attributes::vrf_table(&link).ok_or(nix::Error::ENODEV)?;
        self.tables.insert(place.clone(), table);
        Ok(table)
    }
}

pub(super) fn is_delete(op: &Op) -> bool {
    matches!(op, Op::Delete(_))
}

pub(super) fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}
