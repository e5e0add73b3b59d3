mod removal;
mod update;

use bus_schema::testing;
use std::net::IpAddr;

use bus_schema::event::BlockLeased;
use bus_schema::{AddressRange, Pool, Vni};
use ipnet::IpNet;

use super::*;
use crate::testing::{Given, given};

fn tenant() -> TenantName {
    testing::name("blue")
}

fn name(text: &str) -> NetworkName {
    testing::name(text)
}

fn ip(text: &str) -> IpAddr {
    testing::ip(text)
}

fn net(text: &str) -> IpNet {
    testing::subnet(text)
}

fn ask(network: &str, subnet: &str) -> NetworkCreate {
    NetworkCreate {
        tenant: tenant(),
        network: name(network),
        subnet: net(subnet),
        range: None,
        gateway: None,
        subnet6: None,
        gateway6: None,
        vni: None,
        docker_name: None,
        max_connections: None,
        egress: None,
        allow_metadata: None,
    }
}

fn create(network: &str, subnet: &str) -> TenantCommand {
    TenantCommand::NetworkCreate(ask(network, subnet))
}

fn remove(network: &str, mode: Removal) -> TenantCommand {
    TenantCommand::NetworkRemove(NetworkRemove {
        tenant: tenant(),
        network: name(network),
        mode,
    })
}

fn created(network: &str, subnet: &str, gateway: &str, vni: u32) -> [Event; 3] {
    let pool = Pool {
        subnet: net(subnet),
        gateway: ip(gateway),
        range: None,
    };
    let spec = NetworkSpec {
        egress: Some(Egress::Nat),
        ..NetworkSpec::new(tenant(), name(network), Vni(vni), pool.clone())
    };
    [
        Event::NetworkCreated(NetworkCreated { network: spec }),
        Event::VniAssigned(VniAssigned {
            vni: Vni(vni),
            tenant: tenant(),
            network: name(network),
        }),
        Event::LeasesOpened(LeasesOpened {
            tenant: tenant(),
            network: name(network),
            group: None,
            v4: pool,
            v6: None,
        }),
    ]
}

fn opened() -> Event {
    Event::TenantOpened(TenantOpened { tenant: tenant() })
}

fn blue() -> Given<Tenant> {
    given([opened()])
}

/// Tenant blue with network web, 20.1.1.0/24, tag 1.
fn with_web() -> Given<Tenant> {
    let [network, ..] = created("web", "20.1.1.0/24", "20.1.1.1", 1);
    given([opened(), network])
}

/// The same of an older build, without a way out.
fn with_older_web() -> Given<Tenant> {
    let mut older = with_web();
    let web = older.state.networks.get_mut(&name("web"));
    web.expect("the network").spec.egress = None;
    older
}

fn closing_web() -> Given<Tenant> {
    with_web()
        .when(remove("web", Removal::Close), no_facts())
        .accepted()
}

fn no_facts() -> TenantFacts {
    TenantFacts::default()
}

fn tags(taken: &[u32]) -> TenantFacts {
    let mut cluster = Cluster::default();
    for vni in taken {
        let holder = (TenantName::default_tenant(), name("other"));
        cluster.vnis.insert(Vni(*vni), holder);
    }
    TenantFacts {
        cluster: Arc::new(cluster),
        ..TenantFacts::default()
    }
}

fn held_by(node: &str) -> TenantFacts {
    let mut leases = Leases::default();
    leases.evolve(&Event::BlockLeased(BlockLeased {
        tenant: tenant(),
        network: name("web"),
        group: None,
        block: net("20.1.1.0/28"),
        node: testing::name(node),
    }));
    TenantFacts {
        leases: [(
            PoolKey::of_network(&tenant(), &name("web")),
            Arc::new(leases),
        )]
        .into(),
        ..TenantFacts::default()
    }
}

#[test]
fn a_tenant_is_created_once() {
    let create = || {
        TenantCommand::Create(TenantCreate {
            tenant: tenant(),
            max_connections: None,
            egress: None,
        })
    };
    given::<Tenant>([])
        .when(create(), no_facts())
        .then([
            Event::TenantCreated(TenantCreated { tenant: tenant() }),
            opened(),
        ])
        .when(create(), no_facts())
        .then([]);
}

#[test]
fn a_tenant_with_networks_stays_and_they_are_named() {
    let remove = TenantCommand::Remove(TenantRemove { tenant: tenant() });
    with_web()
        .when(remove.clone(), no_facts())
        .rejected(Rejection::TenantInUse {
            tenant: tenant(),
            networks: vec![name("web")],
            groups: vec![],
            policies: vec![],
        });
    blue().when(remove, no_facts()).then([
        Event::TenantRemoved(TenantRemoved { tenant: tenant() }),
        Event::TenantClosed(TenantClosed { tenant: tenant() }),
    ]);
}

