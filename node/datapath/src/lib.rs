//! The code that talks to the kernel: rtnetlink, nft, `/proc/sys/net`, namespaces.
//!
//! Both kinds of domain go one way, with parameters: the namespace of the socket, the table, the
//! master device, the firewall's place. What an attach costs is in proportion to the endpoint.
//! Callers: the daemon's datapath actor, alone; nothing else changes the kernel.
//!
//! - [`Datapath::open`] → capabilities checked, `domain=auto` decided; [`Datapath::kind`].
//! - [`Datapath::observe`] → [`State`] of what bears our marks, all or one [`Scope`].
//! - [`Datapath::execute`] ← ops of [`diff`](node_core::reconcile::diff); every failure is reported.
//! - [`Datapath::passages`], [`Datapath::hindrances`] → how others' firewalls treat our packets.
//! - [`Datapath::place_peer`] for endpoints of bare namespaces.
//! - An attach is `execute(&diff(&before, &desired_domain(…)))`: the veth is created with the rest,
//!   its peer in the container's namespace; that of an engine's endpoint waits in the host's under
//!   `peer_interface`.

mod capabilities;
mod commit;
mod conntrack;
mod elements;
mod execute;
mod expressions;
mod hindrance;
mod messages;
mod monitor;
mod netfilter;
mod netlink;
mod netns;
mod nft;
mod nftables;
mod observe;
mod passage;
mod peer;
mod program;
mod scratch;
mod shut;
mod sysctl;
mod transaction;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus_schema::MacAddr;
use bus_schema::node::{Counter, DomainKind};
use ipnet::IpNet;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::LinkFlags;
use tokio::sync::Mutex;

pub use self::conntrack::Connection;
use self::conntrack::Conntrack;
use self::execute::Batch;
pub use self::hindrance::{Hindrance, Keeper, Traffic};
use self::monitor::{Monitor, Ours, Signing};
pub use self::monitor::{Sign, Signs};
use self::netlink::{Mode, Socket, is_absence};
use self::netns::Namespace;
use self::nftables::Nftables;
use self::observe::Part;
pub use self::scratch::Scratch;
use node_core::reconcile::Op;
use node_core::resource::{OuterDrop, Place, State};

/// Where and how to work.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host's network namespace; absent: this process's.
    pub host: Option<PathBuf>,
    /// Where domains of kind netns are bound, usually `/run/netns`.
    pub netns_dir: PathBuf,
    /// Absent: VRF when the kernel has it, else netns.
    pub kind: Option<DomainKind>,
}

/// What to observe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    Of(Place),
}

/// The container's end of an endpoint, to be set up in a namespace that isn't an engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerSetup {
    /// The host's end, and where it is.
    pub host: (Place, String),
    /// Its name in the host's namespace, where it waits.
    pub peer: String,
    /// The namespace's path, for example `/run/netns/web`.
    pub netns: PathBuf,
    /// Its name there.
    pub interface: String,
    /// Put on the interface as /32 (or /128).
    pub addresses: Vec<IpAddr>,
    /// The gateway of each family. The default route leads there, unless the namespace has one.
    pub gateways: Vec<IpAddr>,
    /// The network's subnets, routed through this interface when the default route is another's.
    pub subnets: Vec<IpNet>,
    pub mac: MacAddr,
    pub mtu: u32,
}

/// The container's end of an endpoint, as it is in its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerState {
    pub mac: MacAddr,
    pub up: bool,
    pub addresses: Vec<IpNet>,
    /// Unicast routes through it, with their gateways.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

/// What a path is that should be a container's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sandbox {
    Containers,
    /// The one that we configure ourselves.
    Hosts,
    /// There is something else.
    Other,
    Gone,
}

/// An address of the host, with its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    pub device: String,
    pub address: IpNet,
    pub mtu: u32,
    /// The VRF that the device is in.
    pub vrf: Option<String>,
}

/// Why the datapath can't be opened, or an observation failed.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error(
        "netplugin may not configure networks: start it as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    NotPermitted,
    #[error(
        "this kernel has no VRF devices: load the module `vrf`, or start netplugin with --domain=netns"
    )]
    NoVrf,
    #[error(
        "{address} is in VRF {vrf} by {device}: VXLAN would be sent by the host's own table; give netplugin an underlay outside of it"
    )]
    UnderlayInVrf {
        address: IpAddr,
        device: String,
        vrf: String,
    },
    #[error("can't use network namespace {path}: {reason}")]
    Namespace { path: String, reason: String },
    #[error("can't {what} in {place}: {reason}")]
    Kernel {
        what: String,
        place: String,
        reason: String,
    },
}

