//! The domain's name server answers an endpoint's DNS queries, to whichever address they are sent.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bus_schema::node::DomainKind;
use nix::sched::{CloneFlags, setns};
use node_core::desired::{Resolvers, domain_name};
use node_core::projection::EndpointsView;
use node_core::resource::dns_port;
use socket2::{Domain, Socket, Type};

use crate::world::{World, run, tenant};

/// A socket that was opened in a namespace stays there, whatever thread uses it.
pub(crate) fn udp(netns: &Path, bind: &str, device: Option<&str>) -> UdpSocket {
    let bind: SocketAddr = bind.parse().expect("an address and a port");
    let (netns, device) = (netns.to_owned(), device.map(str::to_owned));
    let open = move || -> io::Result<UdpSocket> {
        setns(File::open(&netns)?, CloneFlags::CLONE_NEWNET)?;
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        socket.bind_device(device.as_ref().map(String::as_bytes))?;
        socket.bind(&bind.into())?;
        socket.set_read_timeout(Some(Duration::from_secs(10)))?;
        Ok(socket.into())
    };
    let opened = std::thread::spawn(open).join().expect("no panic");
    opened.unwrap_or_else(|error| panic!("{bind}: {error}"))
}

/// The server of a tenant's domain.
pub(crate) fn server(world: &World, host: usize, of: &str) -> UdpSocket {
    let it = &world.hosts[host];
    let name = domain_name(it.params.kind, &tenant(of));
    let at = format!("169.254.53.53:{}", dns_port(it.params.kind));
    match it.params.kind {
        DomainKind::Netns => udp(&it.netns_dir.join(name), &at, None),
        DomainKind::Vrf => udp(&named(&it.netns), &at, Some(&name)),
    }
}

pub(crate) fn named(netns: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(netns)
}

/// Sends a question and gives it back as the server got it, after the answer has come back.
pub(crate) fn ask(from: &UdpSocket, to: &str, server: &UdpSocket) -> io::Result<SocketAddr> {
    from.connect(to)?;
    from.send(b"who?")?;
    let mut bytes = [0; 16];
    let (length, asker) = server.recv_from(&mut bytes)?;
    assert_eq!(&bytes[..length], b"who?");
    server.send_to(b"you", asker)?;
    let length = from.recv(&mut bytes)?;
    assert_eq!(&bytes[..length], b"you", "from where it was asked");
    Ok(asker)
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_to_any_outside_resolver_reaches_the_domains_server_with_the_asker() {
    let mut world = World::new().await;
    for (of, vni) in [("red", 1001), ("blue", 1002)] {
        world.network(of, "net", vni);
    }
    world.sync_all().await;
    // Another's server on every address of the host, with no word on sharing its port.
    let _others = [0, 1].map(|host| udp(&named(&world.hosts[host].netns), "0.0.0.0:53", None));
    for of in ["red", "blue"] {
        let web = world.attach(0, of, "net", "web", "20.1.1.1").await;
        let db = world.attach(1, of, "net", "db", "20.1.1.129").await;
        let dns = server(&world, 0, of);
        for resolver in [
            "8.8.8.8:53",
            "20.1.1.254:53",
            "169.254.53.53:53",
            "198.18.7.1:53",
        ] {
            let client = udp(&named(&web), "20.1.1.1:0", None);
            let asker = ask(&client, resolver, &dns);
            let asker = asker.unwrap_or_else(|error| panic!("{of} {resolver}: {error}"));
            assert_eq!(asker.ip().to_string(), "20.1.1.1", "{resolver}");
        }
        let own = udp(&named(&db), "20.1.1.129:53", None);
        let client = udp(&named(&web), "20.1.1.1:0", None);
        ask(&client, "20.1.1.129:53", &own).expect("a resolver of the tenant is asked itself");
        let client = udp(&named(&web), "20.1.1.1:0", None);
        let short = Some(Duration::from_millis(500));
        dns.set_read_timeout(short).expect("a socket");
        ask(&client, "20.1.1.254:54", &dns).expect_err("nothing else of the domain answers");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dns_to_a_resolver_inside_a_network_reaches_the_domains_server_unless_an_endpoint_has_it() {
    let mut world = World::new().await;
    world.network("red", "net", 1001);
    let resolvers = ["20.1.1.200".parse().expect("an address")];
    let covered = Resolvers::covered(&resolvers, &world.facts, &EndpointsView::default());
    world.hosts[0].params.resolvers = covered;
    world.sync_all().await;
    let web = world.attach(0, "red", "net", "web", "20.1.1.1").await;
    let dns = server(&world, 0, "red");
    let ask_resolver = |server: &UdpSocket| {
        let client = udp(&named(&web), "20.1.1.1:0", None);
        ask(&client, "20.1.1.200:53", server)
    };
    ask_resolver(&dns).expect("the domain's server answers in its place");

    let other = world.attach(1, "red", "net", "other", "20.1.1.200").await;
    world.hosts[0].params.resolvers = Resolvers::default();
    world.sync_all().await;
    let own = udp(&named(&other), "20.1.1.200:53", None);
    ask_resolver(&own).expect("the endpoint with its address is asked itself");
}

/// The forwarder's address is reached by hosts beside this one, unless it is closed to them.
#[tokio::test(flavor = "multi_thread")]
async fn forwarder_of_the_host_is_reached_by_this_host_and_its_bridges_only() {
    let mut world = World::new().await;
    world.sync_all().await;
    let host = world.hosts[0].netns.clone();
    let forwarder = udp(&named(&host), "169.254.53.53:53", None);
    let short = Some(Duration::from_millis(500));
    forwarder.set_read_timeout(short).expect("a socket");
    let question = |netns: &str| {
        let client = udp(&named(netns), "0.0.0.0:0", None);
        ask(&client, "169.254.53.53:53", &forwarder)
    };
    question(&host).expect("the host itself is answered");

    let guest = world.namespace("guest");
    for line in [
        format!("ip -n {host} link add br7 type bridge"),
        format!("ip -n {host} addr add 172.31.7.1/24 dev br7"),
        format!("ip -n {host} link add port7 type veth peer name eth0 netns {guest}"),
        format!("ip -n {host} link set port7 master br7 up"),
        format!("ip -n {host} link set br7 up"),
        format!("ip -n {guest} addr add 172.31.7.2/24 dev eth0"),
        format!("ip -n {guest} link set eth0 up"),
        format!("ip -n {guest} route add default via 172.31.7.1"),
    ] {
        run(&line);
    }
    question(&guest).expect("a container on a bridge of this host is answered");

    let stranger = world.stranger();
    let route = "route add 169.254.53.53/32 via 198.18.7.1 dev eth0";
    run(&format!("ip -n {stranger} {route}"));
    question(&stranger).expect_err("another host isn't answered");
}
