//! The time of an event to many nodes: feeds like those of nodes, each with its own connection, on three
//! servers.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, pull};
use bus_schema::command::TenantCreate;
use bus_schema::{Command, Revision, TenantName, subject};
use chaos_tests::bus::{Bus, connect};
use chaos_tests::figures::quantile;
use futures::{StreamExt, TryStreamExt, stream};
use lab::{Daemons, Lab, Spec};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::memory::resident;

const FEED_COUNTS: [usize; 2] = [1_000, 5_000];
const EVENT_COUNT: usize = 30;
/// The number of feeds that start at once.
const MAX_STARTING_FEEDS: usize = 32;
/// The bench fails if the last feed doesn't have an event by then.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn measure() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let spec = Spec::test(0).servers(3).netmasters(1);
    let lab = Lab::up(&spec.daemons(Daemons::Control))?;
    println!(
        "feeds on three servers; {EVENT_COUNT} events, each from netmaster's answer to the last feed"
    );
    println!(
        "{:>8}{:>14}{:>12}{:>30}",
        "feeds", "median, ms", "p99, ms", "servers, MB more than before"
    );
    let idle = weights(&lab);
    let (arrived, mut arrivals) = mpsc::unbounded_channel();
    let mut feeds = JoinSet::new();
    let urls = lab.nats_url();
    let bus = runtime.block_on(Bus::connect(&urls))?;
    for size in FEED_COUNTS {
        let from = feeds.len();
        let added = add(&urls, from..size, &arrived, &mut feeds);
        runtime.block_on(added)?;
        let mut took = Vec::new();
        for number in 0..EVENT_COUNT {
            let tenant = TenantName::new(format!("t{size}-{number}"))?;
            let one = one_event(&bus, tenant, size, &mut arrivals);
            took.push(runtime.block_on(one)?.as_secs_f64() * 1e3);
        }
        let more = weights(&lab).into_iter().zip(&idle);
        let more: Vec<String> = more
            .map(|(now, idle)| format!("{:.0}", now - idle))
            .collect();
        println!(
            "{size:>8}{:>14.1}{:>12.1}{:>30}",
            quantile(&took, 0.5),
            quantile(&took, 0.99),
            more.join(" ")
        );
    }
    Ok(())
}

fn weights(lab: &Lab) -> Vec<f64> {
    let servers = lab.bus_names().into_iter();
    servers
        .map(|it| resident(lab, &it).unwrap_or_default())
        .collect()
}

type Arrived = mpsc::UnboundedSender<Revision>;

async fn add(
    urls: &str,
    numbers: std::ops::Range<usize>,
    arrived: &Arrived,
    feeds: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    let opened: Vec<pull::Stream> = stream::iter(numbers)
        .map(|number| open(urls, number))
        .buffer_unordered(MAX_STARTING_FEEDS)
        .try_collect()
        .await?;
    for mut messages in opened {
        let arrived = arrived.clone();
        feeds.spawn(async move {
            while let Some(Ok(message)) = messages.next().await {
                let Ok(info) = message.info() else { return };
                if arrived.send(Revision(info.stream_sequence)).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

/// Reads the log from here on, as `node/src/bus/feed.rs` does.
async fn open(urls: &str, number: usize) -> anyhow::Result<pull::Stream> {
    let mut context = jetstream::new(connect(urls, number).await?);
    context.set_timeout(EVENT_TIMEOUT);
    let stream = context.get_stream(subject::LOG).await?;
    let consumer = stream
        .create_consumer(pull::Config {
            deliver_policy: DeliverPolicy::New,
            ack_policy: AckPolicy::None,
            filter_subject: subject::LOG_ALL.to_owned(),
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        })
        .await?;
    let messages = consumer
        .stream()
        .heartbeat(Duration::from_secs(1))
        .expires(Duration::from_secs(10))
        .max_messages_per_batch(1_000)
        .messages();
    Ok(messages.await?)
}

/// The time from netmaster's answer until every feed has the command's event.
async fn one_event(
    bus: &Bus,
    tenant: TenantName,
    feeds: usize,
    arrivals: &mut mpsc::UnboundedReceiver<Revision>,
) -> anyhow::Result<Duration> {
    let asked = bus.command(Command::TenantCreate(TenantCreate {
        tenant,
        max_connections: None,
        egress: None,
    }));
    let revision = asked.await?;
    let start = Instant::now();
    let mut left = feeds;
    while left > 0 {
        let rest = EVENT_TIMEOUT.saturating_sub(start.elapsed());
        match tokio::time::timeout(rest, arrivals.recv()).await {
            Ok(Some(arrived)) => left -= usize::from(arrived == revision),
            _ => anyhow::bail!("{left} of {feeds} feeds have no revision {revision}"),
        }
    }
    Ok(start.elapsed())
}
