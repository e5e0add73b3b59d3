//! Tests the plugin's protocol over its socket, call by call: the answers to valid requests. No engine
//! runs here.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::plugin::Plugin;
use crate::support::requests::{
    DOCKER_NETWORK_ID, ENDPOINT_ID, creation, endpoint, options, plugin, reference, with_network,
};

#[tokio::test]
async fn plugin_reports_its_capabilities() {
    let (_folder, plugin) = plugin();
    for (call, answer) in [
        (
            "Plugin.Activate",
            json!({"Implements": ["NetworkDriver", "IpamDriver"]}),
        ),
        (
            "NetworkDriver.GetCapabilities",
            json!({"Scope": "local", "ConnectivityScope": "global"}),
        ),
        (
            "IpamDriver.GetCapabilities",
            json!({"RequiresMACAddress": false, "RequiresRequestReplay": false}),
        ),
        (
            "NetworkDriver.GwAllocCheck",
            json!({"SkipIPv4": false, "SkipIPv6": false}),
        ),
    ] {
        assert_eq!(plugin.call(call, json!({})).await, answer, "{call}");
        // The engine sends no body with calls that have no arguments.
        assert_eq!(plugin.send(call, "").await, (200, answer), "{call}");
    }
    let spaces = plugin
        .call("IpamDriver.GetDefaultAddressSpaces", json!({}))
        .await;
    assert_eq!(spaces["LocalDefaultAddressSpace"], "contiv");
}

/// Requests the pool, its gateway and an address; returns the pool's id.
async fn request_address(plugin: &Plugin) -> Value {
    let request = json!({
        "AddressSpace": "contiv", "Pool": "20.1.1.0/24", "SubPool": "", "V6": false,
        "Options": options("default", "contiv-net"),
    });
    let pool = plugin.call("IpamDriver.RequestPool", request).await;
    assert_eq!(pool["Pool"], "20.1.1.0/24");
    let pool_id = pool["PoolID"].clone();
    let gateway = plugin
        .call(
            "IpamDriver.RequestAddress",
            json!({"PoolID": pool_id, "Address": "", "Options": {"RequestAddressType": "com.docker.network.gateway"}}),
        )
        .await;
    assert_eq!(gateway["Address"], "20.1.1.254/24");
    with_network(plugin).await;

    let ask = json!({"PoolID": pool_id, "Address": "", "Options": null});
    let address = plugin.call("IpamDriver.RequestAddress", ask).await;
    assert_eq!(address["Address"], "20.1.1.1/32");
    pool_id
}

