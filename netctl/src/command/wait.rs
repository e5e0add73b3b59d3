//! `netctl wait`, and the wait of other commands, until live nodes have applied a revision.

use std::time::Duration;

use bus_schema::query::Waited;
use bus_schema::{Answer, Query, Revision};
use clap::Args;

use super::time;
use crate::client::{Accepted, Session, unexpected_answer};
use crate::failure::Failure;
use crate::output;

/// A wait that takes longer than this prints a note.
const NOTE_DELAY: Duration = Duration::from_secs(1);
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

pub(crate) async fn run(session: &mut Session, options: WaitOptions) -> Result<(), Failure> {
    let revision = options.revision.map(Revision);
    let waited = match wait(session, revision, options.timeout).await {
        // netmaster answered the wait: the log ends before that revision.
        Err(Failure::Behind(reason)) => return Err(Failure::Refused(reason)),
        waited => waited?,
    };
    warn_silent(&waited);
    if is_complete(&waited) {
        output::print(&format!("revision {} is applied\n", waited.until))
    } else {
        Err(Failure::Refused(lagging(&waited)))
    }
}

/// Waits, and prints a note if it takes longer.
pub(crate) async fn wait(
    session: &mut Session,
    revision: Option<Revision>,
    within: Duration,
) -> Result<Waited, Failure> {
    let asking = session.ask_within(Query::Wait { revision }, within);
    let mut asking = Box::pin(asking);
    let answer = match tokio::time::timeout(NOTE_DELAY, &mut asking).await {
        Ok(answer) => answer?,
        Err(_) => {
            output::note("waiting for the nodes to apply it …");
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
