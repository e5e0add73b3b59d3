//! One sample of every rejection.

use bus_schema::policy::PortRange;
use bus_schema::rejection::{BlockUse, HolderUse, Holders, RuleUse, Unasked};
use bus_schema::{AddressRange, Rejection, Revision, Vni};

use super::policy::{group, policy, rule};
use super::{endpoint_use, ip, network, node, subnet, tenant};

pub(crate) fn rejections() -> Vec<Rejection> {
    [
        of_requests(),
        of_networks(),
        of_subnets(),
        of_nodes(),
        of_addresses(),
        of_groups(),
        of_policies(),
        of_pools(),
        of_typed_refusals(),
        of_logs(),
        of_limits(),
    ]
    .concat()
}

fn of_limits() -> Vec<Rejection> {
    vec![
        Rejection::RequestTooLong {
            bytes: 200_000,
            max: 131_072,
        },
        Rejection::VniOutsideRange {
            vni: Vni(10_001),
            first: Vni(1),
            last: Vni(10_000),
        },
        Rejection::VniRangeInvalid {
            first: Vni(2),
            last: Vni(1),
        },
    ]
}

fn of_logs() -> Vec<Rejection> {
    vec![
        Rejection::LogShorter {
            end: Revision(40),
            seen: Revision(41),
        },
        Rejection::LogDamaged {
            server: Some("nats-1".to_owned()),
            reason: "3 of its 40 messages are missing".to_owned(),
            hole: true,
        },
    ]
}

fn of_groups() -> Vec<Rejection> {
    vec![
        Rejection::GroupUnknown {
            tenant: tenant(),
            group: group(),
        },
        Rejection::GroupDiffers {
            tenant: tenant(),
            group: group(),
            differs: "network".to_owned(),
        },
        Rejection::NameTaken {
            tenant: tenant(),
            name: "contiv-net".to_owned(),
        },
        Rejection::GroupClosing {
            tenant: tenant(),
            group: group(),
        },
        Rejection::GroupNotClosing {
            tenant: tenant(),
            group: group(),
        },
        Rejection::GroupInUse {
            tenant: tenant(),
            group: group(),
            endpoints: vec![endpoint_use()],
        },
        Rejection::GroupHeld {
            tenant: tenant(),
            group: group(),
            nodes: vec![node("node1")],
        },
        Rejection::GroupIdsExhausted { tenant: tenant() },
        Rejection::NetworkHasGroups {
            tenant: tenant(),
            network: network(),
            groups: vec![group()],
        },
    ]
}

fn of_policies() -> Vec<Rejection> {
    vec![
        Rejection::PolicyUnknown {
            tenant: tenant(),
            policy: policy(),
        },
        Rejection::PolicyInUse {
            tenant: tenant(),
            policy: policy(),
            groups: vec![group()],
        },
        Rejection::RuleUnknown {
            tenant: tenant(),
            policy: policy(),
            rule: rule().id,
        },
        Rejection::RuleDiffers {
            policy: policy(),
            rule: rule().id,
            differs: "priority".to_owned(),
        },
        Rejection::RuleNumbersExhausted { tenant: tenant() },
        Rejection::PortsWithoutProtocol,
        Rejection::PeerInUse {
            what: "group prod_db of tenant blue".to_owned(),
            rules: vec![RuleUse {
                policy: policy(),
                rule: rule().id,
            }],
        },
    ]
}

fn of_typed_refusals() -> Vec<Rejection> {
    vec![
        Rejection::DockerNameInvalid {
            name: "a b".to_owned(),
        },
        Rejection::DockerNameTaken {
            tenant: tenant(),
            name: "front".to_owned(),
            bearer: "network web".to_owned(),
            flag: "--nw-tag".to_owned(),
        },
        Rejection::PortsReversed {
            ports: PortRange { first: 9, last: 3 },
        },
        Rejection::AddressesReversed {
            addresses: AddressRange {
                first: ip("10.1.1.9"),
                last: ip("10.1.1.3"),
            },
        },
        Rejection::MachineIdEmpty,
        Rejection::VtepUnusable {
            vtep: ip("127.0.0.1"),
        },
    ]
}

