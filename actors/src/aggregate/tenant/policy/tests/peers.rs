//! A rule's peer exists as long as the rule.

use super::*;

#[test]
fn peers_must_be_there() {
    let nobody = Peer::Group {
        group: group("nobody"),
    };
    blue()
        .when(add("1", from(nobody)), facts())
        .rejected(Rejection::GroupUnknown {
            tenant: tenant(),
            group: group("nobody"),
        });
    let nowhere = Peer::Network {
        network: net("nowhere"),
    };
    blue()
        .when(add("1", from(nowhere)), facts())
        .rejected(Rejection::NetworkUnknown {
            tenant: tenant(),
            network: net("nowhere"),
        });
}

#[test]
fn a_peer_that_is_being_removed_is_refused() {
    let closing = Event::GroupClosing(GroupClosing {
        tenant: tenant(),
        group: group("web"),
    });
    given::<Tenant>(events().into_iter().chain([closing]))
        .when(add("1", from_web()), facts())
        .rejected(Rejection::GroupClosing {
            tenant: tenant(),
            group: group("web"),
        });
    let closing = Event::NetworkClosing(NetworkClosing {
        tenant: tenant(),
        network: net("front"),
    });
    given::<Tenant>(events().into_iter().chain([closing]))
        .when(add("1", from_front()), facts())
        .rejected(Rejection::NetworkClosing {
            tenant: tenant(),
            network: net("front"),
        });
}

#[test]
fn a_peer_that_a_rule_names_stays() {
    let used = |what: &str| Rejection::PeerInUse {
        what: what.to_owned(),
        rules: vec![RuleUse {
            policy: p(),
            rule: rule("1"),
        }],
    };
    for mode in [Removal::Close, Removal::Force] {
        let remove_group = TenantCommand::GroupRemove(GroupRemove {
            tenant: tenant(),
            group: group("web"),
            mode,
        });
        blue()
            .when(add("1", from_web()), facts())
            .accepted()
            .when(remove_group.clone(), facts())
            .rejected(used("group web of tenant blue"));
        let remove_network = TenantCommand::NetworkRemove(NetworkRemove {
            tenant: tenant(),
            network: net("front"),
            mode,
        });
        // Without its group, which would stand in the way first.
        let front = events();
        let [opened, network, _, policy] = front.as_slice() else {
            panic!("{front:?}");
        };
        given::<Tenant>([opened.clone(), network.clone(), policy.clone()])
            .when(add("1", from_front()), facts())
            .accepted()
            .when(remove_network, facts())
            .rejected(used("network front of tenant blue"));
        blue()
            .when(add("1", from_web()), facts())
            .accepted()
            .when(drop_rule("1", false), facts())
            .accepted()
            .when(remove_group, facts())
            .accepted();
    }
}
