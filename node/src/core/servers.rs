//! A name server for every domain that is in the kernel, and one for the host.

use std::collections::BTreeMap;

use bus_schema::TenantName;
use bus_schema::node::DomainKind;

use node_core::desired::domain_name;
use node_core::reconcile::Op;
use node_core::resource::{Object, Place, State};
use node_datapath::Datapath;
use node_dns::{DnsHandle, SocketPlace};

#[derive(Debug)]
pub(super) struct Servers {
    dns: DnsHandle,
    tenants: BTreeMap<Place, TenantName>,
}

impl Servers {
    pub(super) fn new(dns: DnsHandle) -> Self {
        Self {
            dns,
            tenants: BTreeMap::new(),
        }
    }

    /// The place of a tenant's domain, remembered for when it is there.
    pub(super) fn place(&mut self, kind: DomainKind, tenant: &TenantName) -> Place {
        let place = Place::Domain(domain_name(kind, tenant));
        self.tenants.insert(place.clone(), tenant.clone());
        place
    }

    /// A socket keeps its namespace alive, so it is closed before the domain goes.
    pub(super) fn before(&mut self, ops: &[Op]) {
        for op in ops {
            if let Some(it) = op.deleted()
                && let (Object::Domain(_), Some(tenant)) = (&it.object, self.tenants.get(&it.place))
            {
                self.dns.drop_domain(tenant);
            }
        }
    }

    /// Serves what is there; what is served already stays as it is.
    pub(super) fn after(&self, known: &State, datapath: &Datapath) {
        for (domain, _) in known.domains() {
            let Some(tenant) = self.tenants.get(domain) else {
                continue;
            };
            let place = match (domain, datapath.netns_of(domain)) {
                (_, Some(path)) => SocketPlace::Namespace(path),
                (Place::Domain(device), None) => SocketPlace::Vrf(device.clone()),
                (Place::Host, None) => continue,
            };
            self.dns.serve_domain(tenant, place);
        }
        self.dns.serve_host();
    }
}
