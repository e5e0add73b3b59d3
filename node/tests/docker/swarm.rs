//! Tests the swarm plugin's protocol: the calls of the manager's engine, and of the engine of the node
//! on which a task runs. No engine runs here.

use node_core::projection::Projection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::memory::{add, network};
use crate::support::plugin::Plugin;

const SWARM_NETWORK_ID: &str = "8eunazbc7y5e1dxasiittqbbj";
const ENDPOINT_ID: &str = "b1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";

fn plugin() -> (TempDir, Plugin) {
    let folder = TempDir::new().expect("a folder");
    let mut projection = Projection::default();
    let spec = network("default", "contiv-net", "20.1.1.0/24");
    add(&mut projection, spec);
    let engine = folder.path().join("no-engine");
    let plugin = Plugin::start(projection, folder.path(), engine, None);
    (folder, plugin)
}

async fn call(plugin: &Plugin, call: &str, body: Value) -> Value {
    let socket = plugin.config.run_dir.join("swarm.sock");
    let (status, answer) = plugin.send_to(&socket, call, &body.to_string()).await;
    assert_eq!((status, answer.get("Err")), (200, None), "{call}: {answer}");
    answer
}

async fn pool(plugin: &Plugin, space: &str) -> Value {
    let request = json!({
        "AddressSpace": space, "Pool": "20.1.1.0/24", "SubPool": "", "Options": null, "V6": false,
    });
    call(plugin, "IpamDriver.RequestPool", request).await["PoolID"].clone()
}

#[tokio::test]
async fn swarm_driver_has_global_scope_and_two_address_spaces() {
    let (_folder, plugin) = plugin();
    let can = call(&plugin, "NetworkDriver.GetCapabilities", json!({})).await;
    assert_eq!(
        can,
        json!({"Scope": "global", "ConnectivityScope": "local"})
    );
    let spaces = call(&plugin, "IpamDriver.GetDefaultAddressSpaces", json!({})).await;
    let expected = json!({
        "LocalDefaultAddressSpace": "contiv-tasks", "GlobalDefaultAddressSpace": "contiv-swarm",
    });
    assert_eq!(spaces, expected);
}

#[tokio::test]
async fn swarm_network_options_go_to_each_node() {
    let (_folder, plugin) = plugin();
    let allocate = json!({
        "NetworkID": SWARM_NETWORK_ID, "Options": null,
        "IPv4Data": [{"AddressSpace": "", "Gateway": "20.1.1.254/24", "Pool": "20.1.1.0/24"}],
        "IPv6Data": null,
    });
    let allocated = call(&plugin, "NetworkDriver.AllocateNetwork", allocate).await;
    let options = json!({"contiv.tenant": "default", "contiv.network": "contiv-net"});
    assert_eq!(allocated, json!({"Options": options}));
    let free = json!({"NetworkID": SWARM_NETWORK_ID});
    call(&plugin, "NetworkDriver.FreeNetwork", free).await;
}

#[tokio::test]
async fn task_address_is_promised_until_the_manager_releases_it() {
    let (_folder, plugin) = plugin();
    let swarm = pool(&plugin, "contiv-swarm").await;
    let ask = json!({
        "PoolID": swarm, "Address": "",
        "Options": {"com.docker.network.ipam.serial": "true"},
    });
    let address = call(&plugin, "IpamDriver.RequestAddress", ask).await;
    assert_eq!(address["Address"], "20.1.1.1/32");
    assert_eq!(plugin.endpoints.state().promised.len(), 1);

    let tasks = pool(&plugin, "contiv-tasks").await;
    let ask = json!({"PoolID": tasks, "Address": "20.1.1.1", "Options": null});
    let given = call(&plugin, "IpamDriver.RequestAddress", ask).await;
    assert_eq!(given["Address"], "20.1.1.1/32");
    let create = json!({
        "NetworkID": SWARM_NETWORK_ID,
        "Options": {"com.docker.network.generic": {"contiv.network": "contiv-net"}},
        "IPv4Data": [{"AddressSpace": "contiv-tasks", "Pool": "20.1.1.0/24", "Gateway": "20.1.1.254/24"}],
        "IPv6Data": [],
    });
    call(&plugin, "NetworkDriver.CreateNetwork", create).await;
    let endpoint = json!({
        "NetworkID": SWARM_NETWORK_ID, "EndpointID": ENDPOINT_ID,
        "Interface": {"Address": "20.1.1.1/32", "AddressIPv6": "", "MacAddress": ""},
        "Options": {"com.docker.network.portmap": []},
    });
    call(&plugin, "NetworkDriver.CreateEndpoint", endpoint).await;
    let task = json!({"NetworkID": SWARM_NETWORK_ID, "EndpointID": ENDPOINT_ID});
    call(&plugin, "NetworkDriver.DeleteEndpoint", task).await;
    let release = |pool| json!({"PoolID": pool, "Address": "20.1.1.1"});
    call(&plugin, "IpamDriver.ReleaseAddress", release(tasks)).await;
    assert_eq!(plugin.endpoints.state().promised.len(), 1);
    call(&plugin, "IpamDriver.ReleaseAddress", release(swarm)).await;
    assert!(plugin.endpoints.state().promised.is_empty());
}
