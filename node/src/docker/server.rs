//! Serves the plugin's socket: HTTP with JSON, one POST for each call, as in the engine's plugin
//! protocol. It answers before the engine and the bus are available, and each call within
//! [`CALL_TIMEOUT`]: the engine would wait for a silent plugin with its own locks held.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use metrics::histogram;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::driver::{Driver, DriverError};
use super::endpoints::Endpoints;
use super::pool_id::AddressSpace;
use super::protocol::DriverFailure;
use crate::endpoint::REQUEST_TIMEOUT;
use runtime::log::excerpt;

/// Limits a call. It is longer than the endpoints' own deadline, whose error has more details.
const CALL_TIMEOUT: Duration = REQUEST_TIMEOUT.saturating_add(Duration::from_secs(1));

const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.1+json";

/// Listening on the plugin's socket can fail for these reasons.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("another netplugin answers on {0}: stop it first")]
    InUse(PathBuf),
    #[error("another `netplugin docker-sockets` holds {0}: stop it first")]
    Held(PathBuf),
    #[error(
        "`netplugin docker-sockets` (the service netplugin-docker) holds {socket} for a netplugin with --run-dir {held}, and this one has --run-dir {ours}: give both services the same --run-dir and --plugin-dir (NETPLUGIN_DIRECTORIES in /etc/default/netplugin), or stop netplugin-docker"
    )]
    HeldForAnother {
        socket: PathBuf,
        held: PathBuf,
        ours: PathBuf,
    },
    #[error("can't listen on {path}: {reason}")]
    Bind {
        path: PathBuf,
        reason: std::io::Error,
    },
}

/// The called driver. Each of our two drivers has one scope, as the engine requires.
#[derive(Debug, Clone, Copy)]
pub(super) enum Scope {
    /// `contiv`, for `docker run`.
    Local,
    /// [`swarm::PLUGIN_NAME`](super::swarm::PLUGIN_NAME), for services.
    Swarm,
}

/// Listens on a socket that no other netplugin serves.
pub(super) fn listen(path: PathBuf) -> Result<UnixListener, ServerError> {
    if UnixStream::connect(&path).is_ok() {
        return Err(ServerError::InUse(path));
    }
    bind(&path)
}

/// Replaces a socket atomically, so that an engine always finds one.
pub(super) fn bind(path: &Path) -> Result<UnixListener, ServerError> {
    let failed = |reason| ServerError::Bind {
        path: path.to_owned(),
        reason,
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(failed)?;
    let new = path.with_extension("new");
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&new).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)?;
    Ok(listener)
}

pub(super) async fn serve<E: Endpoints>(
    listener: UnixListener,
    driver: Arc<Driver<E>>,
    scope: Scope,
) {
    let router = Router::new()
        .route("/{call}", any(answer::<E>))
        .with_state((driver, scope));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the plugin's socket failed");
    }
}

async fn answer<E: Endpoints>(
    State((driver, scope)): State<(Arc<Driver<E>>, Scope)>,
    UrlPath(call): UrlPath<String>,
    body: Bytes,
) -> Response {
    let started = Instant::now();
    let result = tokio::time::timeout(CALL_TIMEOUT, dispatch(&driver, scope, &call, &body)).await;
    let took = started.elapsed();
    let outcome = match &result {
        Ok(Ok(_)) => "done",
        Ok(Err(_)) => "refused",
        Err(_) => "timed-out",
    };
    // Unknown calls get no time series of their own.
    if !matches!(&result, Ok(Err(DriverError::UnknownCall(_)))) {
        histogram!("contiv_docker_call_seconds", "call" => call.clone(), "result" => outcome)
            .record(took);
    }
    let (status, value) = match result {
        Ok(Ok(value)) => {
            tracing::debug!(call, request = text(&body), answer = %value, ?took, "engine call");
            (StatusCode::OK, value)
        }
        Ok(Err(error)) => {
            let (call, why) = (excerpt(&call), excerpt(&error.to_string()));
            tracing::info!(
                call,
                request = text(&body),
                error = why,
                ?took,
                "engine call refused"
            );
            let status = match error {
                // On 404 the engine assumes that the driver doesn't have this call.
                DriverError::UnknownCall(_) => StatusCode::NOT_FOUND,
                _ => StatusCode::OK,
            };
            (status, failure(error.to_string()))
        }
        Err(_) => {
            tracing::warn!(call, request = text(&body), ?took, "engine call timed out");
            let error = format!(
                "netplugin didn't finish {call} within {} s: see `netplugin status` on this node",
                CALL_TIMEOUT.as_secs()
            );
            (StatusCode::OK, failure(error))
        }
    };
    response(status, value.to_string())
}

pub(super) fn response(status: StatusCode, json: String) -> Response {
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], json).into_response()
}

