//! Warnings about rules that have no effect because a network has no way out.

use bus_schema::policy::{Direction, Peer};
use bus_schema::query::{GroupInfo, NetworkInfo, PolicyInfo};
use bus_schema::{AddressRange, Egress, GroupName, PolicyName, RuleId, RuleSpec, TenantName};

use super::{group, network, policy};
use crate::client::Session;
use crate::output;

/// More rules without an effect are counted.
const MAX_SHOWN: usize = 4;

/// Warns about a rule that was added, if a group that uses its policy is in a network without a way out.
pub(super) async fn warn_of_rule(
    session: &mut Session,
    tenant: TenantName,
    policy: &PolicyName,
    rule: &RuleId,
) {
    warn(session, tenant, |policies, _| {
        policies.retain(|it| it.policy == *policy);
        for it in policies {
            it.rules.retain(|it| it.id == *rule);
        }
    })
    .await;
}

/// Warns about the rules of a group's policies, if its network has no way out.
pub(super) async fn warn_of_group(session: &mut Session, tenant: TenantName, group: &GroupName) {
    warn(session, tenant, |_, groups| {
        groups.retain(|it| it.spec.name == *group);
    })
    .await;
}

/// The change is done, whether or not these lists can be had.
async fn warn(
    session: &mut Session,
    tenant: TenantName,
    concerned: impl FnOnce(&mut Vec<PolicyInfo>, &mut Vec<GroupInfo>),
) {
    let of = Some(tenant.clone());
    let Ok(mut policies) = policy::list(session, of.clone(), None).await else {
        return;
    };
    let Ok(mut groups) = group::list(session, of.clone(), None).await else {
        return;
    };
    let Ok(networks) = network::list(session, of, None).await else {
        return;
    };
    concerned(&mut policies, &mut groups);
    for text in warnings(&policies, &groups, &networks) {
        output::note(&format!("warning: {text}"));
    }
}

/// One warning for each rule about addresses outside of the tenant and each group that it has no effect on.
fn warnings(
    policies: &[PolicyInfo],
    groups: &[GroupInfo],
    networks: &[NetworkInfo],
) -> Vec<String> {
    let mut warnings = Vec::new();
    for group in groups.iter().map(|it| &it.spec) {
        let is_closed =
            |it: &&NetworkInfo| it.spec.name == group.network && it.spec.egress() == Egress::None;
        let Some(network) = networks.iter().find(is_closed).map(|it| &it.spec) else {
            continue;
        };
        let of = network.arguments();
        let used = policies
            .iter()
            .filter(|it| group.policies.contains(&it.policy));
        let rules = used.flat_map(|it| it.rules.iter().map(move |rule| (&it.policy, rule)));
        for (policy, rule) in rules.filter(|(_, it)| leads_outside(&it.spec, networks)) {
            warnings.push(format!(
                "rule {} of policy {policy} has no effect on group {}: network {} has no way out; `netctl net update {of} --egress=nat` gives it one",
                rule.id, group.name, network.name
            ));
        }
    }
    let more = warnings.len().saturating_sub(MAX_SHOWN);
    if more > 1 {
        warnings.truncate(MAX_SHOWN);
        warnings.push(format!(
            "{more} more rules have no effect, for the same reason"
        ));
    }
    warnings
}

/// Whether the rule is about connections to addresses, which may be outside of the tenant.
pub(super) fn may_lead_outside(spec: &RuleSpec) -> bool {
    let is_of_addresses = matches!(spec.peer, Some(Peer::Addresses { .. } | Peer::World));
    spec.direction == Direction::Out && is_of_addresses
}

/// Whether none of these addresses is in a subnet of the tenant.
fn leads_outside(spec: &RuleSpec, networks: &[NetworkInfo]) -> bool {
    let inside = |range: &AddressRange| {
        let mut pools = networks.iter().flat_map(|it| it.spec.pools());
        pools.any(|pool| AddressRange::from(pool.subnet).overlaps(range))
    };
    may_lead_outside(spec)
        && match &spec.peer {
            Some(Peer::Addresses { range }) => !inside(range),
            _ => true,
        }
}

#[cfg(test)]
mod tests {
    use bus_schema::policy::{Action, Priority};
    use bus_schema::{GroupId, GroupSpec, Revision, Rule, testing};

    use super::*;

    fn networks() -> Vec<NetworkInfo> {
        let mut open = network::tests::info();
        open.spec.egress = Some(Egress::Nat);
        let mut closed = network::tests::info();
        closed.spec.name = testing::name("back");
        closed.spec.v4.subnet = testing::subnet("20.1.2.0/24");
        closed.spec.egress = None;
        vec![open, closed]
    }

    fn group(name: &str, network: &str) -> GroupInfo {
        GroupInfo {
            spec: GroupSpec {
                tenant: TenantName::default_tenant(),
                network: testing::name(network),
                name: testing::name(name),
                id: GroupId::FIRST,
                policies: vec![testing::name("p")],
                docker_name: None,
                pool: None,
            },
            created: Revision(1),
            closing: false,
            endpoints: 0,
            addresses: None,
            usage: vec![],
        }
    }

    fn policy(rules: &[(&str, Direction, Option<Peer>)]) -> PolicyInfo {
        let rules = rules.iter().map(|(id, direction, peer)| Rule {
            id: testing::name(id),
            number: 1,
            spec: RuleSpec {
                direction: *direction,
                priority: Priority::DEFAULT,
                action: Action::Deny,
                protocol: None,
                ports: vec![],
                peer: peer.clone(),
            },
        });
        PolicyInfo {
            tenant: TenantName::default_tenant(),
            policy: testing::name("p"),
            created: Revision(1),
            rules: rules.collect(),
            groups: vec![],
        }
    }

    fn to(first: &str, last: &str) -> Option<Peer> {
        let range = AddressRange {
            first: testing::ip(first),
            last: testing::ip(last),
        };
        Some(Peer::Addresses { range })
    }

    #[test]
    fn rules_about_outside_addresses_are_named_where_there_is_no_way_out() {
        use Direction::{In, Out};
        let rules = policy(&[
            ("world", Out, Some(Peer::World)),
            ("outside", Out, to("8.8.8.8", "8.8.8.8")),
            ("inside", Out, to("20.1.1.7", "20.1.1.9")),
            ("both", Out, to("20.1.0.0", "20.1.3.255")),
            ("all", Out, None),
            ("in", In, Some(Peer::World)),
        ]);
        let groups = [group("web", "contiv-net"), group("db", "back")];
        let found = warnings(&[rules], &groups, &networks());
        let text = |rule: &str| {
            format!(
                "rule {rule} of policy p has no effect on group db: network back has no way out; `netctl net update back --egress=nat` gives it one"
            )
        };
        assert_eq!(found, [text("world"), text("outside")]);
    }

    #[test]
    fn many_rules_without_an_effect_are_counted() {
        let world = || ("x", Direction::Out, Some(Peer::World));
        let rules = policy(&vec![world(); 20]);
        let found = warnings(&[rules], &[group("db", "back")], &networks());
        assert_eq!(found.len(), MAX_SHOWN + 1);
        assert!(found[MAX_SHOWN].starts_with("16 more rules"), "{found:?}");
    }
}
