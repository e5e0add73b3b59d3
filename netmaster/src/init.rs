//! Creates a cluster: its streams, its id, the tenant `default`. Repeated, it changes nothing; after a
//! failure, it completes the rest. Nothing else creates streams, so a wiped bus can never be mistaken for
//! an empty cluster.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actors::journal::{self, AppendError, JetStream, Journal, LoadError};
use actors::shell::{External, Registry, Settings};
use async_nats::Client;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::Config;
use async_nats::jetstream::{self, ErrorCode};
use bus_schema::command::{Request, TenantCreate};
use bus_schema::event::{ClusterCreated, Settings as ClusterSettings};
use bus_schema::{
    AggregateId, ClusterId, Command, CommandId, Event, Reply, Revision, TenantName, subject,
};
use runtime::{now, pause};
use uuid::Uuid;

use crate::stream;

/// How long `init` tries: servers that have just met take a moment to elect a leader.
const INIT_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_PAUSE: Duration = Duration::from_millis(300);

#[derive(Debug, thiserror::Error)]
pub(crate) enum InitError {
    #[error("creating stream {name} failed: {reason}")]
    Create { name: String, reason: String },
    #[error(
        "stream {name} isn't as contiv needs it: {} differ. It may be another application's, or the server too old; nothing was changed",
        what.join(", ")
    )]
    Differs {
        name: String,
        what: Vec<&'static str>,
    },
    #[error(
        "the log holds messages, but not contiv's first event: it isn't contiv's log, or the beginning of it is lost"
    )]
    ForeignLog,
    #[error("the log doesn't answer: {0}")]
    Load(#[from] LoadError),
    #[error("the log takes nothing: {0}")]
    Append(#[from] AppendError),
    #[error("creating tenant default failed: {0}")]
    Tenant(String),
}

impl InitError {
    /// Whether trying again may help.
    fn may_pass(&self) -> bool {
        match self {
            Self::Create { .. } | Self::Load(_) | Self::Append(_) => true,
            Self::Differs { .. } | Self::ForeignLog | Self::Tenant(_) => false,
        }
    }
}

/// Creates the missing parts, and returns the cluster's id.
pub(crate) async fn init(client: &Client, replicas: usize) -> Result<ClusterId, InitError> {
    let until = Instant::now() + INIT_TIMEOUT;
    loop {
        match attempt(client, replicas).await {
            Err(error) if error.may_pass() && Instant::now() < until => {
                tracing::warn!("{error}; trying again");
                pause(RETRY_PAUSE).await;
            }
            done => return done,
        }
    }
}

async fn attempt(client: &Client, replicas: usize) -> Result<ClusterId, InitError> {
    let context = jetstream::new(client.clone());
    for config in [
        stream::log(replicas),
        stream::endpoints(replicas),
        stream::history(replicas),
    ] {
        ensure(&context, config).await?;
    }
    let log: Arc<dyn Journal> = Arc::new(JetStream::new(client.clone()));
    let cluster = match cluster_of(&log).await? {
        Some(cluster) => cluster,
        None => create(&log).await?,
    };
    default_tenant(log, cluster).await?;
    Ok(cluster)
}

/// Creates the stream. An existing one isn't changed, and must have the right settings.
async fn ensure(context: &jetstream::Context, wanted: Config) -> Result<(), InitError> {
    let name = wanted.name.clone();
    let failed = |reason: String| InitError::Create {
        name: name.clone(),
        reason,
    };
    let found = match context.get_stream(&name).await {
        Ok(stream) => {
            let found = stream.cached_info().config.clone();
            set_limits(context, &wanted, &found).await;
            found
        }
        Err(e) => match e.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == ErrorCode::STREAM_NOT_FOUND =>
            {
                context
                    .create_stream(wanted.clone())
                    .await
                    .map_err(|e| failed(e.to_string()))?;
                let stream = context.get_stream(&name).await;
                let stream = stream.map_err(|e| failed(e.to_string()))?;
                stream.cached_info().config.clone()
            }
            _ => return Err(failed(e.to_string())),
        },
    };
    let what = stream::differences(&wanted, &found);
    if what.is_empty() {
        Ok(())
    } else {
        Err(InitError::Differs { name, what })
    }
}

/// Sets the limits of an older stream: more readers, and no longer messages. Not every server allows
/// it.
async fn set_limits(context: &jetstream::Context, wanted: &Config, found: &Config) {
    let max_consumers = found.max_consumers.max(wanted.max_consumers);
    let max_message_size = wanted.max_message_size;
    let limited = Config {
        max_consumers,
        max_message_size,
        ..found.clone()
    };
    let same = (found.max_consumers, found.max_message_size.max(0))
        == (max_consumers, max_message_size.max(0));
    if same {
        return;
    }
    if let Err(error) = context.update_stream(limited).await {
        let (name, readers) = (&found.name, found.max_consumers);
        let bytes = found.max_message_size;
        tracing::warn!(%error, name, readers, bytes, "nats-server keeps the old limits of readers and of a message's size of this stream");
    }
}

/// The id in the log's first event; `None` when the log is empty.
async fn cluster_of(log: &Arc<dyn Journal>) -> Result<Option<ClusterId>, InitError> {
    // The end first: another `init` may append in between.
    let end = log.end().await?;
    let first = log.load(subject::LOG_ALL, Revision(0), 1).await?;
    let Some(record) = first.first() else {
        return match end {
            Revision(0) => Ok(None),
            Revision(_) => Err(InitError::ForeignLog),
        };
    };
    match record.envelope().map(|envelope| &envelope.body) {
        Some(Event::ClusterCreated(e)) if record.revision == Revision(1) => Ok(Some(e.cluster)),
        _ => Err(InitError::ForeignLog),
    }
}

async fn create(log: &Arc<dyn Journal>) -> Result<ClusterId, InitError> {
    let cluster = ClusterId(Uuid::new_v4());
    let created = Event::ClusterCreated(ClusterCreated {
        cluster,
        settings: ClusterSettings::default(),
    });
    let cause = CommandId(Uuid::new_v4());
    let first = |_: &AggregateId| Some(Revision(0));
    let (entries, _) = journal::batch(&[created], cause, "netmaster init", now(), first);
    match log.append(&entries).await {
        Ok(_) => Ok(cluster),
        // Another `init` did it just now, or the acknowledgement was lost.
        Err(e) => cluster_of(log).await?.ok_or(InitError::Append(e)),
    }
}

async fn default_tenant(log: Arc<dyn Journal>, cluster: ClusterId) -> Result<(), InitError> {
    let registry = Registry::new(
        log,
        Settings {
            actor: "netmaster init".to_owned(),
            give_up: Arc::new(|why| tracing::error!("{why}")),
            fed: Rc::new(|_| {}),
            pause_after_append: None,
        },
    );
    let id = CommandId::derive(cluster.0, "tenant default");
    let create = Command::TenantCreate(TenantCreate {
        max_connections: None,
        egress: None,
        tenant: TenantName::default_tenant(),
    });
    let request = Request::new(id, create, INIT_TIMEOUT, now());
    match registry.execute(request, External::default()).await {
        Reply::Accepted { .. } => Ok(()),
        Reply::Rejected { rejection, .. } => Err(InitError::Tenant(rejection.to_string())),
        Reply::Unknown { reason, .. } => Err(InitError::Tenant(reason)),
    }
}
