//! One sample of every answer to a query.

use bus_schema::event::Settings;
use bus_schema::query::{
    AddressCount, BlockUsage, ClusterInfo, NetworkInfo, NodeInfo, TenantInfo, Waited,
};
use bus_schema::{Answer, ClusterId, MachineId, Rejection, Revision};

use super::{MACHINE, endpoint, id, ip, network, node, policy, spec, status, subnet, tenant};

pub(crate) fn answers() -> Vec<Answer> {
    let mut all = [of_networks(), of_nodes()].concat();
    all.extend(policy::answers());
    all
}

fn of_networks() -> Vec<Answer> {
    vec![
        Answer::Cluster {
            revision: Revision(42),
            cluster: ClusterInfo {
                cluster: ClusterId(id(1)),
                settings: Settings::default(),
                version: "0.1.0".to_owned(),
            },
        },
        Answer::Tenants {
            revision: Revision(42),
            tenants: vec![TenantInfo {
                tenant: tenant(),
                networks: vec![network()],
                max_connections: None,
                egress: None,
            }],
        },
        Answer::Networks {
            revision: Revision(42),
            networks: vec![NetworkInfo {
                spec: spec(),
                created: Revision(9),
                closing: false,
                blocks: [(subnet("20.1.1.16/28"), node("node1"))].into(),
                endpoints: 3,
                addresses: Some(AddressCount {
                    assignable: 253,
                    in_use: 3,
                }),
                usage: vec![block_usage()],
            }],
        },
    ]
}

fn of_nodes() -> Vec<Answer> {
    vec![
        Answer::Nodes {
            revision: Revision(42),
            nodes: vec![NodeInfo {
                node: node("node1"),
                machine: MachineId(MACHINE.to_owned()),
                vtep: ip("198.18.0.11"),
                status: Some(status()),
                age: Some(120),
                alive: true,
                drained: true,
                left: false,
                usage: vec![block_usage()],
            }],
        },
        Answer::Endpoints {
            revision: Revision(42),
            endpoints: vec![endpoint()],
        },
        Answer::Waited {
            revision: Revision(42),
            waited: Waited {
                until: Revision(42),
                lagging: [(node("node1"), Revision(40))].into(),
                unpublished: [(node("node3"), 2)].into(),
                silent: vec![node("node2")],
            },
        },
        Answer::Rejected {
            rejection: Rejection::NodeUnknown {
                node: node("node9"),
            },
            revision: Revision(42),
            text: None,
        },
        Answer::Behind {
            revision: Revision(42),
            reason: "still replaying".to_owned(),
        },
    ]
}

pub(super) fn block_usage() -> BlockUsage {
    BlockUsage {
        tenant: tenant(),
        network: network(),
        group: None,
        block: subnet("20.1.1.16/28"),
        node: node("node1"),
        in_use: 3,
        free: 12,
        ceded: 1,
    }
}