#[test]
fn the_default_tenant_stays() {
    let tenant = TenantName::default_tenant();
    given::<Tenant>([opened()])
        .when(TenantCommand::Remove(TenantRemove { tenant }), no_facts())
        .rejected(Rejection::TenantIsDefault);
}

#[test]
fn an_unknown_tenant_has_no_networks() {
    given::<Tenant>([])
        .when(create("web", "20.1.1.0/24"), no_facts())
        .rejected(Rejection::TenantUnknown { tenant: tenant() });
}

#[test]
fn the_first_usable_address_is_the_gateway_and_host_bits_are_masked() {
    blue()
        .when(create("web", "20.1.1.77/24"), no_facts())
        .then(created("web", "20.1.1.0/24", "20.1.1.1", 1));
}

#[test]
fn a_gateway_must_lie_inside_and_be_no_edge() {
    let with_gateway = |gateway: &str| {
        let command = NetworkCreate {
            gateway: Some(ip(gateway)),
            ..ask("web", "20.1.1.0/24")
        };
        blue().when(TenantCommand::NetworkCreate(command), no_facts())
    };
    let subnet = net("20.1.1.0/24");
    with_gateway("20.1.1.254").then(created("web", "20.1.1.0/24", "20.1.1.254", 1));
    for outside in ["20.1.2.1", "fd00::1"] {
        let gateway = ip(outside);
        with_gateway(outside).rejected(Rejection::GatewayOutside { gateway, subnet });
    }
    for edge in ["20.1.1.0", "20.1.1.255"] {
        let gateway = ip(edge);
        with_gateway(edge).rejected(Rejection::GatewayReserved { gateway, subnet });
    }
}

#[test]
fn overlapping_subnets_are_refused_and_the_other_network_is_named() {
    for (subnet, masked) in [
        ("20.1.1.0/24", "20.1.1.0/24"),
        ("20.1.1.128/25", "20.1.1.128/25"),
        ("20.1.0.0/16", "20.1.0.0/16"),
        ("20.1.1.9/30", "20.1.1.8/30"),
    ] {
        with_web()
            .when(create("db", subnet), no_facts())
            .rejected(Rejection::SubnetOverlaps {
                subnet: net(masked),
                tenant: tenant(),
                network: name("web"),
                other_subnet: net("20.1.1.0/24"),
            });
    }
    with_web()
        .when(create("db", "20.1.2.0/24"), tags(&[1]))
        .accepted();
}

#[test]
fn a_network_being_removed_keeps_its_subnet_and_its_name() {
    let rejection = closing_web()
        .when(create("db", "20.1.1.0/24"), no_facts())
        .rejection();
    assert!(matches!(rejection, Rejection::SubnetOverlaps { .. }));
    closing_web()
        .when(create("web", "20.1.1.0/24"), no_facts())
        .rejected(Rejection::NetworkClosing {
            tenant: tenant(),
            network: name("web"),
        });
}

#[test]
fn subnets_with_a_meaning_of_their_own_are_reserved() {
    for subnet in [
        "127.1.0.0/16",
        "224.0.1.0/24",
        "169.254.53.0/24",
        "169.254.53.53/32",
        "255.255.255.0/24",
        "0.0.0.0/0",
    ] {
        let rejection = blue().when(create("web", subnet), no_facts()).rejection();
        assert!(
            matches!(rejection, Rejection::SubnetReserved { .. }),
            "{subnet}: {rejection}"
        );
    }
}

#[test]
fn a_subnet_must_have_room_for_an_endpoint() {
    blue()
        .when(create("web", "20.1.1.1/32"), no_facts())
        .rejected(Rejection::SubnetTooSmall {
            subnet: net("20.1.1.1/32"),
        });
    for enough in ["20.1.1.0/31", "20.1.1.0/30"] {
        blue().when(create("web", enough), no_facts()).accepted();
    }
    let only_the_gateway = NetworkCreate {
        range: Some(AddressRange {
            first: ip("20.1.1.1"),
            last: ip("20.1.1.1"),
        }),
        ..ask("web", "20.1.1.0/24")
    };
    blue()
        .when(TenantCommand::NetworkCreate(only_the_gateway), no_facts())
        .rejected(Rejection::SubnetTooSmall {
            subnet: net("20.1.1.0/24"),
        });
}

#[test]
fn a_range_must_lie_inside_the_subnet() {
    for (first, last) in [
        ("20.1.0.9", "20.1.1.9"),
        ("20.1.1.9", "20.1.2.9"),
        ("20.1.1.9", "20.1.1.8"),
        ("fd00::1", "fd00::2"),
    ] {
        let range = AddressRange {
            first: ip(first),
            last: ip(last),
        };
        let command = NetworkCreate {
            range: Some(range),
            ..ask("web", "20.1.1.0/24")
        };
        let subnet = net("20.1.1.0/24");
        blue()
            .when(TenantCommand::NetworkCreate(command), no_facts())
            .rejected(Rejection::RangeOutside { range, subnet });
    }
}

