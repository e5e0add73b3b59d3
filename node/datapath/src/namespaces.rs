//! The namespaces that the datapath works in: the host's, and that of each domain of kind netns.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bus_schema::node::DomainKind;

use super::conntrack::Conntrack;
use super::monitor::{ChangeSender, Monitor, Ours};
use super::netlink::{Socket, is_absence};
use super::netns::{self, Namespace};
use super::nftables::Nftables;
use super::{Datapath, DatapathError, Scope, attributes, failure};
use node_core::resource::Place;

/// The kind of file at the path of a container's network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetnsKind {
    Container,
    /// The host's own namespace.
    Host,
    /// No network namespace.
    Other,
    /// There is no such file.
    Gone,
}

/// A namespace with its sockets. The namespace stays after its name is gone, since it is open.
#[derive(Debug)]
pub(super) struct OpenNamespace {
    pub(super) namespace: Namespace,
    pub(super) socket: Arc<Socket>,
    pub(super) nftables: Nftables,
    conntrack: Conntrack,
    _monitor: Monitor,
}

impl OpenNamespace {
    /// `makers`: the ports of sockets in other namespaces that put devices into this one.
    pub(super) async fn open(
        place: Place,
        namespace: Namespace,
        makers: &[u32],
        sender: ChangeSender,
    ) -> io::Result<Self> {
        let socket = Arc::new(Socket::open(&namespace).await?);
        let nftables = Nftables::open(&namespace).await?;
        let ours = Ours {
            route: [&[socket.port()], makers].concat(),
            nftables: nftables.port(),
        };
        Ok(Self {
            _monitor: Monitor::start(place, &namespace, &socket, ours, sender).await?,
            conntrack: Conntrack::open(&namespace).await?,
            namespace,
            socket,
            nftables,
        })
    }
}

impl Datapath {
    /// The folder in which namespaces can be bound.
    pub fn netns_dir(&self) -> &Path {
        &self.inner.netns_dir
    }

    /// Whether a domain's namespace lost its name, or another one has it: the kernel doesn't notify of
    /// that.
    pub async fn lost_a_domain(&self) -> bool {
        let open = self.inner.domains.lock().await;
        open.iter().any(|(name, open)| {
            let named = Namespace::open(&self.path_of(name)).and_then(|it| it.id());
            named.ok() != open.namespace.id().ok()
        })
    }

    /// Whether there are domains of the other kind: the node was of that kind before.
    pub async fn has_other_kind(&self) -> Result<bool, DatapathError> {
        let list = async {
            if self.kind() == DomainKind::Vrf {
                return Ok(!self.netns_domains()?.is_empty());
            }
            let links = self.inner.host.socket.links().await?;
            let is_domain = |name: &str| name.starts_with("cd");
            let mut vrfs = links
                .iter()
                .filter(|it| attributes::vrf_table(it).is_some());
            Ok(vrfs.any(|link| attributes::name(link).is_some_and(is_domain)))
        };
        list.await.map_err(failure("list domains", &Place::Host))
    }

    pub fn netns_kind(&self, path: &Path) -> NetnsKind {
        if !path.exists() {
            return NetnsKind::Gone;
        }
        if !netns::is_namespace(path) {
            return NetnsKind::Other;
        }
        let id = Namespace::open(path).and_then(|it| it.id()).ok();
        match id == self.inner.host.namespace.id().ok() {
            true => NetnsKind::Host,
            false => NetnsKind::Container,
        }
    }

    /// The places with a namespace of their own; of either kind, since the node may have been of the
    /// other one.
    pub(super) fn places(&self, scope: &Scope) -> io::Result<Vec<Place>> {
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

    /// The path of a domain's namespace, for sockets that must be opened in it; `None` for a VRF,
    /// where they are bound to the device of the domain's name instead.
    pub fn netns_of(&self, place: &Place) -> Option<PathBuf> {
        place.own_namespace().map(|name| self.path_of(name))
    }

    pub(super) fn path_of(&self, domain: &str) -> PathBuf {
        self.inner.netns_dir.join(domain)
    }

    pub(super) async fn namespace(&self, place: &Place) -> io::Result<Namespace> {
        match self.netns_of(place) {
            None => Ok(self.inner.host.namespace.clone()),
            Some(path) if netns::is_namespace(&path) => Namespace::open(&path),
            Some(_) => Err(nix::Error::ENOENT.into()),
        }
    }

    pub(super) async fn socket(&self, place: &Place) -> io::Result<Arc<Socket>> {
        self.with_open(place, |it| Arc::clone(&it.socket)).await
    }

    pub(super) async fn nftables(&self, place: &Place) -> io::Result<Nftables> {
        self.with_open(place, |it| it.nftables.clone()).await
    }

    pub(super) async fn conntrack(&self, place: &Place) -> io::Result<Conntrack> {
        self.with_open(place, |it| it.conntrack.clone()).await
    }

    /// A socket for long reads.
    pub(super) async fn conntrack_reader(&self, place: &Place) -> io::Result<Conntrack> {
        match place.own_namespace() {
            Some(_) => self.conntrack(place).await,
            None => Ok(self.inner.host_conntrack.clone()),
        }
    }

    /// Uses the sockets in a place's namespace; opens them again when the namespace was made again.
    async fn with_open<T>(
        &self,
        place: &Place,
        use_it: impl FnOnce(&OpenNamespace) -> T,
    ) -> io::Result<T> {
        let Some(name) = place.own_namespace() else {
            return Ok(use_it(&self.inner.host));
        };
        let namespace = self.namespace(place).await?;
        let mut all = self.inner.domains.lock().await;
        if let Some(open) = all.get(name)
            && open.namespace.id()? == namespace.id()?
        {
            return Ok(use_it(open));
        }
        // Devices are made by the host's socket.
        let makers = [self.inner.host.socket.port()];
        let sender = self.inner.sender.clone();
        let open = OpenNamespace::open(place.clone(), namespace, &makers, sender).await?;
        let used = use_it(&open);
        all.insert(name.to_owned(), open);
        Ok(used)
    }

    /// Closes the sockets of a domain, which would keep its namespace alive.
    pub(super) async fn drop_socket(&self, place: &Place) {
        if let Place::Domain(name) = place {
            self.inner.domains.lock().await.remove(name);
        }
    }
}
