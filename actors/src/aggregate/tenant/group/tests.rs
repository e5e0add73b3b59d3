use bus_schema::command::{NetworkCreate, NetworkRemove, PolicyRemove, TenantRemove};
use bus_schema::event::TenantOpened;
use bus_schema::testing;
use bus_schema::{NetworkName, NetworkSpec, Pool, Vni};

use super::super::{TenantCommand, TenantFacts};
use super::*;
use crate::aggregate::Aggregate;
use crate::testing::{Given, given};

fn tenant() -> TenantName {
    testing::name("blue")
}

fn net(name: &str) -> NetworkName {
    testing::name(name)
}

fn group(name: &str) -> GroupName {
    testing::name(name)
}

fn policies(names: &[&str]) -> Vec<PolicyName> {
    let names = names.iter().map(|name| testing::name(name));
    names.collect()
}

fn no_facts() -> TenantFacts {
    TenantFacts::default()
}

fn drained(closing: u32) -> TenantFacts {
    TenantFacts {
        drained: Some(closing),
        ..TenantFacts::default()
    }
}

fn network_created(name: &str, docker_name: Option<&str>) -> Event {
    Event::NetworkCreated(bus_schema::event::NetworkCreated {
        network: NetworkSpec {
            docker_name: docker_name.map(str::to_owned),
            ..NetworkSpec::new(
                tenant(),
                net(name),
                Vni(1),
                Pool {
                    subnet: testing::subnet("20.1.1.0/24"),
                    gateway: testing::ip("20.1.1.1"),
                    range: None,
                },
            )
        },
    })
}

fn policy_created(name: &str) -> Event {
    Event::PolicyCreated(bus_schema::event::PolicyCreated {
        tenant: tenant(),
        policy: testing::name(name),
    })
}

/// Tenant blue with network front and policies p and q.
fn blue() -> Given<Tenant> {
    given::<Tenant>([
        Event::TenantOpened(TenantOpened { tenant: tenant() }),
        network_created("front", None),
        policy_created("p"),
        policy_created("q"),
    ])
}

fn ask(network: &str, name: &str, of: &[&str]) -> GroupCreate {
    GroupCreate {
        tenant: tenant(),
        network: net(network),
        group: group(name),
        policies: policies(of),
        ip_pool: None,
        docker_name: None,
    }
}

fn create(network: &str, name: &str, of: &[&str]) -> TenantCommand {
    TenantCommand::GroupCreate(ask(network, name, of))
}

fn update(name: &str, of: &[&str]) -> TenantCommand {
    TenantCommand::GroupUpdate(GroupUpdate {
        tenant: tenant(),
        group: group(name),
        policies: policies(of),
    })
}

fn remove(name: &str, mode: Removal) -> TenantCommand {
    TenantCommand::GroupRemove(GroupRemove {
        tenant: tenant(),
        group: group(name),
        mode,
    })
}

fn created(name: &str, id: u16, of: &[&str]) -> Event {
    Event::GroupCreated(GroupCreated {
        group: GroupSpec {
            tenant: tenant(),
            network: net("front"),
            name: group(name),
            id: GroupId(id),
            policies: policies(of),
            docker_name: None,
            pool: None,
        },
    })
}

fn closing(name: &str) -> Event {
    Event::GroupClosing(GroupClosing {
        tenant: tenant(),
        group: group(name),
    })
}

fn removed(name: &str, id: u16, forced: bool) -> Event {
    Event::GroupRemoved(GroupRemoved {
        tenant: tenant(),
        group: group(name),
        id: GroupId(id),
        forced,
    })
}

fn with_web() -> Given<Tenant> {
    blue()
        .when(create("front", "web", &["p"]), no_facts())
        .accepted()
}

fn closing_web() -> Given<Tenant> {
    with_web()
        .when(remove("web", Removal::Close), no_facts())
        .accepted()
}

#[test]
fn a_group_is_created_once_with_its_policies_in_order() {
    blue()
        .when(create("front", "web", &["q", "p", "q"]), no_facts())
        .then([created("web", 2, &["p", "q"])])
        .when(create("front", "web", &["p", "q"]), no_facts())
        .then([]);
}

#[test]
fn a_group_needs_its_network_and_its_policies() {
    given::<Tenant>([])
        .when(create("front", "web", &[]), no_facts())
        .rejected(Rejection::TenantUnknown { tenant: tenant() });
    blue()
        .when(create("back", "web", &[]), no_facts())
        .rejected(Rejection::NetworkUnknown {
            tenant: tenant(),
            network: net("back"),
        });
    blue()
        .when(create("front", "web", &["p", "nope"]), no_facts())
        .rejected(Rejection::PolicyUnknown {
            tenant: tenant(),
            policy: testing::name("nope"),
        });
}

