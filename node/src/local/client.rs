//! A blocking client for the netplugin of this machine. It uses only the standard library, since
//! `contiv-cni` is started for each container.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::{ErrorBody, SOCKET_NAME};

/// Limits the wait for a reply. netplugin's own timeout is a little shorter.
const REPLY_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("no netplugin answers on {path}: {reason}; start it with `netplugin run`")]
    Unreachable { path: PathBuf, reason: String },
    #[error("{0}")]
    Refused(String),
}

/// netplugin's HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    pub status: u16,
    /// The body, in JSON.
    pub body: String,
}

impl HttpResponse {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Sends a request and returns the JSON of a successful response.
pub fn ask<T: Serialize>(
    run_dir: &Path,
    method: &str,
    path: &str,
    body: Option<&T>,
) -> Result<String, ClientError> {
    let answer = send(run_dir, method, path, body)?;
    if answer.is_success() {
        return Ok(answer.body);
    }
    let failed = serde_json::from_str::<ErrorBody>(&answer.body);
    Err(ClientError::Refused(
        failed.map_or(answer.body, |it| it.error),
    ))
}

/// Sends a request and returns the response with any status.
pub fn send<T: Serialize>(
    run_dir: &Path,
    method: &str,
    path: &str,
    body: Option<&T>,
) -> Result<HttpResponse, ClientError> {
    let body = match body {
        Some(body) => {
            serde_json::to_string(body).map_err(|it| ClientError::Refused(it.to_string()))?
        }
        None => String::new(),
    };
    let socket = run_dir.join(SOCKET_NAME);
    exchange(&socket, method, path, &body).map_err(|error| ClientError::Unreachable {
        reason: match error.kind() {
            io::ErrorKind::WouldBlock => format!("no answer in {} s", REPLY_TIMEOUT.as_secs()),
            _ => error.to_string(),
        },
        path: socket,
    })
}

/// Sends a GET to another server's socket on this machine.
pub fn get(socket: &Path, path: &str) -> io::Result<HttpResponse> {
    exchange(socket, "GET", path, "")
}

/// Sends a POST with a body in JSON to another server's socket on this machine.
pub fn post(socket: &Path, path: &str, body: &str) -> io::Result<HttpResponse> {
    exchange(socket, "POST", path, body)
}

/// Sends a request in HTTP/1.0, so that the response has a plain body, which ends with the connection.
fn exchange(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<HttpResponse> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
    stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: netplugin\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| io::Error::other("the response is incomplete"))
}

fn parse(text: &str) -> Option<HttpResponse> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let of_body = name.eq_ignore_ascii_case("content-length");
        of_body.then(|| value.trim().parse::<usize>().ok())?
    });
    (length.is_none_or(|length| length == body.len())).then(|| HttpResponse {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{HttpResponse, parse};

    #[test]
    fn incomplete_response_is_refused() {
        let head = "HTTP/1.0 409 Conflict\r\ncontent-type: application/json\r\ncontent-length: 2";
        let whole = HttpResponse {
            status: 409,
            body: "{}".to_owned(),
        };
        assert_eq!(parse(&format!("{head}\r\n\r\n{{}}")), Some(whole));
        for broken in ["", head, &format!("{head}\r\n\r\n{{")] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
