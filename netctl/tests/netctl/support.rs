//! A real nats-server, and the real `netctl` with a state folder of its own.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};

pub(crate) struct Bus {
    process: Child,
    pub(crate) url: String,
    dir: tempfile::TempDir,
}

impl Bus {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let process = spawn(dir.path(), "-1");
        let mut bus = Self {
            process,
            url: String::new(),
            dir,
        };
        bus.url = bus.port();
        bus
    }

    /// Kills the server, as a power cut would.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts the server again with the same port and store.
    pub(crate) fn restart(&mut self) {
        let (_, port) = self.url.rsplit_once(':').unwrap();
        self.process = spawn(self.dir.path(), port);
        self.port();
    }

    /// The server writes its ports down once it listens.
    fn port(&self) -> String {
        let name = format!("nats-server_{}.ports", self.process.id());
        let path = self.dir.path().join(name);
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if let Ok(ports) = serde_json::from_str::<serde_json::Value>(&text)
                && let Some(url) = ports["nats"][0].as_str()
            {
                return url.replace("nats://", "nats://t0ken@");
            }
            assert!(Instant::now() < deadline, "nats-server doesn't listen");
            #[expect(clippy::disallowed_methods, reason = "the pause between two polls")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub(crate) async fn client(&self) -> async_nats::Client {
        let url = self.url.replace("t0ken@", "");
        async_nats::ConnectOptions::with_token("t0ken".to_owned())
            .connect(url)
            .await
            .unwrap()
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(dir: &Path, port: &str) -> Child {
    Command::new(server())
        .args([
            "-a",
            "127.0.0.1",
            "-p",
            port,
            "-js",
            "--auth",
            "t0ken",
            "-sd",
        ])
        .arg(dir.join("store"))
        .arg("--ports_file_dir")
        .arg(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("nats-server starts")
}

fn server() -> PathBuf {
    if let Some(path) = std::env::var_os("CONTIV_NATS_SERVER") {
        return path.into();
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools/nats-server");
    assert!(
        path.exists(),
        "no nats-server: scripts/fetch-nats.sh fetches it, or name one in CONTIV_NATS_SERVER"
    );
    path
}

/// Runs `netctl` with the bus at `url`; `typed` is split at spaces.
pub(crate) fn netctl(url: &str, typed: &str) -> Ran {
    let home = tempfile::tempdir().unwrap();
    netctl_at_home(home.path(), url, typed)
}

pub(crate) fn netctl_at_home(home: &Path, url: &str, typed: &str) -> Ran {
    let started = Instant::now();
    let output = command(home, url, typed).output().unwrap();
    Ran::new(&output, started.elapsed())
}

/// As [`netctl_at_home`], with a text on standard input.
pub(crate) fn netctl_with_input(home: &Path, url: &str, typed: &str, input: &str) -> Ran {
    let started = Instant::now();
    let mut command = command(home, url, typed);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut running = command.spawn().unwrap();
    let mut stdin = running.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = running.wait_with_output().unwrap();
    Ran::new(&output, started.elapsed())
}

pub(crate) fn command(home: &Path, url: &str, typed: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netctl"));
    command
        .args(typed.split(' ').filter(|word| !word.is_empty()))
        .env("CONTIV_NATS_URL", url)
        .env("HOME", home)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME");
    command
}

/// The result of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Ran {
    fn new(output: &Output, took: Duration) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
            took,
        }
    }
}

/// A TCP proxy to the bus, which can be cut while the bus runs.
#[derive(Debug)]
pub(crate) struct Cable {
    pub(crate) url: String,
    address: SocketAddr,
    bus: String,
    task: Option<JoinHandle<()>>,
}

impl Cable {
    pub(crate) async fn new(bus: &Bus) -> Self {
        let (_, bus) = bus.url.split_once('@').unwrap();
        let mut cable = Self {
            url: String::new(),
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            bus: bus.to_owned(),
            task: None,
        };
        cable.plug().await;
        cable.url = format!("nats://t0ken@{}", cable.address);
        cable
    }

    pub(crate) async fn plug(&mut self) {
        let listener = tokio::net::TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let bus = self.bus.clone();
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let Ok(mut far) = TcpStream::connect(&bus).await else {
                    continue;
                };
                connections.spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        }));
    }

    /// Cuts the connections; when this returns, no data passes.
    pub(crate) async fn cut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }
}

/// The URL of a port without a listener.
pub(crate) fn nowhere() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("nats://t0ken@{}", listener.local_addr().unwrap())
}
