//! What there is and how far it is: netmasters, the bus's servers, the log and the nodes, as far
//! as each can be asked. For `status`, `version` and `doctor`.

use std::time::Duration;

use async_nats::Client;
use bus_schema::{Revision, subject};
use futures::StreamExt;
use futures::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client;
use crate::failure::Failure;

/// Every netmaster answers at once, so who hasn't by then is away.
const ALL_ANSWER: Duration = Duration::from_millis(800);
/// After one answer, how long others are waited for.
const MORE: Duration = Duration::from_millis(200);
/// nats-server's number for a stream that isn't there.
const STREAM_NOT_FOUND: u64 = 10_059;
const ASK: Duration = Duration::from_secs(3);

/// A netmaster, by the NATS services protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Master {
    pub(crate) name: String,
    pub(crate) version: String,
    /// How far it has read the log.
    pub(crate) revision: Option<Revision>,
    /// Why it decides nothing.
    pub(crate) refuses: Option<String>,
    pub(crate) clock: Option<Clock>,
    /// Why the log takes none of its appends, where that is so.
    pub(crate) unwritten: Option<String>,
}

/// Somebody else's time, and when we asked and heard of it; milliseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Clock {
    pub(crate) asked: u64,
    pub(crate) says: u64,
    pub(crate) heard: u64,
}

impl Clock {
    /// By how much it is ahead of ours for certain, in milliseconds; negative: behind.
    pub(crate) fn skew(self) -> i64 {
        let ms = |millis: u64| i64::try_from(millis).unwrap_or(i64::MAX);
        match (self.says > self.heard, self.says < self.asked) {
            (true, _) => ms(self.says - self.heard),
            (_, true) => -ms(self.asked - self.says),
            _ => 0,
        }
    }
}

/// By how many milliseconds a clock may be off without being worth a word.
pub(crate) const SKEW: u64 = 1_000;

/// The clocks of the bus and of the netmasters, as far as they say.
pub(crate) fn clocks(log: Option<&Log>, masters: &[Master]) -> Vec<(String, Clock)> {
    let bus = log.and_then(|it| Some(("bus".to_owned(), it.clock?)));
    let masters = masters.iter().filter_map(|master| {
        let of = format!("netmaster {}", master.name);
        Some((of, master.clock?))
    });
    bus.into_iter().chain(masters).collect()
}

/// By how much each clock is ahead of most others, in milliseconds; negative: behind. Most may agree
/// with one another and not with this machine's clock: then it is the one that is off, and comes
/// first.
pub(crate) fn skews(clocks: &[(String, Clock)]) -> Vec<(String, i64)> {
    let mut all: Vec<i64> = clocks.iter().map(|(_, clock)| clock.skew()).collect();
    all.sort_unstable();
    // Of two in the middle, the one that is nearer to this machine's.
    let middle = [all.len().saturating_sub(1) / 2, all.len() / 2];
    let middle = middle.iter().filter_map(|at| all.get(*at));
    let middle = middle.min_by_key(|skew| skew.abs());
    let most = middle.copied().filter(|it| it.unsigned_abs() > SKEW);
    let ours = most.map(|most| ("this machine".to_owned(), -most));
    let others = clocks.iter().map(|(of, clock)| {
        let skew = clock.skew() - most.unwrap_or(0);
        (of.clone(), skew)
    });
    ours.into_iter().chain(others).collect()
}

/// A clock that is off, and what to do.
pub(crate) fn skewed(skew: i64) -> String {
    let direction = if skew > 0 { "ahead of" } else { "behind" };
    let skew = skew.unsigned_abs();
    format!(
        "{}.{:03} s {direction} most others: times in events are wrong, and commands of older builds run out of time; have chrony or systemd-timesyncd set it",
        skew / 1_000,
        skew % 1_000
    )
}

/// A server that carries the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) leads: bool,
    /// Absent: it has the log whole. Else what keeps it.
    pub(crate) behind: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) revision: Revision,
    pub(crate) replicas: usize,
    pub(crate) servers: Vec<Server>,
    pub(crate) clock: Option<Clock>,
    /// The stream's configuration as the server has it.
    pub(crate) config: Value,
}

impl Log {
    /// Whether a majority of the replicas is there: without it nothing is appended.
    pub(crate) fn has_quorum(&self) -> bool {
        let whole = self.servers.iter().filter(|it| it.behind.is_none());
        self.servers.iter().any(|it| it.leads) && whole.count() * 2 > self.replicas
    }
}

