//! Against a real nats-server; the test plays netmaster.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{self, stream};
use bus_schema::command::Request;
use bus_schema::event::{ClusterCreated, NodeJoined, Settings, TenantCreated};
use bus_schema::node::{LogState, NodeReply, NodeRequest, NodeStatus};
use bus_schema::{
    ClusterId, Command, CommandId, EndpointEvent, Envelope, Event, EventId, Header, MachineId,
    NodeName, Rejection, Reply, Revision, TenantName, codec, subject,
};
use futures::StreamExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use uuid::Uuid;

mod join;
mod membership;
mod streams;

use super::*;
use crate::endpoint::{EndpointsHandle, Kernel, Parts as EndpointParts};
use crate::healing::Healings;
use node_core::projection::Projection;

/// A server on a free port; killed when dropped.
struct Server {
    process: Child,
    port: u16,
    store: PathBuf,
}

impl Server {
    async fn start(port: Option<u16>, store: &Path, jetstream: bool) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = port.unwrap_or_else(|| free.local_addr().unwrap().port());
        drop(free);
        let mut command = Process::new(binary());
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]);
        if jetstream {
            command.arg("-js").arg("-sd").arg(store);
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts; set CONTIV_NATS_SERVER to its path");
        let server = Self {
            process,
            port,
            store: store.to_owned(),
        };
        let answers = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .is_err()
            {
                pause(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), answers)
            .await
            .expect("nats-server listens");
        server
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    fn stop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }

    async fn restart(&mut self) {
        self.stop();
        let (port, store) = (self.port, self.store.clone());
        *self = Self::start(Some(port), &store, true).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn binary() -> PathBuf {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/../.tools/nats-server");
    std::env::var_os("CONTIV_NATS_SERVER").map_or_else(|| tools.into(), PathBuf::from)
}

fn cluster(n: u128) -> ClusterId {
    ClusterId(Uuid::from_u128(n))
}

/// What netmaster does for a node: the streams, the log's events, `node join`.
#[derive(Clone)]
struct Master {
    context: jetstream::Context,
    client: Client,
}

impl Master {
    async fn init(server: &Server, id: ClusterId) -> Self {
        let master = Self::connect(server).await;
        for (name, subjects) in [
            (subject::LOG, subject::LOG_ALL),
            (subject::ENDPOINTS, subject::ENDPOINT_ALL),
        ] {
            master
                .context
                .create_stream(stream::Config {
                    name: name.to_owned(),
                    subjects: vec![subjects.to_owned()],
                    max_messages_per_subject: if name == subject::ENDPOINTS { 1 } else { -1 },
                    allow_message_ttl: name == subject::ENDPOINTS,
                    ..stream::Config::default()
                })
                .await
                .unwrap();
        }
        let created = ClusterCreated {
            cluster: id,
            settings: Settings::default(),
        };
        master.append(Event::ClusterCreated(created)).await;
        master
    }

    async fn connect(server: &Server) -> Self {
        let client = async_nats::connect(server.url()).await.unwrap();
        Self {
            context: jetstream::new(client.clone()),
            client,
        }
    }

    async fn append(&self, event: Event) -> Revision {
        let header = Header::new(
            EventId(Uuid::new_v4()),
            0,
            "test",
            CommandId(Uuid::new_v4()),
        );
        let to = subject::of_event(&event).unwrap();
        let envelope = Envelope {
            header,
            body: event,
        };
        self.put(to, codec::to_bytes(&envelope)).await
    }

    async fn put(&self, to: String, bytes: Vec<u8>) -> Revision {
        let sent = self.context.publish(to, bytes.into()).await.unwrap();
        Revision(sent.await.unwrap().sequence)
    }

    /// Lets nodes in, or turns them away.
    async fn serve(&self, refuse: Option<Rejection>, tasks: &mut JoinSet<()>) {
        let mut requests = self
            .client
            .subscribe("contiv.api.v1.node.join")
            .await
            .unwrap();
        self.client.flush().await.unwrap();
        let master = self.clone();
        tasks.spawn(async move {
            while let Some(message) = requests.next().await {
                let request: Request<Command> = codec::from_bytes(&message.payload).unwrap();
                let Command::NodeJoin(join) = request.body else {
                    panic!("no join");
                };
                let reply = match refuse.clone() {
                    Some(rejection) => Reply::rejected(rejection, Revision(1)),
                    None => Reply::Accepted {
                        revision: master.append(joined(join)).await,
                        events: Vec::new(),
                    },
                };
                let to = message.reply.unwrap();
                let bytes = codec::to_bytes(&reply);
                master.client.publish(to, bytes.into()).await.unwrap();
            }
        });
    }
}

fn joined(join: bus_schema::command::NodeJoin) -> Event {
    Event::NodeJoined(NodeJoined {
        node: join.node,
        machine: join.machine,
        vtep: join.vtep,
    })
}

fn tenant(name: &str) -> Event {
    Event::TenantCreated(TenantCreated {
        tenant: TenantName::new(name).unwrap(),
    })
}

/// A node's end of the bus, with an empty kernel.
struct Node {
    facts: watch::Receiver<Projection>,
    view: watch::Receiver<EndpointsView>,
    log: watch::Receiver<LogState>,
    endpoints: EndpointsHandle,
    folded: Facts,
    healings: Healings,
    published: watch::Sender<Published>,
    farewell: Farewell,
    _kernel: watch::Sender<Kernel>,
    _status: watch::Sender<NodeStatus>,
    _folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

fn me() -> Identity {
    Identity {
        node: NodeName::new("a").unwrap(),
        machine: MachineId("m".to_owned()),
        vtep: "198.18.0.1".parse().unwrap(),
    }
}

impl Node {
    fn start(url: String, known: Projection) -> Self {
        let healings = Healings::default();
        let folder = tempfile::tempdir().unwrap();
        let (disk, ..) = crate::store::Disk::open(folder.path()).unwrap();
        let facts = Facts::new(known, Arc::new(disk));
        let (bus, asks) = BusHandle::new();
        let (kernel, kernel_rx) = watch::channel(Kernel {
            generation: u64::MAX,
            was_in_sync: true,
            in_sync: true,
            ..Kernel::default()
        });
        let (endpoints, _) = EndpointsHandle::start(EndpointParts {
            me: me().node,
            journal: &folder.path().join("journal"),
            mtu: 1450,
            facts: facts.subscribe(),
            kernel: kernel_rx,
            bus,
        })
        .unwrap();
        let (log, log_rx) = watch::channel(LogState::CatchingUp);
        let (view, view_rx) = watch::channel(EndpointsView::default());
        let (status, status_rx) = watch::channel(NodeStatus {
            node: me().node,
            machine: me().machine,
            vtep: me().vtep,
            version: "test".to_owned(),
            applied: Revision(0),
            log: LogState::CatchingUp,
            engine: None,
            domain: bus_schema::node::DomainKind::Netns,
            endpoints: 0,
            unpublished: 0,
            blocks: 0,
            drained: false,
            left: false,
            alarms: Vec::new(),
            dns: None,
            healing: None,
            at: None,
        });
        let published = watch::Sender::new(Published::default());
        let farewell = Farewell::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(run(Parts {
            url,
            me: me(),
            facts: facts.clone(),
            view,
            log,
            endpoints: endpoints.clone(),
            farewell: farewell.clone(),
            healings: healings.clone(),
            questions: mpsc::channel(1).0,
            status: status_rx,
            asks,
            published: published.clone(),
        }));
        Self {
            facts: facts.subscribe(),
            view: view_rx,
            log: log_rx,
            endpoints,
            folded: facts,
            healings,
            published,
            farewell,
            _kernel: kernel,
            _status: status,
            _folder: folder,
            _tasks: tasks,
        }
    }

    async fn log_is(&self, what: &str, is: impl Fn(&LogState) -> bool) -> LogState {
        let mut log = self.log.clone();
        let waited = tokio::time::timeout(Duration::from_secs(20), log.wait_for(is)).await;
        match waited {
            Ok(state) => state.unwrap().clone(),
            Err(_) => panic!("never {what}: {:?}", self.log.borrow()),
        }
    }

    async fn in_sync(&self) {
        self.log_is("in sync", |log| *log == LogState::InSync).await;
    }

    async fn applies(&self, revision: Revision) {
        let mut facts = self.facts.clone();
        let waited = facts.wait_for(|facts| facts.applied >= revision);
        let waited = tokio::time::timeout(Duration::from_secs(20), waited).await;
        waited.expect("the revision is applied").unwrap();
    }
}

#[tokio::test]
async fn a_node_joins_follows_and_goes_on_after_the_server_came_back() {
    let store = tempfile::tempdir().unwrap();
    let mut server = Server::start(None, store.path(), true).await;
    let node = Node::start(server.url(), Projection::default());
    let no_cluster = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("netmaster init"));
    node.log_is("told to init", no_cluster).await;

    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    node.in_sync().await;
    assert!(node.facts.borrow().nodes.contains_key(&me().node));
    node.applies(master.append(tenant("blue")).await).await;

    server.stop();
    node.log_is("away", |log| matches!(log, LogState::Disconnected { .. }))
        .await;
    assert_eq!(node.facts.borrow().tenants.len(), 1);
    server.restart().await;
    let master = Master::connect(&server).await;
    node.applies(master.append(tenant("red")).await).await;
    node.in_sync().await;
    assert_eq!(node.facts.borrow().tenants.len(), 2);
}

#[tokio::test]
async fn a_wiped_log_changes_nothing_until_it_is_accepted() {
    let store = tempfile::tempdir().unwrap();
    let mut server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    node.applies(master.append(tenant("blue")).await).await;
    node.in_sync().await;
    let before = node.facts.borrow().clone();
    drop(tasks);

    server.stop();
    std::fs::remove_dir_all(store.path().join("jetstream")).unwrap();
    server.restart().await;
    let foreign = |log: &LogState| matches!(log, LogState::Foreign { .. });
    node.log_is("foreign", foreign).await;
    let master = Master::init(&server, cluster(2)).await;
    let mut tasks = JoinSet::new();
    master.serve(None, &mut tasks).await;
    for n in 0..9 {
        master.append(tenant(&format!("t{n}"))).await;
    }
    let other = |log: &LogState| matches!(log, LogState::Foreign { reason } if reason.contains(&cluster(2).to_string()));
    node.log_is("of another cluster", other).await;
    assert_eq!(*node.facts.borrow(), before);

    let accept = |cluster| {
        let request = codec::to_bytes(&NodeRequest::AcceptLog { cluster });
        let client = master.client.clone();
        async move {
            let to = subject::of_node(&me().node, "accept-log");
            let answer = client.request(to, request.into()).await.unwrap();
            codec::from_bytes::<NodeReply>(&answer.payload).unwrap()
        }
    };
    let wrong = accept(cluster(1)).await;
    assert!(matches!(wrong, NodeReply::Refused { .. }), "{wrong:?}");
    assert_eq!(*node.facts.borrow(), before);
    assert_eq!(accept(cluster(2)).await, NodeReply::Done);
    node.in_sync().await;
    assert_eq!(node.facts.borrow().tenants.len(), 9);
}

/// Nothing, noise, another encoding, a length that lies, depth, and half a message.
fn garbage() -> Vec<Vec<u8>> {
    let good = codec::to_bytes(&NodeRequest::Status);
    vec![
        vec![],
        b"\xff\xfe\x00garbage".to_vec(),
        b"{\"json\": true}".to_vec(),
        vec![0xdd, 0xff, 0xff, 0xff, 0xff],
        vec![0x91; 10_000],
        good[..good.len() / 2].to_vec(),
    ]
}

#[tokio::test]
async fn garbage_on_every_subject_is_passed_over() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    node.in_sync().await;
    for bytes in garbage() {
        for to in [
            "contiv.log.blue.intent.network.x",
            "contiv.log.blue.lease.x",
            "contiv.log._cluster.node.b",
            "contiv.log._cluster.vni.7",
            "contiv.log.nothing",
            "contiv.endpoint.blue.b.e",
            "contiv.endpoint.blue.b.e.f.g",
            "contiv.endpoint.b\u{fc}.b.e",
        ] {
            master.put(to.to_owned(), bytes.clone()).await;
        }
        for verb in ["status", "drain", "cede", "accept-log", "fly"] {
            let to = subject::of_node(&me().node, verb);
            let answer = master.client.request(to, bytes.clone().into()).await;
            let answer = answer.expect("an answer");
            let answer: NodeReply = codec::from_bytes(&answer.payload).unwrap();
            assert!(matches!(answer, NodeReply::Refused { .. }), "{answer:?}");
        }
    }
    node.applies(master.append(tenant("blue")).await).await;
    node.in_sync().await;
    assert!(node.view.borrow().is_empty());
}

