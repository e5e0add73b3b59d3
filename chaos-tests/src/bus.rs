//! A client that sends commands directly to netmaster: ten thousand rules by `netctl` would take minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::Client;
use bus_schema::command::Request;
use bus_schema::node::{NodeReply, NodeRequest, NodeStatus};
use bus_schema::{Command, CommandId, NodeName, Reply, Revision, codec, subject};
use futures::{StreamExt, TryStreamExt, stream};

/// The number of commands in flight.
const MAX_IN_FLIGHT: usize = 64;
const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of the bus that asks netmaster and nodes. Its requests contain the highest revision that it
/// has seen, as those of `netctl` do.
#[derive(Debug, Clone)]
pub struct Bus(Client, Arc<AtomicU64>);

/// Connects to server `which` (modulo their number) of a lab's URL.
pub async fn connect(urls: &str, which: usize) -> anyhow::Result<Client> {
    let all: Vec<&str> = urls.split(',').collect();
    let url = all.get(which % all.len()).copied().unwrap_or(urls);
    let rest = url.trim_start_matches("nats://");
    let (token, host) = rest.split_once('@').unwrap_or(("", rest));
    let options = async_nats::ConnectOptions::with_token(token.to_owned());
    Ok(options.connect(host).await?)
}

impl Bus {
    /// Connects to the first of `nats://TOKEN@HOST:PORT`, separated by commas.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(Self(connect(url, 0).await?, Arc::default()))
    }

    pub fn client(&self) -> &Client {
        &self.0
    }

    pub async fn command(&self, command: Command) -> anyhow::Result<Revision> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let subject = subject::of_command(&command);
        let id = CommandId(uuid::Uuid::new_v4());
        let request = Request {
            seen: Revision(self.1.load(Ordering::Relaxed)),
            ..Request::new(id, command, COMMAND_TIMEOUT, u64::try_from(now)?)
        };
        let payload = codec::to_bytes(&request);
        let reply = self.0.request(subject, payload.into()).await?;
        match codec::from_bytes(&reply.payload)? {
            Reply::Accepted { revision, .. } => {
                self.1.fetch_max(revision.0, Ordering::Relaxed);
                Ok(revision)
            }
            other => anyhow::bail!("{other:?}"),
        }
    }

    pub async fn commands(&self, commands: Vec<Command>) -> anyhow::Result<()> {
        stream::iter(commands.into_iter().map(|command| self.command(command)))
            .buffer_unordered(MAX_IN_FLIGHT)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    /// Sends a command, and measures the time until the last node has it in its kernel. It starts with
    /// netmaster's answer, which follows the append immediately.
    pub async fn enforced(&self, command: Command, nodes: &[NodeName]) -> anyhow::Result<Duration> {
        let revision = self.command(command).await?;
        let start = Instant::now();
        for node in nodes {
            while self.status(node).await?.applied < revision {}
        }
        Ok(start.elapsed())
    }

    /// Sends a request to one node.
    pub async fn ask(&self, node: &NodeName, request: &NodeRequest) -> anyhow::Result<NodeReply> {
        let subject = subject::of_node(node, request.verb());
        let payload = codec::to_bytes(request);
        let reply = self.0.request(subject, payload.into()).await?;
        Ok(codec::from_bytes(&reply.payload)?)
    }

    async fn status(&self, node: &NodeName) -> anyhow::Result<NodeStatus> {
        match self.ask(node, &NodeRequest::Status).await? {
            NodeReply::Status(status) => Ok(*status),
            other => anyhow::bail!("{other:?}"),
        }
    }
}
