//! CNI: executes the container runtimes' calls, which `contiv-cni` forwards. Endpoints are attached
//! through `endpoint`, like Docker's and the local socket's.
//!
//! ```text
//! runtime ── environment, stdin ──▶ contiv-cni (plugin) ── POST /v1/cni ──▶ Cni ──▶ endpoints
//!                                    VERSION; DEL and STATUS without a netplugin
//! ```
//!
//! An endpoint's id is derived from `CNI_CONTAINERID` and `CNI_IFNAME`, so each call can be repeated,
//! and calls for several containers can run at the same time.

mod outcome;
pub mod plugin;
mod protocol;
mod target;
#[cfg(test)]
mod tests;

use std::path::Path;

use bus_schema::node::LogState;
use bus_schema::{GroupName, Rejection};
use serde_json::Value;
use tokio::sync::watch;

pub use self::protocol::{Call, Command, Failure};

use self::outcome::{AttachedInterface, Observed};
use self::protocol::NetworkConfig;
use self::target::{AttachTarget, Destination, EnvironmentArgs, endpoint_id};
use crate::endpoint::{Attach, AttachError, EndpointsHandle, LocalEndpoint, Owner};
use node_core::desired::domain_name;
use node_core::projection::Projection;
use node_core::resource::Place;
use node_datapath::{Datapath, NetnsKind, PeerState};

/// The state of the calls. It is cheap to clone.
#[derive(Debug, Clone)]
pub struct Cni {
    pub endpoints: EndpointsHandle,
    /// Only read: the reconciler makes all changes in the kernel.
    pub datapath: Datapath,
    pub facts: watch::Receiver<Projection>,
    pub log: watch::Receiver<LogState>,
    /// The suffix of all names, which is the containers' search domain.
    pub suffix: String,
}

impl Cni {
    /// Executes a call; the result is `null` if the specification has no output for it.
    pub async fn answer(&self, call: &Call) -> Result<Value, Failure> {
        call.check()?;
        let config = call.config()?;
        match call.command {
            Command::Add => self.add(call, &config).await,
            Command::Del => self.del(call).await.map(|()| Value::Null),
            Command::Check => self.check(call, &config).await.map(|()| Value::Null),
            Command::Status => self.status(call, &config).map(|()| Value::Null),
            Command::Gc => self.gc(&config).await.map(|()| Value::Null),
            Command::Version => Err(Failure::environment("VERSION needs no netplugin")),
        }
    }

    async fn add(&self, call: &Call, config: &NetworkConfig) -> Result<Value, Failure> {
        let args = EnvironmentArgs::parse(&call.args)?;
        let has_group = |destination: &Destination, group: &GroupName| {
            let facts = self.facts.borrow();
            let fact = facts.group_fact(&destination.tenant, group);
            fact.is_some_and(|it| it.spec.network == destination.network)
        };
        let target = AttachTarget::of(config, &args, &call.container, &has_group)?;
        let id = endpoint_id(&call.container, &call.interface)?;
        self.must_be_containers_namespace(&call.netns)?;
        let known = self.endpoints.endpoint(&id);
        match (self.peer(call).await?, known) {
            (None, None) => {}
            (Some(peer), Some(known)) if peer.mac == known.mac => {}
            // A leftover of the container's former namespace.
            (None, Some(_)) => self.detach(&id).await?,
            (Some(_), _) => {
                return Err(Failure::environment(format!(
                    "CNI_IFNAME: {} has an interface {} already",
                    call.netns, call.interface
                )));
            }
        }
        let attach = Attach {
            id: id.clone(),
            group: target.destination.group,
            tenant: target.destination.tenant,
            network: target.destination.network,
            addresses: target.addresses,
            owner: Owner::Namespace {
                path: call.netns.clone(),
                interface: call.interface.clone(),
                cni: Some(config.name.clone()),
            },
            name: target.name,
            aliases: config.aliases().to_vec(),
            container: Some(call.container.clone()),
        };
        let attached = self.endpoints.attach(attach).await;
        let attachment = attached.map_err(|error| self.failure(&error))?;
        let peer = self.peer(call).await?.ok_or_else(|| gone(&call.netns))?;
        let place = self.place(&attachment.endpoint);
        let host_netns = self.datapath.netns_of(&place);
        let host_netns = host_netns.map_or_else(String::new, |path| path.display().to_string());
        let success = outcome::success(
            call,
            config,
            &AttachedInterface {
                attachment: &attachment,
                host_netns: &host_netns,
                peer: &peer,
                suffix: &self.suffix,
            },
        );
        serde_json::to_value(success)
            .map_err(|error| Failure::new(6, "can't write the result", error.to_string()))
    }