/// Creates an endpoint, twice, and joins it.
async fn create_and_join(plugin: &Plugin) {
    let exposed = json!({"com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}], "com.docker.network.portmap": []});
    let create = endpoint("20.1.1.1/32", &exposed);
    for _ in 0..2 {
        let created = plugin
            .call("NetworkDriver.CreateEndpoint", create.clone())
            .await;
        // Fields that the request set must stay empty in the answer.
        assert_eq!(
            created,
            json!({"Interface": {"Address": "", "AddressIPv6": "", "MacAddress": "02:02:14:01:01:01"}})
        );
    }
    let join = json!({"NetworkID": DOCKER_NETWORK_ID, "EndpointID": ENDPOINT_ID, "SandboxKey": "/run/docker/netns/1", "Options": exposed});
    let joined = plugin.call("NetworkDriver.Join", join.clone()).await;
    assert_eq!(
        joined,
        json!({
            "InterfaceName": {"SrcName": "cpa1b2c3d4e5", "DstPrefix": "eth"},
            "Gateway": "20.1.1.254",
            "GatewayIPv6": "",
            "StaticRoutes": [
                {"Destination": "20.1.1.254/32", "RouteType": 1, "NextHop": ""},
                {"Destination": "20.1.1.0/24", "RouteType": 0, "NextHop": "20.1.1.254"},
            ],
            "DisableGatewayService": true,
        })
    );
    plugin
        .call("NetworkDriver.ProgramExternalConnectivity", join)
        .await;
    let info = plugin
        .call("NetworkDriver.EndpointOperInfo", reference())
        .await;
    assert_eq!(info["Value"]["contiv.network"], "contiv-net");
}

#[tokio::test]
async fn container_gets_and_returns_its_address_and_endpoint() {
    let (_folder, plugin) = plugin();
    let pool_id = request_address(&plugin).await;
    create_and_join(&plugin).await;
    plugin
        .call("NetworkDriver.RevokeExternalConnectivity", reference())
        .await;
    for _ in 0..2 {
        plugin.call("NetworkDriver.Leave", reference()).await;
    }
    // The engine moves the interface back some milliseconds later.
    assert!(plugin.endpoints.state().endpoints.is_empty());
    let release = json!({"PoolID": pool_id, "Address": "20.1.1.1"});
    for _ in 0..2 {
        plugin
            .call("NetworkDriver.DeleteEndpoint", reference())
            .await;
        plugin
            .call("IpamDriver.ReleaseAddress", release.clone())
            .await;
    }
    assert!(plugin.endpoints.state().endpoints.is_empty());
    assert!(plugin.endpoints.state().reserved.is_empty());
    plugin
        .call(
            "NetworkDriver.DeleteNetwork",
            json!({"NetworkID": DOCKER_NETWORK_ID}),
        )
        .await;
    plugin
        .call("IpamDriver.ReleasePool", json!({"PoolID": pool_id}))
        .await;
    let info = plugin
        .call("NetworkDriver.EndpointOperInfo", reference())
        .await;
    assert_eq!(info, json!({"Value": {}}));
}

#[tokio::test]
async fn join_waits_for_the_interface() {
    let (_folder, plugin) = plugin();
    with_network(&plugin).await;
    plugin.endpoints.state().refuses = Some("no memory".to_owned());
    let create = endpoint("20.1.1.1/32", &json!({}));
    plugin.call("NetworkDriver.CreateEndpoint", create).await;
    let error = plugin.refused("NetworkDriver.Join", reference()).await;
    assert!(
        error.contains("can't configure the kernel: no memory"),
        "{error}"
    );
    plugin.endpoints.state().refuses = None;
    plugin.call("NetworkDriver.Join", reference()).await;
}

#[tokio::test]
async fn networks_made_by_hand_resolve_by_option_or_subnet() {
    let (_folder, plugin) = plugin();
    for (options, subnet, pool) in [
        (options("blue", "web"), "", "v4:blue/web"),
        (options("blue", "web"), "20.1.1.0/24", "v4:blue/web"),
        (json!({"contiv.network": "other"}), "", "v4:default/other"),
        (Value::Null, "20.1.2.0/24", "v4:default/other"),
    ] {
        let request = json!({"AddressSpace": "contiv", "Pool": subnet, "Options": options});
        let answer = plugin.call("IpamDriver.RequestPool", request).await;
        assert_eq!(answer["PoolID"], pool, "{options} {subnet}");
    }
    let by_subnet = creation(&json!({}), "20.1.2.0/24");
    plugin.call("NetworkDriver.CreateNetwork", by_subnet).await;
    plugin
        .call(
            "NetworkDriver.CreateEndpoint",
            endpoint("20.1.2.5/32", &Value::Null),
        )
        .await;
    let made = plugin.endpoints.find("20.1.2.5").expect("an endpoint");
    assert_eq!(made.network.as_str(), "other");
}

#[tokio::test]
async fn call_times_out_when_the_bus_is_silent() {
    let (_folder, plugin) = plugin();
    plugin.endpoints.state().hang = true;
    let started = Instant::now();
    let ask = json!({"PoolID": "v4:default/other", "Address": ""});
    let error = plugin.refused("IpamDriver.RequestAddress", ask).await;
    assert!(error.contains("`netplugin status`"), "{error}");
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn restarted_netplugin_reads_its_docker_networks() {
    let (_folder, mut plugin) = plugin();
    with_network(&plugin).await;
    plugin.restart().await;
    let create = endpoint("20.1.1.7/32", &Value::Null);
    plugin.call("NetworkDriver.CreateEndpoint", create).await;
    plugin.stop().await;
    let map = plugin.config.state_dir.join("docker-networks.json");
    std::fs::write(&map, b"{\"6c3e").expect("written");
    plugin.restart().await;
    let error = plugin
        .refused(
            "NetworkDriver.CreateEndpoint",
            endpoint("20.1.1.8/32", &Value::Null),
        )
        .await;
    assert!(
        error.contains("has no record of the Docker network"),
        "{error}"
    );
    with_network(&plugin).await;
}

#[tokio::test]
async fn second_netplugin_is_refused_the_socket() {
    let (_folder, plugin) = plugin();
    let second = node::docker::start(
        plugin.config.clone(),
        plugin.endpoints.clone(),
        plugin.projection.subscribe(),
        plugin.log.subscribe(),
    );
    let error = second.expect_err("the first one answers").to_string();
    assert!(error.contains("another netplugin answers"), "{error}");
    plugin.call("Plugin.Activate", json!({})).await;
}
