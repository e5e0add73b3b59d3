//! CNI: real runtimes on two hosts, and each call of the specification.

use chaos_tests::{Outcome, WAIT_TIMEOUT, create};
use lab::{Error, Lab, Output, Signal, Spec, poll, wait_until};
use serde_json::{Value, json};

const NETWORK_LIST: &str = r#"{"cniVersion": "1.0.0", "name": "contiv-net", "plugins": [
  {"type": "contiv-cni", "tenant": "default", "network": "contiv-net", "capabilities": {"aliases": true}},
  {"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}
]}"#;
const GROUP_LIST: &str = r#"{"cniVersion": "1.0.0", "name": "web.contiv-net", "plugins": [
  {"type": "contiv-cni"}
]}"#;
const LISTS: [(&str, &str); 2] = [
    ("10-net.conflist", NETWORK_LIST),
    ("20-web.conflist", GROUP_LIST),
];

/// podman on node-1 and containerd on node-2: their containers have names, routes and policies like
/// Docker's, through a chain with another plugin.
#[test]
fn containers_of_podman_and_containerd_have_names_and_policies() -> Outcome {
    let mut lab = Lab::up(&Spec::test(2))?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.netctl_ok(&["policy", "create", "quiet"])?;
    let deny = ["-direction=in", "-protocol=icmp", "-action=deny"];
    lab.netctl_ok(&[&["policy", "rule-add", "quiet", "1"][..], &deny].concat())?;
    lab.netctl_ok(&["group", "create", "contiv-net", "web", "-policy=quiet"])?;
    for node in lab.nodes() {
        lab.prepare_cni(&node, &LISTS)?;
    }
    lab.start_containerd("node-2")?;

    lab.podman_run(
        "node-1",
        "contiv-net:alias=shop",
        "front",
        &["sleep", "1000"],
    )?;
    lab.podman_run("node-1", "web.contiv-net", "hidden", &["sleep", "1000"])?;
    lab.ctr_run("node-2", "back", &["/bin/sleep", "1000"])?;

    let inside = |argv: &[&str]| lab.exec("node-1", &[&["podman", "exec"], argv].concat());
    // containerd passes its namespace with the container's name.
    wait_until("front reaches back by name", WAIT_TIMEOUT, || {
        inside(&["front", "ping", "-c1", "-W2", "default-back"]).is_ok_and(|it| it.success())
    })?;
    let tuned = inside(&["front", "cat", "/proc/sys/net/core/somaxconn"])?;
    assert_eq!(tuned.stdout.trim(), "500");
    let back = address(&lab, "default-back")?;
    let in_ctr = |to: &str| {
        let ping = ["/bin/ping", "-c1", "-W2", to];
        let exec = ["ctr", "task", "exec", "--exec-id", "x", "back"];
        lab.exec("node-2", &[&exec[..], &ping].concat())
    };
    assert!(in_ctr(&address(&lab, "front")?)?.success());
    assert!(!in_ctr(&address(&lab, "hidden")?)?.success(), "denied");
    let shop = inside(&["front", "nslookup", "shop"])?;
    assert!(shop.text().contains(&address(&lab, "front")?), "{shop:?}");
    assert!(inside(&["hidden", "ping", "-c1", "-W2", &back])?.success());

    lab.run("node-1", &["podman", "rm", "-f", "-t0", "front", "hidden"])?;
    assert_eq!(lab.status("node-1")?["endpoints"], 0);
    // `ctr` doesn't detach a container that runs in the background; the node does.
    lab.run("node-2", &["ctr", "task", "rm", "-f", "back"])?;
    wait_until(
        "the endpoint without a namespace is detached",
        WAIT_TIMEOUT,
        || lab.status("node-2").is_ok_and(|it| it["endpoints"] == 0),
    )
}

fn address(lab: &Lab, name: &str) -> Result<String, Error> {
    poll("the endpoint is listed", WAIT_TIMEOUT, || {
        let text = lab.netctl_ok(&["endpoint", "ls", "-o", "json"]).ok()?;
        let all: Vec<Value> = serde_json::from_str(&text).ok()?;
        let found = all.iter().find(|it| it["Oper"]["containerName"] == name)?;
        found["Oper"]["ipAddress"][0].as_str().map(str::to_owned)
    })
}

/// A container on node-1 for which the test makes the CNI calls.
struct Container<'a> {
    lab: &'a Lab,
    id: &'a str,
    config: Value,
}