#[tokio::test]
async fn what_the_journal_does_not_know_is_removed_from_the_bus_and_what_it_knows_is_said() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let local = crate::endpoint::fixture::endpoint("old", "10.0.0.9");
    let mut theirs = public(&local, &NodeName::new("b").unwrap(), me().vtep);
    theirs.name = Some("db".to_owned());
    for endpoint in [public(&local, &me().node, me().vtep), theirs] {
        let event = EndpointEvent::Up {
            endpoint: endpoint.clone(),
            applied: Revision(1),
        };
        let to = subject::of_endpoint(&endpoint);
        master.put(to, codec::to_bytes(&event)).await;
    }
    let node = Node::start(server.url(), Projection::default());
    node.in_sync().await;
    node.folded.change(|facts| {
        let fact = crate::endpoint::fixture::network(&[("10.0.0.16/28", "a")]);
        facts.tenants = crate::endpoint::fixture::facts(fact).tenants;
        node_core::projection::Touched::default()
    });
    let ask = crate::endpoint::Attach {
        id: bus_schema::EndpointId::new("new").unwrap(),
        tenant: local.tenant,
        network: local.network,
        group: None,
        addresses: Vec::new(),
        owner: local.owner,
        name: None,
        aliases: Vec::new(),
        container: None,
    };
    node.endpoints.attach(ask).await.unwrap();
    let said = |id: &'static str| {
        let context = master.context.clone();
        async move {
            let stream = context.get_stream(subject::ENDPOINTS).await.unwrap();
            let of = format!("contiv.endpoint.default.a.{id}");
            let message = stream.get_last_raw_message_by_subject(&of).await.ok()?;
            codec::from_bytes::<EndpointEvent>(&message.payload).ok()
        }
    };
    tokio::time::timeout(Duration::from_secs(10), async {
        while !matches!(said("old").await, Some(EndpointEvent::Down { .. }))
            || !matches!(said("new").await, Some(EndpointEvent::Up { .. }))
        {
            pause(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("the bus holds what the journal does");
    let own = || {
        let endpoints = &node.endpoints;
        Own::of(
            &endpoints.snapshots().borrow(),
            &endpoints.kernel().borrow(),
        )
    };
    let mut published = node.published.subscribe();
    let all = published.wait_for(|it| it.lacks(&own()) == 0);
    let all = tokio::time::timeout(Duration::from_secs(10), all).await;
    all.expect("nothing is left to be published").unwrap();
    let nothing = Published::unknown(None);
    assert_eq!(nothing.lacks(&own()), 1, "what isn't known to be published");
    assert_eq!(
        Published::all(Own::default(), true).lacks(&own()),
        0,
        "withdrawn"
    );
    // Held back until the facts are at the revision that it names; nobody folds that here.
    assert!(node.view.borrow().iter().all(|it| it.node != me().node));
}

#[tokio::test]
async fn what_was_put_right_is_told_also_when_it_was_while_the_bus_was_away() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    node.healings.note(vec![("fdb", "f1".to_owned())]);
    node.in_sync().await;
    let told = async |counts: &[(&str, u64)], what: &str| {
        let context = master.context.clone();
        let stream = context.get_stream(subject::ENDPOINTS).await.unwrap();
        let subject = subject::healed_by(&me().node);
        let expected: std::collections::BTreeMap<String, u64> = counts
            .iter()
            .map(|(kind, n)| ((*kind).to_owned(), *n))
            .collect();
        loop {
            let message = stream.get_last_raw_message_by_subject(&subject).await;
            let event = message
                .ok()
                .and_then(|it| codec::from_bytes(&it.payload).ok());
            if let Some(EndpointEvent::Healed { kinds, last, .. }) = event
                && kinds == expected
                && last.what == what
            {
                break;
            }
            pause(Duration::from_millis(20)).await;
        }
    };
    let limit = Duration::from_secs(10);
    let first = tokio::time::timeout(limit, told(&[("fdb", 1)], "f1")).await;
    first.expect("what happened before the bus was there is told");
    node.healings
        .note(vec![("fdb", "f2".to_owned()), ("route", "r".to_owned())]);
    let second = told(&[("fdb", 1), ("route", 1)], "r");
    let second = tokio::time::timeout(limit, second).await;
    second.expect("only what is new is told");
}

#[tokio::test]
async fn a_server_without_jetstream_or_too_old_is_refused_and_says_what_to_do() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), false).await;
    let node = Node::start(server.url(), Projection::default());
    let told = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("--jetstream"));
    node.log_is("told of JetStream", told).await;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(old_server(listener));
    let node = Node::start(url, Projection::default());
    let told = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("2.9.10 is too old"));
    node.log_is("told of the version", told).await;
}

/// Greets as Debian 12's server does, and answers pings.
async fn old_server(listener: tokio::net::TcpListener) {
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    while let Ok((mut stream, _)) = listener.accept().await {
        let (read, mut write) = stream.split();
        let info = r#"INFO {"server_id":"x","server_name":"x","version":"2.9.10","proto":1,"go":"","host":"127.0.0.1","port":4222,"headers":true,"max_payload":1048576,"jetstream":true}"#;
        write.write_all(format!("{info}\r\n").as_bytes()).await.ok();
        let mut lines = BufReader::new(read).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if line.starts_with("PING") {
                write.write_all(b"PONG\r\n").await.ok();
            }
        }
    }
}
