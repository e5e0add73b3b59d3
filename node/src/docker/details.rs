//! The names of a container besides its own, from the engine's inspection of it. Pure.
//!
//! A swarm's task has its service's names, too. As in a swarm's own networks it has them from when its
//! health check passes until it is told to stop.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::{ContainerInspectResponse, EndpointSettings, HealthStatusEnum};
use nix::sys::signal::Signal;
use serde::Deserialize;

/// A container's label with the name of the swarm's service of which it is a task.
const SERVICE_LABEL: &str = "com.docker.swarm.service.name";
/// A service's label with the name of its stack, which its name begins with.
const STACK_LABEL: &str = "com.docker.stack.namespace";

/// Details of a container in one of its networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) aliases: Vec<String>,
    /// The path of the container's network namespace; empty if it doesn't run.
    pub(super) sandbox: String,
}

/// Details of a container in the network of this endpoint. `stored` is the engine's own file about the
/// container, and `killed` are the signals that it was sent.
pub(super) fn details(
    inspected: &ContainerInspectResponse,
    endpoint: &str,
    stored: Option<&str>,
    killed: &BTreeSet<i32>,
) -> Details {
    let network = inspected.network_settings.as_ref();
    let mut settings = network.and_then(|it| it.networks.as_ref()).into_iter();
    let mut settings = settings
        .by_ref()
        .flat_map(|it| it.values())
        .filter(|it| it.endpoint_id.as_deref() == Some(endpoint));
    let settings = settings.next();
    let mut aliases = settings.map(own_aliases).unwrap_or_default();
    if is_ready(inspected) && !is_told_to_stop(inspected, killed) {
        let network = settings.and_then(|it| it.network_id.as_deref());
        aliases.extend(service_names(inspected, network, stored));
    }
    let name = inspected.name.as_deref().unwrap_or_default();
    aliases.remove(name.trim_start_matches('/'));
    Details {
        aliases: aliases.into_iter().collect(),
        sandbox: network
            .and_then(|it| it.sandbox_key.clone())
            .unwrap_or_default(),
    }
}

/// From API 1.45 on the container's short id and hostname are in `DNSNames` only, which also has the
/// aliases and the container's name.
fn own_aliases(settings: &EndpointSettings) -> BTreeSet<String> {
    let lists = [&settings.aliases, &settings.dns_names];
    lists.into_iter().flatten().flatten().cloned().collect()
}

/// The names of the task's service; none for another container.
fn service_names(
    inspected: &ContainerInspectResponse,
    network: Option<&str>,
    stored: Option<&str>,
) -> BTreeSet<String> {
    let labels = inspected.config.as_ref().and_then(|it| it.labels.as_ref());
    let label = |key| labels.and_then(|it| it.get(key));
    let Some(service) = label(SERVICE_LABEL) else {
        return BTreeSet::new();
    };
    let short = label(STACK_LABEL)
        .and_then(|stack| service.strip_prefix(stack.as_str())?.strip_prefix('_'));
    let names = [Some(service.as_str()), short].into_iter().flatten();
    let names = names.flat_map(|it| [format!("tasks.{it}"), it.to_owned()]);
    let aliases = stored.zip(network).and_then(|(stored, network)| {
        let stored: StoredContainer = serde_json::from_str(stored).ok()?;
        let service = stored.network_settings?.service?;
        service.aliases?.remove(network)
    });
    names.chain(aliases.unwrap_or_default()).collect()
}

/// Whether the container's health check has passed, or it has none.
fn is_ready(inspected: &ContainerInspectResponse) -> bool {
    use HealthStatusEnum::{EMPTY, HEALTHY, NONE};
    let state = inspected.state.as_ref();
    let status = state.and_then(|it| it.health.as_ref()?.status);
    matches!(status, None | Some(EMPTY | NONE | HEALTHY))
}

/// Whether one of the signals asks the container to end: SIGKILL, or its stop signal (SIGTERM by
/// default).
fn is_told_to_stop(inspected: &ContainerInspectResponse, killed: &BTreeSet<i32>) -> bool {
    let config = inspected.config.as_ref();
    let stop = config.and_then(|it| it.stop_signal.as_deref());
    let stop = stop.map_or(Some(Signal::SIGTERM as i32), signal_number);
    let ends = [Some(Signal::SIGKILL as i32), stop];
    ends.into_iter().flatten().any(|it| killed.contains(&it))
}

/// Parses a signal as an image or `docker run --stop-signal` names it: `SIGQUIT`, `quit` or `3`.
fn signal_number(text: &str) -> Option<i32> {
    let text = text.to_uppercase();
    let name = format!("SIG{}", text.trim_start_matches("SIG"));
    let number = || name.parse::<Signal>().ok().map(|it| it as i32);
    text.parse().ok().or_else(number)
}

