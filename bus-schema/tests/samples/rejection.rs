//! One sample of every rejection.

use bus_schema::rejection::{BlockUse, HolderUse, Holders, RuleUse, Unasked};
use bus_schema::{AddressRange, Rejection, Revision, Vni};

use super::policy::{group, policy, rule};
use super::{endpoint_use, ip, network, node, subnet, tenant};

pub(crate) fn rejections() -> Vec<Rejection> {
    let mut all = of_networks();
    all.extend(of_policies());
    all.extend(of_pools());
    all.push(Rejection::LogShorter {
        end: Revision(40),
        seen: Revision(41),
    });
    all.push(Rejection::LogDamaged {
        server: Some("nats-1".to_owned()),
        reason: "3 of its 40 messages are missing".to_owned(),
        hole: true,
    });
    all
}

fn of_policies() -> Vec<Rejection> {
    let (tenant, group, policy) = (tenant(), group(), policy());
    vec![
        Rejection::GroupUnknown {
            tenant: tenant.clone(),
            group: group.clone(),
        },
        Rejection::GroupDiffers {
            tenant: tenant.clone(),
            group: group.clone(),
            differs: "network".to_owned(),
        },
        Rejection::NameTaken {
            tenant: tenant.clone(),
            name: "contiv-net".to_owned(),
        },
        Rejection::GroupClosing {
            tenant: tenant.clone(),
            group: group.clone(),
        },
        Rejection::GroupNotClosing {
            tenant: tenant.clone(),
            group: group.clone(),
        },
        Rejection::GroupInUse {
            tenant: tenant.clone(),
            group: group.clone(),
            endpoints: vec![endpoint_use()],
        },
        Rejection::GroupHeld {
            tenant: tenant.clone(),
            group: group.clone(),
            nodes: vec![node("node1")],
        },
        Rejection::GroupIdsExhausted {
            tenant: tenant.clone(),
        },
        Rejection::NetworkHasGroups {
            tenant: tenant.clone(),
            network: network(),
            groups: vec![group.clone()],
        },
        Rejection::PolicyUnknown {
            tenant: tenant.clone(),
            policy: policy.clone(),
        },
        Rejection::PolicyInUse {
            tenant: tenant.clone(),
            policy: policy.clone(),
            groups: vec![group],
        },
        Rejection::RuleUnknown {
            tenant: tenant.clone(),
            policy: policy.clone(),
            rule: rule().id,
        },
        Rejection::RuleDiffers {
            policy: policy.clone(),
            rule: rule().id,
            differs: "priority".to_owned(),
        },
        Rejection::RuleNumbersExhausted { tenant },
        Rejection::PortsWithoutProtocol,
        Rejection::PeerInUse {
            what: "group prod_db of tenant blue".to_owned(),
            rules: vec![RuleUse {
                policy,
                rule: rule().id,
            }],
        },
    ]
}

fn of_networks() -> Vec<Rejection> {
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
            groups: vec![],
            policies: vec![],
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
        Rejection::NodeHasEndpoints {
            node: node1.clone(),
            endpoints: vec![endpoint_use()],
        },
        Rejection::NodeNotDrained {
            node: node1.clone(),
            reason: "no answer".to_owned(),
        },
        Rejection::PoolExhausted {
            tenant,
            network: network.clone(),
            subnet: net24,
            holders: Box::new(Holders {
                asked: vec![HolderUse {
                    node: node1.clone(),
                    addresses: 14,
                    in_use: 14,
                }],
                unasked: vec![Unasked {
                    node: node("node2"),
                    reason: "no answer".to_owned(),
                }],
            }),
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

fn of_pools() -> Vec<Rejection> {
    let (tenant, network, node1) = (tenant(), network(), node("node1"));
    let pool = AddressRange {
        first: ip("20.1.1.10"),
        last: ip("20.1.1.20"),
    };
    vec![
        Rejection::PoolOverlaps {
            pool,
            group: group(),
            other: pool,
        },
        Rejection::PoolOutside {
            pool,
            network: network.clone(),
            inside: subnet("20.1.1.0/24").into(),
        },
        Rejection::PoolHoldsReserved {
            pool,
            address: ip("20.1.1.20"),
            network: network.clone(),
        },
        Rejection::PoolLeased {
            pool,
            network: network.clone(),
            blocks: vec![BlockUse {
                block: subnet("20.1.1.16/28"),
                node: node1,
            }],
        },
        Rejection::GroupPoolExhausted {
            tenant,
            network,
            group: group(),
            pool,
            holders: Box::default(),
        },
        Rejection::AddressOutsidePool {
            address: ip("20.1.1.5"),
            group: group(),
            pool,
        },
        Rejection::AddressInPool {
            address: ip("20.1.1.20"),
            group: group(),
            pool,
        },
    ]
}
