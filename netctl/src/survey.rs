//! The state of the netmasters, the bus's servers, the log and the clocks, as far as each can be asked.
//! For `status`, `version` and `doctor`.

use std::time::Duration;

use async_nats::Client;
use bus_schema::{Revision, subject};
use futures::StreamExt;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::clocks::{self, Clock};
use crate::failure::Failure;

/// Timeout of the first netmaster's answer; a netmaster that runs answers at once.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_millis(800);
/// Timeout of each further answer.
const NEXT_ANSWER_TIMEOUT: Duration = Duration::from_millis(200);
/// nats-server's error code of a missing stream.
const STREAM_NOT_FOUND_CODE: u64 = 10_059;
const JETSTREAM_TIMEOUT: Duration = Duration::from_secs(3);

/// A netmaster's statistics, by the NATS services protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Netmaster {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The revision up to which it has read the log.
    pub(crate) revision: Option<Revision>,
    /// The reason why it decides nothing, if so.
    pub(crate) refusal: Option<String>,
    pub(crate) clock: Option<Clock>,
    /// The reason why the log refuses its appends, if so.
    pub(crate) write_error: Option<String>,
}

/// The clocks of the bus and of the netmasters that report one.
pub(crate) fn reported_clocks(log: Option<&Log>, netmasters: &[Netmaster]) -> Vec<(String, Clock)> {
    let bus = log.and_then(|it| Some(("bus".to_owned(), it.clock?)));
    let netmasters = netmasters.iter().filter_map(|netmaster| {
        let of = format!("netmaster {}", netmaster.name);
        Some((of, netmaster.clock?))
    });
    bus.into_iter().chain(netmasters).collect()
}

/// A server with a replica of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) leads: bool,
    /// The reason why its replica is incomplete; absent: it is complete.
    pub(crate) behind: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) revision: Revision,
    pub(crate) replicas: usize,
    pub(crate) servers: Vec<Server>,
    pub(crate) clock: Option<Clock>,
    /// The stream's configuration on the server.
    pub(crate) config: Value,
}

impl Log {
    /// Whether a majority of the replicas is complete; without it nothing is appended.
    pub(crate) fn has_quorum(&self) -> bool {
        let whole = self.servers.iter().filter(|it| it.behind.is_none());
        self.servers.iter().any(|it| it.leads) && whole.count() * 2 > self.replicas
    }
}

