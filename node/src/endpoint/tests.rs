//! Against a manager with a journal; the tests stand for the kernel, netmaster and other nodes.

mod attach;
mod drained;
mod give_up;
mod groups;
mod lease;
mod promises;
mod unread;

use std::time::Duration;

use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{Command, EndpointId, Rejection, Revision};
use tokio::sync::{mpsc, watch};

use super::fixture::{facts, ip, key, net, network, node, rejected, tenant};
use bus_schema::{GroupName, NetworkName};

use super::*;
use crate::requests::{BusError, BusHandle, BusRequest};
use crate::small_disk::SmallDisk;
use node_core::projection::{GroupFact, Projection};

/// A manager with a kernel that applies everything at once; the test answers as netmaster and other nodes.
struct Bench {
    handle: EndpointsHandle,
    facts: watch::Sender<Projection>,
    asks: mpsc::Receiver<BusRequest>,
    kernel: watch::Sender<Kernel>,
    folder: tempfile::TempDir,
}

fn start(
    journal: &std::path::Path,
    facts: watch::Receiver<Projection>,
    kernel: watch::Receiver<Kernel>,
) -> (EndpointsHandle, mpsc::Receiver<BusRequest>) {
    let (bus, asks) = BusHandle::new();
    let (handle, found) = EndpointsHandle::start(EndpointsConfig {
        me: node("a"),
        journal,
        mtu: 1450,
        facts,
        kernel,
        bus,
    })
    .unwrap();
    assert!(matches!(found, JournalState::Empty | JournalState::Whole));
    (handle, asks)
}

impl Bench {
    fn new(blocks: &[(&str, &str)]) -> Self {
        Self::at(tempfile::tempdir().unwrap(), blocks)
    }

    fn at(folder: tempfile::TempDir, blocks: &[(&str, &str)]) -> Self {
        let (facts, facts_rx) = watch::channel(facts(network(blocks)));
        let (kernel, kernel_rx) = watch::channel(Kernel {
            generation: u64::MAX,
            was_in_sync: true,
            in_sync: true,
            ..Kernel::default()
        });
        let journal = folder.path().join("journal");
        let (handle, asks) = start(&journal, facts_rx, kernel_rx);
        Self {
            handle,
            facts,
            asks,
            kernel,
            folder,
        }
    }

    /// The same node after a restart.
    fn again(self, blocks: &[(&str, &str)]) -> Self {
        let Self { handle, folder, .. } = self;
        drop(handle);
        Self::at(folder, blocks)
    }

    fn hold(&self, blocks: &[(&str, &str)]) {
        self.facts.send_modify(|facts| {
            let tenant = facts.tenants.get_mut(&tenant()).unwrap();
            tenant.networks.insert(net(), network(blocks));
            facts.applied = facts.applied.next();
        });
    }

    async fn next_request(&mut self) -> BusRequest {
        let asked = tokio::time::timeout(Duration::from_secs(5), self.asks.recv()).await;
        asked.expect("a request in time").unwrap()
    }
}

fn attach(id: &str, address: Option<&str>) -> Attach {
    Attach {
        id: EndpointId::new(id).unwrap(),
        tenant: tenant(),
        network: net(),
        group: None,
        addresses: address.map(ip).into_iter().collect(),
        owner: Owner::Docker {
            network_id: "n".to_owned(),
        },
        name: None,
        aliases: Vec::new(),
        container: None,
    }
}

fn reserve(address: Option<&str>) -> Reserve {
    Reserve {
        tenant: tenant(),
        network: net(),
        group: None,
        address: address.map(ip),
        claim: Claim::Container,
    }
}

fn cede_request(address: &str, to: &str, promised: bool) -> CedeRequest {
    CedeRequest {
        key: key(),
        address: ip(address),
        to: node(to),
        promised,
    }
}

const BLOCK: [(&str, &str); 1] = [("10.0.0.16/28", "a")];
