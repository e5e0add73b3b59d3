use bus_schema::command::{NetworkUpdate, TenantUpdate};
use bus_schema::event::{NetworkUpdated, TenantUpdated};

use super::*;

fn update(max_connections: Option<u32>) -> TenantCommand {
    TenantCommand::NetworkUpdate(NetworkUpdate {
        tenant: tenant(),
        network: name("web"),
        max_connections,
        egress: None,
        allow_metadata: None,
    })
}

/// A change of the way out, or of the access to metadata services.
fn out(egress: Option<Egress>, allow_metadata: Option<bool>) -> TenantCommand {
    TenantCommand::NetworkUpdate(NetworkUpdate {
        tenant: tenant(),
        network: name("web"),
        max_connections: None,
        egress,
        allow_metadata,
    })
}

fn out_changed(egress: Option<Egress>, allow_metadata: Option<bool>) -> Event {
    Event::NetworkUpdated(NetworkUpdated {
        tenant: tenant(),
        network: name("web"),
        max_connections: None,
        egress,
        allow_metadata,
    })
}

fn updated(max: u32) -> Event {
    Event::NetworkUpdated(NetworkUpdated {
        tenant: tenant(),
        network: name("web"),
        max_connections: Some(max),
        egress: None,
        allow_metadata: None,
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

/// A network of an older build has no way out, and no event says so.
#[test]
fn a_network_gets_a_way_out_and_loses_it() {
    let (none, nat) = (Some(Egress::None), Some(Egress::Nat));
    with_older_web()
        .when(out(none, Some(false)), no_facts())
        .then([])
        .when(out(nat, None), no_facts())
        .then([out_changed(nat, None)])
        .when(out(nat, Some(true)), no_facts())
        .then([out_changed(nat, Some(true))])
        .when(out(None, Some(true)), no_facts())
        .then([])
        .when(out(none, None), no_facts())
        .then([out_changed(none, None)]);
}

/// A new network's setting is in the log, so that a later default doesn't change it.
#[test]
fn a_new_network_has_the_tenants_way_out_unless_its_own_is_given() {
    let create = |own: Option<Egress>| match create("web", "20.1.1.0/24") {
        TenantCommand::NetworkCreate(c) => TenantCommand::NetworkCreate(NetworkCreate {
            egress: own,
            allow_metadata: own.map(|it| it == Egress::Nat),
            ..c
        }),
        other => other,
    };
    let default = |egress| {
        Event::TenantUpdated(TenantUpdated {
            tenant: tenant(),
            max_connections: None,
            egress: Some(egress),
        })
    };
    let (none, nat) = (Some(Egress::None), Some(Egress::Nat));
    for (defaults, own, expected) in [
        (vec![], None, nat),
        (vec![Egress::None], None, none),
        (vec![Egress::None], nat, nat),
        (vec![Egress::None, Egress::Nat], None, nat),
        (vec![], none, none),
    ] {
        let events = defaults.into_iter().map(default);
        let tenant = given::<Tenant>([opened()].into_iter().chain(events));
        let made = tenant.state.decide(&create(own), &no_facts());
        let Ok([Event::NetworkCreated(made), ..]) = made.as_deref() else {
            panic!("{made:?}");
        };
        assert_eq!(made.network.egress, expected);
        assert_eq!(made.network.allow_metadata, own == nat);
    }
}

#[test]
fn a_network_is_created_again_only_with_the_way_out_that_it_has() {
    let create = |egress, allow_metadata| match create("web", "20.1.1.0/24") {
        TenantCommand::NetworkCreate(c) => TenantCommand::NetworkCreate(NetworkCreate {
            egress,
            allow_metadata,
            ..c
        }),
        other => other,
    };
    let differs = |what: &str| Rejection::NetworkDiffers {
        tenant: tenant(),
        network: name("web"),
        differs: what.to_owned(),
    };
    let older = with_older_web()
        .when(create(None, None), no_facts())
        .then([])
        .when(create(Some(Egress::None), Some(false)), no_facts())
        .then([]);
    older
        .when(create(Some(Egress::Nat), None), no_facts())
        .rejected(differs("way out"));
    with_web()
        .when(create(None, Some(true)), no_facts())
        .rejected(differs("access to metadata services"));
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
            egress: None,
        })
    };
    let update = |max_connections| {
        TenantCommand::Update(TenantUpdate {
            tenant: tenant(),
            max_connections,
            egress: None,
        })
    };
    let create = |max_connections| {
        TenantCommand::Create(TenantCreate {
            tenant: tenant(),
            max_connections,
            egress: None,
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
    given::<Tenant>([]).when(create(Some(0)), no_facts()).then([
        Event::TenantCreated(TenantCreated { tenant: tenant() }),
        opened(),
    ]);
    given::<Tenant>([opened(), updated(7)])
        .when(create(Some(9)), no_facts())
        .rejected(Rejection::TenantDiffers {
            tenant: tenant(),
            differs: "limit of connections".to_owned(),
        });
}

#[test]
fn a_tenant_is_created_with_a_default_of_the_way_out_and_changes_it() {
    let updated = |egress| {
        Event::TenantUpdated(TenantUpdated {
            tenant: tenant(),
            max_connections: None,
            egress: Some(egress),
        })
    };
    let update = |egress| {
        TenantCommand::Update(TenantUpdate {
            tenant: tenant(),
            max_connections: None,
            egress: Some(egress),
        })
    };
    let create = |egress| {
        TenantCommand::Create(TenantCreate {
            tenant: tenant(),
            max_connections: None,
            egress,
        })
    };
    let created = || Event::TenantCreated(TenantCreated { tenant: tenant() });
    let closed = given::<Tenant>([])
        .when(create(Some(Egress::None)), no_facts())
        .then([created(), opened(), updated(Egress::None)])
        .when(create(Some(Egress::None)), no_facts())
        .then([])
        .when(update(Egress::None), no_facts())
        .then([]);
    closed
        .when(update(Egress::Nat), no_facts())
        .then([updated(Egress::Nat)])
        .when(create(None), no_facts())
        .then([])
        .when(create(Some(Egress::None)), no_facts())
        .rejected(Rejection::TenantDiffers {
            tenant: tenant(),
            differs: "way out of new networks".to_owned(),
        });
    given::<Tenant>([])
        .when(create(Some(Egress::Nat)), no_facts())
        .then([created(), opened()]);
}

#[test]
fn a_network_is_created_with_a_limit_of_connections_or_its_tenants() {
    let with_limit = |max_connections| {
        TenantCommand::NetworkCreate(NetworkCreate {
            max_connections,
            ..ask("web", "20.1.1.0/24")
        })
    };
    for (asked, limit) in [(None, None), (Some(0), None), (Some(7), Some(7))] {
        let create = with_limit(asked);
        let made = blue().when(create.clone(), no_facts()).accepted();
        let spec = &made.state.networks[&name("web")].spec;
        assert_eq!(spec.max_connections, limit);
        made.when(create, no_facts())
            .then([])
            .when(with_limit(Some(8)), no_facts())
            .rejected(Rejection::NetworkDiffers {
                tenant: tenant(),
                network: name("web"),
                differs: "limit of connections".to_owned(),
            });
    }
}
