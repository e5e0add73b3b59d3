//! A real nats-server, real netmasters, and a client that speaks the API: each test has its own,
//! and they end with it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command as Process, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use bus_schema::codec::{self, Decoded};
use bus_schema::command::{NetworkCreate, NodeJoin, Request, TenantCreate};
use bus_schema::node::{DomainKind, LogState, NodeStatus};
use bus_schema::{
    Answer, Command, CommandId, Envelope, Event, MachineId, NetworkName, NodeName, Query,
    Rejection, Reply, Revision, TenantName, Vni, subject, testing,
};
use bytes::Bytes;
use futures::StreamExt;
pub(crate) use runtime::now;
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) const TOKEN: &str = "token-of-a-test";
/// How long anything may take before a test fails.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A process that ends with its handle, or with the test's process.
#[derive(Debug)]
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(program: &std::ffi::OsStr, prepare: impl FnOnce(&mut Process)) -> Self {
        let mut process = Process::new("setpriv");
        process.args(["--pdeathsig", "KILL"]).arg(program);
        prepare(&mut process);
        Self(process.spawn().expect("setpriv (util-linux) runs"))
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Process::new("kill").args(["-s", name, &pid]).status();
        assert!(sent.is_ok_and(|s| s.success()), "kill -s {name} {pid}");
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.0.try_wait().expect("a child")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn nats_server() -> PathBuf {
    if let Some(path) = std::env::var_os("CONTIV_NATS_SERVER") {
        return path.into();
    }
    let path = PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../.tools/nats-server"
    ));
    assert!(
        path.exists(),
        "there is no {}: `make tools` fetches it, or name one in CONTIV_NATS_SERVER",
        path.display()
    );
    path
}

/// A bus with its storage. Its port stays the same when it is started again.
pub(crate) struct Bus {
    pub(crate) dir: TempDir,
    port: u16,
    server: Option<Running>,
    jetstream: bool,
}

impl Bus {
    pub(crate) async fn start() -> Self {
        Self::start_with(true).await
    }

    pub(crate) async fn start_with(jetstream: bool) -> Self {
        let mut bus = Self {
            dir: TempDir::new().expect("a folder"),
            port: free_port(),
            server: None,
            jetstream,
        };
        bus.up().await;
        bus
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{TOKEN}@127.0.0.1:{}", self.port)
    }

    pub(crate) async fn up(&mut self) {
        let store = self.dir.path().join("store");
        let jetstream = if self.jetstream {
            format!("jetstream {{ store_dir: {store:?}, sync_interval: always }}")
        } else {
            String::new()
        };
        let config = format!(
            "listen: \"127.0.0.1:{}\"\nauthorization {{ token: \"{TOKEN}\" }}\n{jetstream}\n",
            self.port
        );
        let path = self.dir.path().join("nats.conf");
        std::fs::write(&path, config).expect("a file");
        let log = self.dir.path().join("nats.log");
        self.server = Some(Running::start(nats_server().as_os_str(), |process| {
            process
                .arg("-c")
                .arg(&path)
                .arg("-l")
                .arg(&log)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
        }));
        until("nats-server answers", async || self.try_client().await.ok()).await;
    }

    pub(crate) fn down(&mut self) {
        self.server = None;
    }

    /// Lets the server write its index of the log before it ends.
    pub(crate) async fn down_gently(&mut self) {
        let mut server = self.server.take().expect("it runs");
        server.signal("TERM");
        until("nats-server ends", async || server.ended()).await;
    }

    /// Empties the storage of a server that is down.
    pub(crate) fn wipe(&self) {
        std::fs::remove_dir_all(self.dir.path().join("store")).expect("a folder");
    }

    /// Flips one byte of the log's first message about a tenant, on the disk of a server that is down.
    pub(crate) fn flip_a_byte_of(&self, tenant: &str) {
        let log = "store/jetstream/$G/streams/LOG/msgs";
        let blocks = std::fs::read_dir(self.dir.path().join(log)).expect("a folder");
        let subject = format!("contiv.log._cluster.tenant.{tenant}");
        for block in blocks.map(|it| it.expect("a file").path()) {
            let mut bytes = std::fs::read(&block).expect("a file");
            let found = bytes
                .windows(subject.len())
                .position(|it| it == subject.as_bytes());
            if let Some(at) = found {
                // Behind the subject lie the headers or the message.
                bytes[at + subject.len() + 40] ^= 1;
                return std::fs::write(&block, bytes).expect("a file");
            }
        }
        panic!("no block of the log holds {subject}");
    }

    async fn try_client(&self) -> Result<Client, async_nats::ConnectError> {
        ConnectOptions::with_token(TOKEN.to_owned())
            .request_timeout(Some(TEST_TIMEOUT))
            .connect(format!("nats://127.0.0.1:{}", self.port))
            .await
    }

