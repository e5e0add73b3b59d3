//! The code that talks to the kernel: rtnetlink, nft, `/proc/sys/net`, namespaces.
//!
//! Both kinds of domain take the same way, with other parameters: the namespace of the socket, the
//! routing table, the master device, the place of the firewall. The cost of an attach is
//! proportional to the endpoint. The daemon's reconciler, CNI, trace, doctor and check use this crate;
//! nothing else changes the kernel.
//!
//! - [`Datapath::open`] checks capabilities, and decides `domain=auto`; [`Datapath::kind`].
//! - [`Datapath::observe`] reads the [`State`] of all that has our marks, everywhere or in one place.
//! - [`Datapath::execute`] does ops of [`diff`](node_core::reconcile::diff), and reports every failure.
//! - [`Datapath::docker_user_rules`], [`Datapath::foreign_drops`]: how others' firewalls treat our packets.
//! - [`Datapath::place_peer`] sets up the container's end in a bare namespace.
//! - An attach is `execute(&diff(&before, &desired_domain(…)))`. It creates the veth with the rest, and
//!   the peer in the container's namespace; the peer of an engine's endpoint waits in the host's
//!   namespace as `peer_interface`.

mod attributes;
mod capabilities;
mod codec;
mod command;
mod commit;
mod conntrack;
mod docker_user;
mod error;
mod execute;
mod fallback_route;
mod foreign_drop;
mod links;
mod listing;
mod mark_rules;
mod messages;
mod monitor;
mod namespaces;
mod neighbor_table;
mod netfilter;
mod netlink;
mod netns;
mod nft;
mod nftables;
mod observe;
mod observe_table;
mod peer;
mod scratch;
mod sysctl;
mod transaction;
mod unguarded;
mod uplink_ends;
mod uplink_reading;
mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bus_schema::node::{Counter, DomainKind};
use tokio::sync::Mutex;

use self::conntrack::Conntrack;
pub use self::conntrack::{Connection, ConntrackUsage};
use self::error::failure;
pub use self::error::{BatchError, DatapathError, Failure};
use self::execute::Execution;
pub use self::fallback_route::{FallbackRoute, fallback_metric};
pub use self::foreign_drop::{FirewallManager, ForeignDrop, Traffic};
pub use self::links::HostAddress;
use self::listing::{Bodies, Listing};
use self::monitor::ChangeSender;
pub use self::monitor::{KernelChange, KernelChanges};
pub use self::namespaces::NetnsKind;
use self::namespaces::OpenNamespace;
pub use self::neighbor_table::NeighborTable;
use self::netlink::is_absence;
use self::netns::Namespace;
use self::nftables::Nftables;
use self::observe::Part;
pub use self::peer::{PeerSetup, PeerState};
pub use self::scratch::Scratch;
pub use self::uplink_reading::UplinkTraffic;
use node_core::reconcile::Op;
use node_core::resource::{Family, OuterDrop, Place, REFUSED_CONNECTIONS, Ruleset, State};
use runtime::lock;

/// Where and how to work.
#[derive(Debug, Clone)]
pub struct Options {
    /// The host's network namespace; absent: this process's.
    pub host: Option<PathBuf>,
    /// The folder in which domains of kind netns are bound, usually `/run/netns`.
    pub netns_dir: PathBuf,
    /// Absent: VRF when the kernel has it, else netns.
    pub kind: Option<DomainKind>,
}

/// The part of the kernel's state to observe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    All,
    Of(Place),
}

/// The connections that were refused in one place because their openers have too many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RefusedConnections {
    /// The packets since the table was made.
    pub packets: u64,
    /// The zones and addresses of the openers in the last minute, with the packets of each.
    pub lately: Vec<(u16, IpAddr, u64)>,
}