/// An op that failed, and why.
#[derive(Debug)]
pub struct Failure {
    pub op: Op,
    pub error: DatapathError,
}

/// The ops of a batch that failed. The others are done; what failed shows again in the next
/// difference with what is observed.
#[derive(Debug, thiserror::Error)]
#[error("{} of {attempted} changes failed: {}", .failures.len(), list(.failures))]
pub struct BatchError {
    pub attempted: usize,
    pub failures: Vec<Failure>,
}

fn list(failures: &[Failure]) -> String {
    let lines = failures.iter().map(|it| format!("{}: {}", it.op, it.error));
    lines.collect::<Vec<_>>().join("; ")
}

/// The one door to the kernel. Cheap to clone; a clone is the same door.
#[derive(Debug, Clone)]
pub struct Datapath {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: DomainKind,
    netns_dir: PathBuf,
    host: Inside,
    /// Domains of kind netns in which we work.
    inside: Mutex<BTreeMap<String, Inside>>,
    signing: Signing,
    /// Taken by who looks after them.
    signs: Mutex<Option<Signs>>,
}

/// A namespace, and what works in it: kept open, it stays although its name is gone.
#[derive(Debug)]
struct Inside {
    namespace: Namespace,
    socket: Arc<Socket>,
    nftables: Nftables,
    conntrack: Conntrack,
    _monitor: Monitor,
}

impl Inside {
    /// `makers`: the ports of sockets elsewhere by which devices are put here.
    async fn open(
        place: Place,
        namespace: Namespace,
        makers: &[u32],
        signing: Signing,
    ) -> io::Result<Self> {
        let socket = Arc::new(Socket::open(&namespace).await?);
        let nftables = Nftables::open(&namespace).await?;
        let ours = Ours {
            route: [&[socket.port()], makers].concat(),
            nftables: nftables.port(),
        };
        Ok(Self {
            _monitor: Monitor::start(place, &namespace, &socket, ours, signing).await?,
            conntrack: Conntrack::open(&namespace).await?,
            namespace,
            socket,
            nftables,
        })
    }
}

impl Datapath {
    /// Checks what the process may do and what the kernel can, and picks the kind of domain.
    pub async fn open(options: Options) -> Result<Self, DatapathError> {
        capabilities::check_permissions()?;
        let vrf = capabilities::has_vrf().await;
        let kind = match options.kind {
            Some(DomainKind::Vrf) if !vrf => return Err(DatapathError::NoVrf),
            Some(kind) => kind,
            None if vrf => DomainKind::Vrf,
            None => DomainKind::Netns,
        };
        let path = options
            .host
            .unwrap_or_else(|| PathBuf::from("/proc/thread-self/ns/net"));
        let failed = |error: io::Error| DatapathError::Namespace {
            path: path.display().to_string(),
            reason: error.to_string(),
        };
        let host = Namespace::open(&path).map_err(failed)?;
        let (signing, signs) = monitor::signs();
        let host = Inside::open(Place::Host, host, &[], signing.clone()).await;
        Ok(Self {
            inner: Arc::new(Inner {
                kind,
                netns_dir: options.netns_dir,
                host: host.map_err(failed)?,
                inside: Mutex::default(),
                signing,
                signs: Mutex::new(Some(signs)),
            }),
        })
    }

    pub fn kind(&self) -> DomainKind {
        self.inner.kind
    }

    /// Signs that others changed something of ours; to be had once.
    pub async fn signs(&self) -> Option<Signs> {
        self.inner.signs.lock().await.take()
    }

    /// Whether a domain's namespace lost its name, or another one bears it: nothing tells of that.
    pub async fn lost_a_domain(&self) -> bool {
        let inside = self.inner.inside.lock().await;
        inside.iter().any(|(name, inside)| {
            let named = Namespace::open(&self.path_of(name)).and_then(|it| it.id());
            named.ok() != inside.namespace.id().ok()
        })
    }

    /// Whether a device is up; `None` when there is no such device.
    pub async fn is_up(&self, place: &Place, device: &str) -> Result<Option<bool>, DatapathError> {
        let look = async { self.socket(place).await?.link(device).await };
        let link = look.await.map_err(failure("look at a device", place))?;
        Ok(link.map(|link| link.header.flags.contains(LinkFlags::Up)))
    }

