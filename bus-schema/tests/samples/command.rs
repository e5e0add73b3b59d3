//! One sample of every command.

use bus_schema::command::{
    BlockCede, BlockLease, BlockReturn, BlockRevoke, ClusterSet, LogAccept, NetworkCreate,
    NetworkRemove, NetworkUpdate, NodeDrain, NodeJoin, NodeLeave, NodeRemove, NodeUncordon,
    Removal, Request, TenantCreate, TenantRemove, TenantUpdate,
};
use bus_schema::{Command, MachineId, Vni};

use super::{MACHINE, ip, network, node, policy, requested, subnet, tenant, v4};

pub(crate) fn commands() -> Vec<Request<Command>> {
    let all = [of_networks(), of_nodes(), of_blocks(), policy::commands()];
    all.concat().into_iter().map(requested).collect()
}

fn of_networks() -> Vec<Command> {
    vec![
        Command::TenantCreate(TenantCreate {
            tenant: tenant(),
            max_connections: None,
            egress: None,
        }),
        Command::TenantUpdate(TenantUpdate {
            tenant: tenant(),
            max_connections: Some(20_000),
            egress: None,
        }),
        Command::TenantRemove(TenantRemove { tenant: tenant() }),
        Command::NetworkCreate(NetworkCreate {
            tenant: tenant(),
            network: network(),
            subnet: subnet("20.1.1.0/24"),
            range: v4().range,
            gateway: Some(ip("20.1.1.254")),
            subnet6: Some(subnet("fd00:20::/64")),
            gateway6: Some(ip("fd00:20::fe")),
            vni: Some(Vni(1001)),
            docker_name: Some("front".to_owned()),
            max_connections: None,
            egress: None,
            allow_metadata: None,
        }),
        Command::NetworkUpdate(NetworkUpdate {
            tenant: tenant(),
            network: network(),
            max_connections: Some(10_000),
            egress: None,
            allow_metadata: None,
        }),
        Command::NetworkRemove(NetworkRemove {
            tenant: tenant(),
            network: network(),
            mode: Removal::Close,
        }),
    ]
}

fn of_nodes() -> Vec<Command> {
    vec![
        Command::ClusterSet(ClusterSet {
            vni_range: Some((Vni(5_000), Vni(5_999))),
        }),
        Command::LogAccept(LogAccept {}),
        Command::NodeJoin(NodeJoin {
            node: node("node1"),
            machine: MachineId(MACHINE.to_owned()),
            vtep: ip("198.18.0.11"),
        }),
        Command::NodeRemove(NodeRemove {
            node: node("node1"),
            lost: true,
        }),
        Command::NodeDrain(NodeDrain {
            node: node("node1"),
        }),
        Command::NodeUncordon(NodeUncordon {
            node: node("node1"),
        }),
        Command::NodeLeave(NodeLeave {
            node: node("node1"),
            machine: MachineId(MACHINE.to_owned()),
        }),
    ]
}

fn of_blocks() -> Vec<Command> {
    vec![
        Command::BlockLease(BlockLease {
            tenant: tenant(),
            network: network(),
            group: None,
            node: node("node1"),
            address: Some(ip("20.1.1.17")),
            v6: false,
            ahead: false,
            waiting: 0,
        }),
        Command::BlockReturn(BlockReturn {
            tenant: tenant(),
            network: network(),
            group: None,
            block: subnet("20.1.1.16/28"),
            node: node("node1"),
        }),
        Command::BlockCede(BlockCede {
            tenant: tenant(),
            network: network(),
            group: None,
            address: ip("20.1.1.17"),
            from: node("node1"),
            to: node("node2"),
        }),
        Command::BlockRevoke(BlockRevoke {
            tenant: tenant(),
            network: network(),
            group: None,
            node: node("node1"),
        }),
    ]
}
