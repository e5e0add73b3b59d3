//! A network is removed in steps.

use super::*;

#[test]
fn a_network_is_removed_in_two_steps() {
    with_web()
        .when(remove("web", Removal::Close), no_facts())
        .then(closing(tenant(), name("web")))
        .when(remove("web", Removal::Close), no_facts())
        .then([])
        .when(remove("web", Removal::Finish), no_facts())
        .then([
            Event::NetworkRemoved(NetworkRemoved {
                tenant: tenant(),
                network: name("web"),
                vni: Vni(1),
                forced: false,
            }),
            Event::VniReleased(VniReleased {
                vni: Vni(1),
                tenant: tenant(),
                network: name("web"),
            }),
            Event::LeasesClosed(LeasesClosed {
                tenant: tenant(),
                network: name("web"),
                group: None,
            }),
        ])
        .when(remove("web", Removal::Finish), no_facts())
        .then([])
        .when(create("web", "20.1.1.0/24"), no_facts())
        .accepted();
}

#[test]
fn a_removal_is_not_finished_while_blocks_are_leased() {
    closing_web()
        .when(remove("web", Removal::Finish), held_by("n1"))
        .rejected(Rejection::NetworkHeld {
            tenant: tenant(),
            network: name("web"),
            nodes: vec![testing::name("n1")],
        });
}

#[test]
fn a_removal_is_given_up_or_forced() {
    closing_web()
        .when(remove("web", Removal::Abort), no_facts())
        .then(reopened(tenant(), name("web")))
        .when(remove("web", Removal::Abort), no_facts())
        .rejected(Rejection::NetworkNotClosing {
            tenant: tenant(),
            network: name("web"),
        });
    let given = closing_web()
        .when(remove("web", Removal::Force), held_by("n1"))
        .accepted();
    assert!(given.state.networks.is_empty());
}

#[test]
fn an_unknown_network_is_not_removed() {
    for mode in [Removal::Close, Removal::Abort, Removal::Force] {
        blue()
            .when(remove("web", mode), no_facts())
            .rejected(Rejection::NetworkUnknown {
                tenant: tenant(),
                network: name("web"),
            });
    }
}
