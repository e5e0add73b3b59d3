//! Who has an address that another endpoint had, on whatever node: it goes on with none of that
//! one's connections, whose answers would pass here unasked.
//!
//! An endpoint that only goes, or whose node leaves, ends nothing: it may still be there.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use bus_schema::{EndpointId, TenantName};

use super::Core;
use node_core::desired::{domain_name, tenants, zone};
use node_core::projection::{EndpointsView, Projection};
use node_core::reconcile::Op;
use node_core::resource::Place;

/// An address within its tenant.
pub(super) type Address = (TenantName, IpAddr);

/// Addresses without an endpoint whose last one is remembered, about 150 bytes each.
const REMEMBERED: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct Heirs {
    gone: BTreeMap<Address, EndpointId>,
    oldest: VecDeque<Address>,
}

impl Heirs {
    /// The addresses that are another endpoint's after than before.
    pub(super) fn between(
        &mut self,
        before: &EndpointsView,
        after: &EndpointsView,
    ) -> Vec<Address> {
        let mut came = Vec::new();
        for (old, new) in before.changes(after) {
            let has =
                |address: &IpAddr| new.is_some_and(|it| it.addresses().any(|a| a == *address));
            if let Some(old) = old {
                for address in old.addresses().filter(|it| !has(it)) {
                    self.remember((old.tenant.clone(), address), old.id.clone());
                }
            }
            came.extend(new);
        }
        let mut inherited = Vec::new();
        for new in came {
            for address in new.addresses() {
                let key = (new.tenant.clone(), address);
                let gone = self.gone.remove(&key);
                if gone.is_some() {
                    self.oldest.retain(|it| *it != key);
                }
                let there = || before.at(&new.tenant, address).map(|it| it.id.clone());
                if gone.or_else(there).is_some_and(|last| last != new.id) {
                    inherited.push(key);
                }
            }
        }
        inherited
    }

    fn remember(&mut self, address: Address, last: EndpointId) {
        if self.gone.insert(address.clone(), last).is_none() {
            self.oldest.push_back(address);
        }
        if self.oldest.len() > REMEMBERED
            && let Some(address) = self.oldest.pop_front()
        {
            self.gone.remove(&address);
        }
    }
}

impl Core {
    /// Addresses that others have now owe their connections; whether there are any.
    pub(super) fn part_with(
        &mut self,
        before: &EndpointsView,
        after: &EndpointsView,
        facts: &Projection,
    ) -> bool {
        let mut inherited = self.heirs.between(before, after);
        // Nearly always: which tenants are here takes a look at all of them.
        if inherited.is_empty() {
            return false;
        }
        let here = tenants(facts, &self.locals, &self.params);
        inherited.retain(|(tenant, _)| here.contains(tenant));
        let any = !inherited.is_empty();
        let kind = self.params.kind;
        let forgets = inherited
            .into_iter()
            .map(|(tenant, address)| Op::FlushConntrack {
                place: Place::Domain(domain_name(kind, &tenant)),
                zone: zone(facts, &tenant, kind),
                address,
            });
        self.owed.extend(forgets);
        any
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bus_schema::{Endpoint, NetworkName, NodeName};

    use super::*;

    fn view(endpoints: &[(&str, &str)]) -> EndpointsView {
        let mut view = EndpointsView::default();
        for (id, address) in endpoints {
            let address: std::net::Ipv4Addr = address.parse().unwrap();
            view.show(Arc::new(Endpoint {
                id: EndpointId::new(*id).unwrap(),
                tenant: TenantName::default_tenant(),
                network: NetworkName::new("net").unwrap(),
                group: None,
                name: None,
                aliases: Vec::new(),
                container: None,
                v4: Some(address),
                v6: None,
                mac: bus_schema::MacAddr::of_endpoint(address.into()),
                node: NodeName::new("n2").unwrap(),
                interface: "cv1".to_owned(),
                vtep: "198.18.0.2".parse().unwrap(),
                closed: None,
            }));
        }
        view
    }

    fn inherited(heirs: &mut Heirs, way: &[EndpointsView]) -> Vec<String> {
        let steps = way.windows(2);
        let found = steps.flat_map(|it| heirs.between(&it[0], &it[1]));
        found.map(|(_, address)| address.to_string()).collect()
    }

    #[test]
    fn an_address_has_an_heir_when_another_endpoint_has_it() {
        let one = view(&[("one", "20.1.1.1"), ("beside", "20.1.1.9")]);
        let two = view(&[("two", "20.1.1.1"), ("beside", "20.1.1.9")]);
        let none = view(&[("beside", "20.1.1.9")]);
        let ways: [(&[EndpointsView], &[&str]); 4] = [
            (&[one.clone(), two.clone()], &["20.1.1.1"]),
            (&[one.clone(), none.clone(), two.clone()], &["20.1.1.1"]),
            (&[one.clone(), none.clone(), one], &[]),
            (&[none.clone(), two, none], &[]),
        ];
        for (way, wanted) in ways {
            assert_eq!(inherited(&mut Heirs::default(), way), wanted);
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut heirs = Heirs::default();
        let none = EndpointsView::default();
        for number in 0..REMEMBERED as u32 + 10 {
            let address = std::net::Ipv4Addr::from_bits(0x1401_0000 + number).to_string();
            heirs.between(&view(&[("one", &address)]), &none);
        }
        assert_eq!(
            (heirs.gone.len(), heirs.oldest.len()),
            (REMEMBERED, REMEMBERED)
        );
    }
}
