//! The copies of the log on all servers, read from their monitoring pages.

use std::collections::BTreeMap;
use std::time::Duration;

use bus_schema::subject;
use serde_json::Value;

use super::monitor::pages;
use crate::bus_url::BusUrl;

const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Each server's copy of the log, polled twice, since the log may grow between two polls of one round.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct LogCopies {
    pub(super) earlier: BTreeMap<String, LogCopy>,
    pub(super) later: BTreeMap<String, LogCopy>,
    /// The hosts of servers without a monitoring page; empty where there is only one server.
    pub(super) closed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogCopy {
    pub(super) messages: u64,
    pub(super) last: u64,
}

impl LogCopies {
    /// The hosts with an incomplete copy, each with the difference.
    pub(super) fn short(&self) -> Vec<(&str, String)> {
        let most = self.earlier.values().map(|it| it.messages).max();
        let most = most.unwrap_or_default();
        // A server that has just started is still copying.
        let grew = |host: &String, copy: &LogCopy| {
            let before = self.earlier.get(host);
            before.is_none_or(|before| before.messages < copy.messages)
        };
        let short = self.later.iter().filter_map(|(host, copy)| {
            let LogCopy { messages, last } = *copy;
            let why = match messages {
                _ if grew(host, copy) => return None,
                _ if messages < last => format!("its copy holds {messages} of {last} messages"),
                _ if messages < most => {
                    format!("its copy holds {messages} messages, another one {most}")
                }
                _ => return None,
            };
            Some((host.as_str(), why))
        });
        short.collect()
    }
}

/// Polls each server of the address twice.
pub(super) async fn copies(url: &BusUrl) -> LogCopies {
    let earlier = poll(url).await;
    if earlier.len() > 1 {
        pause().await;
    }
    let mut found = LogCopies {
        earlier,
        later: poll(url).await,
        closed: Vec::new(),
    };
    let hosts = url.servers.iter().map(|server| server.host().to_owned());
    let hosts: Vec<String> = hosts.collect();
    if hosts.len() > 1 {
        let closed = hosts.into_iter().filter(|it| !found.later.contains_key(it));
        found.closed = closed.collect();
    }
    found
}

/// Waits until a server that is slightly behind has caught up.
#[expect(clippy::disallowed_methods, reason = "the pause between two polls")]
async fn pause() {
    tokio::time::sleep(POLL_INTERVAL).await;
}

/// Polls the servers of the address only; this machine may run a server of another cluster.
async fn poll(url: &BusUrl) -> BTreeMap<String, LogCopy> {
    let ours = |host: &str| url.servers.iter().any(|server| server.host() == host);
    let pages = pages(url, "/jsz?streams=1").await.into_iter();
    let pages = pages.filter(|(host, _)| ours(host));
    let copies = pages.filter_map(|(host, text)| Some((host, copy(&text)?)));
    copies.collect()
}

fn copy(answer: &str) -> Option<LogCopy> {
    let page: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let accounts = page["account_details"].as_array()?;
    let streams = accounts
        .iter()
        .filter_map(|it| it["stream_detail"].as_array());
    let log = streams.flatten().find(|it| it["name"] == subject::LOG)?;
    Some(LogCopy {
        messages: log["state"]["messages"].as_u64()?,
        last: log["state"]["last_seq"].as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{LogCopies, LogCopy, copy};

    #[test]
    fn copies_with_holes_or_fewer_messages_are_named() {
        let page = |messages: u64, last: u64| {
            let state =
                format!(r#"{{"messages": {messages}, "first_seq": 1, "last_seq": {last}}}"#);
            let streams =
                format!(r#"[{{"name": "HISTORY"}}, {{"name": "LOG", "state": {state}}}]"#);
            copy(&format!(
                "HTTP/1.0 200 OK\r\n\r\n{{\"account_details\": [{{\"stream_detail\": {streams}}}]}}"
            ))
        };
        assert_eq!(
            page(40, 40),
            Some(LogCopy {
                messages: 40,
                last: 40
            })
        );
        let of = |all: [(u64, u64); 3]| {
            let named = ["a", "b", "c"].map(str::to_owned).into_iter().zip(all);
            named
                .filter_map(|(host, (messages, last))| Some((host, page(messages, last)?)))
                .collect::<std::collections::BTreeMap<_, _>>()
        };
        let copies = |earlier, later| LogCopies {
            earlier: of(earlier),
            later: of(later),
            closed: vec![],
        };
        // Messages were appended between the polls.
        let sound = copies([(40, 40); 3], [(40, 40), (41, 41), (42, 42)]);
        assert!(sound.short().is_empty(), "{sound:?}");
        let damaged = copies(
            [(40, 40), (30, 40), (30, 30)],
            [(40, 40), (30, 40), (30, 30)],
        );
        let hosts: Vec<&str> = damaged.short().into_iter().map(|(host, _)| host).collect();
        assert_eq!(hosts, ["b", "c"]);
        // A server that has just started is still copying.
        let copying = copies(
            [(40, 40), (10, 10), (40, 40)],
            [(40, 40), (30, 30), (40, 40)],
        );
        assert!(copying.short().is_empty(), "{copying:?}");
    }
}
