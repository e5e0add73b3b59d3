use bus_schema::event::{LeasesClosed, LeasesClosing, LeasesOpened, LeasesReopened};
use bus_schema::testing;
use bus_schema::{MachineId, NetworkName, TenantName};

use super::super::Member;
use super::*;
use crate::testing::given;

fn tenant() -> TenantName {
    TenantName::default_tenant()
}

fn web() -> NetworkName {
    testing::name("web")
}

fn node(name: &str) -> NodeName {
    testing::name(name)
}

fn ip(text: &str) -> IpAddr {
    testing::ip(text)
}

fn net(text: &str) -> IpNet {
    testing::subnet(text)
}

fn pool(subnet: &str, gateway: &str) -> Pool {
    Pool {
        subnet: net(subnet),
        gateway: ip(gateway),
        range: None,
    }
}

fn opened(v4: Pool) -> Event {
    Event::LeasesOpened(LeasesOpened {
        tenant: tenant(),
        network: web(),
        group: None,
        v4,
        v6: None,
    })
}

/// 20.1.1.0/24 in blocks of 16.
fn open() -> Event {
    opened(pool("20.1.1.0/24", "20.1.1.254"))
}

fn closing() -> Event {
    Event::LeasesClosing(LeasesClosing {
        tenant: tenant(),
        network: web(),
        group: None,
    })
}

fn leased(block: &str, holder: &str) -> Event {
    Event::BlockLeased(BlockLeased {
        tenant: tenant(),
        network: web(),
        group: None,
        block: net(block),
        node: node(holder),
    })
}

fn returned(block: &str, holder: &str) -> Event {
    Event::BlockReturned(BlockReturned {
        tenant: tenant(),
        network: web(),
        group: None,
        block: net(block),
        node: node(holder),
    })
}

fn ceded(address: &str, from: &str, to: &str) -> Event {
    Event::BlockCeded(BlockCeded {
        tenant: tenant(),
        network: web(),
        group: None,
        address: ip(address),
        from: node(from),
        to: node(to),
    })
}

fn lease(name: &str, address: Option<&str>) -> LeasesCommand {
    LeasesCommand::Lease(BlockLease {
        tenant: tenant(),
        network: web(),
        group: None,
        node: node(name),
        address: address.map(ip),
        v6: false,
        ahead: false,
        waiting: 0,
    })
}

fn give_back(block: &str, holder: &str) -> LeasesCommand {
    LeasesCommand::Return(BlockReturn {
        tenant: tenant(),
        network: web(),
        group: None,
        block: net(block),
        node: node(holder),
    })
}

fn cede(address: &str, from: &str, to: &str) -> LeasesCommand {
    LeasesCommand::Cede(BlockCede {
        tenant: tenant(),
        network: web(),
        group: None,
        address: ip(address),
        from: node(from),
        to: node(to),
    })
}

fn revoke(name: &str) -> LeasesCommand {
    LeasesCommand::Revoke(BlockRevoke {
        tenant: tenant(),
        network: web(),
        group: None,
        node: node(name),
    })
}

fn members(names: &[&str]) -> LeasesFacts {
    let mut cluster = Cluster::default();
    for (i, name) in names.iter().enumerate() {
        let member = Member {
            drained: false,
            drains: 0,
            left: false,
            machine: MachineId(format!("m{i}")),
            vtep: ip(&format!("198.18.0.{}", i + 1)),
        };
        cluster.nodes.insert(node(name), member);
    }
    LeasesFacts {
        cluster: Arc::new(cluster),
    }
}

fn both() -> LeasesFacts {
    members(&["n1", "n2"])
}

fn unknown() -> Rejection {
    Rejection::NetworkUnknown {
        tenant: tenant(),
        network: web(),
    }
}

fn is_closing() -> Rejection {
    Rejection::NetworkClosing {
        tenant: tenant(),
        network: web(),
    }
}

#[test]
fn the_lowest_free_block_is_leased() {
    given::<Leases>([open()])
        .when(lease("n1", None), both())
        .then([leased("20.1.1.0/28", "n1")])
        .when(lease("n2", None), both())
        .then([leased("20.1.1.16/28", "n2")])
        .when(give_back("20.1.1.0/28", "n1"), both())
        .then([returned("20.1.1.0/28", "n1")])
        .when(lease("n2", None), both())
        .then([leased("20.1.1.0/28", "n2")]);
}

#[test]
fn a_block_without_assignable_addresses_is_passed_over() {
    // Blocks of one address: .0 and .15 are reserved, .1 is the gateway.
    given::<Leases>([opened(pool("20.1.1.0/28", "20.1.1.1"))])
        .when(lease("n1", None), both())
        .then([leased("20.1.1.2/32", "n1")]);
}

