//! Resumes removals whose command ended before all nodes answered: the nodes are asked again when they
//! are back. So a network or a group doesn't stay closed: it is removed, or opened again because it is
//! in use.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_nats::connection::State;
use bus_schema::{CommandId, Revision};

use super::closing::{Closing, DRAIN_TIMEOUT_MS};
use super::target::{RemovalState, Target};
use crate::gateway::desk::Desk;
use crate::view::View;
use runtime::{now, pause};

const RESUME_INTERVAL: Duration = Duration::from_secs(1);
/// How long a removal is left to its own command.
const COMMAND_TIME: Duration = Duration::from_secs(4);

/// The closed networks and groups, with the revisions at which they were closed.
fn closed(view: &View) -> Vec<(Target, Revision)> {
    let networks = view.networks().filter_map(|network| {
        let (tenant, name) = (network.spec.tenant.clone(), network.spec.name.clone());
        Some((Target::Network(tenant, name), network.closing?))
    });
    let groups = view.groups().filter_map(|group| {
        let (tenant, name) = (group.spec.tenant.clone(), group.spec.name.clone());
        Some((Target::Group(tenant, name), group.closing?))
    });
    networks.chain(groups).collect()
}

/// Runs for ever.
pub(crate) async fn resume(desk: Rc<Desk>) {
    let mut since: BTreeMap<String, (Revision, Instant)> = BTreeMap::new();
    loop {
        pause(RESUME_INTERVAL).await;
        let closed = desk.shared.read(closed);
        since.retain(|name, (at, _)| {
            let is = |(target, closing): &(Target, Revision)| {
                target.to_string() == *name && closing == at
            };
            closed.iter().any(is)
        });
        for (target, closing) in closed {
            let begun = since
                .entry(target.to_string())
                .or_insert_with(|| (closing, Instant::now()));
            let connected = desk.client.connection_state() == State::Connected;
            if connected && begun.1.elapsed() >= COMMAND_TIME {
                go_on(&desk, target, closing).await;
            }
        }
    }
}

async fn go_on(desk: &Rc<Desk>, target: Target, closing: Revision) {
    let Some(cluster) = desk.shared.read(|view| view.cluster) else {
        return;
    };
    let step = format!("resume {target} closing at {closing}");
    let removal = Closing {
        desk,
        target,
        id: CommandId::derive(cluster.0, &step),
        revision: closing,
        until: now().saturating_add(DRAIN_TIMEOUT_MS),
    };
    let ready = match removal.state(None) {
        RemovalState::Unasked(nodes) => removal.all_alive(&nodes),
        RemovalState::Held(nodes) => removal.any_alive(&nodes),
        RemovalState::Gone(_) | RemovalState::Open | RemovalState::Free(_) => false,
    };
    if ready {
        let reply = removal.go_on(Vec::new()).await;
        tracing::debug!("{step}: {reply:?}");
    }
}
