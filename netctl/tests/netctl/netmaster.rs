//! `netctl` with a real netmaster: the quick start and the work of operators.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Bus, Ran, netctl_at_home};

pub(crate) struct Cluster {
    netmaster: Child,
    bus: Bus,
    pub(crate) home: tempfile::TempDir,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let bus = Bus::start();
        let init = netmaster(&bus).arg("init").output().unwrap();
        assert!(init.status.success(), "{init:?}");
        let cluster = Self {
            netmaster: netmaster(&bus)
                .args(["run", "--name", "m1"])
                .spawn()
                .unwrap(),
            bus,
            home: tempfile::tempdir().unwrap(),
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        while cluster.run("cluster info").code != 0 {
            assert!(Instant::now() < deadline, "netmaster doesn't answer");
        }
        cluster
    }

    pub(crate) fn run(&self, typed: &str) -> Ran {
        netctl_at_home(self.home.path(), &self.bus.url, typed)
    }

    /// Runs a command that must succeed, and returns its output.
    #[track_caller]
    pub(crate) fn done(&self, typed: &str) -> String {
        let ran = self.run(typed);
        assert_eq!(ran.code, 0, "{typed}: {ran:?}");
        ran.out
    }

    #[track_caller]
    pub(crate) fn rejected(&self, typed: &str, says: &str) {
        let ran = self.run(typed);
        assert_eq!(ran.code, 1, "{typed}: {ran:?}");
        assert!(ran.err.contains(says), "{typed}: {ran:?}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.netmaster.kill();
        let _ = self.netmaster.wait();
    }
}

fn netmaster(bus: &Bus) -> Command {
    let netctl = Path::new(env!("CARGO_BIN_EXE_netctl"));
    let path = netctl.with_file_name("netmaster");
    assert!(path.exists(), "build it first: cargo build -p netmaster");
    let mut command = Command::new(path);
    command
        .env("CONTIV_NATS_URL", &bus.url)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

const QUICK_START: &str =
    "net create contiv-net -subnet=20.1.1.0/24 -gateway=20.1.1.254 -pkt-tag=1001";

#[test]
fn quick_start_is_typed_as_in_contiv() {
    let cluster = Cluster::start();
    let created = cluster.done(QUICK_START);
    assert!(created.starts_with("Creating network default:contiv-net\n"));
    assert!(cluster.done(QUICK_START).contains("unchanged"));

    let row = "default  contiv-net  data     vxlan       1001        20.1.1.0/24  20.1.1.254";
    for typed in ["net ls", "network list", "net ls -all"] {
        let table = cluster.done(typed);
        assert!(table.contains(row), "{table}");
    }
    assert_eq!(cluster.done("net ls -q"), "contiv-net\n");
    let inspected: Value = serde_json::from_str(&cluster.done("net inspect contiv-net")).unwrap();
    assert_eq!(inspected["Config"]["key"], "default:contiv-net");
    assert_eq!(inspected["Oper"]["pktTag"], 1001);
    let all: Value = serde_json::from_str(&cluster.done("net ls -json")).unwrap();
    assert_eq!(all[0]["networkName"], "contiv-net");

    assert!(cluster.done("wait --converged").starts_with("revision "));
    assert!(cluster.done("events").contains("network-created"));
    assert!(cluster.done("node ls").starts_with("Name"));
    assert!(cluster.done("endpoint ls").starts_with("Tenant"));
    let removed = cluster.done("net delete contiv-net");
    assert!(removed.starts_with("Deleting network default:contiv-net\n"));
    assert_eq!(cluster.done("net ls -q"), "");
}

#[test]
fn status_and_version_name_the_running_programs() {
    let cluster = Cluster::start();
    cluster.done(QUICK_START);
    let status: Value = serde_json::from_str(&cluster.done("status -o json")).unwrap();
    assert_eq!(status["converged"], true, "{status}");
    assert_eq!(status["netmasters"][0]["name"], "m1", "{status}");
    assert_eq!(status["netmasters"][0]["revision"], status["revision"]);
    assert!(cluster.done("status").contains(": converged\n"));
    assert_eq!(cluster.done("status -q"), "");
    let version: Value = serde_json::from_str(&cluster.done("version -o json")).unwrap();
    assert_eq!(version["netmasters"][0]["version"], version["netctl"]);
}

const INTENT: &str = r#"
tenants:
- tenantName: default
  networks:
  - {networkName: contiv-net, subnet: 20.1.1.0/24, gateway: 20.1.1.254, pktTag: 1001}
  policies:
  - policyName: prod_web
    rules:
    - {ruleId: 1, protocol: tcp, action: deny}
    - {ruleId: 2, protocol: tcp, port: 80, priority: 10, fromEndpointGroup: lb}
  groups:
  - {groupName: web, networkName: contiv-net, policies: [prod_web]}
  - {groupName: lb, networkName: contiv-net}
- tenantName: blue
  networks:
  - {networkName: front, subnet: 10.1.1.0/24}
"#;

#[test]
fn whole_intent_is_applied_compared_exported_and_pruned() {
    let cluster = Cluster::start();
    let file = cluster.home.path().join("intent.yaml");
    let write = |text: &str| std::fs::write(&file, text).unwrap();
    let with = |verb: &str| format!("{verb} -f {}", file.display());
    write(INTENT);
    let differs = cluster.run(&with("diff"));
    assert_eq!(differs.code, 1, "{differs:?}");
    assert_eq!(differs.out.lines().next(), Some("+ tenant blue"));
    assert_eq!(
        cluster.done("tenant ls -q"),
        "default\n",
        "diff changes nothing"
    );

    let done = cluster.done(&with("apply"));
    for (step, done) in differs.out.lines().zip(done.lines()) {
        assert!(
            done.starts_with(&format!("{step}: done at revision ")),
            "{done}"
        );
    }
    assert_eq!(cluster.done(&with("apply")), "unchanged\n");
    assert_eq!(cluster.done(&with("diff --prune")), "");
    let rules = cluster.done("policy rule-ls prod_web");
    assert!(rules.contains("lb"), "{rules}");

    // An export is equal to the state, including the defaults.
    let exported = cluster.done("export");
    write(&exported);
    assert_eq!(cluster.done(&with("diff --prune")), "");
    assert!(exported.contains("gateway: 10.1.1.1\n"), "{exported}");

    write(
        &INTENT
            .replace("port: 80,", "port: 443,")
            .replace("policies: [prod_web]", "policies: []"),
    );
    cluster.done(&with("apply"));
    assert_eq!(cluster.done(&with("diff")), "");

    write("tenants: [{tenantName: default}]");
    assert_eq!(cluster.done(&with("apply")), "unchanged\n");
    cluster.done(&with("apply --prune"));
    assert_eq!(cluster.done("export"), "tenants:\n- tenantName: default\n");

    write(INTENT);
    cluster.done(&with("apply"));
    write(&INTENT.replace("20.1.1.0/24", "20.1.0.0/16"));
    cluster.rejected(
        &with("apply"),
        "subnet 20.1.1.0/24, which can't become 20.1.0.0/16",
    );
    write("tenants: [{tenantName: a, netwrks: []}]");
    assert_eq!(cluster.run(&with("apply")).code, 64);
    write("{}");
    assert_eq!(cluster.run(&with("apply --prune")).code, 64);
}

#[test]
fn apply_does_nothing_if_the_file_contradicts_itself() {
    let cluster = Cluster::start();
    let file = cluster.home.path().join("intent.yaml");
    let with = |verb: &str| format!("{verb} -f {}", file.display());
    let wrong = INTENT
        .replace("policies: [prod_web]", "policies: [none]")
        .replace("subnet: 10.1.1.0/24", "subnet: 10.1.1.0/24, pktTag: 1001");
    std::fs::write(&file, wrong).unwrap();
    let before = cluster.done("export");
    for verb in ["apply", "diff"] {
        let ran = cluster.run(&with(verb));
        assert_eq!((ran.code, ran.out.as_str()), (1, ""), "{ran:?}");
        for says in [
            "network default:contiv-net: packet tag 1001 is in use by network front of tenant blue",
            "group default:web: it names the policy none",
        ] {
            assert!(ran.err.contains(says), "{verb}: {ran:?}");
        }
    }
    assert_eq!(cluster.done("export"), before);
}

#[test]
fn apply_reports_each_step_also_of_a_refusal() {
    let cluster = Cluster::start();
    let file = cluster.home.path().join("intent.yaml");
    // One packet tag is left for two networks.
    cluster.done("global set -x 5-5");
    let wanted = "tenants:\n- tenantName: default\n  networks:\n  - {networkName: a, subnet: 10.1.1.0/24}\n  - {networkName: b, subnet: 10.1.2.0/24}\n  policies:\n  - policyName: p\n";
    std::fs::write(&file, wanted).unwrap();
    let ran = cluster.run(&format!("apply -f {} -o json", file.display()));
    assert_eq!(ran.code, 1, "{ran:?}");
    let value: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(value["type"], "vni-exhausted", "{value}");
    let kinds: Vec<&Value> = value["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["type"])
        .collect();
    assert_eq!(kinds, ["done", "not-done", "not-tried"]);
    let ran = cluster.run(&format!("apply -f {}", file.display()));
    let last = ran.out.lines().last().unwrap();
    assert!(last.ends_with(": not tried"), "{last}");
}

#[test]
fn every_change_has_its_outcome_as_an_object() {
    let cluster = Cluster::start();
    for typed in [
        "net create n -s 10.1.1.0/24 -o json",
        "policy create p -o json",
        "policy rule-add p 1 --json",
        "group create n g -p p -o json",
        "group update g --no-policy -o json",
        "policy apply --immediate p -o json",
        "policy rule-rm p 1 -o json",
        "group rm g -o json",
        "policy rm p -o json",
        "net rm n -o json",
        "tenant create blue -o json",
        "tenant rm blue -o json",
        "global set -x 5-9 -o json",
    ] {
        let value: Value = serde_json::from_str(&cluster.done(typed)).unwrap();
        assert_eq!(value["type"], "done", "{typed}: {value}");
        assert!(value["revision"].as_u64() > Some(0), "{typed}: {value}");
        assert!(value["commandId"].is_string(), "{typed}: {value}");
    }
    let again = "global set -x 5-9 -o yaml";
    assert!(cluster.done(again).contains("type: unchanged"));
    let waited: Value = serde_json::from_str(&cluster.done("wait --converged -o json")).unwrap();
    assert_eq!(waited["type"], "applied");
}

#[test]
fn inspect_prints_text_for_people() {
    let cluster = Cluster::start();
    cluster.done(QUICK_START);
    cluster.done("group create contiv-net web");
    let table = cluster.done("net inspect contiv-net -o table");
    assert!(table.contains("Network name"), "{table}");
    assert!(
        !table.contains('{') && !table.contains("Cfgd tag"),
        "{table}"
    );
    let wide = cluster.done("net inspect contiv-net -o wide");
    assert!(wide.contains("Cfgd tag"), "{wide}");
    for typed in ["group inspect web", "tenant inspect default"] {
        let text = cluster.done(&format!("{typed} -o table"));
        assert!(!text.contains('{'), "{text}");
    }
}

#[test]
fn packet_tags_lie_in_the_range_of_the_cluster() {
    let cluster = Cluster::start();
    cluster.rejected("net create n -s 10.1.1.0/24 -p 10001", "1-10000");
    cluster.done("net create old -s 10.1.1.0/24 -p 7");
    cluster.done("global set --vxlan-range 20000-20001");
    let info: Value = serde_json::from_str(&cluster.done("cluster info -o json")).unwrap();
    assert_eq!(info["vxlanRange"], "20000-20001");
    assert_eq!(
        cluster.done("global info -o json"),
        cluster.done("cluster info -o json")
    );
    // A network that exists keeps its tag, also if it is asked for again.
    let again = cluster.done("net create old -s 10.1.1.0/24 -p 7");
    assert!(again.contains("unchanged"), "{again}");
    cluster.rejected("net create n -s 10.2.1.0/24 -p 10", "20000-20001");
    for network in ["a", "b"] {
        let create = format!(
            "net create {network} -s 10.{}.1.0/24",
            3 + network.as_bytes()[0]
        );
        cluster.done(&create);
    }
    let table = cluster.done("net ls");
    assert!(
        table.contains("20000") && table.contains("20001"),
        "{table}"
    );
    cluster.rejected(
        "net create c -s 10.2.1.0/24",
        "no packet tag of 20000 to 20001",
    );
    let events = cluster.done("events");
    assert!(events.contains("packet tags 20000-20001"), "{events}");
    cluster.rejected("global set --vlan-range 1-10", "not supported");
}

#[test]
fn wait_survives_a_restart_of_bus_and_netmaster() {
    let mut cluster = Cluster::start();
    cluster.done(QUICK_START);
    cluster.netmaster.kill().unwrap();
    cluster.netmaster.wait().unwrap();
    cluster.bus.kill();
    let mut waiting = crate::support::command(
        cluster.home.path(),
        &cluster.bus.url,
        "wait --converged --timeout 60s",
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let mut notes = BufReader::new(waiting.stderr.take().unwrap());
    let mut note = String::new();
    notes.read_line(&mut note).unwrap();
    assert!(note.contains("waiting: can't reach the bus"), "{note}");
    cluster.bus.restart();
    cluster.netmaster = netmaster(&cluster.bus)
        .args(["run", "--name", "m2"])
        .spawn()
        .unwrap();
    let output = waiting.wait_with_output().unwrap();
    notes.read_to_string(&mut note).unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{out}{note}");
    assert!(out.contains("is applied"), "{out}{note}");
}

#[test]
fn wait_without_a_bus_ends_at_its_timeout() {
    let home = tempfile::tempdir().unwrap();
    let nowhere = crate::support::nowhere();
    let ran = netctl_at_home(home.path(), &nowhere, "wait --converged --timeout 2s");
    assert_eq!(ran.code, 2, "{ran:?}");
    let took = ran.took.as_secs_f64();
    assert!((1.0..6.0).contains(&took), "{ran:?}");
}

/// The completions of `line` in bash.
fn offered(cluster: &Cluster, line: &str) -> Vec<String> {
    let words: Vec<&str> = line.split(' ').collect();
    let output = crate::support::command(cluster.home.path(), &cluster.bus.url, "--")
        .args(&words)
        .env("COMPLETE", "bash")
        .env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string())
        .env("_CLAP_IFS", "\n")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn completion_offers_existing_names() {
    let cluster = Cluster::start();
    cluster.done(QUICK_START);
    cluster.done("net create back -s 10.1.1.0/24");
    cluster.done("tenant create blue");
    cluster.done("policy create prod_web");
    cluster.done("group create contiv-net web -p prod_web");
    for (line, offers) in [
        ("netctl net inspect ", &["back", "contiv-net"][..]),
        ("netctl net rm con", &["contiv-net"]),
        ("netctl group create b", &["back"]),
        ("netctl group inspect ", &["web"]),
        ("netctl group update web --policy=p", &["--policy=prod_web"]),
        ("netctl policy rule-add p", &["prod_web"]),
        ("netctl net ls -t bl", &["blue"]),
    ] {
        let mut offered = offered(&cluster, line);
        offered.retain(|it| !it.starts_with('-') || line.ends_with("=p"));
        assert_eq!(offered, offers, "{line}");
    }
    // A new network has a new name.
    let offered = offered(&cluster, "netctl net create con");
    assert!(offered.is_empty(), "{offered:?}");
}

#[test]
fn rejections_have_their_remedy() {
    let cluster = Cluster::start();
    cluster.done(QUICK_START);
    for (typed, says) in [
        ("net create contiv-net -s 20.1.2.0/24", "another subnet"),
        ("net create n -s 20.1.1.128/25", "network contiv-net"),
        ("net create n -s 10.1.1.0/24 -g 10.9.1.1", "10.1.1.0/24"),
        ("net create n -s 10.1.1.0/24 -g 10.1.1.255", "broadcast"),
        ("net create n -s 10.1.1.0/24 -p 1001", "contiv-net"),
        ("net create n -s 10.1.1.0/24 -p 99999999", "out of range"),
        ("net create n -s 10.1.1.0/24 -p 10001", "global set"),
        (
            "net create n -s 10.1.1.0/24 -t blue",
            "netctl tenant create",
        ),
        ("net inspect nothing", "netctl net ls"),
        ("net rm contiv-net --abort", "nothing to abort"),
        ("tenant rm default", "can't be removed"),
        ("tenant inspect blue", "netctl tenant create"),
        ("node inspect n9", "netctl node ls"),
        ("node rm n9 --lost", "netctl node ls"),
        ("endpoint inspect nobody", "netctl endpoint ls"),
    ] {
        cluster.rejected(typed, says);
    }
    assert_eq!(cluster.done("net ls -a -q"), "contiv-net\n");

    let careless = cluster.run("node accept-log n1");
    assert_eq!(careless.code, 64, "{careless:?}");
    let absent = cluster.run("node accept-log n1 --yes");
    assert_eq!(absent.code, 2, "{absent:?}");
}

#[test]
fn tenants_have_networks_of_the_same_name_and_subnet() {
    let cluster = Cluster::start();
    cluster.done("tenant create blue");
    cluster.done("net create front -s 10.1.1.0/24");
    cluster.done("net create front -s 10.1.1.0/24 -t blue");
    assert_eq!(cluster.done("net ls -t blue -q"), "front\n");
    assert_eq!(cluster.done("net ls -a -q"), "front\nfront\n");
    cluster.rejected("tenant delete blue", "front");
    cluster.done("net rm front -t blue");
    cluster.done("tenant delete blue");
    assert_eq!(cluster.done("tenant ls -q"), "default\n");
}

#[test]
fn wait_for_a_future_revision_ends_at_its_timeout() {
    let cluster = Cluster::start();
    let ran = cluster.run("wait --revision 99 --timeout 1s");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.took < Duration::from_secs(4), "{ran:?}");
}

#[test]
fn repeated_command_with_the_same_id_takes_effect_once() {
    let cluster = Cluster::start();
    let id = "0191f0a0-0000-7000-8000-000000000001";
    let first = cluster.done(&format!("tenant create blue --command-id {id}"));
    let again = cluster.done(&format!("tenant create blue --command-id {id}"));
    assert_eq!(first, again);
    let created = cluster
        .done("events")
        .matches("tenant-created     blue")
        .count();
    assert_eq!(created, 1);
}
