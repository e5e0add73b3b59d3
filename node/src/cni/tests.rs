//! Tests that calls are parsed and answered as the specification demands.

use bus_schema::GroupName;
use serde_json::{Value, json};

use super::outcome::{self, AttachedInterface, Observed};
use super::protocol::{Call, Command, Failure, NetworkConfig};
use super::target::{AttachTarget, EnvironmentArgs, endpoint_id};
use crate::endpoint::Attachment;
use crate::endpoint::fixture::{endpoint, ip};
use node_datapath::PeerState;
use node_dns::DEFAULT_SUFFIX;

fn call(config: Value) -> Call {
    let mut config = config;
    config["cniVersion"] = json!("1.1.0");
    if config.get("name").is_none() {
        config["name"] = json!("web");
    }
    Call {
        command: Command::Add,
        container: "c1".to_owned(),
        netns: "/run/netns/c1".to_owned(),
        interface: "eth0".to_owned(),
        args: String::new(),
        config,
    }
}

fn config(config: Value) -> NetworkConfig {
    call(config).config().unwrap()
}

/// Every network has the groups `api` and `g`.
fn target(of: Value, args: &str) -> Result<AttachTarget, Failure> {
    let args = EnvironmentArgs::parse(args)?;
    AttachTarget::of(&config(of), &args, "c1", &|_, group| {
        ["api", "g"].contains(&group.as_str())
    })
}

/// `TENANT/NETWORK GROUP NAME`.
fn shown(of: Value, args: &str) -> String {
    let target = target(of, args).unwrap();
    let to = target.destination;
    let group = to.group.as_ref().map_or("-", GroupName::as_str);
    let name = target.name.unwrap_or_default();
    format!("{}/{} {group} {name}", to.tenant, to.network)
}

const K8S_ARGS: &str =
    "IgnoreUnknown=1;K8S_POD_NAMESPACE=blue;K8S_POD_NAME=web-0;K8S_POD_INFRA_CONTAINER_ID=c1";
const NOMAD_ARGS: &str =
    "IgnoreUnknown=true;NOMAD_NAMESPACE=blue;NOMAD_GROUP_NAME=api;NOMAD_JOB_ID=j";
const OWN_ARGS: &str = "CONTIV_TENANT=red;CONTIV_NETWORK=db;CONTIV_GROUP=g;CONTIV_NAME=n";

#[test]
fn configuration_decides_and_listed_variables_fill_in_the_rest() {
    let own = ["CONTIV_TENANT", "CONTIV_NETWORK", "CONTIV_GROUP"];
    let task_group = ["NOMAD_GROUP_NAME"];
    for (of, args, is) in [
        (json!({}), "", "default/web - c1"),
        (json!({"name": "front.web"}), "", "default/web front c1"),
        (
            json!({"network": "db", "group": "g"}),
            "",
            "default/db g c1",
        ),
        (
            json!({"tenant": "red", "containerName": "n"}),
            "",
            "red/web - n",
        ),
        (
            json!({"network": null, "allowArgs": own}),
            OWN_ARGS,
            "red/db g n",
        ),
        (
            json!({"allowArgs": own}),
            "CONTIV_NETWORK=g.db",
            "default/db g c1",
        ),
        (
            json!({"network": "db", "tenant": "red", "group": "g"}),
            OWN_ARGS,
            "red/db g n",
        ),
        (json!({}), K8S_ARGS, "blue/web - web-0"),
        (json!({"tenant": "red"}), K8S_ARGS, "red/web - web-0"),
        (
            json!({"allowArgs": task_group}),
            NOMAD_ARGS,
            "blue/web api api",
        ),
        (json!({"group": ""}), NOMAD_ARGS, "blue/web - api"),
        (
            json!({"group": "g", "allowArgs": task_group}),
            NOMAD_ARGS,
            "blue/web g api",
        ),
    ] {
        assert_eq!(shown(of.clone(), args), is, "{of} {args}");
    }
}

#[test]
fn unlisted_variables_that_change_nothing_are_ignored() {
    for (of, args, is) in [
        (json!({}), "CONTIV_TENANT=default", "default/web - c1"),
        (json!({}), "CONTIV_NETWORK=web", "default/web - c1"),
        (
            json!({"name": "front.web"}),
            "CONTIV_GROUP=front",
            "default/web front c1",
        ),
        (
            json!({}),
            "NOMAD_NAMESPACE=blue;CONTIV_TENANT=blue",
            "blue/web - c1",
        ),
        // The network has no such group.
        (json!({}), "NOMAD_GROUP_NAME=jobs", "default/web - jobs"),
    ] {
        assert_eq!(shown(of.clone(), args), is, "{of} {args}");
    }
}

