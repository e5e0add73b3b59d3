//! Queries: answered from the view once it has reached what the client has seen.

use std::time::Duration;

use bus_schema::command::Request;
use bus_schema::node::ALIVE_MS;
use bus_schema::{Answer, Query, Revision};
use tokio::time::timeout;

use super::Desk;
use crate::init::now;

/// Time kept for the answer's way back, in milliseconds.
const WAY_BACK: u64 = 150;
/// How often a wait looks whether a node fell silent.
const LOOK: Duration = Duration::from_millis(200);

pub(super) async fn answer(desk: &Desk, request: Request<Query>) -> Answer {
    let until = request.deadline.saturating_sub(WAY_BACK);
    if let Query::Wait { revision } = request.body {
        return wait(desk, revision, request.seen, until).await;
    }
    if !desk.shared.reach(request.seen, until).await {
        return behind(desk, request.seen);
    }
    let answer = desk.shared.read(|view| view.answer(&request.body, now()));
    answer.unwrap_or_else(|| behind(desk, request.seen))
}

fn behind(desk: &Desk, seen: Revision) -> Answer {
    let revision = desk.revision();
    Answer::Behind {
        revision,
        reason: format!("this netmaster has read the log up to {revision}, not yet {seen}"),
    }
}

/// Waits for every live node. A netmaster that has just started doesn't know who lives, so it
/// answers "all have" only when it has heard all, or listened for as long as a node may be silent.
async fn wait(desk: &Desk, revision: Option<Revision>, seen: Revision, until: u64) -> Answer {
    let target = match revision {
        Some(revision) => revision,
        None => match desk.registry.journal().end().await {
            Ok(end) => end.max(seen),
            Err(e) => {
                return Answer::Behind {
                    revision: desk.revision(),
                    reason: e.to_string(),
                };
            }
        },
    };
    // Nodes that joined below `target` are known then; a revision to come is waited for.
    if !desk.shared.reach(target, until).await {
        return behind(desk, target);
    }
    let mut changes = desk.shared.changes();
    loop {
        let (waited, over) = desk.shared.read(|view| view.waiting(target, now()));
        let listened = now() >= desk.since + ALIVE_MS;
        if now() >= until || (over && (listened || waited.silent.is_empty())) {
            return Answer::Waited {
                revision: desk.revision(),
                waited,
            };
        }
        let left = Duration::from_millis(until.saturating_sub(now()));
        // A change or the time for another look: either way, look.
        let _ = timeout(LOOK.min(left), changes.changed()).await;
    }
}