    pub(crate) async fn client(&self) -> Api {
        let client = self.try_client().await.expect("the bus is up");
        Api { client }
    }

    pub(crate) fn netmaster(&self, args: &[&str]) -> Output {
        netmaster(&self.url(), args)
    }

    /// A cluster that is initialised.
    pub(crate) async fn cluster() -> Self {
        let bus = Self::start().await;
        let init = bus.netmaster(&["init"]);
        assert!(init.status.success(), "{}", said(&init));
        bus
    }

    /// Starts a netmaster; its log is in the bus's folder.
    pub(crate) fn spawn(&self, name: &str, env: &[(&str, &str)]) -> Master {
        self.spawn_with(name, &["--metrics", "none"], env)
    }

    /// As [`Self::spawn`], with more arguments.
    pub(crate) fn spawn_with(&self, name: &str, args: &[&str], env: &[(&str, &str)]) -> Master {
        let path = self.dir.path().join(format!("{name}.log"));
        let log = std::fs::File::create(&path).expect("a file");
        let program = env!("CARGO_BIN_EXE_netmaster");
        let running = Running::start(program.as_ref(), |process| {
            process
                .args(["run", "--name", name, "--nats", &self.url()])
                .args(args)
                .envs(env.iter().copied())
                .stdout(Stdio::null())
                .stderr(log);
        });
        Master { running, log: path }
    }

    /// Starts a netmaster and waits until it serves.
    pub(crate) async fn master(&self, name: &str) -> Master {
        let master = self.spawn(name, &[]);
        master.says("serving").await;
        // Its subscriptions may still be under way; this is the last of them.
        let (api, last) = (
            self.client().await,
            format!("{}.cluster.wait", subject::API),
        );
        let answered = async || api.raw(last.clone(), Vec::new()).await.ok();
        until("it is heard", answered).await;
        master
    }
}

/// Runs netmaster to its end.
pub(crate) fn netmaster(url: &str, args: &[&str]) -> Output {
    Process::new(env!("CARGO_BIN_EXE_netmaster"))
        .args(args)
        .env("CONTIV_NATS_URL", url)
        .output()
        .expect("netmaster runs")
}

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A port that nobody listens on now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("bound").port()
}

/// A netmaster that runs.
#[derive(Debug)]
pub(crate) struct Master {
    running: Running,
    log: PathBuf,
}

impl Master {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) async fn says(&self, what: &str) {
        let said = async || self.log().contains(what).then_some(());
        until(&format!("netmaster says `{what}`"), said).await;
    }

    pub(crate) fn kill(mut self) {
        self.running.0.kill().expect("it runs");
        self.running.0.wait().expect("a child");
    }

    pub(crate) fn terminate(&self) {
        self.running.signal("TERM");
    }

    /// Freezes it until [`Self::resume`].
    pub(crate) fn stop(&self) {
        self.running.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.running.signal("CONT");
    }

    pub(crate) async fn exit(&mut self) -> Option<i32> {
        let running = &mut self.running;
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            if let Some(status) = running.ended() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "netmaster goes on");
            pause().await;
        }
    }

    pub(crate) fn runs(&mut self) -> bool {
        self.running.ended().is_none()
    }
}

