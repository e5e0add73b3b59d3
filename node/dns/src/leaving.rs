//! Whether an asker may ask the host's resolvers. Pure.
//!
//! A question about a name outside of the cluster leaves the node, so it counts as a connection of the
//! asker to port 53 of the resolver: a group whose `out` rules deny it could else send data in names.

use std::net::IpAddr;

use bus_schema::TenantName;
use bus_schema::node::Flow;
use bus_schema::policy::Protocol;

use node_core::policy::{Cache, may_leave};
use node_core::projection::EndpointsView;

const DNS_PORT: u16 = 53;

/// The asker of a question, and the protocol of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    pub(super) tenant: &'a TenantName,
    pub(super) address: IpAddr,
    pub(super) protocol: Protocol,
}

impl Asker<'_> {
    /// Whether it may ask this resolver. An address without an endpoint may if nobody has rules.
    pub(super) fn may_ask(
        &self,
        resolver: IpAddr,
        view: &EndpointsView,
        programs: &mut Cache,
    ) -> bool {
        let Some(fact) = view.intent_of(self.tenant) else {
            return true;
        };
        let Some(endpoint) = view.at(self.tenant, self.address) else {
            return fact.policies.is_empty();
        };
        let flow = Flow {
            tenant: self.tenant.clone(),
            from: self.address,
            to: resolver,
            protocol: self.protocol,
            port: Some(DNS_PORT),
        };
        may_leave(fact, endpoint.group.as_ref(), &flow, programs)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Rule, RuleSpec};
    use bus_schema::{AddressRange, PolicyName, RuleId};
    use imbl::OrdMap;
    use node_core::projection::{PolicyFact, TenantFact};

    use super::*;
    use crate::zone::tests::{intent, view};

    /// An `out` rule: its priority, its action, its protocol and the peer's address.
    type Out<'a> = (u8, Action, Option<Protocol>, Option<&'a str>);

    fn out((priority, action, protocol, to): Out<'_>, number: u32) -> Rule {
        let port = PortRange {
            first: DNS_PORT,
            last: DNS_PORT,
        };
        let spec = RuleSpec {
            direction: Direction::Out,
            priority: Priority::new(priority).unwrap(),
            action,
            protocol,
            ports: protocol.map(|_| port).into_iter().collect(),
            peer: to.map(|it| {
                let address = it.parse().unwrap();
                let range = AddressRange {
                    first: address,
                    last: address,
                };
                Peer::Addresses { range }
            }),
        };
        let id = RuleId::new(number.to_string()).unwrap();
        Rule { id, number, spec }
    }

    /// A view in which 20.1.1.1 is in group `g` of tenant `default`, whose policy has these rules, and
    /// 20.1.1.2 in none.
    pub(crate) fn with_rules(rules: &[Out<'_>]) -> EndpointsView {
        let mut view = view(&["default front/g web 20.1.1.1", "default front db 20.1.1.2"]);
        let mut all: OrdMap<TenantName, TenantFact> = intent(&["default front g"]);
        let name = PolicyName::new("p").unwrap();
        for tenant in all.clone().keys() {
            let fact = all.entry(tenant.clone()).or_default();
            let rules = rules.iter().zip(1..).map(|(it, number)| out(*it, number));
            let policy = PolicyFact {
                rules: rules.map(|it| (it.id.clone(), it)).collect(),
                ..PolicyFact::default()
            };
            fact.policies.insert(name.clone(), policy);
            for (group, mut of) in fact.groups.clone() {
                of.spec.policies = vec![name.clone()];
                fact.groups.insert(group, of);
            }
        }
        view.follow_intent(&all);
        view
    }

    fn may(view: &EndpointsView, address: &str, protocol: Protocol, resolver: &str) -> bool {
        let asker = Asker {
            tenant: &TenantName::default_tenant(),
            address: address.parse().unwrap(),
            protocol,
        };
        asker.may_ask(resolver.parse().unwrap(), view, &mut Cache::default())
    }

    #[test]
    fn out_rules_of_the_askers_group_decide() {
        use Action::{Allow, Deny};
        let (udp, tcp, resolver) = (Protocol::UDP, Protocol::TCP, "10.0.0.2");
        let all = with_rules(&[(1, Deny, None, None)]);
        assert!(!may(&all, "20.1.1.1", udp, resolver));
        assert!(!may(&all, "20.1.1.1", udp, "fd00::2"));
        assert!(may(&all, "20.1.1.2", udp, resolver), "in no group");
        assert!(!may(&all, "20.1.1.9", udp, resolver), "nobody's address");
        let by_tcp = with_rules(&[(1, Deny, Some(tcp), None)]);
        assert!(may(&by_tcp, "20.1.1.1", udp, resolver));
        assert!(!may(&by_tcp, "20.1.1.1", tcp, resolver));
        let but_one = with_rules(&[(1, Deny, None, None), (2, Allow, Some(udp), Some(resolver))]);
        assert!(may(&but_one, "20.1.1.1", udp, resolver));
        assert!(!may(&but_one, "20.1.1.1", udp, "10.0.0.3"));
        let none = with_rules(&[]);
        assert!(may(&none, "20.1.1.1", udp, resolver));
    }
}