    fn must_be_containers_namespace(&self, netns: &str) -> Result<(), Failure> {
        match self.datapath.netns_kind(Path::new(netns)) {
            NetnsKind::Container => Ok(()),
            NetnsKind::Gone => Err(gone(netns)),
            NetnsKind::Host => Err(Failure::environment(format!(
                "CNI_NETNS {netns} is the host's own network namespace"
            ))),
            NetnsKind::Other => Err(Failure::environment(format!(
                "CNI_NETNS {netns} is no network namespace"
            ))),
        }
    }

    async fn del(&self, call: &Call) -> Result<(), Failure> {
        self.detach(&endpoint_id(&call.container, &call.interface)?)
            .await
    }

    /// Detaches an endpoint. It is no error if the endpoint, its network or its namespace is gone.
    async fn detach(&self, id: &bus_schema::EndpointId) -> Result<(), Failure> {
        match self.endpoints.detach(id).await {
            Ok(()) | Err(AttachError::EndpointUnknown(_)) => Ok(()),
            Err(error) => Err(self.failure(&error)),
        }
    }

    async fn check(&self, call: &Call, config: &NetworkConfig) -> Result<(), Failure> {
        let id = endpoint_id(&call.container, &call.interface)?;
        let endpoint = self.endpoints.endpoint(&id).ok_or_else(|| {
            Failure::new(
                3,
                "unknown container",
                format!(
                    "this node has no record of an ADD of container {} and {}",
                    call.container, call.interface
                ),
            )
        })?;
        if self.datapath.netns_kind(Path::new(&call.netns)) == NetnsKind::Gone {
            return Err(gone(&call.netns));
        }
        let peer = self.peer(call).await?;
        let place = self.place(&endpoint);
        let host_up = self.datapath.is_up(&place, &endpoint.host_interface).await;
        let failed = self.endpoints.kernel().borrow().failed.get(&id).cloned();
        let observed = Observed {
            endpoint: &endpoint,
            peer: peer.as_ref(),
            host_up: host_up.ok().flatten(),
            failed: failed.as_deref(),
        };
        outcome::check(call, config, &observed)
    }

    /// Whether an ADD would succeed now.
    fn status(&self, call: &Call, config: &NetworkConfig) -> Result<(), Failure> {
        let unavailable =
            |details: String| Failure::new(50, "the plugin is not available", details);
        let log = self.log.borrow().clone();
        match &log {
            LogState::Foreign { reason } | LogState::Refused { reason } => {
                return Err(unavailable(reason.clone()));
            }
            LogState::Removed => return Err(unavailable(LogState::REMOVED.to_owned())),
            LogState::CatchingUp | LogState::InSync | LogState::Disconnected { .. } => {}
        }
        if let Err(error @ (AttachError::Drained(_) | AttachError::Left(_))) =
            self.endpoints.must_take_endpoints()
        {
            return Err(unavailable(error.to_string()));
        }
        let facts = self.facts.borrow();
        if facts.cluster.is_none() {
            return Err(unavailable(
                "this node has no cluster yet: see `netplugin status`".to_owned(),
            ));
        }
        // A runtime may pass the network's name at ADD only.
        let args = EnvironmentArgs::default();
        let Ok(target) = AttachTarget::of(config, &args, &call.container, &|_, _| false) else {
            return Ok(());
        };
        let Destination {
            tenant,
            network: name,
            group,
        } = target.destination;
        match facts.network(&tenant, &name) {
            None if config.leaves_network_open() => Ok(()),
            None => Err(unavailable(format!(
                "tenant {tenant} has no network {name}: create it with `netctl net create`"
            ))),
            Some(network) if network.closing => {
                Err(unavailable(format!("network {name} is being removed")))
            }
            Some(network) => {
                let key = (tenant, name);
                if log == LogState::InSync || self.endpoints.has_free(network, &key, group.as_ref())
                {
                    return Ok(());
                }
                Err(unavailable(format!(
                    "this node has no free address of network {} and can't ask for more: the bus doesn't answer",
                    key.1
                )))
            }
        }
    }

