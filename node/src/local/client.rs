//! Asks the netplugin of this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;

use super::{Failed, SOCKET};

/// A little longer than netplugin itself waits.
const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no netplugin answers on {path}: {reason}; start it with `netplugin run`")]
    Unreachable { path: PathBuf, reason: String },
    #[error("{0}")]
    Refused(String),
}

/// Sends a request and gives the JSON of its answer.
pub async fn ask<T: Serialize>(
    run_dir: &Path,
    method: Method,
    path: &str,
    body: Option<&T>,
) -> Result<String, ClientError> {
    let socket = run_dir.join(SOCKET);
    let body = match body {
        Some(body) => {
            serde_json::to_vec(body).map_err(|it| ClientError::Refused(it.to_string()))?
        }
        None => Vec::new(),
    };
    let asked = tokio::time::timeout(TIMEOUT, send(&socket, method, path, body)).await;
    let answered = asked.unwrap_or_else(|_| Err(format!("no answer in {} s", TIMEOUT.as_secs())));
    let (ok, text) = answered.map_err(|reason| ClientError::Unreachable {
        path: socket,
        reason,
    })?;
    if ok {
        return Ok(text);
    }
    let failed = serde_json::from_str::<Failed>(&text);
    Err(ClientError::Refused(failed.map_or(text, |it| it.error)))
}

async fn send(
    socket: &Path,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> Result<(bool, String), String> {
    let stream = UnixStream::connect(socket).await.map_err(text)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(text)?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "netplugin")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(text)?;
    let response = sender.send_request(request).await.map_err(text)?;
    let ok = response.status().is_success();
    let body = response.into_body().collect().await.map_err(text)?;
    connection.abort();
    Ok((ok, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
