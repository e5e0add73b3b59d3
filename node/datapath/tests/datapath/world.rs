//! Two hosts and a stranger on one underlay, as network namespaces, driven by the datapath's API.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use bus_schema::event::Settings;
use bus_schema::node::DomainKind;
use bus_schema::policy::GroupSpec;
use bus_schema::{
    EndpointId, GroupId, GroupName, MacAddr, MachineId, NetworkName, NetworkSpec, NodeName,
    PolicyName, Pool, TenantName, Vni,
};
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns};
use node_core::desired::{self, Params, Programs};
use node_core::endpoint::{LocalEndpoint, Locals, Owner};
use node_core::projection::{GroupFact, NetworkFact, NodeFact, PolicyFact, Projection};
use node_core::reconcile::{self, Op};
use node_core::resource::{Place, State, Uplink};
use node_datapath::{Datapath, Options, PeerSetup, Scope};

use crate::rule_text::rule;
pub(crate) use crate::shell::{exec, is_silent, pings, run, sh};

static WORLDS: AtomicU32 = AtomicU32::new(0);

/// A host: its namespace, its datapath and what it knows of its own endpoints.
pub(crate) struct Host {
    pub(crate) netns: String,
    pub(crate) datapath: Datapath,
    pub(crate) params: Params,
    pub(crate) locals: Locals,
    pub(crate) netns_dir: PathBuf,
}

/// Everything; goes away when it is dropped.
pub(crate) struct World {
    prefix: String,
    pub(crate) facts: Projection,
    pub(crate) hosts: Vec<Host>,
    namespaces: Vec<String>,
    kind: Option<DomainKind>,
    _folder: tempfile::TempDir,
}

pub(crate) fn vtep(host: usize) -> IpAddr {
    let last = u8::try_from(host + 1).expect("few hosts");
    IpAddr::V4(Ipv4Addr::new(198, 18, 7, last))
}

fn node_name(host: usize) -> NodeName {
    NodeName::new(format!("n{}", host + 1)).expect("valid")
}

fn endpoint_id(of: &str, name: &str) -> EndpointId {
    EndpointId::new(format!("{of}-{name}")).expect("valid")
}

pub(crate) fn tenant(name: &str) -> TenantName {
    TenantName::new(name).expect("valid")
}

impl World {
    /// Hosts `n1`, `n2` and a third namespace on the same underlay that is no node.
    pub(crate) async fn new() -> Self {
        Self::of(kind()).await
    }

    /// With domains of this kind; absent: what the kernel has.
    pub(crate) async fn of(kind: Option<DomainKind>) -> Self {
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("dp{}-{number}", std::process::id());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut world = Self {
            prefix,
            facts: Projection {
                settings: Settings::default(),
                ..Projection::default()
            },
            hosts: Vec::new(),
            namespaces: Vec::new(),
            kind,
            _folder: folder,
        };
        let switch = world.namespace("sw");
        run(&format!("ip -n {switch} link add br0 type bridge"));
        run(&format!("ip -n {switch} link set br0 up"));
        for host in 0..3 {
            let netns = world.namespace(&format!("h{host}"));
            run(&format!(
                "ip -n {netns} link add eth0 type veth peer name p{host} netns {switch}"
            ));
            run(&format!("ip -n {switch} link set p{host} master br0 up"));
            run(&format!(
                "ip -n {netns} addr add {}/24 dev eth0",
                vtep(host)
            ));
            run(&format!("ip -n {netns} link set eth0 up"));
            run(&format!("ip -n {netns} link set lo up"));
            if host < 2 {
                world.join(host);
                let host = world.open(host, netns).await;
                world.hosts.push(host);
            }
        }
        world
    }

    /// The namespace of the host that is no node.
    pub(crate) fn stranger(&self) -> String {
        format!("{}-h2", self.prefix)
    }

