//! The plugin's protocol, call by call, over its socket: what the engine gets for good requests,
//! and the errors that it shows to people for the others. No engine runs here.

use std::time::{Duration, Instant};

use crate::support::memory::{add, network};
use crate::support::plugin::Plugin;
use node_core::projection::Projection;
use serde_json::{Value, json};
use tempfile::TempDir;

const DOCKER_NETWORK: &str = "6c3e2bd0f3a14d0a";
const ENDPOINT: &str = "a1b2c3d4e5f60718293a4b5c6d7e8f90a1b2c3d4e5f60718293a4b5c6d7e8f90";

fn plugin() -> (TempDir, Plugin) {
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

fn options(tenant: &str, network: &str) -> Value {
    json!({"contiv.tenant": tenant, "contiv.network": network})
}

fn creation(options: &Value, pool: &str) -> Value {
    json!({
        "NetworkID": DOCKER_NETWORK,
        "Options": {"com.docker.network.enable_ipv6": false, "com.docker.network.generic": options},
        "IPv4Data": [{"AddressSpace": "contiv", "Pool": pool, "Gateway": "20.1.1.254/24", "AuxAddresses": {}}],
        "IPv6Data": [],
    })
}

fn endpoint(address: &str, options: &Value) -> Value {
    json!({
        "NetworkID": DOCKER_NETWORK, "EndpointID": ENDPOINT,
        "Interface": {"Address": address, "AddressIPv6": "", "MacAddress": ""},
        "Options": options,
    })
}

fn reference() -> Value {
    json!({"NetworkID": DOCKER_NETWORK, "EndpointID": ENDPOINT})
}

async fn with_network(plugin: &Plugin) {
    let options = options("default", "contiv-net");
    let create = creation(&options, "20.1.1.0/24");
    plugin.call("NetworkDriver.CreateNetwork", create).await;
}

#[tokio::test]
async fn what_is_unknown_before_the_log_is_read_is_not_said_to_be_missing() {
    let (_folder, plugin) = plugin();
    plugin.endpoints.state().has_unread_log = true;
    let unknown = creation(&options("default", "later"), "20.1.9.0/24");
    let call = "NetworkDriver.CreateNetwork";
    let error = plugin.refused(call, unknown.clone()).await;
    assert!(
        error.contains("hasn't read the cluster's log to its end"),
        "{error}"
    );
    let pool = json!({
        "AddressSpace": "contiv", "Pool": "", "SubPool": "", "V6": false,
        "Options": options("default", "later"),
    });
    let error = plugin.refused("IpamDriver.RequestPool", pool).await;
    assert!(
        error.contains("hasn't read the cluster's log to its end"),
        "{error}"
    );
    plugin.endpoints.state().has_unread_log = false;
    let error = plugin.refused(call, unknown).await;
    assert!(error.contains("doesn't exist on this node: see"), "{error}");
}

#[tokio::test]
async fn it_says_what_it_is() {
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
        // The engine sends no body at all where it has nothing to say.
        assert_eq!(plugin.send(call, "").await, (200, answer), "{call}");
    }
    let spaces = plugin
        .call("IpamDriver.GetDefaultAddressSpaces", json!({}))
        .await;
    assert_eq!(spaces["LocalDefaultAddressSpace"], "contiv");
}

