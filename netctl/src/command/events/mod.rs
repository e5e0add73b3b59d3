//! The tail: what happened, and what happens.
//!
//! What happened comes from the streams (LOG, and HISTORY of ENDPOINTS), what happens from the
//! public subjects `contiv.events.>`. A plain subscription may lose messages while the client
//! reconnects or lags; sequences tell, and the streams are read again.

mod item;
pub(crate) mod journey;
mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, Event as ClientEvent, Message, jetstream};
use bus_schema::{Revision, TenantName, subject};
use clap::Args;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use self::item::Item;
use self::read::From;
use crate::bus_url::BusUrl;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::survey;

/// After a silence of this length the log's end is asked for, in case its last event was lost.
const RECHECK: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  netctl events\n  netctl events --follow --tenant blue\n  netctl events --since 10m -o json\n  netctl events --since 17\n\nAnyone may subscribe to contiv.events.> with a NATS client."
)]
pub(crate) struct Options {
    /// Go on with what happens; alone it starts with now
    #[arg(long, short)]
    follow: bool,
    /// From a revision (17), a time (2026-01-31T12:00:00Z) or some time ago (10m) on
    #[arg(long, value_name = "REV|TIME", value_parser = since)]
    since: Option<Since>,
    /// Of this tenant only
    #[arg(long, short, value_name = "TENANT")]
    tenant: Option<TenantName>,
    /// The same as -o json
    #[arg(long, short, conflicts_with = "output")]
    json: bool,
    /// table, or json: one object a line
    #[arg(long, short, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    Revision(Revision),
    Time(Timestamp),
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(revision) = text.parse() {
        return Ok(Since::Revision(Revision(revision)));
    }
    if let Ok(time) = text.parse() {
        return Ok(Since::Time(time));
    }
    let ago: Option<SignedDuration> = text.parse().ok();
    ago.and_then(|ago| Timestamp::now().checked_sub(ago).ok())
        .map(Since::Time)
        .ok_or_else(|| {
            "give a revision (17), a time (2026-01-31T12:00:00Z) or how long ago (10m)".to_owned()
        })
}

pub(crate) async fn run(url: &BusUrl, options: Options) -> Result<(), Failure> {
    // A message that finds this full is lost here and read again from the log.
    let (reconnected, changes) = mpsc::channel(1);
    let bus = connect(url, reconnected).await?;
    let mut tail = Tail {
        context: jetstream::new(bus.clone()),
        printed: BTreeMap::new(),
        tenant: options.tenant,
        json: options.json || matches!(options.output, Format::Json | Format::Yaml),
    };
    tail.context.set_timeout(Duration::from_secs(3));
    // Subscribed before the streams are read, so that nothing falls between.
    let live = match options.follow {
        true => Some(subscribe(&bus).await?),
        false => None,
    };
    match (options.since, options.follow) {
        (None, true) => tail.start_at_end().await?,
        (since, _) => tail.history(since).await?,
    }
    match live {
        Some(live) => tail.follow(live, changes).await,
        None => Ok(()),
    }
}

async fn connect(url: &BusUrl, reconnected: mpsc::Sender<()>) -> Result<Client, Failure> {
    let options = url.options().event_callback(move |event| {
        let reconnected = reconnected.clone();
        async move {
            match event {
                ClientEvent::Connected => {
                    // One waiting is enough.
                    let _ = reconnected.try_send(());
                }
                ClientEvent::Disconnected => {
                    output::note("note: disconnected from the bus; going on when it is back");
                }
                _ => {}
            }
        }
    });
    crate::client::connect_with(url, options).await
}

async fn subscribe(bus: &Client) -> Result<async_nats::Subscriber, Failure> {
    let lost = |error: &dyn std::fmt::Display| {
        Failure::Unreachable(format!(
            "can't subscribe to {}: {error}",
            subject::EVENTS_ALL
        ))
    };
    let live = bus
        .subscribe(subject::EVENTS_ALL)
        .await
        .map_err(|e| lost(&e))?;
    bus.flush().await.map_err(|e| lost(&e))?;
    Ok(live)
}

struct Tail {
    context: jetstream::Context,
    /// The last sequence of each stream that was printed, or passed over.
    printed: BTreeMap<String, u64>,
    tenant: Option<TenantName>,
    json: bool,
}

impl Tail {
    async fn start_at_end(&mut self) -> Result<(), Failure> {
        for stream in [subject::LOG, subject::ENDPOINTS] {
            let end = read::end(&self.context, stream).await?;
            self.printed.insert(stream.to_owned(), end);
        }
        Ok(())
    }

