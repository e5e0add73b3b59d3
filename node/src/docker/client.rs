//! A client for the part of the engine's API that netplugin uses. Each call has a timeout, and its
//! types are converted to ours.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, EventMessage, Ipam, IpamConfig, LocalNodeState, Network,
    NetworkCreateRequest,
};
use bollard::query_parameters::{
    CreatePluginOptionsBuilder, EnablePluginOptionsBuilder, EventsOptionsBuilder,
    ListContainersOptionsBuilder,
};
use bollard::{Docker, body_full};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};

use super::plan::{DRIVER_NAME, EngineNetwork, MADE_BY_LABEL, MADE_BY_VALUE, WantedNetwork};
use super::swarm::{self, SwarmAddresses};
use crate::local;
use crate::local::client::HttpResponse;

/// Limits a call. Creating a network calls our own plugin several times; the rest takes
/// milliseconds.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// Limits the inspection of a container, which blocks until the container's start has finished.
const INSPECT_TIMEOUT: Duration = Duration::from_secs(60);
/// Limits a container's start, which calls our own plugin several times.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// Limits enabling the plugin: the engine itself waits twelve seconds for a plugin's socket.
const ENABLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Limits a swarm's lists, which a manager has in memory.
const SWARM_TIMEOUT: Duration = Duration::from_secs(3);

/// The events that netplugin follows; `health_status` stands for all of its results.
const EVENT_NAMES: [&str; 9] = [
    "create",
    "destroy",
    "connect",
    "disconnect",
    "rename",
    "health_status",
    "kill",
    "start",
    "die",
];

/// A failed call to the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error("the engine doesn't answer within {} s", CALL_TIMEOUT.as_secs())]
    Silent,
    #[error("the engine's events ended")]
    EventsEnded,
    #[error("the engine refused: {0}")]
    Refused(String),
    #[error("can't reach the engine: {0}")]
    Transport(Error),
}

impl From<Error> for EngineError {
    fn from(error: Error) -> Self {
        match error {
            Error::DockerResponseServerError { message, .. } => Self::Refused(message),
            Error::RequestTimeoutError => Self::Silent,
            other => Self::Transport(other),
        }
    }
}

impl EngineError {
    /// Whether the engine answered and only this call failed.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// A container's membership in a Docker network, as the engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// The container's id; `ep-…` for an endpoint without a container.
    pub(super) container: String,
    /// The endpoint's full id.
    pub(super) endpoint: String,
    pub(super) name: String,
    pub(super) address: Option<IpAddr>,
}

/// An event of the engine, in our terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EngineEvent {
    NetworkChanged,
    Connected {
        network: String,
        container: String,
    },
    Renamed {
        container: String,
    },
    /// The health check's result is another.
    HealthChanged {
        container: String,
    },
    /// The container was sent a signal.
    Killed {
        container: String,
        signal: i32,
    },
    Started {
        container: String,
    },
    Ended {
        container: String,
    },
    Other,
}

