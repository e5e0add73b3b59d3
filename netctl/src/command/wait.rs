//! `netctl wait`, and the wait of other commands, until live nodes have applied a revision.

use std::time::{Duration, Instant};

use bus_schema::query::Waited;
use bus_schema::{Answer, Query, Revision};
use clap::Args;
use serde_json::json;

use super::flags::OutputFlags;
use super::time;
use crate::bus_url::BusUrl;
use crate::client::{Accepted, Session, unexpected_answer};
use crate::failure::Failure;
use crate::output;

/// A wait that takes longer than this prints a note.
const NOTE_DELAY: Duration = Duration::from_secs(1);
/// One request waits for at most this time, so that netmaster's places aren't taken for long.
const MAX_QUERY_WAIT: Duration = Duration::from_secs(20);
/// The time after the timeout in which an answer may arrive.
const ANSWER_DELAY: Duration = Duration::from_secs(1);
/// An attempt with less time would fail although netmaster answers.
const MIN_QUERY_WAIT: Duration = Duration::from_millis(500);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Timeout of a change's wait for the nodes; the next line of a script relies on it.
const APPLY_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(
    group(clap::ArgGroup::new("until").required(true).args(["revision", "converged"])),
    after_help = "Examples:\n  netctl wait --converged\n  netctl wait --revision 17 --timeout 10s"
)]
pub(crate) struct WaitOptions {
    /// Wait until every live node has applied this revision
    #[arg(long, value_name = "N")]
    revision: Option<u64>,
    /// Wait until every live node has applied the latest revision and published its endpoints
    #[arg(long)]
    converged: bool,
    /// The longest wait: 30s, 2m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = time::duration)]
    timeout: Duration,
    #[command(flatten)]
    output: OutputFlags,
}

/// Whether a change waits for the nodes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct WaitFlag {
    /// Don't wait until the nodes have applied it
    #[arg(long)]
    no_wait: bool,
}

impl WaitFlag {
    /// Waits for the nodes. A failure is only a warning, since the change is in the log.
    pub(crate) async fn applied(self, session: &mut Session, accepted: &Accepted) {
        if self.no_wait {
            return;
        }
        match wait(session, Some(accepted.revision), APPLY_TIMEOUT).await {
            Ok(waited) => {
                warn_silent(&waited);
                if !is_complete(&waited) {
                    output::note(&format!("warning: {}", lagging(&waited)));
                }
            }
            Err(failure) => output::note(&format!(
                "warning: the change is done, but it is unknown whether the nodes have applied it: {failure}"
            )),
        }
    }
}

/// Waits until the time-out, through restarts of the bus and of netmaster.
pub(crate) async fn run(
    url: &BusUrl,
    linearizable: bool,
    options: WaitOptions,
) -> Result<(), Failure> {
    let revision = options.revision.map(Revision);
    let end = Instant::now() + options.timeout;
    let mut note = Note::default();
    let waited = loop {
        let left = end.saturating_duration_since(Instant::now());
        let ask = async {
            let mut session = Session::open(url.clone(), linearizable).await?;
            let within = left.min(MAX_QUERY_WAIT);
            wait_with(&mut session, revision, within, &mut note).await
        };
        let outcome = tokio::time::timeout(left + ANSWER_DELAY, Box::pin(ask)).await;
        let outcome = outcome.unwrap_or_else(|_| {
            let seconds = options.timeout.as_secs();
            Err(Failure::Unreachable(format!(
                "no answer within {seconds} s"
            )))
        });
        let is_over = Instant::now() + MIN_QUERY_WAIT >= end;
        match outcome {
            Ok(waited) if is_complete(&waited) || is_over => break waited,
            // netmaster answered the wait: the log ends before that revision.
            Err(Failure::Behind(reason)) if is_over => return Err(Failure::Refused(reason)),
            Err(failure) if is_over || !failure.may_pass() => return Err(failure),
            Err(failure) => note.print(&format!("waiting: {failure}")),
            Ok(_) => {}
        }
        pause().await;
    };
    warn_silent(&waited);
    if is_complete(&waited) {
        options.output.outcome(
            "applied",
            &format!("revision {} is applied", waited.until),
            &json!({ "revision": waited.until, "silent": waited.silent }),
        )
    } else {
        Err(Failure::Refused(lagging(&waited)))
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause before netmaster is asked again"
)]
async fn pause() {
    tokio::time::sleep(RETRY_PAUSE).await;
}

/// Prints each note once in a row.
#[derive(Debug, Default)]
struct Note {
    printed: String,
}

impl Note {
    fn print(&mut self, text: &str) {
        if self.printed != text {
            output::note(text);
            text.clone_into(&mut self.printed);
        }
    }
}

/// Waits, and prints a note if it takes longer.
pub(crate) async fn wait(
    session: &mut Session,
    revision: Option<Revision>,
    within: Duration,
) -> Result<Waited, Failure> {
    wait_with(session, revision, within, &mut Note::default()).await
}

async fn wait_with(
    session: &mut Session,
    revision: Option<Revision>,
    within: Duration,
    note: &mut Note,
) -> Result<Waited, Failure> {
    let asking = session.ask_within(Query::Wait { revision }, within);
    let mut asking = Box::pin(asking);
    let answer = match tokio::time::timeout(NOTE_DELAY, &mut asking).await {
        Ok(answer) => answer?,
        Err(_) => {
            note.print("waiting for the nodes to apply it …");
            asking.await?
        }
    };
    match answer {
        Answer::Waited { waited, .. } => Ok(waited),
        answer => Err(unexpected_answer(&answer)),
    }
}

pub(crate) fn is_complete(waited: &Waited) -> bool {
    waited.lagging.is_empty() && waited.unpublished.is_empty()
}

pub(crate) fn lagging(waited: &Waited) -> String {
    let lagging = waited.lagging.iter();
    let lagging = lagging.map(|(node, applied)| format!("{node} (at {applied})"));
    let unpublished = waited.unpublished.iter();
    let unpublished = unpublished
        .map(|(node, count)| format!("{node} (endpoints that aren't published yet: {count})"));
    let nodes: Vec<String> = lagging.chain(unpublished).collect();
    format!(
        "not yet at revision {}: {}; see `netctl node ls`",
        waited.until,
        nodes.join(", ")
    )
}

pub(crate) fn warn_silent(waited: &Waited) {
    if waited.silent.is_empty() {
        return;
    }
    let nodes: Vec<String> = waited.silent.iter().map(ToString::to_string).collect();
    output::note(&format!(
        "warning: not waited for nodes without a status: {}",
        nodes.join(", ")
    ));
}
