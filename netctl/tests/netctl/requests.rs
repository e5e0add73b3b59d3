//! The requests of netctl and their number; the test plays netmaster.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::command::Request;
use bus_schema::event::Settings;
use bus_schema::query::ClusterInfo;
use bus_schema::{Answer, ClusterId, CommandId, Rejection, Reply, Revision, TenantName, codec};
use futures::StreamExt;
use serde_json::Value;

use crate::support::{Bus, netctl, netctl_at_home};

/// A request: noun and verb, id, seen revision, and whether it requires a proof of the log's end.
#[derive(Debug, Clone, PartialEq)]
struct ReceivedRequest {
    verb: String,
    id: CommandId,
    seen: u64,
    linearizable: bool,
}

type All = Arc<Mutex<Vec<ReceivedRequest>>>;

/// Answers each request by `answer`, which gets all requests so far; `None` sends no answer.
async fn serve(bus: &Bus, answer: fn(&[ReceivedRequest]) -> Option<Vec<u8>>) -> All {
    let client = bus.client().await;
    let mut requests = client.subscribe("contiv.api.v1.>").await.unwrap();
    client.flush().await.unwrap();
    let all = All::default();
    let heard = all.clone();
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let request: Request<Value> = codec::from_bytes(&message.payload).unwrap();
            let bytes = {
                let mut heard = heard.lock().unwrap();
                heard.push(ReceivedRequest {
                    verb: message.subject.replace("contiv.api.v1.", ""),
                    id: request.id,
                    seen: request.seen.0,
                    linearizable: request.linearizable,
                });
                answer(&heard)
            };
            if let (Some(to), Some(bytes)) = (message.reply, bytes) {
                client.publish(to, bytes.into()).await.unwrap();
                client.flush().await.unwrap();
            }
        }
    });
    all
}

fn cluster(revision: u64) -> Vec<u8> {
    codec::to_bytes(&Answer::Cluster {
        revision: Revision(revision),
        cluster: ClusterInfo {
            cluster: ClusterId(uuid::Uuid::nil()),
            settings: Settings::default(),
            version: "0".to_owned(),
        },
    })
}

fn accepted(revision: u64) -> Vec<u8> {
    codec::to_bytes(&Reply::Accepted {
        revision: Revision(revision),
        events: Vec::new(),
    })
}

fn nodes(revision: u64) -> Vec<u8> {
    codec::to_bytes(&Answer::Nodes {
        revision: Revision(revision),
        nodes: Vec::new(),
    })
}

