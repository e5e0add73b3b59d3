//! Groups with addresses of their own.

use bus_schema::testing;
use std::sync::Arc;

use bus_schema::event::{
    BlockLeased, LeasesClosed, LeasesClosing, LeasesOpened, LeasesReopened, PoolReleased,
    PoolReserved,
};
use bus_schema::rejection::BlockUse;
use bus_schema::{AddressRange, PoolKey};

use super::*;
use crate::aggregate::Leases;

fn range(first: &str, last: &str) -> AddressRange {
    AddressRange {
        first: format!("20.1.1.{first}").parse().expect("an address"),
        last: format!("20.1.1.{last}").parse().expect("an address"),
    }
}

fn pooled(name: &str, pool: AddressRange) -> TenantCommand {
    TenantCommand::GroupCreate(GroupCreate {
        ip_pool: Some(pool),
        ..ask("front", name, &[])
    })
}

fn pool() -> AddressRange {
    range("10", "20")
}

fn key() -> PoolKey {
    PoolKey::of_group(&tenant(), &net("front"), &group("web"))
}

fn with_pool() -> Given<Tenant> {
    blue().when(pooled("web", pool()), no_facts()).accepted()
}

/// `block` of this pool is leased to n1.
fn leased(of: PoolKey, block: &str, facts: TenantFacts) -> TenantFacts {
    let mut leases = Leases::default();
    leases.evolve(&Event::BlockLeased(BlockLeased {
        tenant: of.tenant.clone(),
        network: of.network.clone(),
        group: of.group.clone(),
        block: block.parse().expect("a block"),
        node: testing::name("n1"),
    }));
    TenantFacts {
        leases: [(of, Arc::new(leases))].into(),
        ..facts
    }
}

fn closed() -> [Event; 2] {
    [
        Event::LeasesClosed(LeasesClosed {
            tenant: tenant(),
            network: net("front"),
            group: Some(group("web")),
        }),
        Event::PoolReleased(PoolReleased {
            tenant: tenant(),
            network: net("front"),
            group: group("web"),
        }),
    ]
}

#[test]
fn a_pool_begins_with_its_group() {
    let spec = GroupSpec {
        tenant: tenant(),
        network: net("front"),
        name: group("web"),
        id: GroupId(2),
        policies: vec![],
        docker_name: None,
        pool: Some(pool()),
    };
    blue()
        .when(pooled("web", pool()), no_facts())
        .then([
            Event::GroupCreated(GroupCreated { group: spec }),
            Event::PoolReserved(PoolReserved {
                tenant: tenant(),
                network: net("front"),
                group: group("web"),
                range: pool(),
            }),
            Event::LeasesOpened(LeasesOpened {
                tenant: tenant(),
                network: net("front"),
                group: Some(group("web")),
                v4: Pool {
                    subnet: testing::subnet("20.1.1.0/24"),
                    gateway: testing::ip("20.1.1.1"),
                    range: Some(pool()),
                },
                v6: None,
            }),
        ])
        .when(pooled("web", pool()), no_facts())
        .then([])
        .when(pooled("web", range("10", "21")), no_facts())
        .rejected(Rejection::GroupDiffers {
            tenant: tenant(),
            group: group("web"),
            differs: "pool".to_owned(),
        });
}

#[test]
fn a_range_that_others_have_is_refused() {
    for (first, last) in [("1", "9"), ("0", "9"), ("200", "255")] {
        let pool = range(first, last);
        let rejection = blue().when(pooled("web", pool), no_facts()).rejection();
        let reserved = matches!(rejection, Rejection::PoolHoldsReserved { .. });
        assert!(reserved, "{pool}: {rejection}");
    }
    for (first, last) in [
        ("20.1.1.250", "20.1.2.3"),
        ("20.1.2.1", "20.1.2.9"),
        ("20.1.1.9", "20.1.1.8"),
    ] {
        let pool = AddressRange {
            first: testing::ip(first),
            last: testing::ip(last),
        };
        let rejection = blue().when(pooled("web", pool), no_facts()).rejection();
        assert!(
            matches!(rejection, Rejection::PoolOutside { .. }),
            "{rejection}"
        );
    }
    for (first, last) in [("20", "30"), ("5", "10"), ("12", "13"), ("2", "99")] {
        let pool = range(first, last);
        with_pool()
            .when(pooled("db", pool), no_facts())
            .rejected(Rejection::PoolOverlaps {
                pool,
                group: group("web"),
                other: self::pool(),
            });
    }
    with_pool()
        .when(pooled("db", range("21", "30")), no_facts())
        .accepted();
}

#[test]
fn a_pool_over_leased_blocks_is_refused() {
    let network = PoolKey::of_network(&tenant(), &net("front"));
    let facts = leased(network.clone(), "20.1.1.16/28", no_facts());
    blue()
        .when(pooled("web", pool()), facts)
        .rejected(Rejection::PoolLeased {
            pool: pool(),
            network: net("front"),
            blocks: vec![BlockUse {
                block: "20.1.1.16/28".parse().expect("a block"),
                node: testing::name("n1"),
            }],
        });
    let beside = leased(network, "20.1.1.32/28", no_facts());
    blue().when(pooled("web", pool()), beside).accepted();
}

#[test]
fn a_pool_goes_with_its_group_when_its_blocks_are_back() {
    let leases_closing = Event::LeasesClosing(LeasesClosing {
        tenant: tenant(),
        network: net("front"),
        group: Some(group("web")),
    });
    let removing = || {
        with_pool()
            .when(remove("web", Removal::Close), no_facts())
            .then([closing("web"), leases_closing.clone()])
    };
    removing()
        .when(
            remove("web", Removal::Finish),
            leased(key(), "20.1.1.10/32", drained(1)),
        )
        .rejected(Rejection::GroupHeld {
            tenant: tenant(),
            group: group("web"),
            nodes: vec![testing::name("n1")],
        });
    let [leases, released] = closed();
    removing()
        .when(remove("web", Removal::Finish), drained(1))
        .then([removed("web", 2, false), leases.clone(), released.clone()])
        .when(pooled("db", pool()), no_facts())
        .accepted();
    removing()
        .when(
            remove("web", Removal::Force),
            leased(key(), "20.1.1.10/32", no_facts()),
        )
        .then([removed("web", 2, true), leases, released]);
    removing()
        .when(remove("web", Removal::Abort), no_facts())
        .then([
            Event::GroupReopened(GroupReopened {
                tenant: tenant(),
                group: group("web"),
            }),
            Event::LeasesReopened(LeasesReopened {
                tenant: tenant(),
                network: net("front"),
                group: Some(group("web")),
            }),
        ]);
}

#[test]
fn group_command_depends_on_the_pools_that_it_changes() {
    let pools = || [PoolKey::of_network(&tenant(), &net("front")), key()];
    let state = with_pool().state;
    assert_eq!(state.pools_of(&pooled("web", pool())), pools());
    assert_eq!(state.pools_of(&create("front", "db", &[])), []);
    assert_eq!(state.pools_of(&remove("web", Removal::Close)), pools());
}
