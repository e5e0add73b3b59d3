//! Starts the containers that the engine couldn't start while netplugin was away.
//!
//! An engine tries once to start each container that its restart policy asks for, when it starts or
//! when the container ends. The reason of a failure stays at the container until its next start. A
//! container that a user has stopped has no such reason: the engine didn't try to start it.

use std::collections::BTreeSet;
use std::time::Duration;

use bollard::models::{ContainerInspectResponse, RestartPolicyNameEnum};

use super::client::{Client, EngineError};
use super::sockets::AWAY;
use runtime::pause;

/// The pauses between two attempts to start what is left, each twice as long as the one before.
const FIRST_RETRY_DELAY: Duration = Duration::from_secs(5);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);

/// The containers that still have to be started.
#[derive(Debug, Default)]
struct Remaining {
    /// Those whose start failed: the reason that the engine keeps is another one now.
    failed: BTreeSet<String>,
    /// Not all containers could be read.
    unread: bool,
}

/// Starts them one after the other, since each takes the engine's locks, and those again that it can't
/// start, until the future is dropped.
pub(super) async fn start_refused(client: Client) {
    let (mut failed, mut delay) = (BTreeSet::new(), FIRST_RETRY_DELAY);
    loop {
        let remaining = match start_all(&client, &failed).await {
            Ok(remaining) => remaining,
            Err(error) => {
                tracing::warn!(%error, "can't list the containers that weren't started while netplugin was away");
                Remaining {
                    failed,
                    unread: true,
                }
            }
        };
        if remaining.failed.is_empty() && !remaining.unread {
            return;
        }
        failed = remaining.failed;
        pause(delay).await;
        delay = MAX_RETRY_DELAY.min(delay * 2);
    }
}

/// `failed`: those whose start failed in this session.
async fn start_all(client: &Client, failed: &BTreeSet<String>) -> Result<Remaining, EngineError> {
    let mut remaining = Remaining::default();
    for container in client.idle_containers().await? {
        let inspected = match client.inspect(&container).await {
            Ok(Some(inspected)) => inspected,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(container, %error, "can't read whether a container is to be started");
                remaining.unread = true;
                if failed.contains(&container) {
                    remaining.failed.insert(container);
                }
                continue;
            }
        };
        if !must_start(&inspected, failed.contains(&container)) {
            continue;
        }
        let name = inspected.name.unwrap_or_default();
        match client.start(&container).await {
            Ok(()) => tracing::info!(
                name,
                "started a container: netplugin was away at its last start"
            ),
            Err(error) => {
                tracing::warn!(
                    name, %error,
                    "can't start a container, though netplugin is back: trying again"
                );
                remaining.failed.insert(container);
            }
        }
    }
    Ok(remaining)
}

/// Whether the container's last start failed because netplugin was away, and its restart policy asks
/// for another. With `again`, we have tried to start it: then any failure counts.
fn must_start(container: &ContainerInspectResponse, again: bool) -> bool {
    use RestartPolicyNameEnum::{ALWAYS, ON_FAILURE, UNLESS_STOPPED};
    let state = container.state.as_ref();
    let reason = state.and_then(|it| it.error.as_deref());
    let runs = state.is_some_and(|it| it.running == Some(true));
    let host = container.host_config.as_ref();
    let policy = host.and_then(|it| it.restart_policy.as_ref()?.name);
    !runs
        && reason.is_some_and(|it| it.contains(AWAY) || again && !it.is_empty())
        && matches!(policy, Some(ALWAYS | UNLESS_STOPPED | ON_FAILURE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::must_start;

    fn must(running: bool, error: &str, policy: &str) -> bool {
        must_again(running, error, policy, false)
    }

    fn must_again(running: bool, error: &str, policy: &str, again: bool) -> bool {
        let inspected = json!({
            "State": {"Running": running, "Error": error},
            "HostConfig": {"RestartPolicy": {"Name": policy, "MaximumRetryCount": 0}},
        });
        must_start(&serde_json::from_value(inspected).unwrap(), again)
    }

    #[test]
    fn container_is_started_if_netplugin_was_away_and_its_policy_asks_for_it() {
        let away = "failed to create endpoint web on network contiv-net: \
             NetworkDriver.CreateEndpoint: netplugin doesn't run on this node: start it";
        for policy in ["always", "unless-stopped", "on-failure"] {
            assert!(must(false, away, policy), "{policy}");
            assert!(!must(true, away, policy), "{policy}");
            assert!(!must(false, "", policy), "{policy}");
            assert!(!must(false, "no such image", policy), "{policy}");
        }
        let no_address = "no free address";
        assert!(!must(false, no_address, "always"));
        assert!(must_again(false, no_address, "always", true));
        assert!(!must_again(false, "", "always", true), "a user stopped it");
        assert!(!must_again(true, "", "always", true), "it runs");
        for policy in ["no", ""] {
            assert!(!must(false, away, policy), "{policy}");
        }
    }
}