#[test]
fn unlisted_variable_that_would_change_the_destination_is_refused() {
    for (of, args, says) in [
        (
            json!({}),
            "CONTIV_TENANT=red",
            ["CONTIV_TENANT", r#"key "tenant""#, "tenant red"],
        ),
        (
            json!({}),
            "CONTIV_NETWORK=db",
            ["CONTIV_NETWORK", r#"key "network""#, "network db"],
        ),
        (
            json!({}),
            "CONTIV_GROUP=g",
            ["CONTIV_GROUP", r#"key "group""#, "group g"],
        ),
        (
            json!({"allowArgs": ["CONTIV_TENANT", "CONTIV_NETWORK"]}),
            OWN_ARGS,
            ["CONTIV_GROUP", r#"key "group""#, "no group"],
        ),
        (
            json!({}),
            NOMAD_ARGS,
            ["NOMAD_GROUP_NAME", r#"key "group""#, "group api"],
        ),
        // The name of a network may contain a group.
        (
            json!({"allowArgs": ["CONTIV_NETWORK"]}),
            "CONTIV_NETWORK=g.web",
            ["CONTIV_NETWORK", "list CONTIV_GROUP", "group g"],
        ),
        (
            json!({}),
            "NOMAD_NAMESPACE=blue;NOMAD_NAMESPACE=red",
            ["NOMAD_NAMESPACE", "blue", "red"],
        ),
    ] {
        let failure = target(of.clone(), args).unwrap_err();
        assert_eq!(failure.code, 4, "{of} {args}: {failure}");
        for part in says {
            assert!(failure.details.contains(part), "{part}: {failure}");
        }
    }
    let failure = target(json!({"allowArgs": ["CONTIV_NAME"]}), "").unwrap_err();
    assert_eq!(failure.code, 7);
    assert!(failure.details.contains("CONTIV_TENANT"), "{failure}");
}

#[test]
fn cni_args_change_no_value_of_the_configuration() {
    for (of, args, names) in [
        (json!({"tenant": "blue"}), "CONTIV_TENANT=red", "tenant"),
        (json!({"network": "web"}), "CONTIV_NETWORK=db", "network"),
        (json!({"name": "front.web"}), "CONTIV_GROUP=g", "group"),
        (json!({"group": ""}), "CONTIV_GROUP=g", "group"),
    ] {
        let variable = args.split('=').next().unwrap();
        for listed in [json!([]), json!([variable])] {
            let mut of = of.clone();
            of["allowArgs"] = listed;
            let failure = target(of, args).unwrap_err();
            assert_eq!(failure.code, 4, "{failure}");
            let says = format!("sets {names} to");
            assert!(failure.details.contains(&says), "{failure}");
            assert!(failure.details.contains(variable), "{failure}");
        }
    }
}

#[test]
fn bad_calls_have_the_codes_of_the_specification() {
    let of = |change: fn(&mut Call)| {
        let mut call = call(json!({}));
        change(&mut call);
        let checked = call.check().and_then(|()| call.config());
        let failure = checked.and_then(|it| EnvironmentArgs::parse(&call.args).map(|_| it));
        failure.map(|_| ()).unwrap_err()
    };
    for (failure, code, says) in [
        (
            of(|it| it.container = "/etc".into()),
            4,
            vec!["CNI_CONTAINERID"],
        ),
        (
            of(|it| {
                it.container.clear();
                it.netns.clear();
                it.interface = "longer-than-fifteen".into();
            }),
            4,
            vec!["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
        ),
        (of(|it| it.interface = "a/b".into()), 4, vec!["CNI_IFNAME"]),
        (
            of(|it| it.config["cniVersion"] = "0.3.1".into()),
            1,
            vec!["0.3.1", "1.1.0"],
        ),
        (
            of(|it| it.config["runtimeConfig"] = 3.into()),
            6,
            vec!["invalid type"],
        ),
        (
            of(|it| it.args = "FOO=1".into()),
            4,
            vec!["CNI_ARGS", "FOO"],
        ),
        (of(|it| it.args = "FOO".into()), 4, vec!["CNI_ARGS", "FOO"]),
        (
            of(|it| it.args = "IgnoreUnknown=x".into()),
            4,
            vec!["IgnoreUnknown"],
        ),
    ] {
        assert_eq!(failure.code, code, "{failure}");
        for part in says {
            assert!(failure.details.contains(part), "{failure}");
        }
    }
    let mut bare = call(json!({}));
    (bare.command, bare.netns) = (Command::Del, String::new());
    bare.check().unwrap();
}

#[test]
fn unsupported_fields_are_refused_with_key_and_value() {
    for (of, says) in [
        (
            json!({"ipam": {"type": "host-local"}}),
            r#"ipam: {"type":"host-local"}"#,
        ),
        (json!({"ipMasq": true}), "ipMasq: true"),
        (
            json!({"runtimeConfig": {"mac": "02:00:00:00:00:09"}}),
            "runtimeConfig.mac: ",
        ),
        (
            json!({"runtimeConfig": {"portMappings": [{"hostPort": 80}]}}),
            r#"runtimeConfig.portMappings: [{"hostPort":80}]"#,
        ),
    ] {
        let failure = target(of, "").unwrap_err();
        assert_eq!(failure.code, 2);
        assert!(failure.details.contains(says), "{failure}");
    }
    for fine in [
        json!({"ipam": {}, "ipMasq": false}),
        json!({"runtimeConfig": {"portMappings": []}, "unknown": 1}),
    ] {
        target(fine, "").unwrap();
    }
    assert_eq!(target(json!({"network": "a b"}), "").unwrap_err().code, 7);
}

#[test]
fn requested_address_is_of_the_capability_then_args_then_cni_args() {
    let capability = json!({"ips": ["10.0.0.7/24"]});
    let args = json!({"cni": {"ips": ["10.0.0.8"]}});
    for (of, is) in [
        (
            json!({"runtimeConfig": capability, "args": args}),
            "10.0.0.7",
        ),
        (json!({"args": args}), "10.0.0.8"),
        (json!({}), "10.0.0.9"),
    ] {
        let target = target(of, "IP=10.0.0.9/24").unwrap();
        assert_eq!(target.addresses, [ip(is)]);
    }
    let failure = target(json!({}), "IP=here").unwrap_err();
    assert_eq!(failure.code, 7);
}

#[test]
fn aliases_are_a_list_or_a_map_by_network() {
    let aliases = |of: Value| {
        let config = config(json!({"runtimeConfig": {"aliases": of}}));
        config.aliases().to_vec()
    };
    assert_eq!(aliases(json!(["db", "main-db"])), ["db", "main-db"]);
    let of_podman = json!({"web": ["db", "main-db"], "other": ["foreign"]});
    assert_eq!(aliases(of_podman), ["db", "main-db"]);
    for none in [
        json!([]),
        json!({}),
        json!({"other": ["foreign"]}),
        json!(null),
    ] {
        assert!(aliases(none.clone()).is_empty(), "{none}");
    }
    let call = call(json!({"runtimeConfig": {"aliases": 3}}));
    let failure = call.config().unwrap_err();
    assert!(failure.details.contains("a list of names"), "{failure}");
}

#[test]
fn endpoint_id_is_of_the_container_and_the_interface() {
    let id = |container, interface| endpoint_id(container, interface).unwrap();
    assert_eq!(id("c1", "eth0"), id("c1", "eth0"));
    assert_ne!(id("c1", "eth0"), id("c1", "eth1"));
    assert_ne!(id("c1", "eth0"), id("c2", "eth0"));
}

fn peer() -> PeerState {
    let host = "10.0.0.20/32".parse().unwrap();
    PeerState {
        mac: endpoint("e1", "10.0.0.20").mac,
        up: true,
        addresses: vec![host],
        routes: vec![
            ("10.0.0.1/32".parse().unwrap(), None),
            ("0.0.0.0/0".parse().unwrap(), Some(ip("10.0.0.1"))),
        ],
    }
}

fn success(of: Value) -> Value {
    let call = call(of);
    let attachment = Attachment {
        endpoint: endpoint("e1", "10.0.0.20"),
        gateways: vec![ip("10.0.0.1")],
        mtu: 1450,
    };
    let config = call.config().unwrap();
    let attached = AttachedInterface {
        attachment: &attachment,
        host_netns: "/run/netns/d",
        peer: &peer(),
        suffix: DEFAULT_SUFFIX,
    };
    let success = outcome::success(&call, &config, &attached);
    serde_json::to_value(success).unwrap()
}

#[test]
fn add_returns_interfaces_addresses_routes_and_dns() {
    let made = endpoint("e1", "10.0.0.20");
    assert_eq!(
        success(json!({})),
        json!({
            "cniVersion": "1.1.0",
            "interfaces": [
                {"name": made.host_interface, "mac": "02:01:00:00:00:01", "mtu": 1450,
                 "sandbox": "/run/netns/d"},
                {"name": "eth0", "mac": made.mac.to_string(), "mtu": 1450,
                 "sandbox": "/run/netns/c1"},
            ],
            "ips": [{"address": "10.0.0.20/32", "gateway": "10.0.0.1", "interface": 1}],
            "routes": [
                {"dst": "10.0.0.1/32"},
                {"dst": "0.0.0.0/0", "gw": "10.0.0.1"},
            ],
            "dns": {"nameservers": ["10.0.0.1"], "search": ["contiv.local"]},
        })
    );
    let dns = json!({"nameservers": ["9.9.9.9"], "search": ["a.b"], "options": ["ndots:5"]});
    assert_eq!(success(json!({"dns": dns}))["dns"], dns);
}

#[test]
fn add_keeps_the_result_of_previous_plugins() {
    let before = json!({
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "lo", "sandbox": "/run/netns/c1", "pciID": "p"}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0, "version": "4"}],
        "routes": [{"dst": "10.9.0.0/16", "priority": 9}],
        "dns": {"nameservers": ["9.9.9.9"]},
        "newer": {"a": 1},
    });
    let all = success(json!({"prevResult": before}));
    for (list, ours) in [("interfaces", 2), ("ips", 1), ("routes", 2)] {
        assert_eq!(all[list][0], before[list][0]);
        assert_eq!(all[list].as_array().map(Vec::len), Some(1 + ours));
    }
    assert_eq!(all["ips"][1]["interface"], 2);
    assert_eq!(all["newer"], before["newer"]);
    assert_eq!(all["dns"]["nameservers"], json!(["10.0.0.1", "9.9.9.9"]));
}

#[test]
fn check_reports_each_difference_and_accepts_changes_of_later_plugins() {
    let endpoint = endpoint("e1", "10.0.0.20");
    let mut peer = peer();
    let mut result = success(json!({}));
    let check = |peer: Option<&PeerState>, result: &Value, host_up| {
        let call = call(json!({"prevResult": result}));
        let observed = Observed {
            endpoint: &endpoint,
            peer,
            host_up,
            failed: None,
        };
        outcome::check(&call, &call.config().unwrap(), &observed)
    };
    check(Some(&peer), &result, Some(true)).unwrap();
    for (peer, host_up, says) in [
        (None, Some(true), "no interface eth0"),
        (Some(peer.clone()), None, "is gone"),
        (Some(peer.clone()), Some(false), "is down"),
        (
            Some(PeerState {
                up: false,
                ..peer.clone()
            }),
            Some(true),
            "eth0 is down",
        ),
        (
            Some(PeerState {
                addresses: Vec::new(),
                ..peer.clone()
            }),
            Some(true),
            "lacks the address 10.0.0.20",
        ),
        (
            Some(PeerState {
                routes: Vec::new(),
                ..peer.clone()
            }),
            Some(true),
            "has no route",
        ),
    ] {
        let failure = check(peer.as_ref(), &result, host_up).unwrap_err();
        assert_eq!(failure.code, Failure::NOT_AS_CREATED_CODE);
        assert!(failure.details.contains(says), "{failure}");
    }
    peer.mac = bus_schema::MacAddr([2, 9, 9, 9, 9, 9]);
    assert!(check(Some(&peer), &result, Some(true)).is_err());
    result["interfaces"][1]["mac"] = peer.mac.to_string().into();
    check(Some(&peer), &result, Some(true)).unwrap();
    result["ips"] = json!([]);
    assert!(check(Some(&peer), &result, Some(true)).is_err());
}

#[test]
fn check_without_the_previous_result_is_refused() {
    let (endpoint, peer) = (endpoint("e1", "10.0.0.20"), peer());
    let without = call(json!({}));
    let observed = Observed {
        endpoint: &endpoint,
        peer: Some(&peer),
        host_up: Some(true),
        failed: None,
    };
    let failure = outcome::check(&without, &without.config().unwrap(), &observed).unwrap_err();
    assert_eq!(failure.code, 7, "{failure}");
}
