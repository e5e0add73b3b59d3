//! The numbers of new groups and the nodes' routing rules.

use bus_schema::event::TenantClosed;
use bus_schema::mark_rule::MarkRule;

use super::*;

/// Facts of a node with a rule such as `ip rule … fwmark MARK/MASK`.
fn marked(mark: u32, mask: u32) -> TenantFacts {
    let rule = MarkRule {
        preference: 100,
        mark,
        mask,
        not: false,
        ipv6: false,
        action: "blackhole".to_owned(),
    };
    TenantFacts {
        mark_rules: vec![rule],
        ..TenantFacts::default()
    }
}

#[test]
fn a_new_group_gets_an_id_that_no_routing_rule_of_a_node_matches() {
    with_web()
        .when(create("front", "db", &[]), marked(3, u32::MAX))
        .then([created("db", 4, &[])])
        .when(create("front", "back", &[]), marked(0, 0xff))
        .then([created("back", 0x100, &[])])
        .when(create("front", "middle", &[]), no_facts())
        .then([created("middle", 0x101, &[])]);
}

#[test]
fn a_group_gets_a_matched_id_rather_than_none() {
    with_web()
        .when(create("front", "db", &[]), marked(0, 0xffff))
        .then([created("db", 3, &[])]);
}

#[test]
fn a_tenant_that_is_created_again_gives_no_id_of_its_former_groups() {
    let mut again = with_web().state;
    again.evolve(&Event::TenantClosed(TenantClosed { tenant: tenant() }));
    again.evolve(&Event::TenantOpened(TenantOpened { tenant: tenant() }));
    again.evolve(&network_created("front", None));
    Given { state: again }
        .when(create("front", "db", &[]), no_facts())
        .then([created("db", 3, &[])]);
}
