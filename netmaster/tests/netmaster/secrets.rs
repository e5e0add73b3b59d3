//! The token comes from files, and is in no log.

use crate::support::{Bus, Running, TOKEN, free_port, nats_server, netmaster, said, until};

#[tokio::test]
async fn no_log_has_the_token_at_any_level() {
    let mut bus = Bus::cluster().await;
    let file = bus.dir.path().join("address");
    std::fs::write(&file, format!("CONTIV_NATS_URL={}\n", bus.url())).expect("a file");
    let file = file.display().to_string();
    let args = ["--metrics", "none", "--nats-file", file.as_str()];
    let master = bus.spawn_with("m1", &args, &[("CONTIV_LOG", "trace")]);
    master.says("serving").await;
    bus.down();
    master.says("attempting connection").await;
    bus.up().await;
    let connections = async || {
        let count = master.log().matches("connected successfully").count();
        (count > 1).then_some(())
    };
    until("netmaster connects again", connections).await;
    assert!(!master.log().contains(TOKEN), "the token is in the log");
}

#[tokio::test]
async fn address_in_a_file_precedes_the_variable() {
    let bus = Bus::cluster().await;
    let file = bus.dir.path().join("address");
    std::fs::write(&file, bus.url()).expect("a file");
    let nowhere = format!("nats://127.0.0.1:{}", free_port());
    let args = ["init", "--nats-file", file.to_str().expect("text")];
    let init = netmaster(&nowhere, &args);
    assert!(init.status.success(), "{}", said(&init));
    std::fs::write(&file, "# none\n").expect("a file");
    let init = netmaster(&nowhere, &args);
    assert!(said(&init).contains("has no address"), "{}", said(&init));
}

/// The change that the head of nats.conf describes.
#[tokio::test]
async fn bus_includes_its_token_from_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let conf = include_str!("../../../nats.conf");
    let included = conf.replace("  token: $CONTIV_NATS_TOKEN", "  include ./token.conf");
    assert_ne!(included, conf);
    std::fs::write(at("nats.conf"), included).expect("a file");
    std::fs::write(at("token.conf"), "token: \"s3cret\"\n").expect("a file");
    let port = free_port();
    let _server = Running::start(nats_server().as_os_str(), |process| {
        process
            .arg("-c")
            .arg(at("nats.conf"))
            .env("CONTIV_NATS_HOST", "127.0.0.1")
            .env("CONTIV_NATS_PORT", port.to_string())
            .env("CONTIV_NATS_STORE", at("store"));
    });
    let url = |token: &str| format!("nats://{token}@127.0.0.1:{port}");
    let init = async || {
        let init = netmaster(&url("s3cret"), &["init"]);
        init.status.success().then_some(())
    };
    until("the server takes the token", init).await;
    let refused = netmaster(&url("other"), &["init"]);
    assert!(said(&refused).contains("refuses this token"));
}
