//! Judges the host's routing rules by the packet mark, which is the number of the sender's group. Pure.

use bus_schema::GroupId;
use bus_schema::mark_rule::MarkRule;
use bus_schema::node::{Alarm, DomainKind, Grade};

use crate::status::listed;
use node_core::projection::Projection;
use node_core::resource::VrfRule;

/// The alarm about rules that match the number of a group, or of containers without one.
pub fn alarm(rules: &[MarkRule], facts: &Projection, kind: DomainKind) -> Option<Alarm> {
    let specs = facts.tenants.values().flat_map(|it| it.groups.values());
    let specs: Vec<_> = specs.map(|it| &it.spec).collect();
    let concerned = |rule: &MarkRule| {
        let groups = specs.iter().filter(|it| rule.concerns(it.id));
        let groups = groups.map(|it| format!("group {} of tenant {}", it.name, it.tenant));
        let ungrouped = rule.concerns(GroupId::UNGROUPED) && !facts.tenants.is_empty();
        let ungrouped = ungrouped.then(|| "containers without a group".to_owned());
        listed(ungrouped.into_iter().chain(groups).collect())
    };
    let found = rules.iter().filter_map(|rule| {
        let consequence = consequence(rule, kind);
        Some(format!("`{rule}`: {}; {consequence}", concerned(rule)?))
    });
    let text = format!(
        "this host's routing rules match the mark of these containers' packets: {}",
        listed(found.collect())?
    );
    Some(Alarm::new(Grade::Warning, "fwmark", text))
}

/// What the rules of a machine mean for a node on it, before it knows the groups.
pub fn warning(rules: &[MarkRule]) -> Option<String> {
    let any = |rule: &&MarkRule| (1..=u16::MAX).any(|it| rule.concerns(GroupId(it)));
    let rules = rules.iter().filter(any).map(|it| format!("`{it}`"));
    let rules = listed(rules.collect())?;
    Some(format!(
        "this host's routing rules match marks that are numbers of groups: {rules}; new groups get other numbers, and an alarm names groups that have one (`netctl doctor`)"
    ))
}

fn consequence(rule: &MarkRule, kind: DomainKind) -> &'static str {
    let before_vrfs = !rule.ipv6 && rule.preference < VrfRule::PREFERENCE;
    if kind == DomainKind::Vrf && before_vrfs {
        "it decides their routes inside the tenant, too: give it a preference above 1000, another mark or `iif`"
    } else {
        "their packets to other nodes are lost if it leads to a route of type blackhole, unreachable or prohibit: give it another mark or `iif`, or make the group anew, which then gets another number"
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::GroupSpec;
    use bus_schema::testing::name;
    use node_core::desired::fixture::{Facts, red};
    use node_core::projection::GroupFact;

    use super::*;

    fn rule(preference: u32, mark: u32) -> MarkRule {
        MarkRule {
            preference,
            mark,
            mask: u32::MAX,
            not: false,
            ipv6: false,
            action: "lookup 77".to_owned(),
        }
    }

    /// A tenant `red` with a group `app` of id 5.
    fn facts() -> Projection {
        let mut facts = Facts::two_nodes().projection;
        let tenant = facts.open(&red());
        let spec = GroupSpec {
            tenant: red(),
            network: name("net"),
            name: name("app"),
            id: GroupId(5),
            policies: Vec::new(),
            docker_name: None,
            pool: None,
        };
        let fact = GroupFact {
            spec,
            closing: false,
            newer: false,
        };
        tenant.groups.insert(name("app"), fact);
        facts
    }

    #[test]
    fn alarm_names_rules_and_the_groups_whose_numbers_they_match() {
        let in_netns = |rules: &[MarkRule]| alarm(rules, &facts(), DomainKind::Netns);
        assert_eq!(in_netns(&[rule(100, 6)]), None);
        let found = in_netns(&[rule(100, 5), rule(101, 1)]).unwrap();
        assert_eq!(
            (found.code.as_str(), found.grade),
            ("fwmark", Grade::Warning)
        );
        for part in [
            "`ip rule 100: from all fwmark 0x5 lookup 77`: group app of tenant red; their packets to other nodes are lost if",
            "`ip rule 101: from all fwmark 0x1 lookup 77`: containers without a group;",
        ] {
            assert!(found.text.contains(part), "{}", found.text);
        }
    }

    #[test]
    fn rule_before_those_of_vrfs_decides_routes_inside_a_vrf() {
        let text = |preference, kind| alarm(&[rule(preference, 5)], &facts(), kind).unwrap().text;
        let inside = "decides their routes inside the tenant";
        assert!(text(999, DomainKind::Vrf).contains(inside));
        assert!(!text(1_000, DomainKind::Vrf).contains(inside));
        assert!(!text(999, DomainKind::Netns).contains(inside));
    }

    #[test]
    fn machine_is_warned_of_rules_that_match_a_number_of_a_group() {
        assert_eq!(warning(&[rule(100, 0x1_0000)]), None);
        let text = warning(&[rule(100, 5), rule(100, 0x1_0000)]).unwrap();
        assert!(
            text.contains("`ip rule 100: from all fwmark 0x5 lookup 77`;"),
            "{text}"
        );
    }
}