/// The handle by which the daemon reads and changes the kernel. A clone is cheap, and works with the
/// same sockets.
#[derive(Debug, Clone)]
pub struct Datapath {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: DomainKind,
    netns_dir: PathBuf,
    host: OpenNamespace,
    /// A second socket to the host's conntrack: a dump of the table takes long, and must delay no change.
    host_conntrack: Conntrack,
    /// The namespaces of domains in which something was done.
    domains: Mutex<BTreeMap<String, OpenNamespace>>,
    sender: ChangeSender,
    /// Its only receiver takes it.
    changes: Mutex<Option<KernelChanges>>,
    /// The bodies of fixed rules, as far as they were learned.
    bodies: std::sync::Mutex<Bodies>,
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
            error,
        };
        let host = Namespace::open(&path).map_err(failed)?;
        let host_conntrack = Conntrack::open(&host).await.map_err(failed)?;
        let (sender, changes) = monitor::channel();
        let host = OpenNamespace::open(Place::Host, host, &[], sender.clone()).await;
        Ok(Self {
            inner: Arc::new(Inner {
                kind,
                netns_dir: options.netns_dir,
                host: host.map_err(failed)?,
                host_conntrack,
                domains: Mutex::default(),
                sender,
                changes: Mutex::new(Some(changes)),
                bodies: std::sync::Mutex::default(),
            }),
        })
    }

    pub fn kind(&self) -> DomainKind {
        self.inner.kind
    }

    /// The receiver of changes that others make to our kernel objects; the first call gets it.
    pub async fn kernel_changes(&self) -> Option<KernelChanges> {
        self.inner.changes.lock().await.take()
    }

    /// Learns which bytes the kernel has for these rules when `nft` wrote them: it writes them into
    /// a namespace of their own, and reads them back. From then on an observation shows a rule
    /// that somebody replaced under its old comment.
    pub async fn learn(&self, rules: &Ruleset) -> Result<(), DatapathError> {
        let mut all = rules.chains.iter().flat_map(|chain| &chain.rules);
        let known = self.bodies();
        if all.all(|rule| known.contains_key(&rule.digest)) {
            return Ok(());
        }
        let learn = async {
            let namespace = Namespace::unnamed().await?;
            nft::apply(&namespace, rules.script(&Ruleset::default())).await?;
            Nftables::open(&namespace)
                .await?
                .table(rules.family, Bodies::default())
                .await
        };
        let learned = learn
            .await
            .map_err(failure("try the rules", &Place::Host))?;
        let bodies = learned.unwrap_or_default().bodies;
        Arc::make_mut(&mut lock(&self.inner.bodies)).extend(bodies);
        Ok(())
    }

    fn bodies(&self) -> Bodies {
        lock(&self.inner.bodies).clone()
    }

    /// Our table of this family in this place's netfilter; `None` when there is none.
    async fn table(&self, place: &Place, family: Family) -> io::Result<Option<Listing>> {
        let nftables = self.nftables(place).await?;
        nftables.table(family, self.bodies()).await
    }

    /// Reads our kernel objects.
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

    /// Reads how full the conntrack table is that the place's packets use.
    pub async fn conntrack_usage(&self, place: &Place) -> Result<ConntrackUsage, DatapathError> {
        let usage = async { self.conntrack(&place.netfilter()).await?.usage().await };
        usage
            .await
            .map_err(failure("read the size of conntrack's table", place))
    }

    /// Counts the entries of each zone in the conntrack table that the place's packets use.
    pub async fn conntrack_zones(
        &self,
        place: &Place,
    ) -> Result<BTreeMap<u16, u64>, DatapathError> {
        let place_of_table = place.netfilter();
        let count = async { self.conntrack_reader(&place_of_table).await?.zones().await };
        count.await.map_err(failure("count connections", place))
    }

    /// Reads which endpoints have had connections refused because they have too many.
    pub async fn refused_connections(
        &self,
        place: &Place,
    ) -> Result<RefusedConnections, DatapathError> {
        let read = async {
            let nftables = self.nftables(&place.netfilter()).await?;
            let counters = nftables.counters().await?;
            let packets = counters.get(REFUSED_CONNECTIONS).copied();
            io::Result::Ok(RefusedConnections {
                packets: packets.unwrap_or_default(),
                lately: nftables.refused().await?,
            })
        };
        read.await
            .map_err(failure("read refused connections", place))
    }

    /// Lists the connections of a domain, whose conntrack zone is `zone`.
    pub async fn connections(
        &self,
        place: &Place,
        zone: u16,
    ) -> Result<Vec<Connection>, DatapathError> {
        let list = async { self.conntrack(place).await?.list(zone).await };
        list.await.map_err(failure("list connections", place))
    }

    /// Ends connections of a domain, and returns how many there were.
    pub async fn end(&self, place: &Place, these: Vec<Connection>) -> Result<usize, DatapathError> {
        let end = async { self.conntrack(place).await?.end(these).await };
        end.await.map_err(failure("end connections", place))
    }

    /// The counters of each rule of a domain, by the rule's number.
    pub async fn counters(
        &self,
        place: &Place,
        zone: u16,
    ) -> Result<BTreeMap<u32, Counter>, DatapathError> {
        let list = async { self.nftables(place).await?.hits().await };
        let hits = list.await.map_err(failure("read counters", place))?;
        Ok(hits
            .into_iter()
            .filter(|(of, ..)| *of == zone)
            .map(|(_, rule, counter)| (rule, counter))
            .collect())
    }

    /// Counts the packets to the outer port that were dropped, by reason, since the host's table was
    /// made; empty when there is no table.
    pub async fn outer_drops(&self) -> Result<BTreeMap<OuterDrop, u64>, DatapathError> {
        let counted = self.inner.host.nftables.counters().await;
        let counted = counted.map_err(failure("read counters", &Place::Host))?;
        let of = |reason: OuterDrop| Some((reason, *counted.get(&reason.counter())?));
        Ok(OuterDrop::ALL.into_iter().filter_map(of).collect())
    }

    /// Does the ops in their order. After a failure it goes on with the others, except that a port
    /// isn't brought up when its firewall failed.
    pub async fn execute(&self, ops: &[Op]) -> Result<(), BatchError> {
        Execution::new(self).run(ops).await
    }
}
