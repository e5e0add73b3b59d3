//! `netctl events`: lists past events, and follows new ones.
//!
//! Past events come from the streams (LOG, and HISTORY of ENDPOINTS), new ones from the public subjects
//! `contiv.events.>`. A plain subscription may lose messages while the client reconnects or lags; gaps
//! in the sequences show that, and the streams are read again.

mod item;
pub(crate) mod journey;
mod read;
mod text;

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::{Client, Event as ClientEvent, Message, jetstream};
use bus_schema::{Revision, TenantName, subject};
use clap::Args;
use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};
use tokio::sync::mpsc;

use self::item::Item;
use self::read::StartAt;
use crate::bus_url::BusUrl;
use crate::connection;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::survey;

/// After this time without a message the streams are read again, in case the last message was lost.
const RECHECK_INTERVAL: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  netctl events\n  netctl events --follow --tenant blue\n  netctl events --since 10m -o json\n  netctl events --since 17\n\nAnyone may subscribe to contiv.events.> with a NATS client."
)]
pub(crate) struct EventsOptions {
    /// Also print new events; without --since, print only those
    #[arg(long, short)]
    follow: bool,
    /// Start at a revision (17), a time (2026-01-31T12:00:00Z) or a duration ago (10m)
    #[arg(long, value_name = "REV|TIME", value_parser = since)]
    since: Option<Since>,
    /// Only events of this tenant
    #[arg(long, short, value_name = "TENANT")]
    tenant: Option<TenantName>,
    /// The same as -o json
    #[arg(long, short, conflicts_with = "output")]
    json: bool,
    /// table, or json: one object per line
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
            "write a revision (17), a time (2026-01-31T12:00:00Z) or a duration ago (10m)"
                .to_owned()
        })
}

pub(crate) async fn run(url: &BusUrl, options: EventsOptions) -> Result<(), Failure> {
    // Holds one reconnection that isn't handled yet; more wouldn't change anything.
    let (reconnected, changes) = mpsc::channel(1);
    let bus = connect(url, reconnected).await?;
    let mut tail = Tail {
        context: jetstream::new(bus.clone()),
        printed: BTreeMap::new(),
        tenant: options.tenant,
        json: options.json || matches!(options.output, Format::Json | Format::Yaml),
    };
    tail.context.set_timeout(Duration::from_secs(3));
    // Subscribe before the streams are read, so that no message is missed in between.
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
                    // One pending reconnection is enough.
                    let _ = reconnected.try_send(());
                }
                ClientEvent::Disconnected => {
                    output::note("note: disconnected from the bus; continuing when it is back");
                }
                _ => {}
            }
        }
    });
    connection::connect_with(url, options).await
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
    /// The last sequence of each stream that was printed or skipped.
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

    /// Prints both streams, merged by time. Messages of one stream stay in its order.
    async fn history(&mut self, since: Option<Since>) -> Result<(), Failure> {
        let from = match since {
            None => StartAt::Start,
            Some(Since::Revision(revision)) => StartAt::Sequence(revision.0),
            Some(Since::Time(time)) => StartAt::Time(time),
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

    /// Reads the endpoints' events in order. HISTORY follows ENDPOINTS with a delay, so newer events come
    /// from ENDPOINTS, which keeps the last message of each subject.
    async fn endpoints(&self, since: Option<Since>) -> Result<Vec<Item>, Failure> {
        let from = match since {
            Some(Since::Time(time)) => StartAt::Time(time),
            // Revisions are compared with the node's applied revision, not with the stream's sequence.
            _ => StartAt::Start,
        };
        for error in survey::stream_errors(&self.context.client()).await {
            output::note(&format!("warning: {error}"));
        }
        let history = read::stream(&self.context, subject::HISTORY, from).await?;
        let newest = read::stream(&self.context, subject::ENDPOINTS, from).await?;
        let all: BTreeMap<u64, Item> = newest
            .into_iter()
            .chain(history)
            .map(|item| (item.sequence(), item))
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
                () = pause(RECHECK_INTERVAL) => self.catch_up().await?,
            }
        }
    }

    async fn live(&mut self, message: &Message) -> Result<(), Failure> {
        let Some(item) = Item::republished(message) else {
            return output::print(&item::foreign(message, self.json));
        };
        let last = self.printed.get(item.stream()).copied().unwrap_or(0);
        if item.stream() == subject::LOG && item.sequence() > last + 1 {
            return self.catch_up().await;
        }
        if item.sequence() > last {
            self.print(&item)?;
        }
        Ok(())
    }

    /// Prints messages of the streams that the subscription missed.
    async fn catch_up(&mut self) -> Result<(), Failure> {
        for stream in [subject::LOG, subject::ENDPOINTS] {
            let last = self.printed.get(stream).copied().unwrap_or(0);
            match read::stream(&self.context, stream, StartAt::Sequence(last + 1)).await {
                Ok(items) => items
                    .iter()
                    .filter(|item| item.sequence() > last)
                    .try_for_each(|item| self.print(item))?,
                // The next message or the next pause tries again.
                Err(Failure::Unreachable(_)) => return Ok(()),
                Err(failure) => return Err(failure),
            }
        }
        Ok(())
    }

    fn print(&mut self, item: &Item) -> Result<(), Failure> {
        let last = self.printed.entry(item.stream().to_owned()).or_default();
        *last = item.sequence().max(*last);
        let of_tenant = self.tenant.as_ref().is_none_or(|t| item.concerns(t));
        let wanted = of_tenant && !item.is_barrier();
        match (wanted, self.json) {
            (false, _) => Ok(()),
            (true, true) => output::print(&format!("{}\n", item.json())),
            (true, false) => output::print(&item.line()),
        }
    }
}

async fn pause(length: Duration) {
    #[expect(
        clippy::disallowed_methods,
        reason = "the time without a message after which the streams are read"
    )]
    tokio::time::sleep(length).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_revision_a_time_or_a_duration_ago() {
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
