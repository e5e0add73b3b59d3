//! One sample of every rejection.

use bus_schema::{AddressRange, Rejection, Revision, Vni};

use super::{endpoint_use, ip, network, node, subnet, tenant};

pub(crate) fn rejections() -> Vec<Rejection> {
    let (tenant, network) = (tenant(), network());
    let node1 = node("node1");
    let net24 = subnet("20.1.1.0/24");
    vec![
        Rejection::Malformed {
            reason: "no MessagePack".to_owned(),
        },
        Rejection::DeadlinePassed,
        Rejection::OlderThanLog {
            revision: Revision(42),
        },
        Rejection::LogUnreadable {
            revision: Revision(42),
            reason: "no MessagePack".to_owned(),
        },
        Rejection::Unsupported {
            what: "--encap vlan".to_owned(),
            instead: "leave it out".to_owned(),
        },
        Rejection::TenantUnknown {
            tenant: tenant.clone(),
        },
        Rejection::TenantInUse {
            tenant: tenant.clone(),
            networks: vec![network.clone()],
        },
        Rejection::TenantIsDefault,
        Rejection::NetworkUnknown {
            tenant: tenant.clone(),
            network: network.clone(),
        },
        Rejection::NetworkDiffers {
            tenant: tenant.clone(),
            network: network.clone(),
            differs: "subnet".to_owned(),
        },
        Rejection::NetworkClosing {
            tenant: tenant.clone(),
            network: network.clone(),
        },
        Rejection::NetworkNotClosing {
            tenant: tenant.clone(),
            network: network.clone(),
        },
        Rejection::NetworkInUse {
            tenant: tenant.clone(),
            network: network.clone(),
            endpoints: vec![endpoint_use()],
        },
        Rejection::NetworkHeld {
            tenant: tenant.clone(),
            network: network.clone(),
            nodes: vec![node1.clone()],
        },
        Rejection::SubnetOverlaps {
            subnet: subnet("20.1.0.0/16"),
            tenant: tenant.clone(),
            network: network.clone(),
            other_subnet: net24,
        },
        Rejection::SubnetTooSmall {
            subnet: subnet("20.1.1.0/32"),
        },
        Rejection::SubnetReserved {
            subnet: subnet("127.0.0.0/8"),
            reason: "loopback".to_owned(),
        },
        Rejection::RangeOutside {
            range: AddressRange {
                first: ip("20.1.2.1"),
                last: ip("20.1.2.9"),
            },
            subnet: net24,
        },
        Rejection::GatewayOutside {
            gateway: ip("20.1.2.254"),
            subnet: net24,
        },
        Rejection::GatewayReserved {
            gateway: ip("20.1.1.255"),
            subnet: net24,
        },
        Rejection::VniOutOfRange { vni: Vni(1 << 24) },
        Rejection::VniInUse {
            vni: Vni(1001),
            tenant: tenant.clone(),
            network: network.clone(),
        },
        Rejection::VniExhausted {
            first: Vni(1),
            last: Vni(10_000),
        },
        Rejection::NodeUnknown {
            node: node1.clone(),
        },
        Rejection::NodeNameTaken {
            node: node1.clone(),
        },
        Rejection::VtepTaken {
            vtep: ip("198.18.0.11"),
            node: node1.clone(),
        },
        Rejection::NodeInUse {
            node: node1.clone(),
            networks: vec![network.clone()],
        },
        Rejection::NodeAlive {
            node: node1.clone(),
        },
        Rejection::PoolExhausted {
            tenant,
            network: network.clone(),
            subnet: net24,
        },
        Rejection::AddressNotAssignable {
            address: ip("20.1.1.255"),
            network: network.clone(),
            subnet: net24,
        },
        Rejection::AddressHeld {
            address: ip("20.1.1.17"),
            block: subnet("20.1.1.16/28"),
            node: node1.clone(),
        },
        Rejection::BlockNotHeld {
            block: subnet("20.1.1.16/28"),
            network,
            node: node1,
        },
    ]
}