impl<'a> Container<'a> {
    fn new(lab: &'a Lab, id: &'a str) -> Result<Self, Error> {
        lab.run("node-1", &["ip", "netns", "add", id])?;
        let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "contiv-cni"});
        Ok(Self { lab, id, config })
    }

    fn call(&self, command: &str) -> Result<Output, Error> {
        self.call_with(command, &self.config)
    }

    fn call_with(&self, command: &str, config: &Value) -> Result<Output, Error> {
        let (command, id) = (format!("CNI_COMMAND={command}"), self.id);
        let script = format!(
            "printf %s \"$1\" | env {command} CNI_CONTAINERID={id} CNI_IFNAME=eth0 \
             CNI_NETNS=/run/netns/{id} contiv-cni"
        );
        let config = config.to_string();
        self.lab
            .exec("node-1", &["sh", "-c", &script, "sh", &config])
    }

    /// Makes a call that must succeed, and returns its output.
    fn done(&self, command: &str) -> Result<Value, Error> {
        let output = self.call(command)?;
        assert!(output.success(), "{command}: {}", output.text());
        Ok(serde_json::from_str(&output.stdout).unwrap_or_default())
    }

    fn code(&self, command: &str) -> Result<u64, Error> {
        code(&self.call(command)?)
    }

    fn vanish(&self) -> Outcome {
        let argv = ["ip", "netns", "del", self.id];
        self.lab.run("node-1", &argv).map(drop)
    }
}

/// The error code of a failed call; 0: it succeeded.
fn code(output: &Output) -> Result<u64, Error> {
    let error: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    assert_eq!(output.success(), error["code"].is_null(), "{output:?}");
    Ok(error["code"].as_u64().unwrap_or_default())
}

fn one_node() -> Result<Lab, Error> {
    let lab = Lab::up(&Spec::test(1))?;
    create(&lab, "net", "20.1.1.0/24")?;
    Ok(lab)
}

#[test]
fn calls_can_be_repeated() -> Outcome {
    let lab = one_node()?;
    let mut it = Container::new(&lab, "c1")?;
    it.done("DEL")?;
    let first = it.done("ADD")?;
    assert_eq!(it.done("ADD")?, first);
    it.config["prevResult"] = first.clone();
    it.done("CHECK")?;
    it.done("DEL")?;
    it.done("DEL")?;
    assert_eq!(it.code("CHECK")?, 3);
    // The namespace stays, and its next container gets the interface again.
    assert_eq!(
        lab.status("node-1")?["endpoints"],
        0,
        "nothing is left of it"
    );
    it.config["prevResult"] = Value::Null;
    assert_ne!(it.done("ADD")?["ips"], first["ips"], "the address rests");
    // A host that crashed called no DEL: the container comes back in a new namespace.
    it.vanish()?;
    let mut again = Container::new(&lab, "c1")?;
    again.config["prevResult"] = again.done("ADD")?;
    again.done("CHECK")?;
    assert_eq!(lab.status("node-1")?["endpoints"], 1);
    default_route_gives_way(&lab)
}

/// In a network without a way out the default route has a metric, so that another plugin's has
/// precedence, and the result doesn't name it.
fn default_route_gives_way(lab: &Lab) -> Outcome {
    let net = [
        "net",
        "create",
        "closed",
        "-s",
        "20.1.2.0/24",
        "--egress=none",
    ];
    lab.netctl_ok(&net)?;
    let mut it = Container::new(lab, "c2")?;
    it.config["name"] = json!("closed");
    let added = it.done("ADD")?;
    let routes = added["routes"].as_array().cloned().unwrap_or_default();
    let mut to: Vec<_> = routes.iter().filter_map(|it| it["dst"].as_str()).collect();
    to.sort_unstable();
    assert_eq!(to, ["20.1.2.0/24", "20.1.2.1/32"], "{added}");
    let shown = ["ip", "-n", "c2", "route", "show", "default"];
    let default = lab.run("node-1", &shown)?.stdout;
    assert!(default.contains(" metric 1073"), "{default}");
    it.config["prevResult"] = added;
    it.done("CHECK")?;
    it.done("DEL").map(drop)
}

