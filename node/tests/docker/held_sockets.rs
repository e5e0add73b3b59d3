//! The process that holds the engine's plugin sockets while netplugin is away or restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::time::timeout;

use crate::support::engine::{End, IMAGE_NAME};
use crate::support::host::{Host, host};
use crate::support::memory::{add, network};
use crate::support::plugin::send_to;
use crate::support::requests::{options, plugin, reference};

const AWAY: &str = "netplugin doesn't run on this node";
const ENGINE_START_LIMIT: Duration = Duration::from_secs(10);
/// A call is answered within this time whatever happens to netplugin.
const CALL_LIMIT: Duration = Duration::from_secs(22);
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn call_during_a_restart_of_netplugin_is_answered() {
    let (_folder, mut plugin) = plugin();
    plugin.hold_sockets().await;
    let pool = json!({
        "AddressSpace": "contiv", "Pool": "", "SubPool": "", "V6": false,
        "Options": options("default", "contiv-net"),
    });
    let pool = plugin.call("IpamDriver.RequestPool", pool).await["PoolID"].clone();
    let ask = json!({"PoolID": pool, "Address": "", "Options": null});
    let socket = plugin.config.plugin_dir.join("contiv.sock");
    let send = |call: &'static str, body: &Value| {
        let (socket, body) = (socket.clone(), body.to_string());
        tokio::spawn(async move { send_to(&socket, call, &body).await.1 })
    };
    plugin.stop().await;
    let asked = send("IpamDriver.RequestAddress", &ask);
    plugin.start_again();
    let answer = asked.await.expect("an answer");
    assert_eq!(answer, json!({"Address": "20.1.1.1/32", "Data": {}}));
}

#[tokio::test(flavor = "multi_thread")]
async fn call_is_refused_at_once_while_netplugin_is_away() {
    let (_folder, mut plugin) = plugin();
    plugin.hold_sockets().await;
    plugin.stop().await;
    // The first call waits for a restart that doesn't come.
    let refused = plugin.refused("NetworkDriver.Leave", reference()).await;
    assert!(refused.contains(AWAY), "{refused}");
    let asked = Instant::now();
    for _ in 0..50 {
        let refused = plugin.refused("NetworkDriver.Leave", reference()).await;
        assert!(refused.contains("`systemctl start netplugin`"), "{refused}");
    }
    assert!(asked.elapsed() < REFUSAL_LIMIT, "{:?}", asked.elapsed());
    // An engine that starts activates its plugins first.
    let activated = plugin.call("Plugin.Activate", json!({})).await;
    assert_eq!(
        activated["Implements"],
        json!(["NetworkDriver", "IpamDriver"])
    );
    plugin.start_again();
    plugin.call("NetworkDriver.DiscoverNew", json!({})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn call_during_which_netplugin_ends_again_and_again_is_refused() {
    let (_folder, mut plugin) = plugin();
    plugin.hold_sockets().await;
    plugin.stop().await;
    let own = plugin.config.run_dir.join("docker-local.sock");
    std::fs::remove_file(&own).expect("its socket stays when it ends");
    let listener = UnixListener::bind(&own).expect("bound");
    let sent = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&sent);
    // Each connection ends with the first bytes of a call; the holder's own connection stays.
    let netplugin = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let sent = Arc::clone(&counted);
            tokio::spawn(async move {
                if stream.read(&mut [0; 64]).await.is_ok_and(|it| it > 0) {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    let call = "NetworkDriver.Leave";
    let refused = timeout(CALL_LIMIT, plugin.refused(call, reference())).await;
    let refused = refused.expect("an answer in time");
    assert!(refused.contains("ended 3 times during"), "{refused}");
    assert_eq!(sent.load(Ordering::Relaxed), 3);
    netplugin.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_of_another_run_directory_are_refused_with_both_directories() {
    let (_folder, mut plugin) = plugin();
    plugin.hold_sockets().await;
    let held = plugin.config.run_dir.clone();
    let other = held.with_file_name("other");
    plugin.stop().await;
    plugin.config.run_dir = other.clone();
    let error = plugin.try_start().expect_err("another run directory");
    let error = error.to_string();
    for part in ["netplugin-docker", "NETPLUGIN_DIRECTORIES"] {
        assert!(error.contains(part), "{error}");
    }
    for folder in [held, other] {
        assert!(error.contains(&*folder.to_string_lossy()), "{error}");
    }
}

impl Host {
    /// Makes containers with ten endpoints each, and starts them.
    fn run_with_ten_endpoints(&self, names: &[&str]) {
        let networks: Vec<String> = (0..9).map(|number| format!("net-{number}")).collect();
        self.plugin.projection.send_modify(|it| {
            for (number, name) in networks.iter().enumerate() {
                let subnet = format!("20.2.{number}.0/24");
                add(it, network("default", name, &subnet));
            }
        });
        for network in &networks {
            self.wait_for_network(network);
        }
        for name in names {
            let create = [
                "create",
                "-it",
                "--restart=always",
                "--stop-timeout=1",
                "--net=contiv-net",
            ];
            let create = [&create[..], &["--name", name, IMAGE_NAME, "/bin/sh"]].concat();
            self.engine.docker(&create);
            for network in &networks {
                self.engine.docker(&["network", "connect", network, name]);
            }
        }
        self.engine.docker(&[&["start"], names].concat());
    }

    fn running(&self) -> Vec<String> {
        let running = self.engine.docker(&["ps", "--format", "{{.Names}}"]);
        let mut names: Vec<String> = running.lines().map(str::to_owned).collect();
        names.sort();
        names
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_starts_in_time_while_netplugin_is_away() {
    let mut host = host(&[]);
    host.plugin.hold_sockets().await;
    let names = ["one", "two", "three", "four", "five"];
    host.run_with_ten_endpoints(&names);
    assert_eq!(host.addresses().len(), 50);
    host.run("by-hand", &["--net=contiv-net", "--stop-timeout=1"]);
    host.run("stopped", &["--net=contiv-net", "--restart=unless-stopped"]);
    host.engine.docker(&["stop", "-t", "0", "stopped"]);

    host.plugin.stop().await;
    host.engine.end(End::Kill);
    // After this refusal no call waits for a restart of netplugin.
    host.plugin
        .refused("NetworkDriver.Leave", reference())
        .await;
    let started = Instant::now();
    host.engine.start();
    let took = started.elapsed();
    assert!(took < ENGINE_START_LIMIT, "{took:?}");
    assert_eq!(host.running(), [""; 0]);
    let error = host
        .engine
        .docker(&["inspect", "one", "-f", "{{.State.Error}}"]);
    assert!(error.contains(AWAY), "{error}");
    let run = ["run", "--rm", "--net=contiv-net", IMAGE_NAME, "true"];
    assert!(host.engine.docker_fails(&run).contains(AWAY));

    host.plugin.start_again();
    let mut expected: Vec<String> = names.map(str::to_owned).into();
    expected.sort();
    host.engine
        .until("the containers run again", || host.running() == expected);
    host.exec("one", "ping -c 1 -W 5 20.2.7.254");
    host.engine
        .until("only they have endpoints", || host.addresses().len() == 50);
    host.engine.docker(&run);
}
