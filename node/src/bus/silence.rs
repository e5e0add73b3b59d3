//! Reads all nodes' statuses and marks silent nodes in the view.

use std::time::Duration;

use async_nats::Client;
use bus_schema::{NodeName, subject};
use futures::StreamExt;
use imbl::OrdSet;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use node_core::projection::{EndpointsView, Projection, Pulse};
use runtime::pause;

const CHECK_INTERVAL: Duration = Duration::from_millis(250);
const SUBSCRIBE_RETRY_PAUSE: Duration = Duration::from_secs(1);

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
                tracing::warn!(%error, "can't subscribe to the statuses of other nodes");
                pause(SUBSCRIBE_RETRY_PAUSE).await;
                continue;
            }
        };
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // Received statuses count before nodes are judged.
                biased;
                received = statuses.next() => {
                    let Some(status) = received else { break };
                    if let Some(node) = subject::node_of_status(&status.subject) {
                        pulse.beat(node, &me, begin.elapsed());
                    }
                }
                _ = tick.tick() => {
                    let members = facts.borrow().nodes.clone();
                    let silent = pulse.judge(members.keys(), &me, begin.elapsed());
                    set_silent(&view, silent.iter().cloned().collect());
                }
            }
        }
        pause(SUBSCRIBE_RETRY_PAUSE).await;
    }
}

fn set_silent(view: &watch::Sender<EndpointsView>, silent: OrdSet<NodeName>) {
    view.send_if_modified(|view| {
        let changed = *view.silent() != silent;
        if changed {
            tracing::info!(?silent, "the set of silent nodes changed");
            view.set_silent(silent);
        }
        changed
    });
}
