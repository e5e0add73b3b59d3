//! A running driver with endpoints in memory, and functions to call it as an engine does.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bus_schema::node::LogState;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use node::docker::sockets::hold;
use node::docker::{DockerConfig, DockerHandle, ServerError, start};
use node::healing::Healings;
use node::surroundings::ResolverFiles;
use node_core::projection::Projection;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::sync::watch;

use super::memory::MemoryEndpoints;

pub(crate) struct Plugin {
    pub(crate) endpoints: MemoryEndpoints,
    pub(crate) projection: watch::Sender<Projection>,
    pub(crate) log: watch::Sender<LogState>,
    pub(crate) config: DockerConfig,
    handle: Option<DockerHandle>,
    holder: Option<tokio::task::JoinHandle<()>>,
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(holder) = &self.holder {
            holder.abort();
        }
    }
}

impl Plugin {
    /// Starts a driver with its state and its sockets in `folder`.
    pub(crate) fn start(
        projection: Projection,
        folder: &Path,
        engine: PathBuf,
        netns: Option<u32>,
    ) -> Self {
        let (projection, facts) = watch::channel(projection);
        let (log, _) = watch::channel(LogState::InSync);
        let mut plugin = Self {
            endpoints: MemoryEndpoints::new(facts, netns),
            projection,
            log,
            config: DockerConfig {
                plugin_dir: folder.join("plugins"),
                run_dir: folder.join("run"),
                engine: Some(engine),
                state_dir: folder.join("state"),
                files: ResolverFiles {
                    resolv_conf: folder.join("resolv.conf"),
                    systemd_resolved: folder.join("none"),
                    daemon_json: folder.join("daemon.json"),
                },
                healings: Healings::default(),
            },
            handle: None,
            holder: None,
        };
        plugin.start_again();
        plugin
    }

    /// Restarts the driver, as a restarted netplugin: its files and endpoints stay.
    pub(crate) async fn restart(&mut self) {
        self.stop().await;
        self.start_again();
    }

    /// Starts the process that holds the engine's sockets, as a task.
    pub(crate) async fn hold_sockets(&mut self) {
        let (plugin_dir, run_dir) = (self.config.plugin_dir.clone(), self.config.run_dir.clone());
        self.holder = Some(tokio::spawn(async move {
            let ended = hold(&plugin_dir, &run_dir).await;
            panic!("the sockets are held no more: {ended:?}");
        }));
        let deadline = Instant::now() + Duration::from_secs(5);
        while self.send("Contiv.Holder", "").await.0 != 200 {
            assert!(Instant::now() < deadline, "the sockets aren't held");
        }
    }

    pub(crate) fn start_again(&mut self) {
        self.handle = Some(self.try_start().expect("the socket is free"));
    }

    pub(crate) fn try_start(&self) -> Result<DockerHandle, ServerError> {
        start(
            self.config.clone(),
            self.endpoints.clone(),
            self.projection.subscribe(),
            self.log.subscribe(),
        )
    }

    pub(crate) async fn stop(&mut self) {
        self.handle = None;
        let deadline = Instant::now() + Duration::from_secs(5);
        let run_dir = &self.config.run_dir;
        let mut own = vec![
            run_dir.join("docker-local.sock"),
            run_dir.join("docker-swarm.sock"),
        ];
        if self.holder.is_none() {
            own.push(self.config.plugin_dir.join("contiv.sock"));
            own.push(run_dir.join("swarm.sock"));
        }
        for socket in own {
            while UnixStream::connect(&socket).await.is_ok() {
                assert!(Instant::now() < deadline, "its tasks didn't end");
                tokio::task::yield_now().await;
            }
        }
    }

    pub(crate) fn handle(&self) -> &DockerHandle {
        self.handle.as_ref().expect("it runs")
    }

    /// The HTTP status and the answer.
    pub(crate) async fn send(&self, call: &str, body: &str) -> (u16, Value) {
        let socket = self.config.plugin_dir.join("contiv.sock");
        self.send_to(&socket, call, body).await
    }

    pub(crate) async fn send_to(&self, socket: &Path, call: &str, body: &str) -> (u16, Value) {
        send_to(socket, call, body).await
    }

    pub(crate) async fn call(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.send(call, &body.to_string()).await;
        assert_eq!(status, 200, "{call}: {answer}");
        assert_eq!(answer.get("Err"), None, "{call} {body}");
        answer
    }

    pub(crate) async fn refused(&self, call: &str, body: Value) -> String {
        let (_, answer) = self.send(call, &body.to_string()).await;
        assert_eq!(
            answer.get("Err"),
            answer.get("Error"),
            "the engine reads both"
        );
        match answer.get("Err").and_then(Value::as_str) {
            Some(error) => error.to_owned(),
            None => panic!("{call} {body} was not refused: {answer}"),
        }
    }
}

/// Sends a call to a plugin's socket, as an engine does; the HTTP status and the answer.
pub(crate) async fn send_to(socket: &Path, call: &str, body: &str) -> (u16, Value) {
    let stream = UnixStream::connect(socket)
        .await
        .expect("the socket is there");
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .expect("it speaks HTTP");
    tokio::spawn(connection);
    let request = hyper::Request::post(format!("/{call}"))
        .header("host", "plugin")
        .header("accept", "application/vnd.docker.plugins.v1.2+json")
        .body(Full::new(bytes::Bytes::from(body.to_owned())))
        .expect("a request");
    let response = sender.send_request(request).await.expect("an answer");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("a body");
    let value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
    (status, value)
}