#[test]
fn an_ipv6_network_is_not_supported_yet() {
    let six = NetworkCreate {
        subnet6: Some(net("fd00::/64")),
        ..ask("web", "20.1.1.0/24")
    };
    for command in [ask("web", "fd00::/64"), six] {
        let rejection = blue()
            .when(TenantCommand::NetworkCreate(command), no_facts())
            .rejection();
        assert!(matches!(rejection, Rejection::Unsupported { .. }));
    }
}

#[test]
fn the_same_settings_again_change_nothing() {
    let explicit = NetworkCreate {
        gateway: Some(ip("20.1.1.1")),
        vni: Some(Vni(1)),
        ..ask("web", "20.1.1.5/24")
    };
    with_web()
        .when(create("web", "20.1.1.0/24"), tags(&[1]))
        .then([])
        .when(TenantCommand::NetworkCreate(explicit), tags(&[1]))
        .then([]);
}

#[test]
fn other_settings_are_refused_and_what_differs_is_named() {
    let range = AddressRange {
        first: ip("20.1.1.8"),
        last: ip("20.1.1.9"),
    };
    let base = || ask("web", "20.1.1.0/24");
    for (command, differs) in [
        (ask("web", "20.1.2.0/24"), "subnet"),
        (
            NetworkCreate {
                gateway: Some(ip("20.1.1.9")),
                ..base()
            },
            "gateway",
        ),
        (
            NetworkCreate {
                range: Some(range),
                ..base()
            },
            "range",
        ),
        (
            NetworkCreate {
                vni: Some(Vni(2)),
                ..base()
            },
            "packet tag",
        ),
        (
            NetworkCreate {
                docker_name: Some("front".to_owned()),
                max_connections: None,
                egress: None,
                allow_metadata: None,
                ..base()
            },
            "Docker name",
        ),
    ] {
        with_web()
            .when(TenantCommand::NetworkCreate(command), no_facts())
            .rejected(Rejection::NetworkDiffers {
                tenant: tenant(),
                network: name("web"),
                differs: differs.to_owned(),
            });
    }
}

#[test]
fn a_tag_is_the_lowest_free_one_or_the_one_asked_for() {
    blue()
        .when(create("web", "20.1.1.0/24"), tags(&[1, 2, 4]))
        .then(created("web", "20.1.1.0/24", "20.1.1.1", 3));
    let asked = |vni| {
        let command = NetworkCreate {
            vni: Some(Vni(vni)),
            ..ask("web", "20.1.1.0/24")
        };
        blue().when(TenantCommand::NetworkCreate(command), tags(&[1001]))
    };
    asked(4242).then(created("web", "20.1.1.0/24", "20.1.1.1", 4242));
    asked(1001).rejected(Rejection::VniInUse {
        vni: Vni(1001),
        tenant: TenantName::default_tenant(),
        network: name("other"),
    });
    for out in [0, Vni::MAX + 1] {
        asked(out).rejected(Rejection::VniOutOfRange { vni: Vni(out) });
    }
    asked(10_001).rejected(Rejection::VniOutsideRange {
        vni: Vni(10_001),
        first: Vni(1),
        last: Vni(10_000),
    });
}

#[test]
fn a_network_is_refused_when_no_tag_is_free() {
    let mut cluster = Cluster::default();
    cluster.settings.vni_range = (Vni(7), Vni(7));
    let holder = (TenantName::default_tenant(), name("other"));
    cluster.vnis.insert(Vni(7), holder);
    let facts = TenantFacts {
        cluster: Arc::new(cluster),
        ..TenantFacts::default()
    };
    blue()
        .when(create("web", "20.1.1.0/24"), facts)
        .rejected(Rejection::VniExhausted {
            first: Vni(7),
            last: Vni(7),
        });
}

#[test]
fn network_command_depends_on_the_networks_pool() {
    let web = || [PoolKey::of_network(&tenant(), &name("web"))];
    let state = blue().state;
    assert_eq!(state.pools_of(&create("web", "20.1.1.0/24")), web());
    assert_eq!(state.pools_of(&remove("web", Removal::Close)), web());
}

#[test]
fn a_docker_name_is_valid_and_unique() {
    let tagged = |network: &str, subnet: &str, docker: &str| {
        TenantCommand::NetworkCreate(NetworkCreate {
            docker_name: Some(docker.to_owned()),
            max_connections: None,
            egress: None,
            allow_metadata: None,
            ..ask(network, subnet)
        })
    };
    for bad in ["", "a b", "/x", &"x".repeat(129)] {
        let rejection = blue()
            .when(tagged("web", "20.1.1.0/24", bad), no_facts())
            .rejection();
        assert!(
            matches!(rejection, Rejection::DockerNameInvalid { .. }),
            "{bad}"
        );
    }
    let rejection = with_web()
        .when(tagged("db", "20.1.2.0/24", "web/blue"), tags(&[1]))
        .rejection();
    assert!(rejection.to_string().contains("network web"), "{rejection}");
}