#[derive(Debug, Clone)]
pub(super) struct Client {
    docker: Docker,
    socket: PathBuf,
}

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let path = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&path, 120, bollard::API_DEFAULT_VERSION)?;
        let docker = bounded(docker.negotiate_version()).await?;
        let socket = socket.to_owned();
        Ok(Self { docker, socket })
    }

    pub(super) async fn version(&self) -> Result<Option<String>, EngineError> {
        Ok(bounded(self.docker.version()).await?.version)
    }

    pub(super) async fn ping(&self) -> Result<(), EngineError> {
        bounded(self.docker.ping()).await.map(drop)
    }

    pub(super) fn events(&self) -> impl Stream<Item = Result<EngineEvent, EngineError>> + use<> {
        let filters = [
            (
                "type".to_owned(),
                vec!["network".to_owned(), "container".to_owned()],
            ),
            ("event".to_owned(), EVENT_NAMES.map(str::to_owned).to_vec()),
        ];
        let options = EventsOptionsBuilder::default()
            .filters(&filters.into_iter().collect())
            .build();
        self.docker
            .events(Some(options))
            .map(|event| Ok(parse_event(event?)))
    }

    pub(super) async fn networks(&self) -> Result<Vec<EngineNetwork>, EngineError> {
        let listed = bounded(self.docker.list_networks(None)).await?;
        Ok(listed.into_iter().map(engine_network).collect())
    }

    /// The members of a network; `None` if the engine has no such network.
    pub(super) async fn members(&self, network: &str) -> Result<Option<Vec<Member>>, EngineError> {
        let inspected =
            tokio::time::timeout(CALL_TIMEOUT, self.docker.inspect_network(network, None))
                .await
                .map_err(|_| EngineError::Silent)?;
        let inspected = match inspected {
            Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => return Ok(None),
            other => other?,
        };
        let members = inspected.containers.into_iter().flatten();
        Ok(Some(
            members
                .map(|(container, member)| Member {
                    container,
                    endpoint: member.endpoint_id.unwrap_or_default(),
                    name: member.name.unwrap_or_default(),
                    address: member.ipv4_address.as_deref().and_then(address),
                })
                .collect(),
        ))
    }

    /// Creates a network; the engine refuses a name that one of its networks has.
    pub(super) async fn create(&self, wanted: &WantedNetwork) -> Result<(), EngineError> {
        let options = wanted.meaning.options();
        let network = NetworkCreateRequest {
            name: wanted.name.clone(),
            driver: Some(DRIVER_NAME.to_owned()),
            options: Some(options.clone().into_iter().collect()),
            labels: Some([(MADE_BY_LABEL.to_owned(), MADE_BY_VALUE.to_owned())].into()),
            enable_ipv6: wanted.v6.then_some(true),
            ipam: Some(Ipam {
                driver: Some(DRIVER_NAME.to_owned()),
                options: Some(options.into_iter().collect()),
                config: Some(
                    wanted
                        .pools
                        .iter()
                        .map(|(subnet, gateway)| IpamConfig {
                            subnet: Some(subnet.clone()),
                            gateway: Some(gateway.clone()),
                            ..IpamConfig::default()
                        })
                        .collect(),
                ),
            }),
            ..NetworkCreateRequest::default()
        };
        let request = UniqueNetwork::new(network);
        let create = move |socket: &Path| {
            let body = serde_json::to_string(&request)?;
            local::client::post(socket, "/networks/create", &body)
        };
        let answer = self.exchange(create).await?;
        if answer.is_success() {
            return Ok(());
        }
        let refused = serde_json::from_str::<Refusal>(&answer.body);
        Err(EngineError::Refused(
            refused.map_or(answer.body, |it| it.message),
        ))
    }

    /// Removes a network; one that is gone is no error.
    pub(super) async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let removed = tokio::time::timeout(CALL_TIMEOUT, self.docker.remove_network(id))
            .await
            .map_err(|_| EngineError::Silent)?;
        match removed {
            Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Calls about containers.
impl Client {
    /// The containers that don't run.
    pub(super) async fn idle_containers(&self) -> Result<Vec<String>, EngineError> {
        let states = ["created", "exited"].map(str::to_owned).to_vec();
        let options = ListContainersOptionsBuilder::default()
            .all(true)
            .filters(&[("status".to_owned(), states)].into())
            .build();
        let listed = bounded(self.docker.list_containers(Some(options))).await?;
        Ok(listed.into_iter().filter_map(|it| it.id).collect())
    }

    /// Inspects a container; `None` if it is gone.
    pub(super) async fn inspect(
        &self,
        container: &str,
    ) -> Result<Option<ContainerInspectResponse>, EngineError> {
        let inspect = self.docker.inspect_container(container, None);
        let inspected = tokio::time::timeout(INSPECT_TIMEOUT, inspect).await;
        match inspected.map_err(|_| EngineError::Silent)? {
            Err(Error::DockerResponseServerError {
                status_code: 404, ..
            }) => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// Starts a container; one that runs is no error.
    pub(super) async fn start(&self, container: &str) -> Result<(), EngineError> {
        let start = self.docker.start_container(container, None);
        let started = tokio::time::timeout(START_TIMEOUT, start).await;
        Ok(started.map_err(|_| EngineError::Silent)??)
    }
}

/// Calls about plugins, and to a swarm's manager.
impl Client {
    /// Creates a plugin; false if it exists. `archive` is a tar of `config.json` and `rootfs/`.
    pub(super) async fn create_plugin(
        &self,
        name: &str,
        archive: Vec<u8>,
    ) -> Result<bool, EngineError> {
        let options = CreatePluginOptionsBuilder::default().name(name).build();
        let create = self
            .docker
            .create_plugin(options, body_full(archive.into()));
        has_changed(tokio::time::timeout(CALL_TIMEOUT, create).await)
    }

    /// Returns when the engine has found its socket; false if it was enabled before.
    pub(super) async fn enable_plugin(&self, name: &str) -> Result<bool, EngineError> {
        let options = EnablePluginOptionsBuilder::default().timeout(30).build();
        let enable = self.docker.enable_plugin(name, Some(options));
        has_changed(tokio::time::timeout(ENABLE_TIMEOUT, enable).await)
    }

    /// The addresses of the swarm's tasks and services. A swarm without a quorum doesn't answer, which
    /// isn't a failure of the engine.
    pub(super) async fn swarm(&self) -> SwarmAddresses {
        match tokio::time::timeout(SWARM_TIMEOUT, self.swarm_addresses()).await {
            Ok(Ok(swarm)) => swarm,
            Ok(Err(error)) => {
                tracing::debug!(%error, "can't list the swarm's tasks");
                SwarmAddresses::NotAvailable
            }
            Err(_) => SwarmAddresses::NotAvailable,
        }
    }

    async fn swarm_addresses(&self) -> Result<SwarmAddresses, EngineError> {
        let info = bounded(self.docker.info()).await?;
        let state = info.swarm.unwrap_or_default();
        match state.local_node_state {
            Some(LocalNodeState::ACTIVE) if state.control_available == Some(true) => {}
            None | Some(LocalNodeState::INACTIVE | LocalNodeState::ACTIVE) => {
                return Ok(SwarmAddresses::NotManaged);
            }
            Some(_) => return Ok(SwarmAddresses::NotAvailable),
        }
        // bollard's tasks lack their addresses, as in the engine's specification.
        let get = |path| self.exchange(move |socket| local::client::get(socket, path));
        let (tasks, services) = (get("/tasks").await?, get("/services").await?);
        if !tasks.is_success() || !services.is_success() {
            return Ok(SwarmAddresses::NotAvailable);
        }
        let in_use = swarm::in_use(&tasks.body, &services.body);
        Ok(in_use.map_or_else(
            |error| {
                tracing::warn!(%error, "can't parse the engine's list of tasks");
                SwarmAddresses::NotAvailable
            },
            SwarmAddresses::InUse,
        ))
    }

    /// Sends a request that bollard's types can't express.
    async fn exchange(
        &self,
        request: impl FnOnce(&Path) -> io::Result<HttpResponse> + Send + 'static,
    ) -> Result<HttpResponse, EngineError> {
        let socket = self.socket.clone();
        let exchange = tokio::task::spawn_blocking(move || request(&socket));
        let answered = tokio::time::timeout(CALL_TIMEOUT, exchange).await;
        let answer = answered.map_err(|_| EngineError::Silent)?;
        let answer = answer.map_err(io::Error::other).flatten();
        answer.map_err(|err| EngineError::Transport(Error::IOError { err }))
    }
}

/// `POST /networks/create` with a field that bollard's type lacks.
#[derive(Debug, Serialize)]
struct UniqueNetwork {
    #[serde(flatten)]
    network: NetworkCreateRequest,
    /// Before API 1.44 the engine refuses a second network of one name only on request; then it always
    /// does.
    #[serde(rename = "CheckDuplicate")]
    check_duplicate: bool,
}

impl UniqueNetwork {
    fn new(network: NetworkCreateRequest) -> Self {
        Self {
            network,
            check_duplicate: true,
        }
    }
}

/// The body of the engine's refusals.
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

/// Whether a call changed anything: false on 409, which means that it was done before.
fn has_changed(
    done: Result<Result<(), Error>, tokio::time::error::Elapsed>,
) -> Result<bool, EngineError> {
    match done.map_err(|_| EngineError::Silent)? {
        Err(Error::DockerResponseServerError {
            status_code: 409, ..
        }) => Ok(false),
        other => Ok(other.map(|()| true)?),
    }
}

async fn bounded<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, EngineError> {
    let result = tokio::time::timeout(CALL_TIMEOUT, call).await;
    Ok(result.map_err(|_| EngineError::Silent)??)
}

fn parse_event(event: EventMessage) -> EngineEvent {
    let is_network = event
        .typ
        .is_some_and(|kind| kind == bollard::models::EventMessageTypeEnum::NETWORK);
    let actor = event.actor.unwrap_or_default();
    let id = actor.id.unwrap_or_default();
    let mut attributes = actor.attributes.unwrap_or_default();
    let action = event.action.as_deref().unwrap_or_default();
    match (is_network, action) {
        (true, "connect") => EngineEvent::Connected {
            network: id,
            container: attributes.remove("container").unwrap_or_default(),
        },
        (true, "create" | "destroy" | "disconnect") => EngineEvent::NetworkChanged,
        (false, "rename") => EngineEvent::Renamed { container: id },
        (false, "kill") => EngineEvent::Killed {
            container: id,
            signal: attributes
                .remove("signal")
                .and_then(|it| it.parse().ok())
                .unwrap_or_default(),
        },
        (false, "start") => EngineEvent::Started { container: id },
        (false, "die") => EngineEvent::Ended { container: id },
        // With the result behind a colon.
        (false, action) if action.starts_with("health_status") => {
            EngineEvent::HealthChanged { container: id }
        }
        _ => EngineEvent::Other,
    }
}

fn engine_network(network: Network) -> EngineNetwork {
    let ipam = network.ipam.unwrap_or_default();
    // A network made by hand may have our options at its IPAM only.
    let mut options: BTreeMap<_, _> = ipam.options.into_iter().flatten().collect();
    options.extend(network.options.into_iter().flatten());
    EngineNetwork {
        id: network.id.unwrap_or_default(),
        name: network.name.unwrap_or_default(),
        driver: network.driver.unwrap_or_default(),
        options,
        labels: network.labels.into_iter().flatten().collect(),
        pools: ipam
            .config
            .into_iter()
            .flatten()
            .map(|pool| {
                (
                    pool.subnet.unwrap_or_default(),
                    pool.gateway.unwrap_or_default(),
                )
            })
            .collect(),
    }
}

/// Parses `20.1.1.3/24`.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn creation_of_a_network_asks_for_a_unique_name() {
        let request = UniqueNetwork::new(NetworkCreateRequest {
            name: "web".to_owned(),
            ..NetworkCreateRequest::default()
        });
        let sent = serde_json::to_value(&request).unwrap();
        assert_eq!(
            sent,
            serde_json::json!({"Name": "web", "CheckDuplicate": true})
        );
    }
}
