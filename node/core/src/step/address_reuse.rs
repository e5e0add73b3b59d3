//! When an address moves to another endpoint, on any node, its conntrack entries are flushed: the old
//! owner's replies would be accepted as established.
//!
//! An endpoint that only vanishes, or whose node leaves, causes no flush: it may still run. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use bus_schema::{EndpointId, TenantName};

use super::Memory;
use crate::desired::{domain_name, tenants, zone};
use crate::projection::{EndpointsView, Projection};
use crate::reconcile::Op;
use crate::resource::Place;

/// An address within its tenant.
pub(super) type TenantAddress = (TenantName, IpAddr);

/// Addresses without an endpoint whose last owner is remembered, about 150 bytes each.
const MAX_ADDRESSES: usize = 16_384;

#[derive(Debug, Default)]
pub(super) struct AddressReuse {
    gone: BTreeMap<TenantAddress, EndpointId>,
    oldest: VecDeque<TenantAddress>,
}

impl AddressReuse {
    /// The addresses whose endpoint is another one in `after` than the last one before.
    pub(super) fn between(
        &mut self,
        before: &EndpointsView,
        after: &EndpointsView,
    ) -> Vec<TenantAddress> {
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
        let mut reused = Vec::new();
        for new in came {
            for address in new.addresses() {
                let key = (new.tenant.clone(), address);
                let gone = self.gone.remove(&key);
                if gone.is_some() {
                    self.oldest.retain(|it| *it != key);
                }
                let there = || before.at(&new.tenant, address).map(|it| it.id.clone());
                if gone.or_else(there).is_some_and(|last| last != new.id) {
                    reused.push(key);
                }
            }
        }
        reused
    }

    fn remember(&mut self, address: TenantAddress, last: EndpointId) {
        if self.gone.insert(address.clone(), last).is_none() {
            self.oldest.push_back(address);
        }
        if self.oldest.len() > MAX_ADDRESSES
            && let Some(address) = self.oldest.pop_front()
        {
            self.gone.remove(&address);
        }
    }
}

impl Memory {
    /// The published endpoints changed: addresses that other endpoints have now are flushed. Whether
    /// there are any.
    pub fn note_reuse(
        &mut self,
        before: &EndpointsView,
        after: &EndpointsView,
        facts: &Projection,
    ) -> bool {
        let mut reused = self.reuse.between(before, after);
        // Nearly always: to find the tenants of this node takes a walk over all networks.
        if reused.is_empty() {
            return false;
        }
        let here = tenants(facts, &self.endpoints.locals, &self.params);
        reused.retain(|(tenant, _)| here.contains(tenant));
        let any = !reused.is_empty();
        let kind = self.params.kind;
        let flushes = reused
            .into_iter()
            .map(|(tenant, address)| Op::FlushConntrack {
                place: Place::Domain(domain_name(kind, &tenant)),
                zone: zone(facts, &tenant, kind),
                address,
            });
        self.pending.flushes.extend(flushes);
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::fixture::endpoint;

    fn view(endpoints: &[(&str, &str)]) -> EndpointsView {
        let mut view = EndpointsView::default();
        for (id, address) in endpoints {
            let tenant = TenantName::default_tenant();
            view.show(endpoint(id, &tenant, "n2", address.parse().unwrap()).into());
        }
        view
    }

    fn reused(reuse: &mut AddressReuse, way: &[EndpointsView]) -> Vec<String> {
        let steps = way.windows(2);
        let found = steps.flat_map(|it| reuse.between(&it[0], &it[1]));
        found.map(|(_, address)| address.to_string()).collect()
    }

    #[test]
    fn address_is_reused_when_another_endpoint_has_it() {
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
            assert_eq!(reused(&mut AddressReuse::default(), way), wanted);
        }
    }

    #[test]
    fn remembered_addresses_are_bounded() {
        let mut reuse = AddressReuse::default();
        let none = EndpointsView::default();
        for number in 0..MAX_ADDRESSES as u32 + 10 {
            let address = std::net::Ipv4Addr::from_bits(0x1401_0000 + number).to_string();
            reuse.between(&view(&[("one", &address)]), &none);
        }
        assert_eq!(
            (reuse.gone.len(), reuse.oldest.len()),
            (MAX_ADDRESSES, MAX_ADDRESSES)
        );
    }
}
