//! The host's resolvers whose addresses are inside a tenant's network. Pure.
//!
//! Containers send questions to these addresses, as their engine or a file tells them. The network
//! hides them, so the domain's server answers in their place, unless an endpoint has the address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bus_schema::TenantName;
use ipnet::IpNet;

use crate::projection::{EndpointsView, Projection};

/// Each covered resolver, with the tenants in which an endpoint has its address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolvers(BTreeMap<IpAddr, BTreeSet<TenantName>>);

impl Resolvers {
    /// Selects the resolvers that any network covers.
    pub fn covered(resolvers: &[IpAddr], facts: &Projection, view: &EndpointsView) -> Self {
        let networks = || facts.tenants.values().flat_map(|it| it.networks.values());
        let covered = |it: &&IpAddr| networks().any(|net| net.spec.v4.subnet.contains(*it));
        let covered = resolvers.iter().filter(covered);
        Self(covered.map(|it| (*it, view.tenants_at(*it))).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The resolvers in a subnet of the tenant whose address none of its endpoints has.
    pub(super) fn within(
        &self,
        tenant: &TenantName,
        subnet: IpNet,
    ) -> impl Iterator<Item = IpAddr> {
        let free = self.0.iter().filter(|(_, taken)| !taken.contains(tenant));
        let free = free.map(|(address, _)| *address);
        free.filter(move |address| subnet.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use bus_schema::node::DomainKind;

    use super::*;
    use crate::desired::fixture::{Facts, params, red};
    use crate::desired::{Programs, desired};
    use crate::projection::fixture::endpoint;

    fn at(tenant: &TenantName, address: &str) -> EndpointsView {
        let mut view = EndpointsView::default();
        view.show(endpoint("other", tenant, "n2", address.parse().unwrap()).into());
        view
    }

    fn elements(view: &EndpointsView) -> Vec<String> {
        let facts = Facts::two_nodes().endpoint("web", "20.1.1.1");
        let resolvers = ["20.1.1.9", "20.1.1.10", "8.8.8.8"].map(|it| it.parse().unwrap());
        let mut params = params(DomainKind::Netns);
        params.resolvers = Resolvers::covered(&resolvers, &facts.projection, view);
        let programs = &mut Programs::default();
        let state = desired(&facts.projection, &facts.locals, &params, programs);
        let texts = state.resources().map(ToString::to_string);
        texts.filter(|it| it.contains("resolvers {")).collect()
    }

    #[test]
    fn resolvers_in_a_subnet_are_elements_unless_an_endpoint_has_their_address() {
        let both = elements(&EndpointsView::default());
        assert_eq!(both.len(), 2, "{both:?}");
        let taken = elements(&at(&red(), "20.1.1.9"));
        assert!(
            taken.len() == 1 && taken[0].contains("20.1.1.10"),
            "{taken:?}"
        );
        let blue = TenantName::new("blue").unwrap();
        assert_eq!(
            elements(&at(&blue, "20.1.1.9")).len(),
            2,
            "another tenant's"
        );
    }
}