#[test]
fn blocks_come_from_the_range() {
    let range = AddressRange {
        first: ip("20.1.1.94"),
        last: ip("20.1.1.98"),
    };
    let ranged = Pool {
        range: Some(range),
        ..pool("20.1.1.0/24", "20.1.1.254")
    };
    let rejection = given::<Leases>([opened(ranged)])
        .when(lease("n1", None), both())
        .then([leased("20.1.1.94/32", "n1")])
        .when(lease("n2", None), both())
        .then([leased("20.1.1.95/32", "n2")])
        .when(lease("n2", Some("20.1.1.98")), both())
        .then([leased("20.1.1.98/32", "n2")])
        .when(lease("n2", None), both())
        .then([leased("20.1.1.96/32", "n2")])
        .when(lease("n2", None), both())
        .then([leased("20.1.1.97/32", "n2")])
        .when(lease("n2", None), both())
        .rejection();
    assert_eq!(
        rejection,
        Rejection::PoolExhausted {
            tenant: tenant(),
            network: web(),
            subnet: net("20.1.1.0/24"),
            holders: Box::default(),
        }
    );
}

#[test]
fn the_last_block_of_the_address_space_ends_the_search() {
    let last = pool("255.255.255.254/31", "255.255.255.254");
    given::<Leases>([opened(last)])
        .when(lease("n1", None), both())
        .then([leased("255.255.255.255/32", "n1")])
        .when(lease("n1", None), both())
        .rejection();
}

#[test]
fn an_address_brings_its_block() {
    given::<Leases>([open()])
        .when(lease("n1", Some("20.1.1.77")), both())
        .then([leased("20.1.1.64/28", "n1")])
        .when(lease("n1", Some("20.1.1.78")), both())
        .then([]);
}

#[test]
fn an_address_in_another_nodes_block_names_it() {
    given::<Leases>([open(), leased("20.1.1.64/28", "n1")])
        .when(lease("n2", Some("20.1.1.77")), both())
        .rejected(Rejection::AddressHeld {
            address: ip("20.1.1.77"),
            block: net("20.1.1.64/28"),
            node: node("n1"),
        });
}

#[test]
fn reserved_addresses_are_not_leased() {
    for address in ["20.1.1.0", "20.1.1.254", "20.1.1.255", "20.1.2.1"] {
        given::<Leases>([open()])
            .when(lease("n1", Some(address)), both())
            .rejected(Rejection::AddressNotAssignable {
                address: ip(address),
                network: web(),
                subnet: net("20.1.1.0/24"),
            });
    }
}

#[test]
fn block_of_either_family_is_leased() {
    let both_families = Event::LeasesOpened(LeasesOpened {
        tenant: tenant(),
        network: web(),
        group: None,
        v4: pool("20.1.1.0/24", "20.1.1.254"),
        v6: Some(pool("fd00::/64", "fd00::1")),
    });
    given::<Leases>([both_families])
        .when(lease("n1", Some("20.1.1.7")), both())
        .then([leased("20.1.1.0/28", "n1")])
        .when(lease("n1", Some("fd00::17")), both())
        .then([leased("fd00::/122", "n1")]);
}

#[test]
fn a_ceded_address_is_a_block_of_its_own() {
    given::<Leases>([open(), leased("20.1.1.0/28", "n1")])
        .when(cede("20.1.1.7", "n1", "n2"), both())
        .then([ceded("20.1.1.7", "n1", "n2")])
        .when(cede("20.1.1.7", "n1", "n2"), both())
        .then([])
        .when(lease("n2", Some("20.1.1.7")), both())
        .then([]);
}

#[test]
fn a_returned_ceded_address_falls_back_to_the_block_around_it() {
    given::<Leases>([
        open(),
        leased("20.1.1.0/28", "n1"),
        ceded("20.1.1.7", "n1", "n2"),
    ])
    .when(give_back("20.1.1.7/32", "n2"), both())
    .then([returned("20.1.1.7/32", "n2")])
    .when(lease("n2", Some("20.1.1.7")), both())
    .rejected(Rejection::AddressHeld {
        address: ip("20.1.1.7"),
        block: net("20.1.1.0/28"),
        node: node("n1"),
    });
}

#[test]
fn returned_block_is_leased_again_around_addresses_that_were_ceded_of_it() {
    let leased_again = || {
        let events = [
            open(),
            leased("20.1.1.0/28", "n1"),
            ceded("20.1.1.7", "n1", "n2"),
            returned("20.1.1.0/28", "n1"),
        ];
        let lease = given::<Leases>(events).when(lease("n1", None), both());
        lease.then([leased("20.1.1.0/28", "n1")])
    };
    leased_again()
        .when(lease("n1", Some("20.1.1.7")), both())
        .rejected(Rejection::AddressHeld {
            address: ip("20.1.1.7"),
            block: net("20.1.1.7/32"),
            node: node("n2"),
        });
    leased_again()
        .when(give_back("20.1.1.7/32", "n2"), both())
        .then([returned("20.1.1.7/32", "n2")])
        .when(lease("n1", Some("20.1.1.7")), both())
        .then([]);
}