    /// Prints both streams, merged by time; within a stream the order is the stream's.
    async fn history(&mut self, since: Option<Since>) -> Result<(), Failure> {
        let from = match since {
            None => From::Start,
            Some(Since::Revision(revision)) => From::Sequence(revision.0),
            Some(Since::Time(time)) => From::Time(time),
        };
        let log = read::stream(&self.context, subject::LOG, from).await?;
        let mut endpoints = self.endpoints(since).await?.into_iter().peekable();
        for item in log {
            while let Some(earlier) = endpoints.next_if(|e| e.time < item.time) {
                self.print(&earlier)?;
            }
            self.print(&item)?;
        }
        endpoints.try_for_each(|item| self.print(&item))
    }

    /// What was said of endpoints, in its order. HISTORY follows ENDPOINTS with a delay, so what
    /// is newer than its end comes from there, where the last message of a subject is left.
    async fn endpoints(&self, since: Option<Since>) -> Result<Vec<Item>, Failure> {
        let from = match since {
            Some(Since::Time(time)) => From::Time(time),
            // The revision that a node had applied tells, not the stream's own sequence.
            _ => From::Start,
        };
        for trouble in survey::troubles(&self.context.client()).await {
            output::note(&format!("warning: {trouble}"));
        }
        let history = read::stream(&self.context, subject::HISTORY, from).await?;
        let newest = read::stream(&self.context, subject::ENDPOINTS, from).await?;
        let all: BTreeMap<u64, Item> = newest
            .into_iter()
            .chain(history)
            .map(|item| (item.sequence, item))
            .collect();
        let mut all: Vec<Item> = all.into_values().collect();
        if let Some(Since::Revision(revision)) = since {
            all.retain(|item| item.applied() >= Some(revision));
        }
        Ok(all)
    }

    async fn follow(
        mut self,
        mut live: async_nats::Subscriber,
        mut reconnected: mpsc::Receiver<()>,
    ) -> Result<(), Failure> {
        loop {
            tokio::select! {
                message = live.next() => match message {
                    Some(message) => self.live(&message).await?,
                    None => return Err(Failure::Unreachable("the bus closed the connection".to_owned())),
                },
                Some(()) = reconnected.recv() => self.catch_up().await?,
                () = pause(RECHECK) => self.catch_up().await?,
            }
        }
    }

    async fn live(&mut self, message: &Message) -> Result<(), Failure> {
        let Some(item) = Item::republished(message) else {
            return self.write(&item::foreign(message, self.json));
        };
        let last = self.printed.get(&item.stream).copied().unwrap_or(0);
        if item.stream == subject::LOG && item.sequence > last + 1 {
            return self.catch_up().await;
        }
        if item.sequence > last {
            self.print(&item)?;
        }
        Ok(())
    }

    /// Prints what the streams have and the subscription didn't bring.
    async fn catch_up(&mut self) -> Result<(), Failure> {
        for stream in [subject::LOG, subject::ENDPOINTS] {
            let last = self.printed.get(stream).copied().unwrap_or(0);
            match read::stream(&self.context, stream, From::Sequence(last + 1)).await {
                Ok(items) => items
                    .iter()
                    .filter(|item| item.sequence > last)
                    .try_for_each(|item| self.print(item))?,
                // It is tried again with the next message or after the next pause.
                Err(Failure::Unreachable(_)) => return Ok(()),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn print(&mut self, item: &Item) -> Result<(), Failure> {
        let last = self.printed.entry(item.stream.clone()).or_default();
        *last = item.sequence.max(*last);
        let of_tenant = self.tenant.as_ref().is_none_or(|t| item.concerns(t));
        let wanted = of_tenant && !item.is_barrier();
        match (wanted, self.json) {
            (false, _) => Ok(()),
            (true, true) => self.write(&format!("{}\n", item.json())),
            (true, false) => self.write(&item.line()),
        }
    }

    fn write(&self, text: &str) -> Result<(), Failure> {
        output::print(text)
    }
}

async fn pause(length: Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the silence after which the log's end is asked for"
    )]
    tokio::time::sleep(length).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_revision_a_time_or_some_time_ago() {
        assert_eq!(since("17"), Ok(Since::Revision(Revision(17))));
        let time = "2026-01-31T12:00:00Z";
        assert_eq!(since(time), Ok(Since::Time(time.parse().unwrap())));
        let Ok(Since::Time(ago)) = since("10m") else {
            panic!("10m is a time");
        };
        assert!(ago < Timestamp::now());
        for bad in ["", "never", "-", "10x", "-1"] {
            assert!(since(bad).is_err(), "{bad}");
        }
    }
}
