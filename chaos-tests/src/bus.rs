//! Commands straight to netmaster: ten thousand rules by `netctl` would take minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::Client;
use bus_schema::command::Request;
use bus_schema::node::{NodeReply, NodeRequest, NodeStatus};
use bus_schema::{Command, CommandId, NodeName, Reply, Revision, codec, subject};
use futures::{StreamExt, TryStreamExt, stream};

/// Commands under way at once.
const AT_ONCE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// A client of the bus that asks netmaster and nodes, and says what it saw, as `netctl` does.
#[derive(Debug, Clone)]
pub struct Bus(Client, Arc<AtomicU64>);

/// Connects to the server `which` of those in a lab's address, counted round.
pub async fn connect(urls: &str, which: usize) -> anyhow::Result<Client> {
    let all: Vec<&str> = urls.split(',').collect();
    let url = all.get(which % all.len()).copied().unwrap_or(urls);
    let rest = url.trim_start_matches("nats://");
    let (token, host) = rest.split_once('@').unwrap_or(("", rest));
    let options = async_nats::ConnectOptions::with_token(token.to_owned());
    Ok(options.connect(host).await?)
}

impl Bus {
    /// `nats://TOKEN@HOST:PORT`, several with commas between: the first is taken.
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
            ..Request::new(id, command, PATIENCE, u64::try_from(now)?)
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
            .buffer_unordered(AT_ONCE)
            .try_for_each(|_| async { Ok(()) })
            .await
    }

    /// Has a command decided; how long until the last of the nodes has it in its kernel, from the
    /// moment when netmaster's answer came, which is right behind the append.
    pub async fn enforced(&self, command: Command, nodes: &[NodeName]) -> anyhow::Result<Duration> {
        let revision = self.command(command).await?;
        let start = Instant::now();
        for node in nodes {
            while self.status(node).await?.applied < revision {}
        }
        Ok(start.elapsed())
    }

    /// Asks one node something.
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