fn of_requests() -> Vec<Rejection> {
    vec![
        Rejection::Malformed {
            reason: "no MessagePack".to_owned(),
        },
        Rejection::WrongSubject {
            subject: "contiv.api.v1.net.create".to_owned(),
        },
        Rejection::Defect,
        Rejection::NotInitialised,
        Rejection::AnswerTooLong {
            bytes: 2_000_000,
            max: 1_048_576,
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
    ]
}

fn of_networks() -> Vec<Rejection> {
    vec![
        Rejection::TenantUnknown { tenant: tenant() },
        Rejection::TenantInUse {
            tenant: tenant(),
            networks: vec![network()],
            groups: vec![],
            policies: vec![],
        },
        Rejection::TenantDiffers {
            tenant: tenant(),
            differs: "limit of connections".to_owned(),
        },
        Rejection::TenantIsDefault,
        Rejection::NetworkUnknown {
            tenant: tenant(),
            network: network(),
        },
        Rejection::NetworkDiffers {
            tenant: tenant(),
            network: network(),
            differs: "subnet".to_owned(),
        },
        Rejection::NetworkClosing {
            tenant: tenant(),
            network: network(),
        },
        Rejection::NetworkNotClosing {
            tenant: tenant(),
            network: network(),
        },
        Rejection::NetworkInUse {
            tenant: tenant(),
            network: network(),
            endpoints: vec![endpoint_use()],
        },
        Rejection::NetworkHeld {
            tenant: tenant(),
            network: network(),
            nodes: vec![node("node1")],
        },
    ]
}

fn of_subnets() -> Vec<Rejection> {
    vec![
        Rejection::SubnetOverlaps {
            subnet: subnet("20.1.0.0/16"),
            tenant: tenant(),
            network: network(),
            other_subnet: subnet("20.1.1.0/24"),
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
            subnet: subnet("20.1.1.0/24"),
        },
        Rejection::GatewayOutside {
            gateway: ip("20.1.2.254"),
            subnet: subnet("20.1.1.0/24"),
        },
        Rejection::GatewayReserved {
            gateway: ip("20.1.1.255"),
            subnet: subnet("20.1.1.0/24"),
        },
        Rejection::VniOutOfRange { vni: Vni(1 << 24) },
        Rejection::VniInUse {
            vni: Vni(1001),
            tenant: tenant(),
            network: network(),
        },
        Rejection::VniExhausted {
            first: Vni(1),
            last: Vni(10_000),
        },
    ]
}

fn of_nodes() -> Vec<Rejection> {
    vec![
        Rejection::NodeUnknown {
            node: node("node1"),
        },
        Rejection::NodeNameTaken {
            node: node("node1"),
        },
        Rejection::VtepTaken {
            vtep: ip("198.18.0.11"),
            node: node("node1"),
        },
        Rejection::NodeInUse {
            node: node("node1"),
            networks: vec![network()],
        },
        Rejection::NodeAlive {
            node: node("node1"),
        },
        Rejection::NodeHasEndpoints {
            node: node("node1"),
            endpoints: vec![endpoint_use()],
        },
        Rejection::NodeNotDrained {
            node: node("node1"),
            reason: "no answer".to_owned(),
        },
    ]
}

fn of_addresses() -> Vec<Rejection> {
    vec![
        Rejection::PoolExhausted {
            tenant: tenant(),
            network: network(),
            subnet: subnet("20.1.1.0/24"),
            holders: Box::new(Holders {
                asked: vec![HolderUse {
                    node: node("node1"),
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
            network: network(),
            subnet: subnet("20.1.1.0/24"),
        },
        Rejection::AddressHeld {
            address: ip("20.1.1.17"),
            block: subnet("20.1.1.16/28"),
            node: node("node1"),
        },
        Rejection::BlockNotHeld {
            block: subnet("20.1.1.16/28"),
            network: network(),
            node: node("node1"),
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
