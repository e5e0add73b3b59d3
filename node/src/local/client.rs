//! Asks the netplugin of this machine. Blocking, and nothing but the standard library: `contiv-cni`
//! is started for each container.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

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

/// What netplugin answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status of HTTP.
    pub status: u16,
    /// JSON.
    pub body: String,
}

impl Answer {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// Sends a request and gives the JSON of its answer.
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
    let failed = serde_json::from_str::<Failed>(&answer.body);
    Err(ClientError::Refused(
        failed.map_or(answer.body, |it| it.error),
    ))
}

/// Sends a request and gives its answer, whatever its status.
pub fn send<T: Serialize>(
    run_dir: &Path,
    method: &str,
    path: &str,
    body: Option<&T>,
) -> Result<Answer, ClientError> {
    let body = match body {
        Some(body) => {
            serde_json::to_string(body).map_err(|it| ClientError::Refused(it.to_string()))?
        }
        None => String::new(),
    };
    let socket = run_dir.join(SOCKET);
    exchange(&socket, method, path, &body).map_err(|error| ClientError::Unreachable {
        reason: match error.kind() {
            io::ErrorKind::WouldBlock => format!("no answer in {} s", TIMEOUT.as_secs()),
            _ => error.to_string(),
        },
        path: socket,
    })
}

/// Asks another server on this machine.
pub fn get(socket: &Path, path: &str) -> io::Result<Answer> {
    exchange(socket, "GET", path, "")
}

/// HTTP/1.0: the answer has a plain body, which ends with the connection.
fn exchange(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: netplugin\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&String::from_utf8_lossy(&bytes)).ok_or_else(|| io::Error::other("the answer breaks off"))
}

fn parse(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let of_body = name.eq_ignore_ascii_case("content-length");
        of_body.then(|| value.trim().parse::<usize>().ok())?
    });
    (length.is_none_or(|length| length == body.len())).then(|| Answer {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Answer, parse};

    #[test]
    fn an_answer_that_breaks_off_is_none() {
        let head = "HTTP/1.0 409 Conflict\r\ncontent-type: application/json\r\ncontent-length: 2";
        let whole = Answer {
            status: 409,
            body: "{}".to_owned(),
        };
        assert_eq!(parse(&format!("{head}\r\n\r\n{{}}")), Some(whole));
        for broken in ["", head, &format!("{head}\r\n\r\n{{")] {
            assert_eq!(parse(broken), None, "{broken}");
        }
    }
}
