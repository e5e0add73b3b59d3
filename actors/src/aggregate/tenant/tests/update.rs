use bus_schema::command::{NetworkUpdate, TenantUpdate};
use bus_schema::event::{NetworkUpdated, TenantUpdated};

use super::*;

fn update(max_connections: Option<u32>) -> TenantCommand {
    TenantCommand::NetworkUpdate(NetworkUpdate {
        tenant: tenant(),
        network: name("web"),
        max_connections,
    })
}

fn updated(max: u32) -> Event {
    Event::NetworkUpdated(NetworkUpdated {
        tenant: tenant(),
        network: name("web"),
        max_connections: Some(max),
    })
}

#[test]
fn a_network_changes_what_is_given_and_only_if_it_differs() {
    with_web()
        .when(update(None), no_facts())
        .then([])
        .when(update(Some(0)), no_facts())
        .then([])
        .when(update(Some(100)), no_facts())
        .then([updated(100)])
        .when(update(Some(100)), no_facts())
        .then([])
        .when(update(None), no_facts())
        .then([])
        .when(update(Some(0)), no_facts())
        .then([updated(0)])
        .when(update(Some(0)), no_facts())
        .then([]);
}

#[test]
fn a_network_that_is_unknown_or_being_removed_is_not_changed() {
    let (tenant, network) = (tenant(), name("web"));
    blue()
        .when(update(Some(1)), no_facts())
        .rejected(Rejection::NetworkUnknown {
            tenant: tenant.clone(),
            network: network.clone(),
        });
    closing_web()
        .when(update(Some(1)), no_facts())
        .rejected(Rejection::NetworkClosing { tenant, network });
}

#[test]
fn a_tenant_is_created_with_a_limit_and_changes_it() {
    let updated = |max| {
        Event::TenantUpdated(TenantUpdated {
            tenant: tenant(),
            max_connections: Some(max),
        })
    };
    let update = |max_connections| {
        TenantCommand::Update(TenantUpdate {
            tenant: tenant(),
            max_connections,
        })
    };
    let create = |max_connections| {
        TenantCommand::Create(TenantCreate {
            tenant: tenant(),
            max_connections,
        })
    };
    given::<Tenant>([])
        .when(update(Some(8)), no_facts())
        .rejected(Rejection::TenantUnknown { tenant: tenant() });
    given::<Tenant>([])
        .when(create(Some(7)), no_facts())
        .then([
            Event::TenantCreated(TenantCreated { tenant: tenant() }),
            opened(),
            updated(7),
        ])
        .when(create(Some(7)), no_facts())
        .then([])
        .when(create(None), no_facts())
        .then([])
        .when(update(Some(7)), no_facts())
        .then([])
        .when(update(Some(8)), no_facts())
        .then([updated(8)])
        .when(update(Some(0)), no_facts())
        .then([updated(0)]);
    given::<Tenant>([opened(), updated(7)])
        .when(create(Some(9)), no_facts())
        .rejected(Rejection::TenantDiffers {
            tenant: tenant(),
            differs: "limit of connections".to_owned(),
        });
}