/// Asks all netmasters for their statistics; empty: nobody answers.
pub(crate) async fn masters(bus: &Client) -> Result<Vec<Master>, Failure> {
    let lost = |error: &dyn std::fmt::Display| Failure::Unreachable(format!("the bus: {error}"));
    let inbox = bus.new_inbox();
    let mut answers = bus.subscribe(inbox.clone()).await.map_err(|e| lost(&e))?;
    let to = format!("$SRV.STATS.{}", subject::SERVICE);
    let asked = client::now();
    bus.publish_with_reply(to, inbox, "".into())
        .await
        .map_err(|e| lost(&e))?;
    let mut found = Vec::new();
    let mut patience = ALL_ANSWER;
    while let Ok(Some(message)) = tokio::time::timeout(patience, answers.next()).await {
        if message.status == Some(async_nats::StatusCode::NO_RESPONDERS) {
            break;
        }
        let heard = client::now();
        if let Some(master) = master(&message.payload, asked, heard) {
            found.push(master);
            patience = MORE;
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

fn master(payload: &[u8], asked: u64, heard: u64) -> Option<Master> {
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
        #[serde(default)]
        unwritten: Option<String>,
        refuses: Option<String>,
    }
    let stats: Stats = serde_json::from_slice(payload).ok()?;
    let data = stats.endpoints.into_iter().find_map(|it| it.data);
    Some(Master {
        name: data.as_ref().map_or(stats.id, |it| it.netmaster.clone()),
        version: stats.version,
        revision: data.as_ref().map(|it| it.revision),
        refuses: data.as_ref().and_then(|it| it.refuses.clone()),
        clock: data.as_ref().map(|it| Clock {
            asked,
            says: it.at,
            heard,
        }),
        unwritten: data.and_then(|it| it.unwritten),
    })
}

/// What the bus says of the log's stream. An error says why there is none.
pub(crate) async fn log(bus: &Client) -> Result<Log, String> {
    let asked = client::now();
    let info = stream(bus, subject::LOG).await?;
    let heard = client::now();
    Ok(log_of(&info, &bus.server_info().server_name, asked, heard))
}

/// What is wrong with the streams beside the log, each with what to do.
pub(crate) async fn troubles(bus: &Client) -> Vec<String> {
    let beside = [subject::ENDPOINTS, subject::HISTORY];
    let asked = join_all(beside.map(|name| stream(bus, name))).await;
    asked.into_iter().filter_map(Result::err).collect()
}

/// What JetStream says of a stream.
async fn stream(bus: &Client, name: &str) -> Result<Value, String> {
    let to = format!("$JS.API.STREAM.INFO.{name}");
    let request = async_nats::Request::new().timeout(Some(ASK));
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
        Some(error) if error["err_code"] == STREAM_NOT_FOUND => Err(subject::missing(name)),
        Some(error) => {
            let text = error["description"].as_str().unwrap_or("an error");
            Err(format!("the stream {name} can't be asked: {text}"))
        }
    }
}

fn log_of(info: &Value, server: &str, asked: u64, heard: u64) -> Log {
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
        clock: at
            .and_then(|at| u64::try_from(at).ok())
            .map(|says| Clock { asked, says, heard }),
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

impl Master {
    pub(crate) fn value(&self) -> Value {
        json!({"name": self.name, "version": self.version, "revision": self.revision, "unwritten": self.unwritten})
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
    fn a_clock_is_wrong_by_what_the_way_there_and_back_does_not_explain() {
        let skew = |says| {
            let (asked, heard) = (1_000, 1_100);
            Clock { asked, says, heard }.skew()
        };
        assert_eq!((skew(1_050), skew(1_000), skew(1_100)), (0, 0, 0));
        assert_eq!((skew(1_300), skew(900)), (200, -100));
    }

    #[test]
    fn the_clock_that_is_off_is_the_one_that_differs_from_most() {
        let clock = |of: &str, says| {
            let (asked, heard) = (100_000, 100_100);
            (of.to_owned(), Clock { asked, says, heard })
        };
        let off = |clocks: &[(String, Clock)]| -> Vec<(String, i64)> {
            let mut all = skews(clocks);
            all.retain(|(_, skew)| skew.unsigned_abs() > SKEW);
            all
        };
        let (same, slow) = (100_050, 40_000);
        let named = |of: &str, skew| vec![(of.to_owned(), skew)];
        assert_eq!(off(&[clock("a", same), clock("b", same)]), []);
        assert_eq!(
            off(&[clock("a", same), clock("b", slow), clock("c", same)]),
            named("b", -60_000)
        );
        assert_eq!(
            off(&[clock("a", same), clock("b", slow)]),
            named("b", -60_000),
            "it is one of two"
        );
        assert_eq!(
            off(&[clock("a", slow), clock("b", slow), clock("c", slow)]),
            named("this machine", 60_000)
        );
        assert_eq!(off(&[]), []);
    }

    #[test]
    fn the_logs_servers_are_its_leader_and_who_follows() {
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
        assert_eq!(log.clock.map(|it| it.says), Some(1_767_323_045_500));
        assert!(log.has_quorum());
        let mut leaderless = info;
        leaderless["cluster"]["leader"] = "".into();
        assert!(!log_of(&leaderless, "a", 0, 1).has_quorum());
        let alone = log_of(&json!({"config": {"num_replicas": 1}}), "me", 0, 1);
        assert!(alone.has_quorum());
    }

    #[test]
    fn a_netmaster_says_its_name_and_revision() {
        let stats = json!({"id": "x", "version": "1.2.3", "endpoints": [
            {"name": "e", "data": {"netmaster": "m1", "revision": 7, "at": 12}},
        ]});
        let found = master(stats.to_string().as_bytes(), 10, 20).unwrap();
        assert_eq!(
            (found.name.as_str(), found.revision),
            ("m1", Some(Revision(7)))
        );
        let older = json!({"id": "x", "version": "0", "endpoints": [{"name": "e"}]});
        let older = master(older.to_string().as_bytes(), 10, 20).unwrap();
        assert_eq!((older.name.as_str(), older.revision), ("x", None));
    }
}
