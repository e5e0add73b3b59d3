//! One sample of every event.

use std::collections::BTreeMap;

use bus_schema::event::{self, Settings};
use bus_schema::{ClusterId, Event, MachineId, Revision, Vni};

use super::policy::group;
use super::{MACHINE, id, ip, network, node, policy, spec, subnet, tenant, v4, v6};

pub(crate) fn events() -> Vec<Event> {
    let mut all = first_events();
    all.extend(policy::events());
    all.extend(updates());
    all
}

/// The events that change settings.
fn updates() -> Vec<Event> {
    vec![
        Event::TenantUpdated(event::TenantUpdated {
            tenant: tenant(),
            max_connections: Some(20_000),
            egress: None,
        }),
        Event::NetworkUpdated(event::NetworkUpdated {
            tenant: tenant(),
            network: network(),
            max_connections: Some(0),
            egress: None,
            allow_metadata: None,
        }),
        Event::ClusterChanged(event::ClusterChanged {
            settings: Settings {
                vni_range: (Vni(5_000), Vni(5_999)),
                ..Settings::default()
            },
        }),
    ]
}

/// The events of schema 1.
pub(super) fn first_events() -> Vec<Event> {
    [of_cluster(), of_networks(), of_leases(), of_blocks()].concat()
}

fn of_cluster() -> Vec<Event> {
    vec![
        Event::ClusterCreated(event::ClusterCreated {
            cluster: ClusterId(id(1)),
            settings: Settings::default(),
        }),
        Event::Barrier,
        Event::LogAccepted(event::LogAccepted {
            end: Revision(40),
            ahead: BTreeMap::from([(node("node1"), Revision(47))]),
        }),
        Event::TenantCreated(event::TenantCreated { tenant: tenant() }),
        Event::TenantRemoved(event::TenantRemoved { tenant: tenant() }),
        Event::TenantOpened(event::TenantOpened { tenant: tenant() }),
        Event::TenantClosed(event::TenantClosed { tenant: tenant() }),
        Event::NodeJoined(event::NodeJoined {
            node: node("node1"),
            machine: MachineId(MACHINE.to_owned()),
            vtep: ip("198.18.0.11"),
        }),
        Event::NodeRemoved(event::NodeRemoved {
            node: node("node1"),
            lost: true,
        }),
        Event::NodeDrained(event::NodeDrained {
            node: node("node1"),
        }),
        Event::NodeUncordoned(event::NodeUncordoned {
            node: node("node1"),
        }),
        Event::NodeLeft(event::NodeLeft {
            node: node("node1"),
        }),
    ]
}

fn of_networks() -> Vec<Event> {
    vec![
        Event::VniAssigned(event::VniAssigned {
            vni: Vni(1001),
            tenant: tenant(),
            network: network(),
        }),
        Event::VniReleased(event::VniReleased {
            vni: Vni(1001),
            tenant: tenant(),
            network: network(),
        }),
        Event::NetworkCreated(event::NetworkCreated { network: spec() }),
        Event::NetworkClosing(event::NetworkClosing {
            tenant: tenant(),
            network: network(),
        }),
        Event::NetworkReopened(event::NetworkReopened {
            tenant: tenant(),
            network: network(),
        }),
        Event::NetworkRemoved(event::NetworkRemoved {
            tenant: tenant(),
            network: network(),
            vni: Vni(1001),
            forced: true,
        }),
    ]
}

fn of_leases() -> Vec<Event> {
    vec![
        Event::LeasesOpened(event::LeasesOpened {
            tenant: tenant(),
            network: network(),
            group: None,
            v4: v4(),
            v6: Some(v6()),
        }),
        Event::LeasesClosing(event::LeasesClosing {
            tenant: tenant(),
            network: network(),
            group: None,
        }),
        Event::LeasesReopened(event::LeasesReopened {
            tenant: tenant(),
            network: network(),
            group: None,
        }),
        Event::LeasesClosed(event::LeasesClosed {
            tenant: tenant(),
            network: network(),
            group: None,
        }),
    ]
}

fn of_blocks() -> Vec<Event> {
    vec![
        Event::BlockLeased(event::BlockLeased {
            tenant: tenant(),
            network: network(),
            group: None,
            block: subnet("20.1.1.16/28"),
            node: node("node1"),
        }),
        Event::BlockReturned(event::BlockReturned {
            tenant: tenant(),
            network: network(),
            group: None,
            block: subnet("20.1.1.16/28"),
            node: node("node1"),
        }),
        Event::BlockCeded(event::BlockCeded {
            tenant: tenant(),
            network: network(),
            group: None,
            address: ip("20.1.1.17"),
            from: node("node1"),
            to: node("node2"),
        }),
        Event::BlockRevoked(event::BlockRevoked {
            tenant: tenant(),
            network: network(),
            group: None,
            block: subnet("20.1.1.16/28"),
            node: node("node1"),
        }),
        Event::PoolReserved(event::PoolReserved {
            tenant: tenant(),
            network: network(),
            group: group(),
            range: v4().span(),
        }),
        Event::PoolReleased(event::PoolReleased {
            tenant: tenant(),
            network: network(),
            group: group(),
        }),
    ]
}