/// Waits for a condition, or fails the test naming it.
#[track_caller]
pub(crate) fn until<T>(
    what: &str,
    mut holds: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let what = what.to_owned();
    let deadline = Instant::now() + TEST_TIMEOUT;
    async move {
        loop {
            if let Some(value) = holds().await {
                return value;
            }
            assert!(
                Instant::now() < deadline,
                "not within {TEST_TIMEOUT:?}: {what}"
            );
            pause().await;
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the step of a poll")]
async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

pub(crate) fn id() -> CommandId {
    CommandId(Uuid::new_v4())
}

pub(crate) fn request<T>(body: T) -> Request<T> {
    request_within(10_000, body)
}

/// A request that its asker waits so many milliseconds for.
pub(crate) fn request_within<T>(millis: u64, body: T) -> Request<T> {
    Request::new(id(), body, Duration::from_millis(millis), now())
}

/// A client of the API.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    pub(crate) client: Client,
}

impl Api {
    pub(crate) async fn raw(&self, subject: String, payload: Vec<u8>) -> Result<Bytes, String> {
        let asked = self.client.request(subject, Bytes::from(payload)).await;
        asked.map(|m| m.payload).map_err(|e| e.to_string())
    }

    pub(crate) async fn send(&self, request: &Request<Command>) -> Result<Reply, String> {
        let to = subject::of_command(&request.body);
        let bytes = self.raw(to, codec::to_bytes(request)).await?;
        codec::from_bytes(&bytes).map_err(|e| e.to_string())
    }

    pub(crate) async fn command(&self, command: Command) -> Reply {
        let reply = self.send(&request(command)).await;
        reply.expect("netmaster answers")
    }

    pub(crate) async fn accepted(&self, command: Command) -> (Revision, Vec<Event>) {
        match self.command(command).await {
            Reply::Accepted { revision, events } => (revision, events),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn rejected(&self, command: Command) -> Rejection {
        match self.command(command).await {
            Reply::Rejected { rejection, .. } => rejection,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn ask(&self, request: &Request<Query>) -> Answer {
        let to = subject::of_query(&request.body);
        let bytes = self.raw(to, codec::to_bytes(request)).await;
        codec::from_bytes(&bytes.expect("netmaster answers")).expect("an answer")
    }

    pub(crate) async fn query(&self, seen: Revision, query: Query) -> Answer {
        let request = Request {
            seen,
            ..request(query)
        };
        self.ask(&request).await
    }

    /// The names of all networks, with a mark on those that close.
    pub(crate) async fn networks(&self, seen: Revision) -> Vec<String> {
        let query = Query::NetworkList {
            tenant: None,
            network: None,
        };
        let Answer::Networks { networks, .. } = self.query(seen, query).await else {
            panic!("no networks");
        };
        let names = networks.iter().map(|network| {
            let closing = if network.closing { " (closing)" } else { "" };
            format!("{}/{}{closing}", network.spec.tenant, network.spec.name)
        });
        names.collect()
    }

    /// Everything in the log.
    pub(crate) async fn log(&self) -> Vec<Envelope<Event>> {
        use async_nats::jetstream::{self, consumer::pull};
        let context = jetstream::new(self.client.clone());
        let stream = context.get_stream(subject::LOG).await.expect("the log");
        let end = usize::try_from(stream.cached_info().state.messages).expect("few");
        let consumer = stream.create_consumer(pull::Config::default()).await;
        let mut consumer = consumer.expect("a consumer");
        let messages = consumer.fetch().max_messages(end).messages().await;
        let mut messages = messages.expect("messages");
        let mut events = Vec::new();
        while let Some(message) = messages.next().await {
            let message = message.expect("a message");
            if let Ok(Decoded::Known(envelope)) = codec::decode(&message.payload) {
                events.push(envelope);
            }
        }
        consumer.info().await.expect("still there");
        events
    }

    pub(crate) async fn join(&self, name: &str, vtep: &str) -> Revision {
        let (revision, _) = self.accepted(join(name, name, vtep)).await;
        revision
    }

    /// Says as a node how far it is.
    pub(crate) async fn status(&self, name: &str, applied: Revision) {
        let status = NodeStatus {
            node: node(name),
            machine: MachineId(name.to_owned()),
            vtep: testing::ip("198.18.0.1"),
            version: "test".to_owned(),
            applied,
            log: LogState::InSync,
            engine: None,
            domain: DomainKind::Netns,
            endpoints: 0,
            unpublished: 0,
            blocks: 0,
            drained: false,
            left: false,
            alarms: vec![],
            dns: None,
            healing: None,
            at: None,
            surroundings: None,
            carries: vec![],
        };
        let to = subject::of_status(&status.node);
        let bytes = Bytes::from(codec::to_bytes(&status));
        self.client.publish(to, bytes).await.expect("connected");
        self.client.flush().await.expect("connected");
    }
}

pub(crate) fn node(name: &str) -> NodeName {
    testing::name(name)
}

pub(crate) fn tenant(name: &str) -> TenantName {
    testing::name(name)
}

pub(crate) fn network(name: &str) -> NetworkName {
    testing::name(name)
}

pub(crate) fn create_tenant(name: &str) -> Command {
    Command::TenantCreate(TenantCreate {
        max_connections: None,
        egress: None,
        tenant: tenant(name),
    })
}

pub(crate) fn join(name: &str, machine: &str, vtep: &str) -> Command {
    Command::NodeJoin(NodeJoin {
        node: node(name),
        machine: MachineId(machine.to_owned()),
        vtep: testing::ip(vtep),
    })
}

pub(crate) fn create(of: &str, name: &str, subnet: &str, tag: Option<u32>) -> Command {
    Command::NetworkCreate(NetworkCreate {
        tenant: tenant(of),
        network: network(name),
        subnet: testing::subnet(subnet),
        range: None,
        gateway: None,
        subnet6: None,
        gateway6: None,
        vni: tag.map(Vni),
        max_connections: None,
        egress: None,
        allow_metadata: None,
        docker_name: None,
    })
}