    pub(crate) fn join(&mut self, host: usize) {
        let fact = NodeFact::new(MachineId(format!("machine-{host}")), vtep(host));
        self.facts.nodes.insert(node_name(host), fact);
    }

    async fn open(&self, host: usize, netns: String) -> Host {
        let netns_dir = self._folder.path().join(format!("n{host}"));
        let datapath = Datapath::open(Options {
            host: Some(PathBuf::from("/run/netns").join(&netns)),
            netns_dir: netns_dir.clone(),
            kind: self.kind,
        });
        let datapath = datapath.await.expect("root, and a kernel with VXLAN");
        let params = Params {
            node: node_name(host),
            kind: datapath.kind(),
            vtep: vtep(host),
            underlay_mtu: 1500,
            underlay_interface: "eth0".to_owned(),
            uplink_pool: Uplink::DEFAULT_POOL,
            resolvers: Default::default(),
            max_connections: 65_536,
            outer_mark: None,
        };
        for rules in desired::fixed_rules(&self.facts, &params) {
            datapath.learn(&rules).await.expect("learned");
        }
        Host {
            params,
            netns,
            datapath,
            locals: Locals::default(),
            netns_dir,
        }
    }

    /// As after a restart of the daemon: nothing remembered but the facts.
    pub(crate) async fn reopen(&mut self, host: usize) {
        let mut fresh = self.open(host, self.hosts[host].netns.clone()).await;
        fresh.locals = std::mem::take(&mut self.hosts[host].locals);
        self.hosts[host] = fresh;
    }

    pub(crate) fn namespace(&mut self, name: &str) -> String {
        let name = format!("{}-{name}", self.prefix);
        run(&format!("ip netns add {name}"));
        self.namespaces.push(name.clone());
        name
    }

    /// A network 20.1.1.0/24 whose first half is leased to `n1`, the second to `n2`.
    pub(crate) fn network(&mut self, of: &str, name: &str, vni: u32) {
        let spec = NetworkSpec::new(
            tenant(of),
            NetworkName::new(name).expect("valid"),
            Vni(vni),
            Pool {
                subnet: net("20.1.1.0/24"),
                gateway: ip("20.1.1.254"),
                range: None,
            },
        );
        let blocks = [("20.1.1.0/25", 0), ("20.1.1.128/25", 1)];
        let blocks = blocks.map(|(block, host)| (net(block), node_name(host)));
        let fact = NetworkFact {
            spec: spec.clone(),
            closing: false,
            pools: Default::default(),
            blocks: blocks.into_iter().collect(),
        };
        let tenant = self.facts.open(&tenant(of));
        tenant.networks.insert(spec.name, fact);
    }

    /// Attaches a bare namespace, as the daemon does: the difference of the domain, then the peer.
    pub(crate) async fn attach(
        &mut self,
        host: usize,
        of: &str,
        network: &str,
        name: &str,
        at: &str,
    ) -> String {
        self.attach_in(host, (of, network, None), name, at).await
    }

    /// The same for a member of a group.
    pub(crate) async fn attach_in(
        &mut self,
        host: usize,
        (of, network, group): (&str, &str, Option<&str>),
        name: &str,
        at: &str,
    ) -> String {
        let netns = self.namespace(&format!("{of}-{name}"));
        let mut endpoint = self.prepare(host, (of, network, group), name, at);
        endpoint.owner = Owner::Namespace {
            path: format!("/run/netns/{netns}"),
            interface: "eth0".to_owned(),
            cni: None,
        };
        let (id, it) = (endpoint.id.clone(), endpoint.clone().into());
        self.hosts[host].locals.insert(id, it);
        self.open_port(host, of, &endpoint).await;
        let there = exec(&netns, "ip link show eth0").status;
        assert!(there.success(), "it is made there, not moved");
        self.place(host, &endpoint, &netns, "eth0").await;
        let running = self.is_running(host, of, &endpoint.host_interface);
        assert!(running, "the host sends to {name} once it is placed");
        self.place(host, &endpoint, &netns, "eth0").await;
        netns
    }