    /// Detaches the endpoints of this network configuration that the runtime doesn't list. A failure
    /// doesn't stop it.
    async fn gc(&self, config: &NetworkConfig) -> Result<(), Failure> {
        let Some(valid) = &config.valid_attachments else {
            return Err(Failure::config("cni.dev/valid-attachments is missing"));
        };
        let mut failures = Vec::new();
        for endpoint in self.endpoints.list() {
            let Owner::Namespace { interface, cni, .. } = &endpoint.owner else {
                continue;
            };
            let ours = cni.as_ref() == Some(&config.name);
            let container = endpoint.container.as_deref().unwrap_or_default();
            let is_valid = valid
                .iter()
                .any(|it| it.container == container && it.interface == *interface);
            if !ours || is_valid {
                continue;
            }
            tracing::info!(id = %endpoint.id, container, "GC: detaching");
            if let Err(error) = self.detach(&endpoint.id).await {
                failures.push(format!("{container}: {}", error.details));
            }
        }
        match failures.is_empty() {
            true => Ok(()),
            false => Err(Failure::new(
                5,
                "can't detach all endpoints",
                failures.join("; "),
            )),
        }
    }

    async fn peer(&self, call: &Call) -> Result<Option<PeerState>, Failure> {
        let observed = self
            .datapath
            .peer(Path::new(&call.netns), &call.interface)
            .await;
        observed.map_err(|error| {
            Failure::new(
                Failure::KERNEL_CODE,
                "can't read the interface",
                error.to_string(),
            )
        })
    }

    fn place(&self, endpoint: &LocalEndpoint) -> Place {
        Place::Domain(domain_name(self.datapath.kind(), &endpoint.tenant))
    }

    fn failure(&self, error: &AttachError) -> Failure {
        let details = error.to_string();
        match error {
            // The network may be in a part of the log that this node hasn't read yet.
            AttachError::Rejected(
                Rejection::NetworkUnknown { .. } | Rejection::GroupUnknown { .. },
            ) if *self.log.borrow() != LogState::InSync => Failure::try_again(format!(
                "{details}; this node hasn't caught up with the log"
            )),
            AttachError::Rejected(
                Rejection::PoolExhausted { .. } | Rejection::GroupPoolExhausted { .. },
            )
            | AttachError::LogUnread(_)
            | AttachError::Unreachable { .. }
            | AttachError::NothingToGive { .. }
            | AttachError::NotGivenUp { .. }
            | AttachError::Drained(_)
            | AttachError::Left(_)
            | AttachError::Removed(_)
            | AttachError::Incomplete => Failure::try_again(details),
            AttachError::Rejected(_) | AttachError::Names(_) => Failure::config(details),
            AttachError::AddressInUse(..)
            | AttachError::AddressPromised(_)
            | AttachError::NotCeded { .. } => Failure::new(
                Failure::ADDRESS_TAKEN_CODE,
                "the address is in use",
                details,
            ),
            AttachError::EndpointDiffers(_) => Failure::environment(format!(
                "CNI_CONTAINERID, CNI_IFNAME: this container has the interface with other settings: DEL it first ({details})"
            )),
            AttachError::EndpointUnknown(_) => Failure::new(3, "unknown container", details),
            AttachError::Journal { .. } => Failure::new(5, "I/O failure", details),
            AttachError::Datapath(_) => {
                Failure::new(Failure::KERNEL_CODE, "can't configure the kernel", details)
            }
        }
    }
}

fn gone(netns: &str) -> Failure {
    Failure::new(
        3,
        "unknown container",
        format!("network namespace {netns} doesn't exist"),
    )
}
