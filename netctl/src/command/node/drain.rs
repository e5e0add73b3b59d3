//! `netctl node drain`: drains a node, asks it which endpoints still run there, and waits until they are
//! gone.

use std::time::{Duration, Instant};

use bus_schema::command::NodeDrain;
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::rejection::EndpointUse;
use bus_schema::{Command, Endpoint, NodeName, Revision};
use clap::Args;

use super::super::{COMMAND, endpoint, time};
use crate::cli::{Asking, Listing};
use crate::client::Session;
use crate::failure::Failure;
use crate::output::{self, Format};

/// Between two questions whether endpoints are gone.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Between two lines that say what is waited for.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Endpoints that such a line names.
const MAX_NAMES: usize = 5;

#[derive(Debug, Args)]
#[command(
    after_help = "A drained node keeps the containers that run there: stop them, or have what started them move\nthem (`docker node update --availability drain`, `nomad node drain`). It returns the addresses\nthat nobody uses. A drained manager of a swarm still gives out addresses for tasks of other nodes.\nExit codes: 0 done, 1 refused, or --timeout passed while endpoints still run\nor may run, 2 unreachable.\n\nExamples:\n  netctl node drain n3\n  netctl node drain n3 --wait --timeout 10m && netctl node rm n3"
)]
pub(crate) struct Options {
    node: NodeName,
    /// Wait until no endpoint runs there any more
    #[arg(long)]
    wait: bool,
    /// How long at most: 30s, 2m
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = time::duration)]
    timeout: Duration,
    #[command(flatten)]
    listing: Listing,
    #[command(flatten)]
    asking: Asking,
}

pub(crate) async fn run(session: &mut Session, options: Options) -> Result<(), Failure> {
    let Options { node, listing, .. } = options;
    let command = Command::NodeDrain(NodeDrain { node: node.clone() });
    let id = options.asking.command_id;
    let done = session.command(command, id, COMMAND).await?;
    let is_text = matches!(listing.format(), Format::Table | Format::Wide) && !listing.quiet;
    if is_text {
        output::print(&done.to_string())?;
    }
    let found = Found::ask(session, &node, done.revision).await?;
    let said = found.said(&node);
    match is_text {
        true => output::print(&said)?,
        false if said.is_empty() => {}
        false => output::note(said.trim_end()),
    }
    if !is_text || !found.published.is_empty() {
        output::print(&endpoint::listed(&found.published, &listing)?)?;
    }
    let is_empty = found.is_empty();
    if options.wait && !is_empty {
        until_empty(session, &node, done.revision, options.timeout).await?;
    }
    match is_text && (options.wait || is_empty) {
        true => output::print(&format!("no endpoint runs on node {node}\n")),
        false => Ok(()),
    }
}

/// The endpoints of a node, as far as they are known.
#[derive(Debug)]
struct Found {
    /// Those that the node published; none where it says that none runs.
    published: Vec<Endpoint>,
    /// Those that the node names, or why it names none.
    running: Result<Vec<EndpointUse>, String>,
}

