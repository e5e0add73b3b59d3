//! `netctl node drain`: which endpoints still run on a node, and waiting until they are gone.

use std::time::{Duration, Instant};

use bus_schema::command::NodeDrain;
use bus_schema::node::{NodeReply, NodeRequest};
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
    after_help = "A drained node keeps the containers that run there: stop them, or have what started them move\nthem (`docker node update --availability drain`, `nomad node drain`). It returns the addresses\nthat nobody uses. A drained manager of a swarm still gives out addresses for tasks of other nodes.\nExit codes: 0 done, 1 refused, or --timeout passed while endpoints still run, 2 unreachable.\n\nExamples:\n  netctl node drain n3\n  netctl node drain n3 --wait --timeout 10m && netctl node rm n3"
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
    let endpoints = running(session, &node).await?;
    let is_text = matches!(listing.format(), Format::Table | Format::Wide) && !listing.quiet;
    match is_text {
        true => output::print(&done.to_string())?,
        false => output::print(&endpoint::listed(&endpoints, &listing)?)?,
    }
    if is_text && !endpoints.is_empty() {
        output::print(&format!("these endpoints still run on node {node}:\n"))?;
        output::print(&endpoint::listed(&endpoints, &listing)?)?;
    }
    if options.wait {
        until_empty(session, &node, done.revision, options.timeout).await?;
    }
    match is_text && (options.wait || endpoints.is_empty()) {
        true => output::print(&format!("no endpoint runs on node {node}\n")),
        false => Ok(()),
    }
}

/// The endpoints that the node published.
async fn running(session: &mut Session, node: &NodeName) -> Result<Vec<Endpoint>, Failure> {
    let mut endpoints = endpoint::list(session, None).await?;
    endpoints.retain(|it| it.node == *node);
    Ok(endpoints)
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
        let endpoints = running(session, node).await?;
        let mut left: Vec<String> = endpoints.iter().map(named).collect();
        if left.is_empty() {
            match unpublished(session, node, revision).await? {
                Some(unpublished) => left = unpublished,
                None => return Ok(()),
            }
        }
        if Instant::now() >= end {
            return Err(Failure::Refused(format!(
                "after {} s, node {node} still has {}: stop them and wait again",
                within.as_secs(),
                counted(&left)
            )));
        }
        if said.elapsed() >= PROGRESS_INTERVAL {
            output::note(&format!("waiting for {}", counted(&left)));
            said = Instant::now();
        }
        pause().await;
    }
}

/// What the node itself names, of which the bus doesn't know yet; `None`: nothing.
async fn unpublished(
    session: &Session,
    node: &NodeName,
    revision: Revision,
) -> Result<Option<Vec<String>>, Failure> {
    let silent = |why: &str| {
        output::note(&format!(
            "warning: {why}; it published no endpoint, but it isn't known whether one runs there"
        ));
        Ok(None)
    };
    match session.node(node, &NodeRequest::Status).await {
        Ok(NodeReply::Status(status)) if status.applied < revision => {
            return Ok(Some(vec!["endpoints that it may be attaching".to_owned()]));
        }
        Ok(_) => {}
        Err(Failure::Unreachable(why)) => return silent(&why),
        Err(failure) => return Err(failure),
    }
    match session
        .node(node, &NodeRequest::DrainNode { revision })
        .await
    {
        Ok(NodeReply::InUse { endpoints }) => {
            Ok(Some(endpoints.iter().map(ToString::to_string).collect()))
        }
        // Blocks that it keeps, for a swarm's tasks for example, are no endpoints.
        Ok(_) => Ok(None),
        Err(Failure::Unreachable(why)) => silent(&why),
        Err(failure) => Err(failure),
    }
}

fn named(endpoint: &Endpoint) -> String {
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
}
