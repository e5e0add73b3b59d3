//! Tests the errors that the plugin returns and the engine shows to users. No engine runs here.

use serde_json::{Value, json};

use crate::support::requests::{
    DOCKER_NETWORK_ID, ENDPOINT_ID, creation, endpoint, options, plugin, reference, with_network,
};

#[tokio::test]
async fn unread_log_makes_no_name_unknown() {
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
async fn published_ports_are_refused_with_the_reason() {
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
    let program =
        json!({"NetworkID": DOCKER_NETWORK_ID, "EndpointID": ENDPOINT_ID, "Options": bindings});
    let error = plugin
        .refused("NetworkDriver.ProgramExternalConnectivity", program)
        .await;
    assert!(error.contains("doesn't publish ports"), "{error}");
}

#[tokio::test]
async fn bad_pool_requests_are_refused_with_the_command_to_type() {
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
}

#[tokio::test]
async fn bad_pool_requests_are_refused_with_the_lines_of_a_compose_file() {
    let (_folder, plugin) = plugin();
    // A compose file can send no options of its pool.
    for (subnet, works) in [
        ("", "`ipam: {driver: contiv, config: [{subnet: CIDR}]}`"),
        ("20.9.0.0/16", "in a compose file only its subnet names it"),
        ("20.1.1.0/24", "with `external: true`"),
    ] {
        let request = json!({"AddressSpace": "contiv", "Pool": subnet, "SubPool": ""});
        let error = plugin.refused("IpamDriver.RequestPool", request).await;
        assert!(error.contains(works), "{error}");
    }
}

#[tokio::test]
async fn bad_network_and_endpoint_requests_are_refused_with_the_command_to_type() {
    let (_folder, plugin) = plugin();
    let foreign = creation(&options("default", "contiv-net"), "172.18.0.0/16");
    let error = plugin.refused("NetworkDriver.CreateNetwork", foreign).await;
    for works in ["--ipam-driver contiv", "`ipam: {driver: contiv, "] {
        assert!(error.contains(works), "{error}");
    }
    let mut internal = creation(&options("default", "contiv-net"), "20.1.1.0/24");
    internal["Options"]["com.docker.network.internal"] = json!(true);
    let error = plugin
        .refused("NetworkDriver.CreateNetwork", internal)
        .await;
    let remedy = "`netctl net update contiv-net -t default --egress=none`";
    assert!(error.contains(remedy), "{error}");

    let error = plugin
        .refused(
            "NetworkDriver.CreateEndpoint",
            endpoint("20.1.1.1/32", &json!({})),
        )
        .await;
    assert!(
        error.contains("has no record of the Docker network"),
        "{error}"
    );
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
async fn address_in_use_is_refused_until_it_is_released() {
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
            assert!(error.contains("can't parse"), "{call} {body:?}: {answer}");
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
            error.contains("contiv didn't create pool"),
            "{pool}: {error}"
        );
    }
    let (status, answer) = plugin.send("NetworkDriver.Fly", "{}").await;
    assert_eq!(status, 404, "{answer}");
    plugin.call("Plugin.Activate", json!({})).await;
}