    /// Gives a device that bears `now` there its name back; it is down then.
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
            // What was made in its place before its new name was heard.
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

    /// Whether there are domains of the other kind: the node was of that kind before.
    pub async fn has_other_kind(&self) -> Result<bool, DatapathError> {
        let look = async {
            if self.kind() == DomainKind::Vrf {
                return Ok(!self.netns_domains()?.is_empty());
            }
            let links = self.inner.host.socket.links().await?;
            let is_domain = |name: &str| name.starts_with("cd");
            let mut vrfs = links.iter().filter(|it| observe::vrf_table(it).is_some());
            Ok(vrfs.any(|link| observe::name(link).is_some_and(is_domain)))
        };
        look.await.map_err(failure("list domains", &Place::Host))
    }

    /// What is in the kernel and ours.
    pub async fn observe(&self, scope: &Scope) -> Result<State, DatapathError> {
        let mut state = State::default();
        for place in self
            .places(scope)
            .map_err(failure("list domains", &Place::Host))?
        {
            let seen = match self.observe_place(&place, Part::Whole).await {
                Err(error) if is_absence(&error) && place != Place::Host => State::default(),
                seen => seen.map_err(failure("observe", &place))?,
            };
            state.merge(&seen);
        }
        Ok(match scope {
            Scope::All => state,
            Scope::Of(place) => state.of(place),
        })
    }

    /// The places that have a namespace of their own; of either kind, as the node may have been of
    /// the other one.
    fn places(&self, scope: &Scope) -> io::Result<Vec<Place>> {
        match scope {
            Scope::Of(place) => Ok(vec![place.netfilter()]),
            Scope::All => {
                let mut places = vec![Place::Host];
                places.extend(self.netns_domains()?.into_iter().map(Place::Domain));
                Ok(places)
            }
        }
    }

