//! The counters of rules, summed over all nodes.

use std::collections::BTreeMap;

use bus_schema::node::{Counter, NodeReply, NodeRequest};
use bus_schema::{NodeName, TenantName};
use futures::future::join_all;

use super::node;
use crate::client::Session;
use crate::failure::Failure;

/// The counters of a tenant's rules, by the rules' numbers.
#[derive(Debug, Default)]
pub(super) struct CounterSum {
    pub(super) rules: BTreeMap<u32, Counter>,
    pub(super) nodes: Vec<NodeName>,
    /// The nodes that didn't answer, each with the reason.
    pub(super) missing: BTreeMap<NodeName, String>,
}

impl CounterSum {
    pub(super) fn add(&mut self, node: NodeName, answer: Result<NodeReply, Failure>) {
        let why = match answer {
            Ok(NodeReply::Counters { rules }) => {
                self.nodes.push(node);
                for (number, counter) in rules {
                    let sum = self.rules.entry(number).or_default();
                    sum.packets = sum.packets.saturating_add(counter.packets);
                    sum.bytes = sum.bytes.saturating_add(counter.bytes);
                }
                return;
            }
            Ok(NodeReply::Refused { reason }) => reason,
            Ok(_) => "its reply doesn't fit the request: is it of another version?".to_owned(),
            Err(failure) => failure.to_string(),
        };
        self.missing.insert(node, why);
    }
}

/// Asks all live nodes for the counters of a tenant, in parallel.
pub(super) async fn ask(session: &mut Session, tenant: &TenantName) -> Result<CounterSum, Failure> {
    let nodes = node::list(session, None).await?;
    let (alive, silent): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|info| info.alive);
    let request = NodeRequest::Counters {
        tenant: tenant.clone(),
    };
    let asked = alive.iter().map(|info| session.node(&info.node, &request));
    let answers = join_all(asked).await;
    let mut counted = CounterSum::default();
    for info in silent {
        let why = "no status received".to_owned();
        counted.missing.insert(info.node, why);
    }
    for (info, answer) in alive.into_iter().zip(answers) {
        counted.add(info.node, answer);
    }
    Ok(counted)
}
