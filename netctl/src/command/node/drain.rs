//! `netctl node drain`: drains a node, asks it which endpoints still run there, and waits until they
//! are gone.

use std::time::{Duration, Instant};

use bus_schema::command::NodeDrain;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::rejection::EndpointUse;
use bus_schema::{Command, Endpoint, NodeName, Revision};
use clap::Args;

use super::super::{endpoint, time};
use crate::client::Session;
use crate::command::flags::{IdFlag, ListFlags};
use crate::failure::Failure;
use crate::output;

/// The pause between two requests for the node's endpoints.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The pause between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// The number of endpoints that a progress line names.
const MAX_SHOWN_NAMES: usize = 5;

#[derive(Debug, Args)]
#[command(
    after_help = "A drained node keeps its running containers: stop them, or let the orchestrator move them\n(`docker node update --availability drain`, `nomad node drain`). The node returns its unused\naddresses. A drained swarm manager still assigns addresses to tasks on other nodes.\nExit codes: 0 done, 1 refused, or --timeout passed while endpoints still run\nor may run, 2 unreachable.\n\nExamples:\n  netctl node drain n3\n  netctl node drain n3 --wait --timeout 10m && netctl node rm n3"
)]
pub(crate) struct DrainOptions {
    node: NodeName,
    /// Wait until no endpoint runs there
    #[arg(long)]
    wait: bool,
    /// The longest wait: 30s, 2m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = time::duration)]
    timeout: Duration,
    #[command(flatten)]
    flags: ListFlags,
    #[command(flatten)]
    id: IdFlag,
}

pub(crate) async fn run(session: &mut Session, options: DrainOptions) -> Result<(), Failure> {
    let DrainOptions { node, flags, .. } = options;
    let command = Command::NodeDrain(NodeDrain { node: node.clone() });
    let is_text = flags.format().is_text() && !flags.quiet;
    let done = session.command(command, options.id.command_id).await?;
    if is_text {
        output::print(&done.to_string())?;
    }
    let found = NodeEndpoints::ask(session, &node, done.revision).await?;
    let notice = found.notice(&node);
    match is_text {
        true => output::print(&notice)?,
        false if notice.is_empty() => {}
        false => output::note(notice.trim_end()),
    }
    if !is_text || !found.published.is_empty() {
        output::print(&endpoint::listed(&found.published, &flags)?)?;
    }
    let is_empty = found.is_empty();
    if options.wait && !is_empty {
        wait_until_empty(session, &node, done.revision, options.timeout).await?;
    }
    match is_text && (options.wait || is_empty) {
        true => output::print(&format!("no endpoint runs on node {node}\n")),
        false => Ok(()),
    }
}

/// The endpoints of a node by two sources: the bus, and the node itself.
#[derive(Debug)]
struct NodeEndpoints {
    /// Endpoints that the node published; empty where the node reports that none runs.
    published: Vec<Endpoint>,
    /// Endpoints that the node reports, or the reason why it reports none.
    running: Result<Vec<EndpointUse>, String>,
}

impl NodeEndpoints {
    /// Asks the node, which was drained at `revision`. It may have endpoints that it doesn't publish, for
    /// example after it has left.
    async fn ask(
        session: &mut Session,
        node: &NodeName,
        revision: Revision,
    ) -> Result<Self, Failure> {
        let mut published = endpoint::list(session, None).await?;
        published.retain(|it| it.node == *node);
        let request = NodeRequest::DrainNode { revision };
        let running = match session.node(node, &request).await {
            Ok(reply) => running_endpoints(reply),
            Err(Failure::Unreachable(why) | Failure::Refused(why)) => Err(why),
            Err(failure) => return Err(failure),
        };
        if running.as_ref().is_ok_and(Vec::is_empty) {
            // They are gone; the node is about to withdraw them from the bus.
            published.clear();
        }
        Ok(Self { published, running })
    }

    fn is_empty(&self) -> bool {
        self.running.as_ref().is_ok_and(Vec::is_empty)
    }

    fn unpublished(&self) -> Vec<&EndpointUse> {
        let running = self.running.iter().flatten();
        running
            .filter(|it| self.published.iter().all(|known| known.id != it.endpoint))
            .collect()
    }

    /// The text above the list of published endpoints.
    fn notice(&self, node: &NodeName) -> String {
        let unpublished = self.unpublished();
        match &self.running {
            Err(why) if self.published.is_empty() => format!(
                "it isn't known whether endpoints run on node {node}: {why}; it published none\n"
            ),
            Err(why) => format!(
                "it isn't known which endpoints run on node {node}: {why}; it published these:\n"
            ),
            Ok(running) if running.is_empty() => String::new(),
            Ok(_) if unpublished.is_empty() => {
                format!("these endpoints still run on node {node}:\n")
            }
            Ok(_) => {
                let names: Vec<String> = unpublished.iter().map(ToString::to_string).collect();
                let names = names.join(", ");
                match self.published.is_empty() {
                    true => format!(
                        "these endpoints still run on node {node}, which doesn't publish them: {names}\n"
                    ),
                    false => format!(
                        "these endpoints still run on node {node}; it doesn't publish {names}:\n"
                    ),
                }
            }
        }
    }

