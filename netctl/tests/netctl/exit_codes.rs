//! Exit codes and messages that scripts rely on, with and without a bus or a netmaster.

use std::time::Duration;

use crate::support::{Bus, netctl, netctl_at_home, netctl_with_input, nowhere};
use bus_schema::command::Request;
use bus_schema::event::Settings;
use bus_schema::query::{ClusterInfo, Waited};
use bus_schema::{
    Answer, ClusterId, Command, CommandId, Query, Rejection, Reply, Revision, TenantName, codec,
};
use futures::StreamExt;

#[test]
fn usage_errors_exit_with_64_and_need_no_bus() {
    let nowhere = nowhere();
    for typed in [
        "net create n --subnet=10.1.1.0/33",
        "net create a.b --subnet=10.1.1.0/24",
        "net create n --subnet=10.1.1.0/24 --colour=red",
        "tenant create 0123456789012345678901234567890123456789012345678901234567890123",
        "nat ls",
        "net",
        "netprofile ls",
        "policy rule-add p 1 -direction=out -from-group=a",
        "policy rule-add p 1 -to-network=a",
        "policy rule-add p 1 -from-group=a -from-network=b",
        "policy rule-add p 1 -from-network=a -from-ip-address=10.1.1.1",
        "policy rule-add p 1 -port=80",
        "policy rule-add p 1 -priority=101",
        "policy rule-add p 1 -protocol=tcp -port=80-70",
        "policy apply p",
        "trace --from web --to db",
        "net update n",
        "tenant update default",
        "export -o table",
        "export -o wide",
        "--netmaster=http://netmaster:9999 net ls",
    ] {
        let ran = netctl(&nowhere, typed);
        assert_eq!(ran.code, 64, "{typed}: {ran:?}");
        assert!(!ran.err.is_empty(), "{typed}");
    }
    let version = netctl(&nowhere, "version -o json");
    assert_eq!(version.code, 2, "{version:?}");
    assert!(version.out.contains("netctl"), "{version:?}");
    // The error text names missing flags, but not --netmaster, whose value the environment gives.
    let create = netctl(&nowhere, "net create n");
    assert!(create.err.contains("--subnet <SUBNET>"), "{create:?}");
    assert!(!create.err.contains("--netmaster"), "{create:?}");
    let typed = netctl(&nowhere, "net create n -subent=10.1.1.0/24");
    assert!(
        typed.err.contains("similar argument exists: '--subnet'"),
        "{typed:?}"
    );
    let profile = netctl(&nowhere, "netprofile ls");
    assert!(profile.err.contains("isn't supported"), "{profile:?}");
    for typed in ["--help", "-version", "net create -help"] {
        assert_eq!(netctl(&nowhere, typed).code, 0, "{typed}");
    }
    let help = netctl(&nowhere, "--help");
    assert!(!help.out.contains("t0ken"), "{help:?}");
}

#[test]
fn missing_bus_or_netmaster_exits_with_2_within_two_seconds() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("nats://t0ken@{}", silent.local_addr().unwrap());
    let bus = Bus::start();
    let wrong_token = bus.url.replace("t0ken", "wr0ng");
    for (url, says) in [
        (nowhere(), "can't reach the bus"),
        (silent, "can't reach the bus"),
        (bus.url.clone(), "no netmaster answers"),
        (wrong_token, "refuses this token"),
    ] {
        for typed in [
            "net ls",
            "net create n --subnet=10.1.1.0/24",
            "net update n --max-connections 5",
            "tenant update default --max-connections 0",
        ] {
            let ran = netctl(&url, typed);
            assert_eq!(ran.code, 2, "{typed}: {ran:?}");
            assert!(ran.err.contains(says), "{typed}: {ran:?}");
            assert!(ran.took < Duration::from_secs(2), "{typed}: {ran:?}");
            assert!(
                !ran.err.contains("t0ken") && !ran.err.contains("wr0ng"),
                "{ran:?}"
            );
        }
    }
    let events = netctl(&bus.url, "events");
    assert_eq!(events.code, 2, "{events:?}");
    assert!(events.err.contains("netmaster init"), "{events:?}");
}

/// Plays netmaster. `reply` answers a command; `None` leaves it without an answer.
async fn serve(bus: &Bus, reply: fn(Request<Command>) -> Option<Vec<u8>>) {
    let client = bus.client().await;
    let mut asked = client.subscribe("contiv.api.v1.>").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let answer = match codec::from_bytes::<Request<Query>>(&message.payload) {
                Ok(request) => Some(codec::to_bytes(&answer(&request))),
                Err(_) => reply(codec::from_bytes(&message.payload).unwrap()),
            };
            if let (Some(to), Some(answer)) = (message.reply, answer) {
                client.publish(to, answer.into()).await.unwrap();
                client.flush().await.unwrap();
            }
        }
    });
}

