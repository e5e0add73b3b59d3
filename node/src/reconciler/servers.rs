//! One name server for each domain in the kernel, and one for the host.

use std::collections::BTreeMap;

use bus_schema::TenantName;

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

    /// The domains' tenants, for when the domains are in the kernel.
    pub(super) fn remember(&mut self, domains: &BTreeMap<Place, TenantName>) {
        let domains = domains.iter();
        let domains = domains.map(|(place, tenant)| (place.clone(), tenant.clone()));
        self.tenants.extend(domains);
    }

    /// Stops the servers of domains that are deleted: a socket would keep its namespace alive.
    pub(super) fn stop(&mut self, ops: &[Op]) {
        for op in ops {
            if let Some(it) = op.deleted()
                && let (Object::Domain(_), Some(tenant)) = (&it.object, self.tenants.get(&it.place))
            {
                self.dns.drop_domain(tenant);
            }
        }
    }

    /// Starts a server for each domain in the kernel that has none.
    pub(super) fn serve(&self, known: &State, datapath: &Datapath) {
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