    /// The endpoints that the wait is for, in one line.
    fn progress(&self, node: &NodeName) -> String {
        let published = self.published.iter().map(name_of);
        match &self.running {
            Ok(_) => {
                let unpublished = self.unpublished();
                let unpublished = unpublished.iter().map(ToString::to_string);
                let all: Vec<String> = published.chain(unpublished).collect();
                format!("node {node} still has {}", counted(&all))
            }
            Err(why) => {
                let published: Vec<String> = published.collect();
                let published = match published.is_empty() {
                    true => "none".to_owned(),
                    false => counted(&published),
                };
                format!(
                    "it isn't known whether endpoints run on node {node}: {why}; it published {published}"
                )
            }
        }
    }
}

/// The running endpoints of a node's reply, or the reason why there are none in it.
fn running_endpoints(reply: NodeReply) -> Result<Vec<EndpointUse>, String> {
    match reply {
        NodeReply::InUse { endpoints } => Ok(endpoints),
        // A swarm manager, for example, keeps blocks for tasks.
        NodeReply::Done | NodeReply::HoldsBlocks { .. } => Ok(Vec::new()),
        NodeReply::Refused { reason } => Err(reason),
        _ => Err("the node's reply doesn't fit the request".to_owned()),
    }
}

/// Waits until no endpoint runs on the node, which was drained at `revision`.
async fn wait_until_empty(
    session: &mut Session,
    node: &NodeName,
    revision: Revision,
    within: Duration,
) -> Result<(), Failure> {
    let end = Instant::now() + within;
    let mut reported = Instant::now();
    loop {
        let found = match NodeEndpoints::ask(session, node, revision).await {
            // The bus or netmaster restarts.
            Err(failure) if failure.may_pass() && Instant::now() < end => {
                pause().await;
                continue;
            }
            found => found?,
        };
        if found.is_empty() {
            return Ok(());
        }
        let progress = found.progress(node);
        if Instant::now() >= end {
            let instead = match found.running {
                Ok(_) => "stop them and wait again",
                Err(_) => "see `netctl node inspect`, and wait again when the node answers",
            };
            return Err(Failure::Refused(format!(
                "after {} s, {progress}: {instead}",
                within.as_secs()
            )));
        }
        if reported.elapsed() >= PROGRESS_INTERVAL {
            output::note(&format!("wait: {progress}"));
            reported = Instant::now();
        }
        pause().await;
    }
}

fn name_of(endpoint: &Endpoint) -> String {
    let name = endpoint.name.as_deref().unwrap_or(endpoint.id.as_str());
    format!("{name} ({}:{})", endpoint.tenant, endpoint.network)
}

fn counted(left: &[String]) -> String {
    let names = left.get(..MAX_SHOWN_NAMES).unwrap_or(left).join(", ");
    let more = if left.len() > MAX_SHOWN_NAMES {
        ", …"
    } else {
        ""
    };
    match left.len() {
        1 => format!("1 endpoint: {names}"),
        count => format!("{count} endpoints: {names}{more}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause between two requests")]
async fn pause() {
    tokio::time::sleep(POLL_INTERVAL).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_counts_endpoints_and_names_the_first() {
        let left: Vec<String> = (1..=7).map(|n| format!("w{n}")).collect();
        assert_eq!(counted(&left), "7 endpoints: w1, w2, w3, w4, w5, …");
        assert_eq!(counted(&left[..1]), "1 endpoint: w1");
        assert_eq!(counted(&left[..2]), "2 endpoints: w1, w2");
    }

    fn found(reply: Result<NodeReply, String>) -> NodeEndpoints {
        let running = reply.and_then(|reply| running_endpoints(reply.of_older_node("netctl")));
        let published = Vec::new();
        NodeEndpoints { published, running }
    }

    #[test]
    fn node_is_empty_only_if_it_reports_so() {
        let node = NodeName::new("n1").expect("a name");
        let refused = |reason: &str| {
            let reason = reason.to_owned();
            Ok(NodeReply::Refused { reason })
        };
        let reason = "it promised 10.0.0.2 to tasks".to_owned();
        for reply in [NodeReply::Done, NodeReply::HoldsBlocks { reason }] {
            let found = found(Ok(reply));
            assert!(found.is_empty(), "{found:?}");
            assert_eq!(found.notice(&node), "");
        }
        let unknown = [
            (
                refused("unknown variant `drain-node`"),
                "older than this netctl: upgrade it",
            ),
            (
                refused("the disk takes no writes"),
                "the disk takes no writes",
            ),
            (
                Err("node n1 doesn't answer".to_owned()),
                "node n1 doesn't answer",
            ),
        ];
        for (reply, why) in unknown {
            let found = found(reply);
            assert!(!found.is_empty(), "{found:?}");
            for text in [found.notice(&node), found.progress(&node)] {
                assert!(
                    text.contains("it isn't known") && text.contains(why),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn unpublished_endpoints_of_the_node_are_shown() {
        let node = NodeName::new("n1").expect("a name");
        let endpoints = vec![EndpointUse {
            endpoint: "e1".parse().expect("an id"),
            node: node.clone(),
            name: Some("db".to_owned()),
            address: "20.1.1.2".parse().expect("an address"),
        }];
        let found = found(Ok(NodeReply::InUse { endpoints }));
        let notice = found.notice(&node);
        assert!(notice.contains("db (20.1.1.2)"), "{notice}");
        assert_eq!(
            found.progress(&node),
            "node n1 still has 1 endpoint: db (20.1.1.2) on n1"
        );
    }
}