#[test]
fn errors_have_the_numbers_of_the_specification() -> Outcome {
    let lab = one_node()?;
    let mut it = Container::new(&lab, "c1")?;
    let link = [
        "ip", "-n", "c1", "link", "add", "eth0", "type", "veth", "peer", "name", "x",
    ];
    lab.run("node-1", &link)?;
    assert_eq!(it.code("ADD")?, 4, "the interface is there already");
    lab.run("node-1", &["ip", "-n", "c1", "link", "del", "eth0"])?;
    it.config["network"] = "nobodys".into();
    assert_eq!(it.code("ADD")?, 7);
    assert_eq!(it.code("STATUS")?, 0, "the tenant is left open");
    it.config["tenant"] = "default".into();
    assert_eq!(it.code("STATUS")?, 50);
    it.config["network"] = "net".into();
    assert_eq!(it.code("STATUS")?, 0);
    it.config["group"] = "nobodys".into();
    assert_eq!(it.code("ADD")?, 7);
    it.config["cniVersion"] = "0.2.0".into();
    assert_eq!(it.code("ADD")?, 1);
    let versions = it.done("VERSION")?;
    assert_eq!(versions["cniVersion"], "0.2.0");
    assert_eq!(versions["supportedVersions"], json!(["1.0.0", "1.1.0"]));
    it.vanish()?;
    it.config["cniVersion"] = "1.1.0".into();
    it.config["group"] = Value::Null;
    assert_eq!(it.code("ADD")?, 3);
    assert_eq!(lab.status("node-1")?["endpoints"], 0);
    Ok(())
}

#[test]
fn concurrent_calls_get_different_addresses() -> Outcome {
    let lab = one_node()?;
    let names: Vec<String> = (0..12).map(|number| format!("c{number}")).collect();
    let containers: Vec<Container> = names
        .iter()
        .map(|name| Container::new(&lab, name))
        .collect::<Result<_, _>>()?;
    let each = |command: &'static str| -> Result<Vec<Value>, Error> {
        std::thread::scope(|scope| {
            let calls: Vec<_> = containers
                .iter()
                .map(|it| scope.spawn(move || it.done(command)))
                .collect();
            let joined = calls.into_iter().map(|it| it.join().expect("no panic"));
            joined.collect()
        })
    };
    let results = each("ADD")?;
    let addresses: std::collections::BTreeSet<&str> = results
        .iter()
        .filter_map(|it| it["ips"][0]["address"].as_str())
        .collect();
    assert_eq!(addresses.len(), names.len(), "{addresses:?}");
    each("DEL")?;
    assert_eq!(lab.status("node-1")?["endpoints"], 0);
    Ok(())
}

#[test]
fn del_succeeds_without_namespace_and_fails_without_netplugin() -> Outcome {
    let mut lab = one_node()?;
    for name in ["lost", "kept", "forced"] {
        Container::new(&lab, name)?.done("ADD")?;
    }
    lab.stop("netplugin@node-1", Signal::Term)?;
    let of = |lab: &Lab, id: &str, command: &str| {
        let config = json!({"cniVersion": "1.1.0", "name": "net", "type": "contiv-cni"});
        let it = Container { lab, id, config };
        it.code(command)
    };
    assert_eq!(of(&lab, "kept", "DEL")?, 11);
    assert_eq!(of(&lab, "kept", "ADD")?, 11);
    assert_eq!(of(&lab, "kept", "STATUS")?, 51);
    lab.run("node-1", &["ip", "netns", "del", "lost"])?;
    assert_eq!(of(&lab, "lost", "DEL")?, 0);
    lab.start("netplugin@node-1")?;
    lab.await_node("node-1")?;
    wait_until("the lost endpoint is detached", WAIT_TIMEOUT, || {
        lab.status("node-1").is_ok_and(|it| it["endpoints"] == 2)
    })?;
    assert_eq!(of(&lab, "kept", "DEL")?, 0);
    lab.netctl_ok(&["net", "rm", "net", "--force"])?;
    lab.run("node-1", &["ip", "netns", "del", "forced"])?;
    assert_eq!(of(&lab, "forced", "DEL")?, 0);
    assert_eq!(lab.status("node-1")?["endpoints"], 0);
    Ok(())
}

#[test]
fn gc_detaches_attachments_that_the_call_does_not_name() -> Outcome {
    let lab = one_node()?;
    let valid = Container::new(&lab, "valid")?;
    let stale = Container::new(&lab, "stale")?;
    let mut other = Container::new(&lab, "other")?;
    other.config["network"] = "net".into();
    other.config["name"] = "another-configuration".into();
    for it in [&valid, &stale, &other] {
        it.done("ADD")?;
    }
    assert_eq!(valid.code("GC")?, 7, "nobody said what is valid");
    let mut config = valid.config.clone();
    config["cni.dev/valid-attachments"] = json!([{"containerID": "valid", "ifname": "eth0"}]);
    let done = valid.call_with("GC", &config)?;
    assert_eq!((done.status, done.stdout.as_str()), (0, ""));
    let left = lab.status("node-1")?["endpoints"].clone();
    assert_eq!(left, 2);
    for it in [&valid, &other] {
        it.done("ADD")?;
    }
    assert_eq!(lab.status("node-1")?["endpoints"], 2);
    Ok(())
}
