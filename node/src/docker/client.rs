//! The engine's API, as far as netplugin uses it: every call bounded, its types made ours.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{EventMessage, Ipam, IpamConfig, Network, NetworkCreateRequest};
use bollard::query_parameters::EventsOptionsBuilder;
use futures::{Stream, StreamExt};

use super::plan::{DRIVER, Found, LABEL, LABEL_VALUE, Wanted};

/// Creating a network calls back into our own plugin several times; the rest takes milliseconds.
const LIMIT: Duration = Duration::from_secs(10);
/// Inspecting a container blocks until its start has finished.
const INSPECT_LIMIT: Duration = Duration::from_secs(60);

/// What the engine did not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum EngineError {
    #[error("the engine doesn't answer within {} s", LIMIT.as_secs())]
    Silent,
    #[error("the engine's events ended")]
    EventsEnded,
    #[error("the engine says: {0}")]
    Refused(String),
    #[error("can't talk to the engine: {0}")]
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
    /// Whether the engine is there, and this one call failed.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// A container's membership in a Docker network, as the engine tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    /// The container's id; `ep-…` for an endpoint without a container.
    pub(super) container: String,
    /// The endpoint's full id.
    pub(super) endpoint: String,
    pub(super) name: String,
    pub(super) address: Option<IpAddr>,
}

/// What the engine's events mean here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EngineEvent {
    NetworkChanged,
    Connected { network: String, container: String },
    Renamed { container: String },
    Other,
}

#[derive(Debug, Clone)]
pub(super) struct Client(Docker);

impl Client {
    pub(super) async fn connect(socket: &Path) -> Result<Self, EngineError> {
        let socket = socket.to_string_lossy();
        let docker = Docker::connect_with_unix(&socket, 120, bollard::API_DEFAULT_VERSION)?;
        let docker = bounded(docker.negotiate_version()).await?;
        Ok(Self(docker))
    }

    pub(super) async fn version(&self) -> Result<Option<String>, EngineError> {
        Ok(bounded(self.0.version()).await?.version)
    }

    pub(super) async fn ping(&self) -> Result<(), EngineError> {
        bounded(self.0.ping()).await.map(drop)
    }

    pub(super) fn events(&self) -> impl Stream<Item = Result<EngineEvent, EngineError>> + use<> {
        let filters = [
            (
                "type".to_owned(),
                vec!["network".to_owned(), "container".to_owned()],
            ),
            (
                "event".to_owned(),
                ["create", "destroy", "connect", "disconnect", "rename"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
        ];
        let options = EventsOptionsBuilder::default()
            .filters(&filters.into_iter().collect())
            .build();
        self.0
            .events(Some(options))
            .map(|event| Ok(understand(event?)))
    }

    pub(super) async fn networks(&self) -> Result<Vec<Found>, EngineError> {
        let listed = bounded(self.0.list_networks(None)).await?;
        Ok(listed.into_iter().map(found).collect())
    }

    /// `None`: the engine has no such network.
    pub(super) async fn members(&self, network: &str) -> Result<Option<Vec<Member>>, EngineError> {
        let inspected = tokio::time::timeout(LIMIT, self.0.inspect_network(network, None))
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

    /// The aliases of a container in the network of this endpoint.
    pub(super) async fn aliases(
        &self,
        container: &str,
        endpoint: &str,
    ) -> Result<Vec<String>, EngineError> {
        let inspect = self.0.inspect_container(container, None);
        let inspected = tokio::time::timeout(INSPECT_LIMIT, inspect)
            .await
            .map_err(|_| EngineError::Silent)??;
        let networks = inspected.network_settings.and_then(|s| s.networks);
        let mut aliases = networks
            .into_iter()
            .flatten()
            .find(|(_, settings)| settings.endpoint_id.as_deref() == Some(endpoint))
            .and_then(|(_, settings)| settings.aliases)
            .unwrap_or_default();
        aliases.sort();
        aliases.dedup();
        Ok(aliases)
    }

    pub(super) async fn create(&self, wanted: &Wanted) -> Result<(), EngineError> {
        let options = wanted.meaning.options();
        let request = NetworkCreateRequest {
            name: wanted.name.clone(),
            driver: Some(DRIVER.to_owned()),
            options: Some(options.clone().into_iter().collect()),
            labels: Some([(LABEL.to_owned(), LABEL_VALUE.to_owned())].into()),
            enable_ipv6: wanted.v6.then_some(true),
            ipam: Some(Ipam {
                driver: Some(DRIVER.to_owned()),
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
        bounded(self.0.create_network(request)).await.map(drop)
    }

    /// One that is gone already is fine.
    pub(super) async fn remove(&self, id: &str) -> Result<(), EngineError> {
        let removed = tokio::time::timeout(LIMIT, self.0.remove_network(id))
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

async fn bounded<T>(call: impl Future<Output = Result<T, Error>>) -> Result<T, EngineError> {
    let result = tokio::time::timeout(LIMIT, call).await;
    Ok(result.map_err(|_| EngineError::Silent)??)
}

fn understand(event: EventMessage) -> EngineEvent {
    let is_network = event
        .typ
        .is_some_and(|kind| kind == bollard::models::EventMessageTypeEnum::NETWORK);
    let actor = event.actor.unwrap_or_default();
    let id = actor.id.unwrap_or_default();
    let mut attributes = actor.attributes.unwrap_or_default();
    match (is_network, event.action.as_deref()) {
        (true, Some("connect")) => EngineEvent::Connected {
            network: id,
            container: attributes.remove("container").unwrap_or_default(),
        },
        (true, Some("create" | "destroy" | "disconnect")) => EngineEvent::NetworkChanged,
        (false, Some("rename")) => EngineEvent::Renamed { container: id },
        _ => EngineEvent::Other,
    }
}

fn found(network: Network) -> Found {
    let ipam = network.ipam.unwrap_or_default();
    // The IPAM's options count too: what was made by hand may have named its network there only.
    let mut options: BTreeMap<_, _> = ipam.options.into_iter().flatten().collect();
    options.extend(network.options.into_iter().flatten());
    Found {
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

/// Of `20.1.1.3/24`.
fn address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}