fn answer(request: &Request<Query>) -> Answer {
    match request.body {
        Query::ClusterInfo => Answer::Cluster {
            revision: Revision(7),
            cluster: ClusterInfo {
                cluster: ClusterId(uuid::Uuid::nil()),
                settings: Settings::default(),
                version: "0".to_owned(),
            },
        },
        Query::Wait { revision } => Answer::Waited {
            revision: Revision(7),
            waited: Waited {
                until: revision.unwrap_or(Revision(7)),
                lagging: [("n2".parse().unwrap(), Revision(3))].into(),
                unpublished: [("n4".parse().unwrap(), 2)].into(),
                silent: vec!["n3".parse().unwrap()],
            },
        },
        // The reason contains the revision that the request requires.
        _ => Answer::Behind {
            revision: Revision(1),
            reason: format!("saw {}", request.seen),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejection_exits_with_1_and_has_the_remedy() {
    let bus = Bus::start();
    serve(&bus, |request| {
        let rejection = Rejection::TenantUnknown {
            tenant: TenantName::default_tenant(),
        };
        assert_eq!(request.seen, Revision(7));
        Some(codec::to_bytes(&Reply::rejected(rejection, Revision(7))))
    })
    .await;
    let ran = netctl(&bus.url, "net create n -subnet=10.1.1.0/24");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert_eq!(ran.out, "Creating network default:n\n");
    assert!(ran.err.contains("netctl tenant create default"), "{ran:?}");

    for refused in ["--encap=vlan", "--nw-type=infra"] {
        let ran = netctl(&bus.url, &format!("net create n -s 10.1.1.0/24 {refused}"));
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("not supported"), "{ran:?}");
    }

    let wait = netctl(&bus.url, "wait --converged");
    assert_eq!(wait.code, 1, "{wait:?}");
    assert!(
        wait.err.contains("n2 (at 3)") && wait.err.contains("n3"),
        "{wait:?}"
    );

    let behind = netctl(&bus.url, "net ls");
    assert_eq!(behind.code, 2, "{behind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn create_warns_of_lagging_nodes() {
    let bus = Bus::start();
    serve(&bus, |_| {
        Some(codec::to_bytes(&Reply::Accepted {
            revision: Revision(9),
            events: Vec::new(),
        }))
    })
    .await;
    let home = tempfile::tempdir().unwrap();
    let create = "net create n -s 10.1.1.0/24";
    let ran = netctl_at_home(home.path(), &bus.url, create);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(
        ran.err.contains("warning: not yet at revision 9: n2"),
        "{ran:?}"
    );
    let ran = netctl_at_home(home.path(), &bus.url, &format!("{create} --no-wait"));
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{ran:?}");

    // The next command reads no older state.
    let behind = netctl_at_home(home.path(), &bus.url, "tenant ls");
    assert!(behind.err.contains("saw 9"), "{behind:?}");
    // A torn file of seen revisions is harmless.
    let state = home.path().join(".local/state/contiv/seen.json");
    std::fs::write(&state, b"{\"00").unwrap();
    let ran = netctl_at_home(home.path(), &bus.url, "cluster info");
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_outcome_exits_with_3_and_the_id_to_retry() {
    let bus = Bus::start();
    serve(&bus, |request| {
        Some(match request.body {
            Command::TenantCreate(_) => codec::to_bytes(&Reply::Unknown {
                id: request.id,
                reason: "the log didn't answer".to_owned(),
            }),
            _ => b"\xc1 no reply at all".to_vec(),
        })
    })
    .await;
    for typed in ["tenant create blue", "tenant rm blue"] {
        let ran = netctl(&bus.url, typed);
        assert_eq!(ran.code, 3, "{ran:?}");
        let (_, id) = ran.err.split_once("command id: ").expect("it names the id");
        let id: CommandId = id.lines().next().unwrap().parse().unwrap();
        let retry = format!("netctl {typed} --command-id={id}");
        assert!(ran.err.contains(&retry), "{ran:?}");

        let again = netctl(&bus.url, &format!("{typed} --command-id={id}"));
        assert!(again.err.contains(&id.to_string()), "{again:?}");
    }
}

/// The object of a refusal on stdout.
#[track_caller]
fn refusal(ran: &crate::support::Ran, kind: &str) -> serde_json::Value {
    let value: serde_json::Value = serde_json::from_str(&ran.out).expect("one object on stdout");
    assert_eq!(value["type"], kind, "{ran:?}");
    assert_eq!(value["exitCode"], ran.code, "{ran:?}");
    let text = value["text"].as_str().expect("a text");
    assert!(ran.err.contains(text), "{ran:?}");
    value
}

#[test]
fn every_refusal_is_an_object_with_o_json() {
    let nowhere = nowhere();
    let unreachable = [
        "net create n -s 10.1.1.0/24 -o json",
        "net rm n -o json",
        "group update g --no-policy -o json",
        "policy rule-add p 1 --json",
        "tenant ls -q -j",
        "node accept-log n1 --yes -o json",
        "wait --converged --timeout 1s -o json",
        "status -o json",
        "export -o json",
    ];
    let usage = [
        "net create n -s 10.1.1.0/33 -o json",
        "net ls -o json --colour",
        "nat ls -o json",
        "context use nobody -o json",
        "apply -f /nowhere.yaml -o json",
    ];
    let all = unreachable.map(|it| (it, 2, "unreachable"));
    for (typed, code, kind) in all.into_iter().chain(usage.map(|it| (it, 64, "usage"))) {
        let ran = netctl(&nowhere, typed);
        assert_eq!(ran.code, code, "{typed}: {ran:?}");
        refusal(&ran, kind);
    }
}

#[test]
fn escape_sequences_are_never_printed_raw() {
    let nowhere = nowhere();
    let clear = "\u{1b}[2J\u{9b}1m\r\u{7}";
    for typed in [
        format!("net inspect {clear}"),
        format!("net ls --{clear}"),
        clear.to_owned(),
        format!("context use {clear}"),
        format!("apply -f {clear}"),
        format!("--netmaster nats://{clear}:1 net ls"),
        format!("net ls -o {clear}"),
        format!("endpoint inspect {clear} -o json"),
    ] {
        let ran = netctl(&nowhere, &typed);
        assert_ne!(ran.code, 0, "{typed:?}: {ran:?}");
        for text in [&ran.out, &ran.err] {
            let raw = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(raw, None, "{typed:?}: {text:?}");
        }
    }
}

#[test]
fn usage_error_repeats_no_token_and_is_whole() {
    let nowhere = nowhere();
    for typed in [
        "--netmaster nats://s3cret@:x net ls -o json",
        "context add lab nats://h nats://s3cret@h:1 -o json",
    ] {
        let ran = netctl(&nowhere, typed);
        assert_eq!(ran.code, 64, "{typed}: {ran:?}");
        refusal(&ran, "usage");
        assert!(
            !ran.err.contains("s3cret") && !ran.out.contains("s3cret"),
            "{ran:?}"
        );
    }
    let ran = netctl(&nowhere, "net create n -o json");
    let text = refusal(&ran, "usage")["text"].to_string();
    assert!(
        text.contains("--subnet") && !text.contains("Usage"),
        "{text}"
    );
}

#[test]
fn bus_is_named_once_and_standard_input_is_read_once() {
    let nowhere = nowhere();
    let home = tempfile::tempdir().unwrap();
    for (typed, says) in [
        ("--netmaster h net ls --netmaster-file /f", "the bus twice"),
        ("--netmaster-file - apply -f -", "standard input"),
        (
            "context add lab nats://h --netmaster-file -",
            "the bus twice",
        ),
        ("context add lab", "the address is missing"),
    ] {
        let ran = netctl_with_input(home.path(), &nowhere, typed, "nats://h:1\n");
        assert_eq!(ran.code, 64, "{typed}: {ran:?}");
        assert!(ran.err.contains(says), "{typed}: {ran:?}");
    }
    let typed = "--netmaster-file - context add lab";
    let ran = netctl_with_input(home.path(), &nowhere, typed, "nats://h:1\n");
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn bus_address_can_be_in_a_file_or_on_standard_input() {
    let bus = Bus::start();
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("bus");
    std::fs::write(&file, format!("# the bus\nCONTIV_NATS_URL={}\n", bus.url)).unwrap();
    let nowhere = nowhere();
    let typed = format!("--netmaster-file {} net ls", file.display());
    let ran = netctl_at_home(home.path(), &nowhere, &typed);
    assert!(ran.err.contains("no netmaster answers"), "{ran:?}");

    let ran = netctl_with_input(home.path(), &nowhere, "--netmaster-file - net ls", &bus.url);
    assert!(ran.err.contains("no netmaster answers"), "{ran:?}");
    let ran = netctl_with_input(
        home.path(),
        &nowhere,
        "context add lab --netmaster-file -",
        &bus.url,
    );
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("CONTIV_NATS_URL is set"), "{ran:?}");
    let ran = netctl_at_home(home.path(), &nowhere, "--context lab net ls");
    assert!(ran.err.contains("no netmaster answers"), "{ran:?}");

    std::fs::write(&file, "# none\n").unwrap();
    let ran = netctl_at_home(home.path(), &nowhere, &typed);
    assert_eq!(ran.code, 64, "{ran:?}");
    std::fs::write(&file, "nats://s3cret@:x\n").unwrap();
    let ran = netctl_at_home(home.path(), &nowhere, &typed);
    assert_eq!(ran.code, 64, "{ran:?}");
    assert!(!ran.err.contains("s3cret"), "{ran:?}");
}
