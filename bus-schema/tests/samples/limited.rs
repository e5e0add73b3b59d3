//! Messages with a limit of connections, which older versions don't have.

use bus_schema::command::{NetworkCreate, TenantCreate};
use bus_schema::event::NetworkCreated;
use bus_schema::query::TenantInfo;
use bus_schema::{Answer, Command, Event, NetworkSpec, Revision};

use super::{network, spec, subnet, tenant};

pub(crate) fn limited_commands() -> Vec<Command> {
    vec![
        Command::TenantCreate(TenantCreate {
            tenant: tenant(),
            max_connections: Some(20_000),
            egress: None,
        }),
        Command::NetworkCreate(NetworkCreate {
            tenant: tenant(),
            network: network(),
            subnet: subnet("20.1.1.0/24"),
            range: None,
            gateway: None,
            subnet6: None,
            gateway6: None,
            vni: None,
            docker_name: None,
            max_connections: Some(10_000),
            egress: None,
            allow_metadata: None,
        }),
    ]
}

pub(crate) fn limited_event() -> Event {
    Event::NetworkCreated(NetworkCreated {
        network: NetworkSpec {
            max_connections: Some(10_000),
            ..spec()
        },
    })
}

pub(crate) fn limited_answer() -> Answer {
    Answer::Tenants {
        revision: Revision(42),
        tenants: vec![TenantInfo {
            tenant: tenant(),
            networks: vec![network()],
            max_connections: Some(20_000),
            egress: None,
        }],
    }
}