#[tokio::test]
async fn a_container_comes_and_goes() {
    let (_folder, plugin) = plugin();
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
    with_network(&plugin).await;

    let ask = json!({"PoolID": pool_id, "Address": "", "Options": null});
    let address = plugin.call("IpamDriver.RequestAddress", ask).await;
    assert_eq!(address["Address"], "20.1.1.1/32");
    let exposed = json!({"com.docker.network.endpoint.exposedports": [{"Proto": 6, "Port": 80}], "com.docker.network.portmap": []});
    let create = endpoint("20.1.1.1/32", &exposed);
    for _ in 0..2 {
        let created = plugin
            .call("NetworkDriver.CreateEndpoint", create.clone())
            .await;
        // What the request gave must stay empty in the answer.
        assert_eq!(
            created,
            json!({"Interface": {"Address": "", "AddressIPv6": "", "MacAddress": "02:02:14:01:01:01"}})
        );
    }
    let join = json!({"NetworkID": DOCKER_NETWORK, "EndpointID": ENDPOINT, "SandboxKey": "/run/docker/netns/1", "Options": exposed});
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

    plugin
        .call("NetworkDriver.RevokeExternalConnectivity", reference())
        .await;
    for _ in 0..2 {
        plugin.call("NetworkDriver.Leave", reference()).await;
    }
    // Before the engine has moved the interface back, which takes it some milliseconds.
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
            json!({"NetworkID": DOCKER_NETWORK}),
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
async fn a_container_joins_when_its_interface_is_there() {
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
async fn published_ports_are_refused_and_the_error_says_so() {
    let (_folder, plugin) = plugin();
    with_network(&plugin).await;
    let bindings = json!({"com.docker.network.portmap": [{"Proto": 6, "IP": "", "Port": 80, "HostIP": "", "HostPort": 8080, "HostPortEnd": 8080}]});
    let error = plugin
        .refused(
            "NetworkDriver.CreateEndpoint",
            endpoint("20.1.1.1/32", &bindings),
        )
        .await;
    assert!(error.contains("doesn't publish ports"), "{error}");
    assert!(error.contains("leave out -p and -P"), "{error}");
    assert!(plugin.endpoints.state().endpoints.is_empty());

    let create = endpoint("20.1.1.1/32", &json!({}));
    plugin.call("NetworkDriver.CreateEndpoint", create).await;
    let program = json!({"NetworkID": DOCKER_NETWORK, "EndpointID": ENDPOINT, "Options": bindings});
    let error = plugin
        .refused("NetworkDriver.ProgramExternalConnectivity", program)
        .await;
    assert!(error.contains("doesn't publish ports"), "{error}");
}

#[tokio::test]
async fn networks_made_by_hand_stand_for_the_one_that_is_meant() {
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
async fn what_stands_for_nothing_is_refused_with_what_to_type() {
    let (_folder, plugin) = plugin();
    let pool = |options: Value, subnet: &str, range: &str| json!({"AddressSpace": "contiv", "Pool": subnet, "SubPool": range, "Options": options});
    for (request, says) in [
        (pool(Value::Null, "", ""), "--ipam-opt contiv.network=NET"),
        (
            pool(options("default", "nope"), "", ""),
            "`netctl net create nope -t default --subnet=CIDR`",
        ),
        (
            pool(options("nobody", "web"), "", ""),
            "tenant nobody doesn't exist",
        ),
        (
            pool(options("a.b", "web"), "", ""),
            "option contiv.tenant: `a.b` holds `.`",
        ),
        (
            pool(json!({"contiv.tenant": "blue"}), "", ""),
            "contiv.tenant needs contiv.network=NET",
        ),
        (
            pool(Value::Null, "20.9.0.0/16", ""),
            "no contiv network has the subnet 20.9.0.0/16",
        ),
        (
            pool(Value::Null, "20.1.1.0/24", ""),
            "blue/web, default/contiv-net",
        ),
        (
            pool(options("default", "other"), "20.1.1.0/24", ""),
            "has the subnet 20.1.2.0/24, not 20.1.1.0/24",
        ),
        (
            pool(Value::Null, "20.1.2.0/24", "20.1.2.0/28"),
            "leave --ip-range out",
        ),
        (
            pool(Value::Null, "not a subnet", ""),
            "`not a subnet` as a subnet",
        ),
        (
            pool(
                json!({"contiv.network": "other", "contiv.group": "g"}),
                "",
                "",
            ),
            "has no group g on this node",
        ),
    ] {
        let error = plugin
            .refused("IpamDriver.RequestPool", request.clone())
            .await;
        assert!(error.contains(says), "{request}: {error}");
    }
    let v6 = json!({"AddressSpace": "contiv", "V6": true, "Options": options("default", "other")});
    let error = plugin.refused("IpamDriver.RequestPool", v6).await;
    assert!(error.contains("has no IPv6 subnet"), "{error}");

    let foreign = creation(&options("default", "contiv-net"), "172.18.0.0/16");
    let error = plugin.refused("NetworkDriver.CreateNetwork", foreign).await;
    assert!(error.contains("--ipam-driver contiv"), "{error}");
    let mut internal = creation(&options("default", "contiv-net"), "20.1.1.0/24");
    internal["Options"]["com.docker.network.internal"] = json!(true);
    let error = plugin
        .refused("NetworkDriver.CreateNetwork", internal)
        .await;
    assert!(error.contains("--internal"), "{error}");

    let error = plugin
        .refused(
            "NetworkDriver.CreateEndpoint",
            endpoint("20.1.1.1/32", &json!({})),
        )
        .await;
    assert!(error.contains("doesn't know the Docker network"), "{error}");
    with_network(&plugin).await;
    let mut mac = endpoint("20.1.1.1/32", &json!({}));
    mac["Interface"]["MacAddress"] = json!("02:42:ac:11:00:02");
    let error = plugin.refused("NetworkDriver.CreateEndpoint", mac).await;
    assert!(
        error.contains("leave --mac-address=02:42:ac:11:00:02 out"),
        "{error}"
    );
    let error = plugin.refused("NetworkDriver.Join", reference()).await;
    assert!(error.contains("start the container again"), "{error}");
    let gateway = json!({"PoolID": "v4:default/contiv-net", "Address": "20.1.1.1", "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    let error = plugin.refused("IpamDriver.RequestAddress", gateway).await;
    assert!(error.contains("gateway is 20.1.1.254"), "{error}");
    let error = plugin
        .refused("NetworkDriver.AllocateNetwork", json!({}))
        .await;
    assert!(error.contains("swarm"), "{error}");
}

#[tokio::test]
async fn an_address_in_use_is_refused_and_a_freed_one_is_not() {
    let (_folder, plugin) = plugin();
    let ask = json!({"PoolID": "v4:default/contiv-net", "Address": "20.1.1.9", "Options": {}});
    let given = plugin.call("IpamDriver.RequestAddress", ask.clone()).await;
    assert_eq!(given["Address"], "20.1.1.9/32");
    let error = plugin
        .refused("IpamDriver.RequestAddress", ask.clone())
        .await;
    assert!(error.contains("20.1.1.9 is in use"), "{error}");
    let release = json!({"PoolID": "v4:default/contiv-net", "Address": "20.1.1.9/32"});
    plugin.call("IpamDriver.ReleaseAddress", release).await;
    plugin.call("IpamDriver.RequestAddress", ask).await;
}

#[tokio::test]
async fn garbage_is_answered_and_the_next_call_works() {
    let (_folder, plugin) = plugin();
    for body in [
        "",
        "{",
        "null",
        "[]",
        "{\"NetworkID\": 7}",
        "\u{0}\u{1}",
        "\"text\"",
    ] {
        for call in [
            "NetworkDriver.CreateNetwork",
            "NetworkDriver.CreateEndpoint",
            "NetworkDriver.Join",
            "NetworkDriver.DeleteEndpoint",
            "IpamDriver.RequestAddress",
            "IpamDriver.ReleaseAddress",
        ] {
            let (_, answer) = plugin.send(call, body).await;
            let error = answer["Err"].as_str().unwrap_or_default();
            assert!(error.contains("can't be read"), "{call} {body:?}: {answer}");
        }
    }
    for pool in [
        "",
        "v4",
        "v4:",
        "v5:default/other",
        "v4:default",
        "v4:a/b/c/d",
        "v4:../etc/passwd",
    ] {
        let ask = json!({"PoolID": pool, "Address": ""});
        let error = plugin.refused("IpamDriver.RequestAddress", ask).await;
        assert!(
            error.contains("wasn't given out by contiv"),
            "{pool}: {error}"
        );
    }
    let (status, answer) = plugin.send("NetworkDriver.Fly", "{}").await;
    assert_eq!(status, 404, "{answer}");
    plugin.call("Plugin.Activate", json!({})).await;
}

#[tokio::test]
async fn a_call_is_answered_in_time_when_nothing_else_answers() {
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
async fn a_netplugin_that_starts_again_knows_the_docker_networks() {
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
    assert!(error.contains("doesn't know the Docker network"), "{error}");
    with_network(&plugin).await;
}

#[tokio::test]
async fn two_netplugins_do_not_share_a_socket() {
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