pub(super) fn failure(error: String) -> Value {
    let err = error.clone();
    json!(DriverFailure { err, error })
}

/// The body of a call, for the log.
fn text(body: &Bytes) -> String {
    excerpt(&String::from_utf8_lossy(body))
}

/// The reply to a call that needs no state, and no netplugin: an engine that starts makes some before
/// it answers anybody.
pub(super) fn constant_reply(scope: Scope, call: &str) -> Option<Value> {
    Some(match call {
        "Plugin.Activate" => json!({"Implements": ["NetworkDriver", "IpamDriver"]}),
        "NetworkDriver.GetCapabilities" => match scope {
            Scope::Local => json!({"Scope": "local", "ConnectivityScope": "global"}),
            // With `global` connectivity the engine would resolve the services' names itself, by
            // gossip, to a virtual address that needs ipvs. With `local` it leaves them to our DNS.
            Scope::Swarm => json!({"Scope": "global", "ConnectivityScope": "local"}),
        },
        // Engine 28 asks whether it may skip the gateway's address; it may not.
        "NetworkDriver.GwAllocCheck" => json!({"SkipIPv4": false, "SkipIPv6": false}),
        // The MAC address follows from the IP address. Assigned addresses are in the node's journal,
        // so the engine need not replay them when it starts.
        "IpamDriver.GetCapabilities" => {
            json!({"RequiresMACAddress": false, "RequiresRequestReplay": false})
        }
        "IpamDriver.GetDefaultAddressSpaces" => {
            let (local, global) = match scope {
                Scope::Local => (AddressSpace::Engine, AddressSpace::Engine),
                Scope::Swarm => (AddressSpace::Tasks, AddressSpace::Swarm),
            };
            json!({
                "LocalDefaultAddressSpace": local.name(),
                "GlobalDefaultAddressSpace": global.name(),
            })
        }
        "NetworkDriver.RevokeExternalConnectivity"
        | "NetworkDriver.DiscoverNew"
        | "NetworkDriver.DiscoverDelete"
        | "NetworkDriver.FreeNetwork"
        | "IpamDriver.ReleasePool" => json!({}),
        _ => return None,
    })
}

async fn dispatch<E: Endpoints>(
    driver: &Driver<E>,
    scope: Scope,
    call: &str,
    body: &[u8],
) -> Result<Value, DriverError> {
    match constant_reply(scope, call) {
        Some(reply) => Ok(reply),
        None if call.starts_with("IpamDriver.") => call_ipam(driver, call, body).await,
        None => call_network(driver, scope, call, body).await,
    }
}

async fn call_network<E: Endpoints>(
    driver: &Driver<E>,
    scope: Scope,
    call: &str,
    body: &[u8],
) -> Result<Value, DriverError> {
    let done = json!({});
    Ok(match call {
        "NetworkDriver.CreateNetwork" => {
            driver.create_network(&read(body)?)?;
            done
        }
        "NetworkDriver.DeleteNetwork" => {
            driver.delete_network(&read(body)?).await?;
            done
        }
        "NetworkDriver.CreateEndpoint" => {
            json!({"Interface": driver.create_endpoint(read(body)?).await?})
        }
        "NetworkDriver.DeleteEndpoint" => {
            driver.delete_endpoint(&read(body)?).await?;
            done
        }
        "NetworkDriver.EndpointOperInfo" => {
            json!({"Value": driver.operational_info(&read(body)?)?})
        }
        "NetworkDriver.Join" => json!(driver.join(&read(body)?).await?),
        "NetworkDriver.Leave" => {
            driver.leave(&read(body)?).await?;
            done
        }
        "NetworkDriver.ProgramExternalConnectivity" => {
            driver.program_external_connectivity(&read(body)?)?;
            done
        }
        "NetworkDriver.AllocateNetwork" => match scope {
            Scope::Local => return Err(DriverError::Swarm),
            Scope::Swarm => json!({"Options": driver.allocate_network(&read(body)?)?}),
        },
        unknown => return Err(DriverError::UnknownCall(unknown.to_owned())),
    })
}

async fn call_ipam<E: Endpoints>(
    driver: &Driver<E>,
    call: &str,
    body: &[u8],
) -> Result<Value, DriverError> {
    let done = json!({});
    Ok(match call {
        "IpamDriver.RequestPool" => {
            let (id, subnet) = driver.request_pool(&read(body)?)?;
            json!({"PoolID": id.to_string(), "Pool": subnet, "Data": {}})
        }
        "IpamDriver.RequestAddress" => {
            json!({"Address": driver.request_address(&read(body)?).await?, "Data": {}})
        }
        "IpamDriver.ReleaseAddress" => {
            driver.release_address(&read(body)?).await?;
            done
        }
        unknown => return Err(DriverError::UnknownCall(unknown.to_owned())),
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, DriverError> {
    Ok(serde_json::from_slice(body)?)
}
