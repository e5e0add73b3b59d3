//! Serves the node's own socket: HTTP and JSON on `<run-dir>/netplugin.sock`, for the commands of
//! `netplugin`, for `contiv-cni` and for tests. Only root may use it.
//!
//! ```text
//! POST /v1/attach   endpoint::Attach → endpoint::Attachment
//! POST /v1/detach   {"id": …}        → {}
//! POST /v1/leave                     → Left, when the log and the bus have it
//! GET  /v1/status                    → NodeStatus
//! GET  /v1/endpoints                 → [LocalEndpoint]
//! POST /v1/cni      cni::Call        → CNI's result, or null; an error is cni::Failure
//! ```
//!
//! An error is `{"error": …}`, with 409 if the node refuses the request, and 503 if it may succeed
//! later.

pub mod client;
mod leave;

pub use leave::{Leaving, Left};

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Instant;

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use bus_schema::EndpointId;
use bus_schema::node::NodeStatus;
use metrics::histogram;
use serde::{Deserialize, Serialize};
use tokio::net::UnixListener;
use tokio::sync::watch;

use crate::bus::LeaveError;
use crate::cni::{Call, Cni, Failure};
use crate::endpoint::{Attach, AttachError, Attachment, EndpointsHandle, LocalEndpoint};
use runtime::log::excerpt;

/// The socket's name in the run directory.
pub const SOCKET_NAME: &str = "netplugin.sock";

#[derive(Debug, Clone)]
pub struct Api {
    pub endpoints: EndpointsHandle,
    pub leaving: Leaving,
    pub status: watch::Receiver<NodeStatus>,
    pub cni: Cni,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Detach {
    pub id: EndpointId,
}

/// The body of an error.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}

/// Listens on the socket and replaces the one of a former process.
pub fn listen(run_dir: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(run_dir)?;
    let path = run_dir.join(SOCKET_NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket, for ever.
pub async fn serve(listener: UnixListener, api: Api) {
    let router = Router::new()
        .route("/v1/attach", post(attach))
        .route("/v1/detach", post(detach))
        .route("/v1/leave", post(leave))
        .route("/v1/status", get(status))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/cni", post(cni))
        .with_state(api);
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!(%error, "the local socket failed");
    }
}

async fn attach(
    State(api): State<Api>,
    body: Result<Json<Attach>, JsonRejection>,
) -> Result<Json<Attachment>, ApiError> {
    let Json(ask) = body?;
    Ok(Json(api.endpoints.attach(ask).await?))
}

async fn detach(
    State(api): State<Api>,
    body: Result<Json<Detach>, JsonRejection>,
) -> Result<Json<serde_json::Value>, ApiError> {
    let Json(ask) = body?;
    api.endpoints.detach(&ask.id).await?;
    Ok(Json(serde_json::json!({})))
}

async fn cni(
    State(api): State<Api>,
    body: Result<Json<Call>, JsonRejection>,
) -> Result<Json<serde_json::Value>, CniError> {
    let Json(call) = body?;
    let started = Instant::now();
    let answer = api.cni.answer(&call).await;
    let (took, command) = (started.elapsed(), call.command);
    let (container, interface) = (&call.container, &call.interface);
    let result = if answer.is_ok() { "done" } else { "refused" };
    histogram!("contiv_cni_call_seconds", "command" => format!("{command:?}").to_uppercase(), "result" => result)
        .record(took);
    match &answer {
        Ok(_) => tracing::debug!(?command, container, interface, ?took, "CNI call"),
        Err(error) => {
            let [container, interface, error] =
                [container, interface, &error.to_string()].map(|it| excerpt(it));
            tracing::info!(
                ?command,
                container,
                interface,
                error,
                ?took,
                "CNI call refused"
            );
        }
    }
    Ok(Json(answer.map_err(|it| it.in_version(&call.config))?))
}

struct CniError(Failure);

impl From<Failure> for CniError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<JsonRejection> for CniError {
    fn from(error: JsonRejection) -> Self {
        Self(Failure::new(6, "can't read the call", error.body_text()))
    }
}

impl IntoResponse for CniError {
    fn into_response(self) -> Response {
        (StatusCode::CONFLICT, Json(self.0)).into_response()
    }
}

async fn leave(State(api): State<Api>) -> Result<Json<Left>, ApiError> {
    Ok(Json(api.leaving.run().await?))
}

async fn status(State(api): State<Api>) -> Json<NodeStatus> {
    Json(api.status.borrow().clone())
}

async fn endpoints(State(api): State<Api>) -> Json<Vec<LocalEndpoint>> {
    Json(api.endpoints.list())
}

enum ApiError {
    Attach(AttachError),
    Body(JsonRejection),
    LeaveError(LeaveError),
}

impl From<LeaveError> for ApiError {
    fn from(error: LeaveError) -> Self {
        Self::LeaveError(error)
    }
}

impl From<AttachError> for ApiError {
    fn from(error: AttachError) -> Self {
        Self::Attach(error)
    }
}

impl From<JsonRejection> for ApiError {
    fn from(error: JsonRejection) -> Self {
        Self::Body(error)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (code, error) = match self {
            Self::Body(error) => (StatusCode::BAD_REQUEST, error.body_text()),
            Self::LeaveError(error @ LeaveError::Unreachable) => {
                (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
            }
            Self::LeaveError(error @ LeaveError::Refused(_)) => {
                (StatusCode::CONFLICT, error.to_string())
            }
            Self::Attach(error) => (status_of(&error), error.to_string()),
        };
        (code, Json(ErrorBody { error })).into_response()
    }
}

fn status_of(error: &AttachError) -> StatusCode {
    match error {
        AttachError::Rejected(_)
        | AttachError::Names(_)
        | AttachError::AddressInUse(..)
        | AttachError::AddressPromised(_)
        | AttachError::EndpointDiffers(_)
        | AttachError::NothingToGive { .. }
        | AttachError::Drained(_)
        | AttachError::Left(_)
        | AttachError::Removed(_)
        | AttachError::NotCeded { .. } => StatusCode::CONFLICT,
        AttachError::EndpointUnknown(_) => StatusCode::NOT_FOUND,
        AttachError::LogUnread(_)
        | AttachError::Unreachable { .. }
        | AttachError::NotGivenUp { .. }
        | AttachError::Incomplete => StatusCode::SERVICE_UNAVAILABLE,
        AttachError::Journal { .. } | AttachError::Datapath(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
