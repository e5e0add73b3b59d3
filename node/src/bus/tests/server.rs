//! A nats-server for the tests.

use super::*;

/// A server on a free port; killed when dropped.
pub(super) struct Server {
    pub(super) process: Child,
    pub(super) port: u16,
    pub(super) store: PathBuf,
}

impl Server {
    pub(super) async fn start(port: Option<u16>, store: &Path, jetstream: bool) -> Self {
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

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(super) fn stop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }

    pub(super) async fn restart(&mut self) {
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