#[test]
fn a_closing_network_takes_no_group() {
    let close = TenantCommand::NetworkRemove(NetworkRemove {
        tenant: tenant(),
        network: net("front"),
        mode: Removal::Close,
    });
    blue()
        .when(close, no_facts())
        .accepted()
        .when(create("front", "web", &[]), no_facts())
        .rejected(Rejection::NetworkClosing {
            tenant: tenant(),
            network: net("front"),
        });
}

#[test]
fn another_group_of_the_name_is_refused_and_what_differs_is_named() {
    let tagged = TenantCommand::GroupCreate(GroupCreate {
        docker_name: Some("x".to_owned()),
        ..ask("front", "web", &["p"])
    });
    for (command, differs) in [
        (create("back", "web", &["p"]), "network"),
        (create("front", "web", &["p", "q"]), "list of policies"),
        (tagged, "Docker name"),
    ] {
        with_web()
            .when(command, no_facts())
            .rejected(Rejection::GroupDiffers {
                tenant: tenant(),
                group: group("web"),
                differs: differs.to_owned(),
            });
    }
}

#[test]
fn a_network_and_a_group_never_share_a_name() {
    blue()
        .when(create("front", "front", &[]), no_facts())
        .rejected(Rejection::NameTaken {
            tenant: tenant(),
            name: "front".to_owned(),
        });
    let network = TenantCommand::NetworkCreate(NetworkCreate {
        tenant: tenant(),
        network: net("web"),
        subnet: testing::subnet("30.1.1.0/24"),
        range: None,
        gateway: None,
        subnet6: None,
        gateway6: None,
        vni: None,
        docker_name: None,
        max_connections: None,
        egress: None,
        allow_metadata: None,
    });
    with_web()
        .when(network, no_facts())
        .rejected(Rejection::NameTaken {
            tenant: tenant(),
            name: "web".to_owned(),
        });
}

#[test]
fn docker_networks_of_one_name_are_refused() {
    let taken = given::<Tenant>([
        Event::TenantOpened(TenantOpened { tenant: tenant() }),
        network_created("front", Some("web.front/blue")),
    ])
    .when(create("front", "web", &[]), no_facts())
    .rejection()
    .to_string();
    assert!(
        taken.contains("network front") && taken.contains("--epg-tag"),
        "{taken}"
    );
    let tag = |name: &str, docker: &str| {
        TenantCommand::GroupCreate(GroupCreate {
            docker_name: Some(docker.to_owned()),
            ..ask("front", name, &[])
        })
    };
    let taken = with_web()
        .when(tag("lb", "web.front/blue"), no_facts())
        .rejection()
        .to_string();
    assert!(taken.contains("group web"), "{taken}");
    blue().when(tag("lb", "a b"), no_facts()).rejection();
}

#[test]
fn an_update_replaces_the_policies() {
    let updated = |of: &[&str]| {
        Event::GroupUpdated(GroupUpdated {
            tenant: tenant(),
            group: group("web"),
            policies: policies(of),
        })
    };
    with_web()
        .when(update("web", &["q", "p"]), no_facts())
        .then([updated(&["p", "q"])])
        .when(update("web", &["p", "q"]), no_facts())
        .then([])
        .when(update("web", &[]), no_facts())
        .then([updated(&[])]);
    with_web()
        .when(update("web", &["nope"]), no_facts())
        .rejected(Rejection::PolicyUnknown {
            tenant: tenant(),
            policy: testing::name("nope"),
        });
    with_web()
        .when(update("lb", &[]), no_facts())
        .rejected(Rejection::GroupUnknown {
            tenant: tenant(),
            group: group("lb"),
        });
    closing_web()
        .when(update("web", &[]), no_facts())
        .rejected(Rejection::GroupClosing {
            tenant: tenant(),
            group: group("web"),
        });
}

#[test]
fn ids_are_new_and_a_closing_group_keeps_its_own() {
    with_web()
        .when(create("front", "lb", &[]), no_facts())
        .then([created("lb", 3, &[])])
        .when(remove("web", Removal::Close), no_facts())
        .then([closing("web")])
        .when(create("front", "db", &[]), no_facts())
        .then([created("db", 4, &[])])
        .when(remove("web", Removal::Finish), drained(1))
        .then([removed("web", 2, false)])
        .when(create("front", "api", &[]), no_facts())
        .then([created("api", 5, &[])]);
}

/// When all have been given, the free one that was given longest ago comes next.
#[test]
fn ids_are_given_again_when_none_is_new() {
    let mut all = with_web();
    all.state.evolve(&created("last", u16::MAX, &[]));
    all.when(remove("web", Removal::Close), no_facts())
        .then([closing("web")])
        .when(remove("web", Removal::Finish), drained(1))
        .then([removed("web", 2, false)])
        .when(create("front", "api", &[]), no_facts())
        .then([created("api", 2, &[])])
        .when(create("front", "db", &[]), no_facts())
        .then([created("db", 3, &[])]);
}

