//! Hears how everybody is, and tells the view who has fallen silent.

use std::time::Duration;

use async_nats::Client;
use bus_schema::{NodeName, subject};
use futures::StreamExt;
use imbl::OrdSet;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use node_core::projection::{EndpointsView, Projection, Pulse};
use runtime::pause;

/// Between two judgements.
const JUDGE: Duration = Duration::from_millis(250);
const RETRY: Duration = Duration::from_secs(1);

/// Runs for ever.
pub(super) async fn run(
    client: Client,
    me: NodeName,
    facts: watch::Receiver<Projection>,
    view: watch::Sender<EndpointsView>,
) {
    let begin = Instant::now();
    let mut pulse = Pulse::default();
    loop {
        let mut statuses = match client.subscribe(subject::STATUS_ALL).await {
            Ok(statuses) => statuses,
            Err(error) => {
                tracing::warn!(%error, "can't hear how other nodes are");
                pause(RETRY).await;
                continue;
            }
        };
        let mut tick = tokio::time::interval(JUDGE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // What waits to be heard comes before a judgement.
                biased;
                heard = statuses.next() => {
                    let Some(heard) = heard else { break };
                    if let Some(node) = subject::node_of_status(&heard.subject) {
                        pulse.beat(node, &me, begin.elapsed());
                    }
                }
                _ = tick.tick() => {
                    let members = facts.borrow().nodes.clone();
                    let silent = pulse.judge(members.keys(), &me, begin.elapsed());
                    tell(&view, silent.iter().cloned().collect());
                }
            }
        }
        pause(RETRY).await;
    }
}

fn tell(view: &watch::Sender<EndpointsView>, silent: OrdSet<NodeName>) {
    view.send_if_modified(|view| {
        let changed = *view.silent() != silent;
        if changed {
            tracing::info!(?silent, "nodes that nobody hears");
            view.set_silent(silent);
        }
        changed
    });
}