    fn netns_domains(&self) -> io::Result<BTreeSet<String>> {
        let entries = match std::fs::read_dir(&self.inner.netns_dir) {
            Err(error) if is_absence(&error) => return Ok(BTreeSet::new()),
            entries => entries?,
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        Ok(names
            .filter(|name| {
                name.starts_with(Place::NAMESPACE) && netns::is_namespace(&self.path_of(name))
            })
            .collect())
    }

    /// The connections of a domain, whose conntrack zone is `zone`.
    pub async fn connections(
        &self,
        place: &Place,
        zone: u16,
    ) -> Result<Vec<Connection>, DatapathError> {
        let list = async { self.conntrack(place).await?.list(zone).await };
        list.await.map_err(failure("list connections", place))
    }

    /// Ends connections of a domain, and says how many there were.
    pub async fn end(&self, place: &Place, these: Vec<Connection>) -> Result<usize, DatapathError> {
        let end = async { self.conntrack(place).await?.end(these).await };
        end.await.map_err(failure("end connections", place))
    }

    /// What each rule of a domain decided, by the rule's number.
    pub async fn counters(
        &self,
        place: &Place,
        zone: u16,
    ) -> Result<BTreeMap<u32, Counter>, DatapathError> {
        let list = async { nft::set(&self.namespace(place).await?, "hits").await };
        let elements = list.await.map_err(failure("read counters", place))?;
        let hits = elements.iter().filter_map(elements::hit);
        Ok(hits
            .filter(|(of, ..)| *of == zone)
            .map(|(_, rule, counter)| (rule, counter))
            .collect())
    }

    /// How many packets to the outer port were dropped, by reason, since the host's table was made;
    /// empty when there is no table.
    pub async fn outer_drops(&self) -> Result<BTreeMap<OuterDrop, u64>, DatapathError> {
        let counted = self.inner.host.nftables.counters().await;
        let counted = counted.map_err(failure("read counters", &Place::Host))?;
        let of = |reason: OuterDrop| Some((reason, *counted.get(reason.counter())?));
        Ok(OuterDrop::ALL.into_iter().filter_map(of).collect())
    }

    /// Where namespaces can be bound.
    pub fn netns_dir(&self) -> &Path {
        &self.inner.netns_dir
    }

    /// Does the ops in their order. One that fails doesn't keep the others from being done, except
    /// that a port isn't brought up when its firewall failed.
    pub async fn execute(&self, ops: &[Op]) -> Result<(), BatchError> {
        Batch::new(self).run(ops).await
    }

    /// Configures a peer in its namespace, where one that still waits is moved. Done again, it
    /// changes nothing.
    pub async fn place_peer(&self, setup: &PeerSetup) -> Result<(), DatapathError> {
        let path = setup.netns.display().to_string();
        peer::place(self, setup)
            .await
            .map_err(|error| DatapathError::Namespace {
                path,
                reason: error.to_string(),
            })
    }

    /// What `interface` is in a container's namespace; `None`: there is none of that name.
    pub async fn peer(
        &self,
        netns: &Path,
        interface: &str,
    ) -> Result<Option<PeerState>, DatapathError> {
        let look = peer::look(netns, interface).await;
        look.map_err(|error| DatapathError::Namespace {
            path: netns.display().to_string(),
            reason: error.to_string(),
        })
    }

    pub fn sandbox(&self, path: &Path) -> Sandbox {
        if !path.exists() {
            return Sandbox::Gone;
        }
        if !netns::is_namespace(path) {
            return Sandbox::Other;
        }
        let id = Namespace::open(path).and_then(|it| it.id()).ok();
        match id == self.inner.host.namespace.id().ok() {
            true => Sandbox::Hosts,
            false => Sandbox::Containers,
        }
    }

    /// The MTU of the host's device that bears `address`; `None` when no device does.
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

    /// The host's addresses, each with its device: among them is the underlay's.
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
                device: observe::name(link)?.to_owned(),
                address: IpNet::new(ip, message.header.prefix_len).ok()?,
                mtu: observe::mtu(link),
                vrf: observe::master(link)
                    .and_then(|master| links.iter().find(|it| it.header.index == master))
                    .filter(|master| observe::vrf_table(master).is_some())
                    .and_then(observe::name)
                    .map(str::to_owned),
            })
        });
        Ok(found.collect())
    }

    /// The path of a domain's namespace, for sockets that must be opened in it; `None` for a VRF,
    /// where they are bound to the device of the domain's name instead.
    pub fn netns_of(&self, place: &Place) -> Option<PathBuf> {
        place.own_namespace().map(|name| self.path_of(name))
    }

    fn path_of(&self, domain: &str) -> PathBuf {
        self.inner.netns_dir.join(domain)
    }

    async fn namespace(&self, place: &Place) -> io::Result<Namespace> {
        match self.netns_of(place) {
            None => Ok(self.inner.host.namespace.clone()),
            Some(path) if netns::is_namespace(&path) => Namespace::open(&path),
            Some(_) => Err(nix::Error::ENOENT.into()),
        }
    }

    async fn socket(&self, place: &Place) -> io::Result<Arc<Socket>> {
        self.inside(place, |it| Arc::clone(&it.socket)).await
    }

    async fn nftables(&self, place: &Place) -> io::Result<Nftables> {
        self.inside(place, |it| it.nftables.clone()).await
    }

    async fn conntrack(&self, place: &Place) -> io::Result<Conntrack> {
        self.inside(place, |it| it.conntrack.clone()).await
    }

    /// What works in a place's namespace; begins anew when the namespace was made anew.
    async fn inside<T>(&self, place: &Place, what: impl FnOnce(&Inside) -> T) -> io::Result<T> {
        let Some(name) = place.own_namespace() else {
            return Ok(what(&self.inner.host));
        };
        let namespace = self.namespace(place).await?;
        let mut all = self.inner.inside.lock().await;
        if let Some(inside) = all.get(name)
            && inside.namespace.id()? == namespace.id()?
        {
            return Ok(what(inside));
        }
        // Devices are made from the host's socket.
        let makers = [self.inner.host.socket.port()];
        let inside = Inside::open(
            place.clone(),
            namespace,
            &makers,
            self.inner.signing.clone(),
        )
        .await?;
        let found = what(&inside);
        all.insert(name.to_owned(), inside);
        Ok(found)
    }

    /// A socket would keep its namespace alive.
    async fn drop_socket(&self, place: &Place) {
        if let Place::Domain(name) = place {
            self.inner.inside.lock().await.remove(name);
        }
    }
}

fn failure(what: &str, place: &Place) -> impl FnOnce(io::Error) -> DatapathError {
    let (what, place) = (what.to_owned(), place.to_string());
    move |error| DatapathError::Kernel {
        what,
        place,
        reason: error.to_string(),
    }
}