/// Those behind [`GroupId::LAST`] stand for the host and for the world.
#[test]
fn ids_of_peers_that_are_no_groups_are_not_given() {
    let mut all = blue();
    all.state.evolve(&created("last", GroupId::LAST.0 - 1, &[]));
    all.when(create("front", "web", &[]), no_facts())
        .then([created("web", 0xffef, &[])])
        .when(create("front", "db", &[]), no_facts())
        .then([created("db", 2, &[])]);
    assert!(GroupId::LAST < GroupId::HOST && GroupId::LAST < GroupId::WORLD);
}

/// A node that couldn't be asked may still stamp packets with the id.
#[test]
fn an_id_that_was_removed_by_force_is_not_given_again() {
    let mut all = with_web();
    all.state.evolve(&created("last", u16::MAX, &[]));
    all.when(remove("web", Removal::Force), no_facts())
        .then([removed("web", 2, true)])
        .when(create("front", "web", &[]), no_facts())
        .then([created("web", 3, &[])]);
}

#[test]
fn a_group_is_refused_when_no_id_is_left() {
    let mut all = blue();
    for id in GroupId::FIRST.0..=GroupId::LAST.0 {
        let name = format!("g{id}");
        all.state.evolve(&created(&name, id, &[]));
    }
    all.when(create("front", "web", &[]), no_facts())
        .rejected(Rejection::GroupIdsExhausted { tenant: tenant() });
}

#[test]
fn a_removal_goes_in_two_steps() {
    with_web()
        .when(remove("web", Removal::Close), no_facts())
        .then([closing("web")])
        .when(remove("web", Removal::Close), no_facts())
        .then([])
        .when(remove("web", Removal::Finish), drained(1))
        .then([removed("web", 2, false)])
        .when(remove("web", Removal::Finish), drained(1))
        .then([]);
}

#[test]
fn a_removal_is_finished_only_with_answers_since_the_closing() {
    let unsupported = |rejection: Rejection| {
        assert!(
            matches!(rejection, Rejection::Unsupported { .. }),
            "{rejection}"
        );
    };
    let finish = || remove("web", Removal::Finish);
    unsupported(closing_web().when(finish(), no_facts()).rejection());
    let again = closing_web()
        .when(remove("web", Removal::Abort), no_facts())
        .accepted()
        .when(remove("web", Removal::Close), no_facts())
        .accepted();
    unsupported(again.when(finish(), drained(1)).rejection());
}

#[test]
fn a_removal_is_given_up() {
    let reopened = Event::GroupReopened(GroupReopened {
        tenant: tenant(),
        group: group("web"),
    });
    closing_web()
        .when(remove("web", Removal::Abort), no_facts())
        .then([reopened])
        .when(update("web", &[]), no_facts())
        .accepted();
    for mode in [Removal::Abort, Removal::Finish] {
        with_web()
            .when(remove("web", mode), no_facts())
            .rejected(Rejection::GroupNotClosing {
                tenant: tenant(),
                group: group("web"),
            });
    }
}

#[test]
fn a_closing_group_is_not_created_and_an_unknown_one_not_removed() {
    closing_web()
        .when(create("front", "web", &["p"]), no_facts())
        .rejected(Rejection::GroupClosing {
            tenant: tenant(),
            group: group("web"),
        });
    for mode in [Removal::Close, Removal::Abort, Removal::Force] {
        blue()
            .when(remove("web", mode), no_facts())
            .rejected(Rejection::GroupUnknown {
                tenant: tenant(),
                group: group("web"),
            });
    }
}

#[test]
fn a_network_with_groups_stays() {
    for mode in [Removal::Close, Removal::Force] {
        let remove = TenantCommand::NetworkRemove(NetworkRemove {
            tenant: tenant(),
            network: net("front"),
            mode,
        });
        closing_web()
            .when(remove, no_facts())
            .rejected(Rejection::NetworkHasGroups {
                tenant: tenant(),
                network: net("front"),
                groups: vec![group("web")],
            });
    }
}

#[test]
fn a_policy_that_a_group_uses_stays() {
    let remove_p = || {
        TenantCommand::PolicyRemove(PolicyRemove {
            tenant: tenant(),
            policy: testing::name("p"),
        })
    };
    with_web()
        .when(remove_p(), no_facts())
        .rejected(Rejection::PolicyInUse {
            tenant: tenant(),
            policy: testing::name("p"),
            groups: vec![group("web")],
        });
    with_web()
        .when(update("web", &["q"]), no_facts())
        .accepted()
        .when(remove_p(), no_facts())
        .accepted();
}

#[test]
fn a_tenant_says_all_that_is_left_of_it() {
    let rejection = with_web()
        .when(
            TenantCommand::Remove(TenantRemove { tenant: tenant() }),
            no_facts(),
        )
        .rejection();
    assert_eq!(
        rejection.to_string(),
        "tenant blue still has groups web, policies p, q, networks front; remove them first"
    );
}

mod numbers;
mod pools;