    /// Takes an endpoint in; the kernel isn't told yet.
    pub(crate) fn prepare(
        &mut self,
        host: usize,
        (of, network, group): (&str, &str, Option<&str>),
        name: &str,
        at: &str,
    ) -> LocalEndpoint {
        let id = endpoint_id(of, name);
        let (host_interface, peer_interface) = desired::interface_names(&id);
        let endpoint = LocalEndpoint {
            id: id.clone(),
            tenant: tenant(of),
            network: NetworkName::new(network).expect("valid"),
            group: group.map(|group| GroupName::new(group).expect("valid")),
            addresses: vec![ip(at)],
            mac: MacAddr::of_endpoint(ip(at)),
            host_interface,
            peer_interface,
            owner: Owner::Namespace {
                path: String::new(),
                interface: "eth0".to_owned(),
                cni: None,
            },
            name: Some(name.to_owned()),
            aliases: Vec::new(),
            container: None,
            mtu: None,
        };
        self.hosts[host].locals.insert(id, endpoint.clone().into());
        endpoint
    }

    /// Does what a prepared endpoint asks of the kernel.
    pub(crate) async fn open_port(&mut self, host: usize, of: &str, endpoint: &LocalEndpoint) {
        let after = self.domain(host, of);
        let it = self.hosts[host]
            .locals
            .remove(&endpoint.id)
            .expect("prepared");
        let before = self.domain(host, of);
        self.hosts[host].locals.insert(endpoint.id.clone(), it);
        let ops = reconcile::diff(&before, &after);
        let datapath = &self.hosts[host].datapath;
        datapath.execute(&ops).await.expect("attached");
    }

    /// Sets the container's end up in a namespace.
    pub(crate) async fn place(
        &self,
        host: usize,
        endpoint: &LocalEndpoint,
        netns: &str,
        interface: &str,
    ) {
        let setup = PeerSetup {
            host: (
                self.place_of(host, endpoint.tenant.as_str()),
                endpoint.host_interface.clone(),
            ),
            peer: endpoint.peer_interface.clone(),
            netns: PathBuf::from("/run/netns").join(netns),
            interface: interface.to_owned(),
            addresses: endpoint.addresses.clone(),
            gateways: vec![ip("20.1.1.254")],
            subnets: vec![net("20.1.1.0/24")],
            fallback_metric: None,
            mac: endpoint.mac,
            mtu: self.hosts[host].params.mtu(),
        };
        let placed = self.hosts[host].datapath.place_peer(&setup).await;
        placed.expect("placed");
    }

    pub(crate) async fn detach(&mut self, host: usize, of: &str, name: &str) {
        let before = self.domain(host, of);
        self.hosts[host].locals.remove(&endpoint_id(of, name));
        let ops = reconcile::diff(&before, &self.domain(host, of));
        let datapath = &self.hosts[host].datapath;
        datapath.execute(&ops).await.expect("detached");
    }

    pub(crate) fn place_of(&self, host: usize, of: &str) -> Place {
        let kind = self.hosts[host].params.kind;
        Place::Domain(desired::domain_name(kind, &tenant(of)))
    }

    pub(crate) fn zone(&self, host: usize, of: &str) -> u16 {
        let kind = self.hosts[host].params.kind;
        desired::zone(&self.facts, &tenant(of), kind)
    }

    /// A group of `net` with these policies.
    pub(crate) fn group(&mut self, of: &str, name: &str, id: u16, policies: &[&str]) {
        let policies = policies
            .iter()
            .map(|it| PolicyName::new(*it).expect("valid"));
        let spec = GroupSpec {
            tenant: tenant(of),
            network: NetworkName::new("net").expect("valid"),
            name: GroupName::new(name).expect("valid"),
            id: GroupId(id),
            policies: policies.collect(),
            docker_name: None,
            pool: None,
        };
        let fact = self.facts.open(&tenant(of));
        fact.ruled.0 += 1;
        let closing = false;
        fact.groups.insert(
            spec.name.clone(),
            GroupFact {
                spec,
                closing,
                newer: false,
            },
        );
    }

