//! Starts the containers that the engine couldn't start while netplugin was away.
//!
//! An engine tries once to start each container that its restart policy asks for, when it starts or
//! when the container ends. The reason of a failure stays at the container until its next start. A
//! container that a user has stopped has no such reason: the engine didn't try to start it.

use bollard::models::{ContainerInspectResponse, RestartPolicyNameEnum};

use super::client::{Client, EngineError};
use super::sockets::AWAY;

/// Starts them one after the other, since each takes the engine's locks.
pub(super) async fn start_refused(client: Client) {
    if let Err(error) = start_all(&client).await {
        tracing::warn!(%error, "can't look for containers that weren't started while netplugin was away");
    }
}

async fn start_all(client: &Client) -> Result<(), EngineError> {
    for container in client.idle_containers().await? {
        let Some(inspected) = client.inspect(&container).await? else {
            continue;
        };
        if !must_start(&inspected) {
            continue;
        }
        let name = inspected.name.unwrap_or_default();
        match client.start(&container).await {
            Ok(()) => tracing::info!(
                name,
                "started a container: netplugin was away at its last start"
            ),
            Err(error) => tracing::warn!(
                name, %error,
                "can't start a container, though netplugin is back: see `docker start`"
            ),
        }
    }
    Ok(())
}

/// Whether the container's last start failed because netplugin was away, and its restart policy asks
/// for another.
fn must_start(container: &ContainerInspectResponse) -> bool {
    use RestartPolicyNameEnum::{ALWAYS, ON_FAILURE, UNLESS_STOPPED};
    let state = container.state.as_ref();
    let reason = state.and_then(|it| it.error.as_deref());
    let runs = state.is_some_and(|it| it.running == Some(true));
    let host = container.host_config.as_ref();
    let policy = host.and_then(|it| it.restart_policy.as_ref()?.name);
    !runs
        && reason.is_some_and(|it| it.contains(AWAY))
        && matches!(policy, Some(ALWAYS | UNLESS_STOPPED | ON_FAILURE))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::must_start;

    fn must(running: bool, error: &str, policy: &str) -> bool {
        let inspected = json!({
            "State": {"Running": running, "Error": error},
            "HostConfig": {"RestartPolicy": {"Name": policy, "MaximumRetryCount": 0}},
        });
        must_start(&serde_json::from_value(inspected).unwrap())
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
        for policy in ["no", ""] {
            assert!(!must(false, away, policy), "{policy}");
        }
    }
}
