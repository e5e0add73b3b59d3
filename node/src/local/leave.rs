//! `netplugin leave`: records in the log that the node leaves, withdraws its names, and returns the
//! blocks in which it uses no address.

use std::time::Duration;

use bus_schema::NodeName;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::bus::{Leave, LeaveError};
use crate::endpoint::{EndpointsHandle, Ledger, LocalEndpoint};
use node_core::projection::Projection;

/// Limits the wait for the empty blocks' return.
const RETURN_TIMEOUT: Duration = Duration::from_secs(5);

/// The endpoints and blocks of a node that has left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    pub node: NodeName,
    /// They run until their owners stop them.
    pub endpoints: Vec<LocalEndpoint>,
    /// Blocks that it still holds, because it uses addresses in them or they couldn't be returned yet.
    pub blocks: Vec<IpNet>,
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, .. } = self;
        write!(
            f,
            "node {node} has left the cluster: it takes no new endpoints, and its names are withdrawn; the next start of netplugin joins again"
        )?;
        if !self.blocks.is_empty() {
            let blocks: Vec<String> = self.blocks.iter().map(ToString::to_string).collect();
            write!(f, "\nit still holds {}", blocks.join(", "))?;
        }
        if !self.endpoints.is_empty() {
            write!(
                f,
                "\nthese endpoints still run here; stop their containers before the node is removed:"
            )?;
        }
        for endpoint in &self.endpoints {
            let name = endpoint.name.as_deref().unwrap_or(endpoint.id.as_str());
            write!(f, "\n  {name}: {endpoint}")?;
        }
        Ok(())
    }
}

/// The inputs of a leave. It is cheap to clone.
#[derive(Debug, Clone)]
pub struct Leaving {
    pub me: NodeName,
    pub leave: Leave,
    pub endpoints: EndpointsHandle,
    pub facts: watch::Receiver<Projection>,
}

impl Leaving {
    pub(super) async fn run(&self) -> Result<Left, LeaveError> {
        self.endpoints.leave();
        self.leave.complete().await?;
        let mut facts = self.facts.clone();
        let snapshots = self.endpoints.snapshots();
        let has_returned = |facts: &Projection| {
            let me = facts.nodes.get(&self.me);
            let has_left = me.is_none_or(|me| me.left);
            has_left && unused(facts, &snapshots.borrow().ledger, &self.me).is_empty()
        };
        let returned = facts.wait_for(has_returned);
        // Blocks that aren't returned by then are in the response.
        timeout_at(Instant::now() + RETURN_TIMEOUT, returned)
            .await
            .ok();
        let blocks = blocks(&self.facts.borrow(), &self.me);
        Ok(Left {
            node: self.me.clone(),
            endpoints: self.endpoints.list(),
            blocks: blocks.into_iter().map(|(_, block)| block).collect(),
        })
    }
}

type Blocks = Vec<((bus_schema::TenantName, bus_schema::NetworkName), IpNet)>;

fn blocks(facts: &Projection, me: &NodeName) -> Blocks {
    let networks = facts.networks();
    let all = networks.flat_map(|(tenant, network)| {
        let key = (tenant.clone(), network.spec.name.clone());
        network.blocks_of(me).map(move |block| (key.clone(), block))
    });
    all.collect()
}

/// Blocks in which the node uses no address.
fn unused(facts: &Projection, ledger: &Ledger, me: &NodeName) -> Blocks {
    let mut all = blocks(facts, me);
    all.retain(|(key, block)| {
        let usage = ledger.usage(key);
        usage.is_none_or(|usage| usage.taken_in(*block) == 0)
    });
    all
}