/// 20.1.1.0/26 has blocks of four addresses, of which the first has three for endpoints.
#[test]
fn block_whose_addresses_are_all_ceded_is_leased_when_one_comes_back() {
    given::<Leases>([
        opened(pool("20.1.1.0/26", "20.1.1.62")),
        leased("20.1.1.0/30", "n1"),
        ceded("20.1.1.1", "n1", "n2"),
        ceded("20.1.1.2", "n1", "n2"),
        ceded("20.1.1.3", "n1", "n2"),
        returned("20.1.1.0/30", "n1"),
    ])
    .when(lease("n1", None), both())
    .then([leased("20.1.1.4/30", "n1")])
    .when(give_back("20.1.1.2/32", "n2"), both())
    .then([returned("20.1.1.2/32", "n2")])
    .when(lease("n1", None), both())
    .then([leased("20.1.1.0/30", "n1")]);
}

#[test]
fn block_of_one_address_that_is_ceded_is_no_longer_its_first_holders() {
    let moved = || {
        given::<Leases>([
            opened(pool("20.1.1.0/28", "20.1.1.14")),
            leased("20.1.1.1/32", "n1"),
            ceded("20.1.1.1", "n1", "n2"),
        ])
    };
    moved()
        .when(give_back("20.1.1.1/32", "n1"), both())
        .rejected(Rejection::BlockNotHeld {
            block: net("20.1.1.1/32"),
            network: web(),
            node: node("n1"),
        });
    moved()
        .when(give_back("20.1.1.1/32", "n2"), both())
        .then([returned("20.1.1.1/32", "n2")])
        .when(lease("n1", None), both())
        .then([leased("20.1.1.1/32", "n1")]);
}

#[test]
fn only_the_holder_cedes() {
    for (address, by) in [("20.1.1.20", "n1"), ("20.1.1.7", "n3")] {
        given::<Leases>([open(), leased("20.1.1.0/28", "n1")])
            .when(cede(address, by, "n2"), both())
            .rejected(Rejection::BlockNotHeld {
                block: net(&format!("{address}/32")),
                network: web(),
                node: node(by),
            });
    }
}

#[test]
fn only_the_holder_returns_a_block_and_once() {
    let not_held = |name| Rejection::BlockNotHeld {
        block: net("20.1.1.0/28"),
        network: web(),
        node: node(name),
    };
    given::<Leases>([open(), leased("20.1.1.0/28", "n1")])
        .when(give_back("20.1.1.0/28", "n2"), both())
        .rejected(not_held("n2"));
    given::<Leases>([
        open(),
        leased("20.1.1.0/28", "n1"),
        returned("20.1.1.0/28", "n1"),
    ])
    .when(give_back("20.1.1.0/28", "n1"), both())
    .rejected(not_held("n1"));
}

#[test]
fn a_closing_network_takes_blocks_back_and_leases_none() {
    let closed = || given::<Leases>([open(), leased("20.1.1.0/28", "n1"), closing()]);
    closed()
        .when(lease("n2", None), both())
        .rejected(is_closing());
    closed()
        .when(cede("20.1.1.7", "n1", "n2"), both())
        .rejected(is_closing());
    closed()
        .when(give_back("20.1.1.0/28", "n1"), both())
        .then([returned("20.1.1.0/28", "n1")]);
}

#[test]
fn a_reopened_network_leases_again() {
    let reopened = Event::LeasesReopened(LeasesReopened {
        tenant: tenant(),
        network: web(),
        group: None,
    });
    given::<Leases>([open(), closing(), reopened])
        .when(lease("n1", None), both())
        .accepted();
}

#[test]
fn a_pool_of_a_removed_or_unknown_network_is_unknown() {
    let gone = Event::LeasesClosed(LeasesClosed {
        tenant: tenant(),
        network: web(),
        group: None,
    });
    given::<Leases>([open(), leased("20.1.1.0/28", "n1"), gone])
        .when(give_back("20.1.1.0/28", "n1"), both())
        .rejected(unknown());
    given::<Leases>([])
        .when(lease("n1", None), both())
        .rejected(unknown());
}

#[test]
fn a_stranger_gets_no_block() {
    given::<Leases>([open()])
        .when(lease("n9", None), both())
        .rejected(Rejection::NodeUnknown { node: node("n9") });
}

#[test]
fn every_block_of_a_lost_node_is_revoked() {
    let events = [
        open(),
        leased("20.1.1.0/28", "n1"),
        leased("20.1.1.16/28", "n2"),
        ceded("20.1.1.20", "n2", "n1"),
    ];
    let revoked = |block: &str| {
        Event::BlockRevoked(BlockRevoked {
            tenant: tenant(),
            network: web(),
            group: None,
            block: net(block),
            node: node("n1"),
        })
    };
    given::<Leases>(events)
        .when(revoke("n1"), members(&["n2"]))
        .then([revoked("20.1.1.0/28"), revoked("20.1.1.20/32")])
        .when(revoke("n1"), members(&["n2"]))
        .then([]);
}

#[test]
fn a_member_keeps_its_blocks() {
    given::<Leases>([open(), leased("20.1.1.0/28", "n1")])
        .when(revoke("n1"), both())
        .rejected(Rejection::NodeAlive { node: node("n1") });
}

mod pools;
