//! A plugin with three networks, and the requests that tests send to it.

use node_core::projection::Projection;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::memory::{add, network};
use super::plugin::Plugin;

pub(crate) const DOCKER_NETWORK_ID: &str = "6c3e2bd0f3a14d0a";
pub(crate) const ENDPOINT_ID: &str =
    "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";

pub(crate) fn plugin() -> (TempDir, Plugin) {
    let folder = TempDir::new().expect("a folder");
    let mut projection = Projection::default();
    add(
        &mut projection,
        network("default", "contiv-net", "20.1.1.0/24"),
    );
    add(&mut projection, network("default", "other", "20.1.2.0/24"));
    add(&mut projection, network("blue", "web", "20.1.1.0/24"));
    let plugin = Plugin::start(
        projection,
        folder.path(),
        folder.path().join("no-engine"),
        None,
    );
    (folder, plugin)
}

pub(crate) fn options(tenant: &str, network: &str) -> Value {
    json!({"contiv.tenant": tenant, "contiv.network": network})
}

pub(crate) fn creation(options: &Value, pool: &str) -> Value {
    json!({
        "NetworkID": DOCKER_NETWORK_ID,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": options},
        "IPv4Data": [{"AddressSpace": "contiv", "Pool": pool, "Gateway": "20.1.1.254/24", "AuxAddresses": {}}],
        "IPv6Data": [],
    })
}

pub(crate) fn endpoint(address: &str, options: &Value) -> Value {
    json!({
        "NetworkID": DOCKER_NETWORK_ID, "EndpointID": ENDPOINT_ID,
        "Interface": {"Address": address, "AddressIPv6": "", "MacAddress": ""},
        "Options": options,
    })
}

pub(crate) fn reference() -> Value {
    json!({"NetworkID": DOCKER_NETWORK_ID, "EndpointID": ENDPOINT_ID})
}

pub(crate) async fn with_network(plugin: &Plugin) {
    let options = options("default", "contiv-net");
    let create = creation(&options, "20.1.1.0/24");
    plugin.call("NetworkDriver.CreateNetwork", create).await;
}
