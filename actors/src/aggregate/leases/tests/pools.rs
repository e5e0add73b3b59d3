//! Groups' own pools: what is leased of them, and what a network leaves to them.

use bus_schema::event::{PoolReleased, PoolReserved};
use bus_schema::testing;
use bus_schema::{AddressRange, GroupName};

use super::*;

fn db() -> GroupName {
    testing::name("db")
}

fn range(first: &str, last: &str) -> AddressRange {
    AddressRange {
        first: ip(first),
        last: ip(last),
    }
}

fn reserved(first: &str, last: &str) -> Event {
    Event::PoolReserved(PoolReserved {
        tenant: tenant(),
        network: web(),
        group: db(),
        range: range(first, last),
    })
}

fn pooled(first: &str, last: &str) -> Event {
    Event::LeasesOpened(LeasesOpened {
        tenant: tenant(),
        network: web(),
        group: Some(db()),
        v4: Pool {
            range: Some(range(first, last)),
            ..pool("20.1.1.0/24", "20.1.1.254")
        },
        v6: None,
    })
}

fn lease_of_db(name: &str, address: Option<&str>) -> LeasesCommand {
    let LeasesCommand::Lease(lease) = lease(name, address) else {
        unreachable!("a lease");
    };
    LeasesCommand::Lease(BlockLease {
        group: Some(db()),
        ..lease
    })
}

fn leased_of_db(block: &str, holder: &str) -> Event {
    Event::BlockLeased(BlockLeased {
        tenant: tenant(),
        network: web(),
        group: Some(db()),
        block: net(block),
        node: node(holder),
    })
}

#[test]
fn a_pool_is_cut_into_subnets_that_lie_inside() {
    // 66 addresses: at most four in a block.
    let mut state = given::<Leases>([pooled("20.1.1.10", "20.1.1.75")]);
    for block in ["10/31", "12/30", "16/30", "20/30"] {
        state = state
            .when(lease_of_db("n1", None), both())
            .then([leased_of_db(&format!("20.1.1.{block}"), "n1")]);
    }
    state
        .when(lease_of_db("n2", Some("20.1.1.75")), both())
        .then([leased_of_db("20.1.1.72/30", "n2")])
        .when(lease_of_db("n1", Some("20.1.1.73")), both())
        .rejected(Rejection::AddressHeld {
            address: ip("20.1.1.73"),
            block: net("20.1.1.72/30"),
            node: node("n2"),
        });
}

#[test]
fn a_used_up_pool_says_so() {
    given::<Leases>([pooled("20.1.1.10", "20.1.1.11")])
        .when(lease_of_db("n1", None), both())
        .then([leased_of_db("20.1.1.10/32", "n1")])
        .when(lease_of_db("n2", None), both())
        .then([leased_of_db("20.1.1.11/32", "n2")])
        .when(lease_of_db("n1", None), both())
        .rejected(Rejection::GroupPoolExhausted {
            tenant: tenant(),
            network: web(),
            group: db(),
            pool: range("20.1.1.10", "20.1.1.11"),
            holders: Box::default(),
        });
}

#[test]
fn an_address_outside_is_not_leased_of_a_pool() {
    given::<Leases>([pooled("20.1.1.10", "20.1.1.20")])
        .when(lease_of_db("n1", Some("20.1.1.21")), both())
        .rejected(Rejection::AddressOutsidePool {
            address: ip("20.1.1.21"),
            group: db(),
            pool: range("20.1.1.10", "20.1.1.20"),
        });
}

#[test]
fn a_closing_pool_leases_nothing() {
    let closing = Event::LeasesClosing(LeasesClosing {
        tenant: tenant(),
        network: web(),
        group: Some(db()),
    });
    given::<Leases>([pooled("20.1.1.10", "20.1.1.20"), closing])
        .when(lease_of_db("n1", None), both())
        .rejected(Rejection::GroupClosing {
            tenant: tenant(),
            group: db(),
        });
    given::<Leases>([])
        .when(lease_of_db("n1", None), both())
        .rejected(Rejection::GroupUnknown {
            tenant: tenant(),
            group: db(),
        });
}

#[test]
fn a_network_leaves_its_groups_pools_alone() {
    let released = Event::PoolReleased(PoolReleased {
        tenant: tenant(),
        network: web(),
        group: db(),
    });
    // The first block but for its first address, all of the second, half of the third.
    let pool = reserved("20.1.1.1", "20.1.1.39");
    given::<Leases>([open(), pool.clone()])
        .when(lease("n1", None), both())
        .then([leased("20.1.1.32/28", "n1")]);
    given::<Leases>([open(), pool.clone()])
        .when(lease("n1", Some("20.1.1.20")), both())
        .rejected(Rejection::AddressInPool {
            address: ip("20.1.1.20"),
            group: db(),
            pool: range("20.1.1.1", "20.1.1.39"),
        });
    given::<Leases>([open(), pool.clone(), leased("20.1.1.32/28", "n1")])
        .when(cede("20.1.1.33", "n1", "n2"), both())
        .rejection();
    given::<Leases>([open(), pool, released])
        .when(lease("n1", None), both())
        .then([leased("20.1.1.0/28", "n1")]);
}