/// The part of the engine's file `config.v2.json` about a task's service (moby,
/// `daemon/network/settings.go`): the API tells its aliases on managers only.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredContainer {
    network_settings: Option<StoredNetworkSettings>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredNetworkSettings {
    service: Option<StoredService>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredService {
    /// By the network's id.
    aliases: Option<BTreeMap<String, Vec<String>>>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const STORED: &str = r#"{"NetworkSettings": {"Service": {
        "ID": "s1", "Name": "st_web", "Aliases": {"n1": ["frontend"], "n2": ["other"]}}}}"#;

    fn task(health: &Value) -> Value {
        json!({
            "Name": "/st_web.1.x",
            "State": {"Status": "running", "Running": true, "Health": health},
            "Config": {"Labels": {
                "com.docker.swarm.service.name": "st_web",
                "com.docker.stack.namespace": "st",
            }},
            "NetworkSettings": {"SandboxKey": "/run/docker/netns/1", "Networks": {
                "web-net": {"NetworkID": "n1", "EndpointID": "e1", "Aliases": ["0123456789ab"]},
                "back": {"NetworkID": "n2", "EndpointID": "e2", "Aliases": ["ba9876543210"]},
            }},
        })
    }

    fn aliases(inspected: &Value, killed: &[i32]) -> Vec<String> {
        let inspected = serde_json::from_value(inspected.clone()).unwrap();
        let killed = killed.iter().copied().collect();
        details(&inspected, "e1", Some(STORED), &killed).aliases
    }

    const OWN: [&str; 1] = ["0123456789ab"];
    const ALL: [&str; 6] = [
        "0123456789ab",
        "frontend",
        "st_web",
        "tasks.st_web",
        "tasks.web",
        "web",
    ];

    #[test]
    fn task_has_the_names_of_its_service_and_stack() {
        assert_eq!(aliases(&task(&Value::Null), &[]), ALL);
        let inspected = serde_json::from_value(task(&Value::Null)).unwrap();
        for stored in [None, Some("{}"), Some("garbage")] {
            let found = details(&inspected, "e1", stored, &BTreeSet::new());
            let without: Vec<&str> = ALL.into_iter().filter(|it| *it != "frontend").collect();
            assert_eq!(found.aliases, without, "{stored:?}");
            assert_eq!(found.sandbox, "/run/docker/netns/1");
        }
    }

    #[test]
    fn task_has_its_service_names_while_it_is_healthy_and_not_told_to_stop() {
        for (health, expected) in [
            ("starting", &OWN[..]),
            ("healthy", &ALL[..]),
            ("unhealthy", &OWN[..]),
            ("none", &ALL[..]),
        ] {
            let health = json!({"Status": health});
            assert_eq!(aliases(&task(&health), &[]), expected, "{health}");
        }
        // SIGHUP asks for other things.
        for (killed, expected) in [(1, &ALL[..]), (15, &OWN[..]), (9, &OWN[..])] {
            assert_eq!(aliases(&task(&Value::Null), &[killed]), expected);
        }
        for text in ["SIGQUIT", "quit", "3"] {
            let mut stops = task(&Value::Null);
            stops["Config"]["StopSignal"] = json!(text);
            assert_eq!(aliases(&stops, &[3]), OWN, "{text}");
            assert_eq!(aliases(&stops, &[15]), ALL, "{text}");
        }
    }

    /// From Docker 26.1.5, API 1.45, of `docker run --name broker-a --hostname kafka1 --network-alias
    /// broker`.
    const ENGINE_26: &str = r#"{
        "Id": "c40f3fd3452e79c1396c9d0d819b28d85c897abea98da531ccc27fd8dee073e9",
        "Name": "/broker-a",
        "Config": {"Hostname": "kafka1", "Domainname": "", "Labels": {}},
        "NetworkSettings": {
            "SandboxKey": "/run/docker/netns/34e4b99ad516",
            "Networks": {"contiv-net": {
                "IPAMConfig": null, "Links": null, "Aliases": ["broker"],
                "NetworkID": "a45e94ba44d65901adba4225b76091a8727850740c47a303ba492ae8243397f5",
                "EndpointID": "81068bee3f8d9d93080f1cf8b57f5019433e2455e2310cc0d656a905c936adea",
                "IPAddress": "20.1.1.2", "IPPrefixLen": 32, "DriverOpts": null,
                "DNSNames": ["broker-a", "broker", "c40f3fd3452e", "kafka1"]
            }}
        }
    }"#;

    #[test]
    fn hostname_and_short_id_of_a_newer_engine_are_names() {
        let inspected = serde_json::from_str(ENGINE_26).unwrap();
        let endpoint = "81068bee3f8d9d93080f1cf8b57f5019433e2455e2310cc0d656a905c936adea";
        let found = details(&inspected, endpoint, None, &BTreeSet::new());
        assert_eq!(found.aliases, ["broker", "c40f3fd3452e", "kafka1"]);
        assert_eq!(found.sandbox, "/run/docker/netns/34e4b99ad516");
    }
}