    /// These are the policy's rules from now on, in the words of `rule`.
    pub(crate) fn policy(&mut self, of: &str, name: &str, rules: &[&str]) {
        let fact = self.facts.open(&tenant(of));
        fact.ruled.0 += 1;
        let rules = rules.iter().map(|text| rule(text));
        let policy = PolicyFact {
            rules: rules.map(|rule| (rule.id.clone(), rule)).collect(),
            ..PolicyFact::default()
        };
        fact.policies
            .insert(PolicyName::new(name).expect("valid"), policy);
    }

    pub(crate) fn domain(&self, host: usize, of: &str) -> State {
        let it = &self.hosts[host];
        let mut fresh = Programs::default();
        desired::desired_domain(&self.facts, &tenant(of), &it.locals, &it.params, &mut fresh)
    }

    pub(crate) fn desired(&self, host: usize) -> State {
        let it = &self.hosts[host];
        desired::desired(
            &self.facts,
            &it.locals,
            &it.params,
            &mut Programs::default(),
        )
    }

    /// The difference between what is and what should be, on one host.
    pub(crate) async fn pending(&self, host: usize) -> Vec<Op> {
        let observed = self.hosts[host].datapath.observe(&Scope::All).await;
        reconcile::diff(&observed.expect("observed"), &self.desired(host))
    }

    pub(crate) async fn sync(&self, host: usize) {
        let ops = self.pending(host).await;
        self.hosts[host].datapath.execute(&ops).await.expect("done");
    }

    /// Whether a device of a domain has a carrier and sends, looked at without starting a process.
    pub(crate) fn is_running(&self, host: usize, of: &str, device: &str) -> bool {
        let netns = self.netfilter(host, of);
        let device = device.to_owned();
        let look = move || {
            setns(
                File::open(netns).expect("its namespace"),
                CloneFlags::CLONE_NEWNET,
            )
            .expect("root");
            let mut all = getifaddrs().expect("a list");
            all.any(|it| {
                it.interface_name == device && it.flags.contains(InterfaceFlags::IFF_RUNNING)
            })
        };
        std::thread::spawn(look).join().expect("no panic")
    }

    pub(crate) async fn sync_all(&self) {
        for host in 0..self.hosts.len() {
            self.sync(host).await;
        }
    }

    /// The namespace in which a tenant's domain has its firewall and its routes.
    pub(crate) fn netfilter(&self, host: usize, of: &str) -> PathBuf {
        let it = &self.hosts[host];
        let name = desired::domain_name(it.params.kind, &tenant(of));
        match it.params.kind {
            DomainKind::Netns => it.netns_dir.join(name),
            DomainKind::Vrf => PathBuf::from("/run/netns").join(&it.netns),
        }
    }

    /// Runs a command there.
    pub(crate) fn in_domain(&self, host: usize, of: &str, command: &str) -> Output {
        let path = self.netfilter(host, of);
        sh(&format!("nsenter --net={} {command}", path.display()))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for host in &self.hosts {
            let folder = host.netns_dir.display();
            sh(&format!(
                "for n in {folder}/*; do umount -l $n; rm -f $n; done"
            ));
        }
        for namespace in &self.namespaces {
            sh(&format!("ip netns del {namespace}"));
        }
    }
}

/// The kind of domain to test, `vrf` or `netns`; absent: what the kernel has.
pub(crate) fn kind() -> Option<DomainKind> {
    match std::env::var("CONTIV_TEST_DOMAIN").as_deref() {
        Ok("vrf") => Some(DomainKind::Vrf),
        Ok("netns") => Some(DomainKind::Netns),
        _ => None,
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}
