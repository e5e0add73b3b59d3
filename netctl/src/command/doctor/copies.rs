//! What each server's own copy of the log holds, by its monitoring page.

use std::collections::BTreeMap;
use std::time::Duration;

use bus_schema::subject;
use serde_json::Value;

use super::monitor::pages;
use crate::bus_url::BusUrl;

const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

/// What each server's copy of the log holds, looked at twice: between the two looks the log may grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Copies {
    pub(super) earlier: BTreeMap<String, Copy>,
    pub(super) later: BTreeMap<String, Copy>,
    /// Hosts of servers that show no page; none where there is one server.
    pub(super) closed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) messages: u64,
    pub(super) last: u64,
}

impl Copies {
    /// The hosts whose copies lack something, and what.
    pub(super) fn short(&self) -> Vec<(&str, String)> {
        let most = self.earlier.values().map(|it| it.messages).max();
        let most = most.unwrap_or_default();
        // A server that was just started copies what it lacks.
        let grew = |host: &String, copy: &Copy| {
            let before = self.earlier.get(host);
            before.is_none_or(|before| before.messages < copy.messages)
        };
        let short = self.later.iter().filter_map(|(host, copy)| {
            let Copy { messages, last } = *copy;
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

/// Asks each server of the address, twice.
pub(super) async fn copies(url: &BusUrl) -> Copies {
    let earlier = look(url).await;
    if earlier.len() > 1 {
        pause().await;
    }
    let mut found = Copies {
        earlier,
        later: look(url).await,
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

/// A server that is late by a moment has caught up then.
#[expect(clippy::disallowed_methods, reason = "the pause between two looks")]
async fn pause() {
    tokio::time::sleep(BETWEEN_LOOKS).await;
}

/// Of the servers of the address alone: this machine may run one of another cluster.
async fn look(url: &BusUrl) -> BTreeMap<String, Copy> {
    let ours = |host: &str| url.servers.iter().any(|server| server.host() == host);
    let pages = pages(url, "/jsz?streams=1").await.into_iter();
    let pages = pages.filter(|(host, _)| ours(host));
    let copies = pages.filter_map(|(host, text)| Some((host, copy(&text)?)));
    copies.collect()
}

fn copy(answer: &str) -> Option<Copy> {
    let page: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
    let accounts = page["account_details"].as_array()?;
    let streams = accounts
        .iter()
        .filter_map(|it| it["stream_detail"].as_array());
    let log = streams.flatten().find(|it| it["name"] == subject::LOG)?;
    Some(Copy {
        messages: log["state"]["messages"].as_u64()?,
        last: log["state"]["last_seq"].as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Copies, Copy, copy};

    #[test]
    fn copies_with_holes_and_shorter_ones_are_named() {
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
            Some(Copy {
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
        let copies = |earlier, later| Copies {
            earlier: of(earlier),
            later: of(later),
            closed: vec![],
        };
        // Something was appended between the looks.
        let sound = copies([(40, 40); 3], [(40, 40), (41, 41), (42, 42)]);
        assert!(sound.short().is_empty(), "{sound:?}");
        let damaged = copies(
            [(40, 40), (30, 40), (30, 30)],
            [(40, 40), (30, 40), (30, 30)],
        );
        let hosts: Vec<&str> = damaged.short().into_iter().map(|(host, _)| host).collect();
        assert_eq!(hosts, ["b", "c"]);
        // One that was just started copies what it lacks.
        let copying = copies(
            [(40, 40), (10, 10), (40, 40)],
            [(40, 40), (30, 30), (40, 40)],
        );
        assert!(copying.short().is_empty(), "{copying:?}");
    }
}