/// Asks all netmasters for their statistics; empty: none answers.
pub(crate) async fn netmasters(bus: &Client) -> Result<Vec<Netmaster>, Failure> {
    let lost = |error: &dyn std::fmt::Display| Failure::Unreachable(format!("the bus: {error}"));
    let inbox = bus.new_inbox();
    let mut answers = bus.subscribe(inbox.clone()).await.map_err(|e| lost(&e))?;
    let to = format!("$SRV.STATS.{}", subject::SERVICE);
    let sent = clocks::now();
    bus.publish_with_reply(to, inbox, "".into())
        .await
        .map_err(|e| lost(&e))?;
    let mut found = Vec::new();
    let mut timeout = FIRST_ANSWER_TIMEOUT;
    while let Ok(Some(message)) = tokio::time::timeout(timeout, answers.next()).await {
        if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
            break;
        }
        let received = clocks::now();
        if let Some(netmaster) = netmaster(&message.payload, sent, received) {
            found.push(netmaster);
            timeout = NEXT_ANSWER_TIMEOUT;
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn netmaster(payload: &[u8], sent: u64, received: u64) -> Option<Netmaster> {
    #[derive(Deserialize)]
    struct Stats {
        id: String,
        version: String,
        endpoints: Vec<Endpoint>,
    }
    #[derive(Deserialize)]
    struct Endpoint {
        #[serde(default)]
        data: Option<Data>,
    }
    #[derive(Deserialize)]
    struct Data {
        netmaster: String,
        revision: Revision,
        at: u64,
        #[serde(default, rename = "unwritten")]
        write_error: Option<String>,
        #[serde(rename = "refuses")]
        refusal: Option<String>,
    }
    let stats: Stats = serde_json::from_slice(payload).ok()?;
    let data = stats.endpoints.into_iter().find_map(|it| it.data);
    Some(Netmaster {
        name: data.as_ref().map_or(stats.id, |it| it.netmaster.clone()),
        version: stats.version,
        revision: data.as_ref().map(|it| it.revision),
        refusal: data.as_ref().and_then(|it| it.refusal.clone()),
        clock: data.as_ref().map(|it| Clock {
            sent,
            time: it.at,
            received,
        }),
        write_error: data.and_then(|it| it.write_error),
    })
}

/// Asks the bus for the log's stream. The error is the reason why it isn't available.
pub(crate) async fn log(bus: &Client) -> Result<Log, String> {
    let sent = clocks::now();
    let info = stream(bus, subject::LOG).await?;
    let received = clocks::now();
    Ok(log_of(
        &info,
        &bus.server_info().server_name,
        sent,
        received,
    ))
}

/// The configurations of the streams other than the log, or the error of each with its remedy.
pub(crate) async fn other_streams(bus: &Client) -> Vec<Result<Value, String>> {
    let beside = [subject::ENDPOINTS, subject::HISTORY];
    let asked = join_all(beside.map(|name| stream(bus, name))).await;
    let infos = asked.into_iter();
    infos.map(|it| Ok(it?["config"].clone())).collect()
}

/// The errors of the streams other than the log, each with its remedy.
pub(crate) async fn stream_errors(bus: &Client) -> Vec<String> {
    let asked = other_streams(bus).await.into_iter();
    asked.filter_map(Result::err).collect()
}

/// JetStream's information about a stream.
async fn stream(bus: &Client, name: &str) -> Result<Value, String> {
    let to = format!("$JS.API.STREAM.INFO.{name}");
    let request = async_nats::Request::new().timeout(Some(JETSTREAM_TIMEOUT));
    let answer = bus.send_request(to, request).await;
    let message = answer.map_err(|error| match bus.server_info().jetstream {
        true => format!(
            "JetStream doesn't answer: {error}; where nats-server's disk is full or broken (its log says so), make room, then restart nats-server"
        ),
        false => subject::NO_JETSTREAM.to_owned(),
    })?;
    let info: Value = serde_json::from_slice(&message.payload)
        .map_err(|error| format!("JetStream's answer can't be read: {error}"))?;
    match info.get("error") {
        None => Ok(info),
        Some(error) if error["err_code"] == STREAM_NOT_FOUND_CODE => Err(subject::missing(name)),
        Some(error) => {
            let text = error["description"].as_str().unwrap_or("an error");
            Err(format!("the stream {name} can't be read: {text}"))
        }
    }
}

fn log_of(info: &Value, server: &str, sent: u64, received: u64) -> Log {
    let cluster = &info["cluster"];
    let leader = cluster["leader"].as_str().filter(|it| !it.is_empty());
    let mut servers = Vec::new();
    match (leader, cluster["replicas"].as_array()) {
        (None, None) => servers.push(Server {
            name: server.to_owned(),
            leads: true,
            behind: None,
        }),
        (leader, followers) => {
            servers.extend(leader.map(|name| Server {
                name: name.to_owned(),
                leads: true,
                behind: None,
            }));
            let followers = followers.into_iter().flatten();
            servers.extend(followers.map(follower));
        }
    }
    let at = info["ts"].as_str().and_then(|ts| ts.parse().ok());
    let at = at.map(jiff::Timestamp::as_millisecond);
    Log {
        revision: Revision(info["state"]["last_seq"].as_u64().unwrap_or_default()),
        replicas: info["config"]["num_replicas"].as_u64().unwrap_or(1) as usize,
        servers,
        clock: at.and_then(|at| u64::try_from(at).ok()).map(|time| Clock {
            sent,
            time,
            received,
        }),
        config: info["config"].clone(),
    }
}

fn follower(info: &Value) -> Server {
    let lag = info["lag"].as_u64().unwrap_or_default();
    let behind = if info["offline"].as_bool() == Some(true) {
        Some("offline".to_owned())
    } else if lag > 0 {
        Some(format!("{lag} messages behind"))
    } else if info["current"].as_bool() == Some(false) {
        Some("not current".to_owned())
    } else {
        None
    };
    Server {
        name: info["name"].as_str().unwrap_or("?").to_owned(),
        leads: false,
        behind,
    }
}

impl Netmaster {
    pub(crate) fn value(&self) -> Value {
        json!({"name": self.name, "version": self.version, "revision": self.revision, "unwritten": self.write_error})
    }
}

impl Server {
    pub(crate) fn value(&self) -> Value {
        json!({"name": self.name, "leads": self.leads, "behind": self.behind})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_the_log_are_its_leader_and_followers() {
        let info = json!({
            "config": {"num_replicas": 3},
            "state": {"last_seq": 17},
            "ts": "2026-01-02T03:04:05.5Z",
            "cluster": {"leader": "b", "replicas": [
                {"name": "a", "current": true, "lag": 0},
                {"name": "c", "current": false, "offline": true},
            ]},
        });
        let log = log_of(&info, "a", 0, 1);
        let seen: Vec<_> = log
            .servers
            .iter()
            .map(|it| (it.name.as_str(), it.leads, it.behind.as_deref()))
            .collect();
        assert_eq!(
            seen,
            [
                ("b", true, None),
                ("a", false, None),
                ("c", false, Some("offline"))
            ]
        );
        assert_eq!((log.revision, log.replicas), (Revision(17), 3));
        assert_eq!(log.clock.map(|it| it.time), Some(1_767_323_045_500));
        assert!(log.has_quorum());
        let mut leaderless = info;
        leaderless["cluster"]["leader"] = "".into();
        assert!(!log_of(&leaderless, "a", 0, 1).has_quorum());
        let alone = log_of(&json!({"config": {"num_replicas": 1}}), "me", 0, 1);
        assert!(alone.has_quorum());
    }

    #[test]
    fn netmaster_reports_its_name_and_revision() {
        let stats = json!({"id": "x", "version": "1.2.3", "endpoints": [
            {"name": "e", "data": {"netmaster": "m1", "revision": 7, "at": 12}},
        ]});
        let found = netmaster(stats.to_string().as_bytes(), 10, 20).unwrap();
        assert_eq!(
            (found.name.as_str(), found.revision),
            ("m1", Some(Revision(7)))
        );
        let older = json!({"id": "x", "version": "0", "endpoints": [{"name": "e"}]});
        let older = netmaster(older.to_string().as_bytes(), 10, 20).unwrap();
        assert_eq!((older.name.as_str(), older.revision), ("x", None));
    }
}
