//! Answers queries from the view, once it has reached the revision that the client has seen, or a proved
//! end of the log.

use std::time::{Duration, Instant};

use bus_schema::command::Request;
use bus_schema::node::ALIVE_MS;
use bus_schema::{Answer, Query, Rejection, Revision};
use runtime::now;
use tokio::time::timeout;

use super::desk::Desk;

/// Time reserved for the answer's way back.
const RESERVED_MS: u64 = 150;
/// How long a query waits for the feed before the log's end is proved.
const FEED_TIMEOUT_MS: u64 = 250;
/// How often a wait checks whether a node fell silent.
const SILENCE_INTERVAL: Duration = Duration::from_millis(200);

pub(super) async fn answer(desk: &Desk, request: Request<Query>) -> Answer {
    let arrived = Instant::now();
    let until = request.deadline.saturating_sub(RESERVED_MS);
    let (seen, linearizable) = (request.seen, request.linearizable);
    if let Some(why) = refusal(desk, &request.body) {
        return Answer::rejected(why, desk.revision());
    }
    if let Query::Wait { revision } = request.body {
        return wait(desk, revision, seen, arrived, until).await;
    }
    let recent = !linearizable
        && desk
            .shared
            .reach(seen, until.min(now() + FEED_TIMEOUT_MS))
            .await;
    if !recent && let Err(refused) = prove(desk, seen, arrived, until).await {
        return refused;
    }
    let answer = desk.shared.read(|view| view.answer(&request.body, now()));
    answer.unwrap_or_else(|| behind(desk, format!("{:?} is no list", request.body)))
}

/// The reason why the query isn't answered. The cluster's info and the list of nodes are answered
/// nonetheless, as far as they are known: a repair needs them.
fn refusal(desk: &Desk, query: &Query) -> Option<Rejection> {
    let why = desk.registry.refusal()?;
    let known = desk.shared.read(|view| view.cluster.is_some());
    match query {
        Query::ClusterInfo | Query::NodeList { .. } if known => None,
        _ => Some(why),
    }
}

/// Brings the view to a proved end of the log, and returns the last revision that anybody can have seen
/// when the request arrived. An error is the answer to the request.
async fn prove(
    desk: &Desk,
    seen: Revision,
    arrived: Instant,
    until: u64,
) -> Result<Revision, Answer> {
    let proof = desk.prove(arrived, until).await;
    let end = proof.map_err(|reason| behind(desk, reason))?.before();
    if end < seen {
        return Err(Answer::rejected(Rejection::LogShorter { end, seen }, end));
    }
    Ok(end)
}

fn behind(desk: &Desk, reason: String) -> Answer {
    let revision = desk.revision();
    Answer::Behind { revision, reason }
}

/// Waits for every live node. A netmaster that has just started doesn't know the live nodes, so it ends a
/// wait only when all nodes sent a status, or after the time that a node may be silent.
async fn wait(
    desk: &Desk,
    revision: Option<Revision>,
    seen: Revision,
    arrived: Instant,
    until: u64,
) -> Answer {
    let target = match revision {
        Some(revision) => revision,
        None => match prove(desk, seen, arrived, until).await {
            Ok(end) => end,
            Err(refused) => return refused,
        },
    };
    // Nodes that joined below `target` are known then; a revision to come is waited for.
    if !desk.shared.reach(target, until).await {
        let read = desk.revision();
        let reason = format!("this netmaster has read the log up to {read}, not yet {target}");
        return behind(desk, reason);
    }
    let mut changes = desk.shared.changes();
    loop {
        let (waited, over) = desk
            .shared
            .read(|view| view.waiting(target, revision.is_none(), now()));
        let listened = now() >= desk.since + ALIVE_MS;
        if now() >= until || (over && (listened || waited.silent.is_empty())) {
            return Answer::Waited {
                revision: desk.revision(),
                waited,
            };
        }
        let left = Duration::from_millis(until.saturating_sub(now()));
        // The next check follows a change or the interval.
        let _ = timeout(SILENCE_INTERVAL.min(left), changes.changed()).await;
    }
}
