//! Facts and endpoints for this folder's tests.

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

use bus_schema::{
    AddressRange, EndpointId, GroupId, GroupName, GroupSpec, MacAddr, NetworkName, NetworkSpec,
    NodeName, Pool, Rejection, Revision, TenantName, Vni,
};
use imbl::OrdMap;
use ipnet::IpNet;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{LocalEndpoint, NetworkKey, Owner};
use crate::bus::AskError;
use crate::projection::{NetworkFact, Projection};

pub(crate) fn tenant() -> TenantName {
    TenantName::default_tenant()
}

pub(crate) fn net() -> NetworkName {
    NetworkName::new("web").unwrap()
}

pub(crate) fn key() -> NetworkKey {
    (tenant(), net())
}

pub(crate) fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// 10.0.0.0/24 with the gateway 10.0.0.1, and these blocks.
pub(crate) fn network(blocks: &[(&str, &str)]) -> NetworkFact {
    NetworkFact {
        spec: NetworkSpec {
            tenant: tenant(),
            name: net(),
            vni: Vni(7),
            v4: Pool {
                subnet: "10.0.0.0/24".parse().unwrap(),
                gateway: ip("10.0.0.1"),
                range: None,
            },
            v6: None,
            docker_name: None,
        },
        closing: false,
        pools: Default::default(),
        blocks: blocks
            .iter()
            .map(|(block, holder)| (block.parse::<IpNet>().unwrap(), node(holder)))
            .collect(),
    }
}

pub(crate) fn rejected(rejection: Rejection) -> AskError {
    let revision = Revision(1);
    AskError::Rejected {
        rejection: Box::new(rejection),
        revision,
    }
}

/// A group of the network, with these addresses for its members.
pub(crate) fn group(name: &GroupName, pool: Option<AddressRange>) -> GroupSpec {
    GroupSpec {
        tenant: tenant(),
        network: net(),
        name: name.clone(),
        id: GroupId::FIRST,
        policies: Vec::new(),
        docker_name: None,
        pool,
    }
}

pub(crate) fn facts(network: NetworkFact) -> Projection {
    let mut tenants = OrdMap::new();
    let mut fact = crate::projection::TenantFact::default();
    fact.networks.insert(net(), network);
    tenants.insert(tenant(), fact);
    Projection {
        tenants,
        ..Projection::default()
    }
}

pub(crate) fn endpoint(id: &str, address: &str) -> LocalEndpoint {
    LocalEndpoint {
        id: EndpointId::new(id).unwrap(),
        tenant: tenant(),
        network: net(),
        group: None,
        addresses: vec![ip(address)],
        mac: MacAddr::of_endpoint(ip(address)),
        host_interface: format!("cv{id}"),
        peer_interface: format!("cp{id}"),
        owner: Owner::Docker {
            network_id: "n".to_owned(),
        },
        name: None,
        aliases: Vec::new(),
        container: None,
    }
}

/// A file system of a few pages, gone when this is dropped.
pub(crate) struct Small(tempfile::TempDir);

impl Small {
    pub(crate) fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        mount(
            Some("tmpfs"),
            folder.path(),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("mounting needs root");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn fill(&self) {
        let mut file = File::create(self.0.path().join("ballast")).unwrap();
        while file.write_all(&[0; 512]).is_ok() {}
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.0.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        umount2(self.0.path(), MntFlags::MNT_DETACH).ok();
    }
}