/// The requests with this noun and verb.
fn of(all: &All, verb: &str) -> Vec<ReceivedRequest> {
    let all = all.lock().unwrap();
    all.iter().filter(|it| it.verb == verb).cloned().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn request_without_an_answer_is_sent_again_with_its_id() {
    let bus = Bus::start();
    let all = serve(&bus, |all| {
        let last = all.last()?;
        let times = all.iter().filter(|it| it.verb == last.verb).count();
        match last.verb.as_str() {
            _ if times < 2 => None,
            "tenant.create" => Some(accepted(7)),
            "node.ls" => Some(nodes(7)),
            _ => Some(cluster(7)),
        }
    })
    .await;
    let read = netctl(&bus.url, "node ls");
    assert_eq!(read.code, 0, "{read:?}");
    assert_eq!(of(&all, "node.ls").len(), 2);
    let create = netctl(&bus.url, "tenant create blue");
    assert_eq!(create.code, 0, "{create:?}");
    let sent = of(&all, "tenant.create");
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert_eq!(sent[0].id, sent[1].id, "so it takes effect once");
    assert!(create.took < Duration::from_secs(5), "{create:?}");
}

/// Answers like a netmaster whose log ends at 3, after an earlier answer with revision 9.
fn shorter(all: &[ReceivedRequest]) -> Option<Vec<u8>> {
    let last = all.last()?;
    let rejection = Rejection::LogShorter {
        end: Revision(3),
        seen: Revision(last.seen),
    };
    let is_shorter = last.seen > 4;
    Some(match last.verb.as_str() {
        "tenant.create" if is_shorter => codec::to_bytes(&Reply::rejected(rejection, Revision(3))),
        "tenant.create" => accepted(4),
        "tenant.rm" => accepted(9),
        "cluster.info" => cluster(1),
        _ if is_shorter => codec::to_bytes(&Answer::rejected(rejection, Revision(3))),
        "node.ls" => nodes(3),
        _ => codec::to_bytes(&Answer::Tenants {
            revision: Revision(3),
            tenants: Vec::new(),
        }),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn shorter_log_is_a_warning_and_netctl_continues() {
    let bus = Bus::start();
    let all = serve(&bus, shorter).await;
    let home = tempfile::tempdir().unwrap();
    let run = |typed: &str| netctl_at_home(home.path(), &bus.url, typed);
    let warning = "warning: the log ends at revision 3, but revision 9 was seen of it";

    // A revision as high as that of a forged or a lost answer.
    assert_eq!(run("tenant rm blue").code, 0);
    let create = run("tenant create blue");
    assert_eq!(create.code, 0, "{create:?}");
    assert!(create.err.contains(warning), "{create:?}");
    let sent = of(&all, "tenant.create");
    assert_eq!((sent[0].seen, sent[1].seen), (9, 3));
    assert_eq!(sent[0].id, sent[1].id);

    // The lower revision is remembered.
    let again = run("tenant create red");
    assert_eq!((again.code, again.err.as_str()), (0, ""), "{again:?}");
    assert_eq!(of(&all, "tenant.create")[2].seen, 4);

    assert_eq!(run("tenant rm blue").code, 0);
    let read = run("tenant ls");
    assert_eq!(read.code, 0, "{read:?}");
    assert!(read.err.contains(warning), "{read:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_show_or_repair_a_cluster_wait_for_no_revision() {
    let bus = Bus::start();
    let all = serve(&bus, shorter).await;
    let home = tempfile::tempdir().unwrap();
    let run = |typed: &str| netctl_at_home(home.path(), &bus.url, typed);
    assert_eq!(run("tenant rm blue").code, 0);
    let list = run("node ls");
    assert_eq!((list.code, list.err.as_str()), (0, ""), "{list:?}");
    let accept = run("node accept-log n1 --yes");
    assert!(accept.err.contains("isn't on the bus"), "{accept:?}");
    let asked: Vec<u64> = of(&all, "node.ls").iter().map(|it| it.seen).collect();
    assert_eq!(asked, [0]);
    let infos = of(&all, "cluster.info");
    assert!(infos.iter().all(|it| it.seen == 0), "{infos:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn linearizable_flag_requires_a_proof_of_the_logs_end() {
    let bus = Bus::start();
    let all = serve(&bus, shorter).await;
    for (typed, proof) in [
        ("tenant ls", false),
        ("tenant ls --linearizable", true),
        ("--linearizable node ls", true),
    ] {
        let ran = netctl(&bus.url, typed);
        assert_eq!(ran.code, 0, "{typed}: {ran:?}");
        let last = all.lock().unwrap().last().cloned().unwrap();
        assert_eq!(last.linearizable, proof, "{typed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rejection_shows_the_revision_that_it_rests_on() {
    let bus = Bus::start();
    serve(&bus, |all| {
        let rejection = Rejection::TenantUnknown {
            tenant: TenantName::new("blue").ok()?,
        };
        Some(match all.last()?.verb.as_str() {
            "cluster.info" => cluster(1),
            "tenant.rm" => codec::to_bytes(&Reply::rejected(rejection, Revision(17))),
            _ => codec::to_bytes(&Answer::rejected(rejection, Revision(17))),
        })
    })
    .await;
    for typed in ["tenant rm blue", "group ls -t blue"] {
        let ran = netctl(&bus.url, typed);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.ends_with("\nrevision: 17\n"), "{ran:?}");
    }
    for typed in ["group ls -t blue -o json", "net inspect n -t blue --json"] {
        let ran = netctl(&bus.url, typed);
        assert_eq!(ran.code, 1, "{ran:?}");
        let value: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(
            (&value["revision"], &value["exitCode"], &value["type"]),
            (&17.into(), &1.into(), &"tenant-unknown".into())
        );
        for text in [&value["error"], &value["text"]] {
            let text = text.as_str().unwrap();
            assert!(text.contains("netctl tenant create blue"), "{text}");
        }
        assert!(ran.err.ends_with("\nrevision: 17\n"), "{ran:?}");
    }
}
