//! Namespaces with our servers, and the resolvers to which they forward.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bus_schema::{Endpoint, MacAddr};
use node_core::projection::EndpointsView;
use node_dns::{self as dns, DnsHandle, SocketPlace};
use tokio::sync::watch;

static NAMESPACE_COUNT: AtomicU16 = AtomicU16::new(0);

/// A namespace with some addresses on its loopback interface, deleted when dropped.
pub(crate) struct Namespace(pub(crate) String);

impl Namespace {
    pub(crate) fn new(addresses: &[&str]) -> Self {
        let number = NAMESPACE_COUNT.fetch_add(1, Ordering::Relaxed);
        let namespace = Self(format!("dns-{}-{number}", std::process::id()));
        namespace.make(addresses);
        namespace
    }

    pub(crate) fn make(&self, addresses: &[&str]) {
        run(&["ip", "netns", "add", &self.0]);
        run(&["ip", "-n", &self.0, "link", "set", "lo", "up"]);
        for address in addresses.iter().chain(&["169.254.53.53"]) {
            let address = format!("{address}/32");
            run(&["ip", "-n", &self.0, "address", "add", &address, "dev", "lo"]);
        }
    }

    pub(crate) fn place(&self) -> SocketPlace {
        SocketPlace::Namespace(Path::new("/run/netns").join(&self.0))
    }

    pub(crate) fn dig(&self, asker: &str, words: &[&str]) -> String {
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            &self.0,
            "dig",
            "-b",
            asker,
            "@169.254.53.53",
        ]);
        command.args(["+time=3", "+tries=1"]).args(words);
        let output = command.output().expect("dig runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub(crate) fn short(&self, asker: &str, words: &[&str]) -> String {
        let words: Vec<&str> = words.iter().copied().chain(["+short"]).collect();
        self.dig(asker, &words).trim().to_owned()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

pub(crate) fn run(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?} (as root?): {error}");
}

/// A dnsmasq on a loopback address of its own, as systemd-resolved has.
pub(crate) struct Resolver {
    pub(crate) address: Ipv4Addr,
    process: Child,
}

impl Resolver {
    pub(crate) async fn start() -> Self {
        Self::start_with("192.0.2.7", 0).await
    }

    /// Answers this address for the names in `example.test`, with a TTL in seconds; 0: no cache keeps it.
    pub(crate) async fn start_with(answer: &str, ttl: u32) -> Self {
        let address = unused_loopback();
        let long = "x".repeat(250);
        let process = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--pid-file=",
            ])
            .args([
                "--no-resolv",
                "--no-hosts",
                "--bind-interfaces",
                "--user=root",
            ])
            .arg(format!("--listen-address={address}"))
            .arg(format!("--address=/example.test/{answer}"))
            .arg(format!("--local-ttl={ttl}"))
            .arg("--local=/test/")
            .args((0..12).map(|n| format!("--txt-record=big.test,{n}{long}")))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("dnsmasq (package dnsmasq-base) is installed");
        let resolver = Self { address, process };
        let at = format!("@{address}");
        until("dnsmasq answers", || {
            let words = [&at, "example.test", "+short", "+time=1", "+tries=1"];
            let output = Command::new("dig").args(words).output().unwrap();
            output.stdout.starts_with(answer.as_bytes())
        })
        .await;
        resolver
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) fn unused_loopback() -> Ipv4Addr {
    let [high, low] = u16::try_from(std::process::id() % 65_000)
        .unwrap()
        .to_be_bytes();
    let number = u8::try_from(NAMESPACE_COUNT.fetch_add(1, Ordering::Relaxed)).unwrap();
    Ipv4Addr::new(127, high, low, 10 + number)
}

pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        #[expect(clippy::disallowed_methods, reason = "the pause between two checks")]
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn endpoint(tenant: &str, network: &str, name: &str, address: &str) -> Arc<Endpoint> {
    let v4: Ipv4Addr = address.parse().unwrap();
    Arc::new(Endpoint {
        id: format!("{tenant}-{network}-{name}").parse().unwrap(),
        tenant: tenant.parse().unwrap(),
        network: network.parse().unwrap(),
        group: None,
        node: "n1".parse().unwrap(),
        v4: Some(v4),
        v6: None,
        mac: MacAddr::of_endpoint(v4.into()),
        name: Some(name.to_owned()),
        aliases: Vec::new(),
        container: None,
        interface: "cv0".to_owned(),
        closed: None,
        vtep: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
    })
}

/// Servers of the tenants `default` and `blue`, whose addresses overlap.
pub(crate) struct World {
    pub(crate) view: watch::Sender<EndpointsView>,
    pub(crate) dns: DnsHandle,
    pub(crate) default: Namespace,
    pub(crate) blue: Namespace,
    pub(crate) resolv_conf: PathBuf,
    _dir: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(resolvers: &[Ipv4Addr]) -> Self {
        Self::with(resolvers, dns::Config::default()).await
    }

    pub(crate) async fn with(resolvers: &[Ipv4Addr], config: dns::Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        write_resolvers(&resolv_conf, resolvers);
        let mut view = EndpointsView::default();
        view.show(endpoint("default", "front", "web", "20.1.1.1"));
        view.show(endpoint("default", "front", "prod_db", "20.1.1.2"));
        view.show(endpoint("default", "back", "cache", "20.2.1.1"));
        view.show(endpoint("blue", "front", "web", "20.1.1.1"));
        view.show(endpoint("blue", "front", "secret", "20.1.1.3"));
        let (view, receiver) = watch::channel(view);
        let config = dns::Config {
            resolv_conf: resolv_conf.clone(),
            ..config
        };
        let world = Self {
            view,
            dns: dns::start(config, receiver).unwrap(),
            default: Namespace::new(&["20.1.1.1", "20.1.1.2", "20.2.1.1", "9.9.9.9"]),
            blue: Namespace::new(&["20.1.1.1"]),
            resolv_conf,
            _dir: dir,
        };
        for (tenant, namespace) in [("default", &world.default), ("blue", &world.blue)] {
            world
                .dns
                .serve_domain(&tenant.parse().unwrap(), namespace.place());
            until("its DNS server answers", || {
                !namespace.short("20.1.1.1", &["web"]).is_empty()
            })
            .await;
        }
        world
    }
}

pub(crate) fn write_resolvers(path: &Path, resolvers: &[Ipv4Addr]) {
    let lines: String = resolvers
        .iter()
        .map(|r| format!("nameserver {r}\n"))
        .collect();
    let new = path.with_extension("new");
    std::fs::write(&new, lines).unwrap();
    std::fs::rename(new, path).unwrap();
}