impl Found {
    /// Asks the node, which was drained at `revision`: it knows more than it published, if it has left
    /// for example.
    async fn ask(
        session: &mut Session,
        node: &NodeName,
        revision: Revision,
    ) -> Result<Self, Failure> {
        let mut published = endpoint::list(session, None).await?;
        published.retain(|it| it.node == *node);
        let request = NodeRequest::DrainNode { revision };
        let running = match session.node(node, &request).await {
            Ok(reply) => named(reply),
            Err(Failure::Unreachable(why) | Failure::Refused(why)) => Err(why),
            Err(failure) => return Err(failure),
        };
        if running.as_ref().is_ok_and(Vec::is_empty) {
            // They are gone, and the bus is about to hear of it.
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

    /// What stands above the list of published endpoints.
    fn said(&self, node: &NodeName) -> String {
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

    /// What is waited for, in one line.
    fn awaited(&self, node: &NodeName) -> String {
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

/// The endpoints that a node names as running, or why it names none.
fn named(reply: NodeReply) -> Result<Vec<EndpointUse>, String> {
    match reply {
        NodeReply::InUse { endpoints } => Ok(endpoints),
        // A swarm's manager, for example, keeps blocks for tasks.
        NodeReply::Done | NodeReply::HoldsBlocks { .. } => Ok(Vec::new()),
        NodeReply::Refused { reason } => Err(reason),
        _ => Err("the node answered another question".to_owned()),
    }
}

/// Waits until no endpoint runs on the node, which was drained at `revision`.
async fn until_empty(
    session: &mut Session,
    node: &NodeName,
    revision: Revision,
    within: Duration,
) -> Result<(), Failure> {
    let end = Instant::now() + within;
    let mut said = Instant::now();
    loop {
        let found = Found::ask(session, node, revision).await?;
        if found.is_empty() {
            return Ok(());
        }
        let awaited = found.awaited(node);
        if Instant::now() >= end {
            let instead = match found.running {
                Ok(_) => "stop them and wait again",
                Err(_) => "see `netctl node inspect`, and wait again when the node answers",
            };
            return Err(Failure::Refused(format!(
                "after {} s, {awaited}: {instead}",
                within.as_secs()
            )));
        }
        if said.elapsed() >= PROGRESS_INTERVAL {
            output::note(&format!("waiting: {awaited}"));
            said = Instant::now();
        }
        pause().await;
    }
}

fn name_of(endpoint: &Endpoint) -> String {
    let name = endpoint.name.as_deref().unwrap_or(endpoint.id.as_str());
    format!("{name} ({}:{})", endpoint.tenant, endpoint.network)
}

fn counted(left: &[String]) -> String {
    let names = left.get(..MAX_NAMES).unwrap_or(left).join(", ");
    let more = if left.len() > MAX_NAMES { ", …" } else { "" };
    match left.len() {
        1 => format!("1 endpoint: {names}"),
        count => format!("{count} endpoints: {names}{more}"),
    }
}

#[expect(clippy::disallowed_methods, reason = "the pause between two looks")]
async fn pause() {
    tokio::time::sleep(POLL_INTERVAL).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_counted_and_the_first_of_it_is_named() {
        let left: Vec<String> = (1..=7).map(|n| format!("w{n}")).collect();
        assert_eq!(counted(&left), "7 endpoints: w1, w2, w3, w4, w5, …");
        assert_eq!(counted(&left[..1]), "1 endpoint: w1");
        assert_eq!(counted(&left[..2]), "2 endpoints: w1, w2");
    }
    fn found(reply: Result<NodeReply, String>) -> Found {
        let running = reply.and_then(|reply| named(reply.of_older_node("netctl")));
        let published = Vec::new();
        Found { published, running }
    }

    #[test]
    fn only_a_node_that_says_so_is_empty() {
        let node = NodeName::new("n1").expect("a name");
        let refused = |reason: &str| {
            let reason = reason.to_owned();
            Ok(NodeReply::Refused { reason })
        };
        let reason = "it promised 10.0.0.2 to tasks".to_owned();
        for reply in [NodeReply::Done, NodeReply::HoldsBlocks { reason }] {
            let found = found(Ok(reply));
            assert!(found.is_empty(), "{found:?}");
            assert_eq!(found.said(&node), "");
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
            for text in [found.said(&node), found.awaited(&node)] {
                assert!(
                    text.contains("it isn't known") && text.contains(why),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn endpoints_that_the_node_names_and_does_not_publish_are_shown() {
        let node = NodeName::new("n1").expect("a name");
        let endpoints = vec![EndpointUse {
            endpoint: "e1".parse().expect("an id"),
            node: node.clone(),
            name: Some("db".to_owned()),
            address: "20.1.1.2".parse().expect("an address"),
        }];
        let found = found(Ok(NodeReply::InUse { endpoints }));
        let said = found.said(&node);
        assert!(said.contains("db (20.1.1.2)"), "{said}");
        assert_eq!(
            found.awaited(&node),
            "node n1 still has 1 endpoint: db (20.1.1.2) on n1"
        );
    }
}
