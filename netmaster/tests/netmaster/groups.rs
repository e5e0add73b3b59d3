//! Groups and policies through real masters on the real bus: races, and removals with nodes that
//! answer, refuse or are silent (played by the test).

use bus_schema::testing;
use std::collections::BTreeSet;

use bus_schema::codec;
use bus_schema::command::{GroupCreate, GroupRemove, PolicyCreate, Removal, RuleAdd, RuleRemove};
use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::policy::{Action, Direction, Peer, Priority};
use bus_schema::rejection::EndpointUse;
use bus_schema::{
    Answer, Command, Event, GroupName, PolicyName, Query, Rejection, Reply, Revision, RuleSpec,
    subject,
};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;

use crate::support::{Api, Bus, Master, create, network, node, tenant, until};

const ROUNDS: usize = 40;

pub(crate) fn group(name: &str) -> GroupName {
    testing::name(name)
}

fn policy(name: &str) -> PolicyName {
    testing::name(name)
}

pub(crate) fn create_group(name: &str) -> Command {
    Command::GroupCreate(GroupCreate {
        tenant: tenant("default"),
        network: network("front"),
        group: group(name),
        policies: vec![],
        ip_pool: None,
        docker_name: None,
    })
}

pub(crate) fn remove(name: &str, mode: Removal) -> Command {
    Command::GroupRemove(GroupRemove {
        tenant: tenant("default"),
        group: group(name),
        mode,
    })
}

fn create_policy(name: &str) -> Command {
    Command::PolicyCreate(PolicyCreate {
        tenant: tenant("default"),
        policy: policy(name),
    })
}

fn add(of: &str, id: &str, action: Action, peer: Option<Peer>) -> Command {
    Command::RuleAdd(RuleAdd {
        tenant: tenant("default"),
        policy: policy(of),
        rule: id.parse().expect("an id"),
        spec: RuleSpec {
            direction: Direction::In,
            priority: Priority::DEFAULT,
            action,
            protocol: None,
            ports: vec![],
            peer,
        },
        immediate: false,
    })
}

/// A cluster with network front.
pub(crate) async fn with_front() -> (Bus, Api) {
    let bus = Bus::cluster().await;
    let first = bus.master("first").await;
    let api = bus.client().await;
    api.accepted(create("default", "front", "20.1.1.0/24", None))
        .await;
    first.kill();
    (bus, api)
}

pub(crate) async fn two(bus: &Bus) -> (Master, Master) {
    (bus.master("m1").await, bus.master("m2").await)
}

#[track_caller]
fn one_of(a: Reply, b: Reply) -> Rejection {
    match (a, b) {
        (Reply::Accepted { .. }, Reply::Rejected { rejection, .. })
        | (Reply::Rejected { rejection, .. }, Reply::Accepted { .. }) => rejection,
        (a, b) => panic!("not exactly one was accepted: {a:?}, {b:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_and_numbers_through_two_masters_are_given_once() {
    let (bus, a) = with_front().await;
    let _masters = two(&bus).await;
    let b = bus.client().await;
    a.accepted(create_policy("p")).await;
    let many = (0..ROUNDS).map(|i| {
        let client = if i % 2 == 0 { &a } else { &b };
        let rule = add("p", &i.to_string(), Action::Deny, None);
        async move {
            client.accepted(create_group(&format!("g{i}"))).await;
            client.accepted(rule).await;
        }
    });
    join_all(many).await;
    let log = a.log().await;
    let (mut ids, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for envelope in &log {
        match &envelope.body {
            Event::GroupCreated(e) => assert!(ids.insert(e.group.id), "{:?} again", e.group.id),
            Event::RuleAdded(e) => assert!(numbers.insert(e.rule.number), "{}", e.rule.number),
            _ => {}
        }
    }
    assert_eq!((ids.len(), numbers.len()), (ROUNDS, ROUNDS));
    let writers: BTreeSet<_> = log.iter().map(|e| e.header.actor.as_str()).collect();
    assert!(
        writers.contains("m1") && writers.contains("m2"),
        "{writers:?}"
    );
    // An event that a reader of schema 1 must not skip says so.
    let groups = log
        .iter()
        .filter(|e| matches!(e.body, Event::GroupCreated(_)));
    assert!(groups.map(|e| e.header.min_reader).all(|min| min == 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_that_contradict_through_two_masters_never_both_are_accepted() {
    let (bus, a) = with_front().await;
    let _masters = two(&bus).await;
    let b = bus.client().await;
    a.accepted(create_policy("p")).await;
    for i in 0..ROUNDS {
        let id = i.to_string();
        let replies = tokio::join!(
            a.command(add("p", &id, Action::Deny, None)),
            b.command(add("p", &id, Action::Allow, None))
        );
        let rejection = one_of(replies.0, replies.1);
        assert!(
            matches!(rejection, Rejection::RuleDiffers { .. }),
            "{rejection}"
        );
    }
}

/// A rule that names a group and the group's removal: whichever came first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_never_goes_while_a_rule_comes_to_name_it() {
    let (bus, a) = with_front().await;
    let _masters = two(&bus).await;
    let b = bus.client().await;
    a.accepted(create_policy("p")).await;
    for i in 0..ROUNDS {
        let name = format!("g{i}");
        a.accepted(create_group(&name)).await;
        let peer = Peer::Group {
            group: group(&name),
        };
        let replies = tokio::join!(
            a.command(remove(&name, Removal::Force)),
            b.command(add("p", &name, Action::Deny, Some(peer)))
        );
        let rejection = one_of(replies.0, replies.1);
        assert!(
            matches!(
                rejection,
                Rejection::PeerInUse { .. } | Rejection::GroupUnknown { .. }
            ),
            "{rejection}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_and_a_group_of_one_name_never_both_are_accepted() {
    let (bus, a) = with_front().await;
    let _masters = two(&bus).await;
    let b = bus.client().await;
    for i in 0..ROUNDS {
        let name = format!("n{i}");
        let replies = tokio::join!(
            a.command(create_group(&name)),
            b.command(create("default", &name, &format!("10.{i}.0.0/16"), None))
        );
        let rejection = one_of(replies.0, replies.1);
        assert!(
            matches!(rejection, Rejection::NameTaken { .. }),
            "{rejection}"
        );
    }
}

#[tokio::test]
async fn lists_show_what_was_just_written() {
    let (bus, api) = with_front().await;
    let _masters = two(&bus).await;
    api.accepted(create_policy("p")).await;
    for id in ["10", "9", "a"] {
        api.accepted(add("p", id, Action::Deny, None)).await;
    }
    api.accepted(create_group("web")).await;
    let update = Command::GroupUpdate(bus_schema::command::GroupUpdate {
        tenant: tenant("default"),
        group: group("web"),
        policies: vec![policy("p")],
    });
    let (seen, _) = api.accepted(update).await;
    let query = Query::GroupList {
        tenant: Some(tenant("default")),
        group: Some(group("web")),
    };
    let Answer::Groups { groups, revision } = api.query(seen, query).await else {
        panic!("no groups");
    };
    assert!(revision >= seen);
    assert_eq!(groups[0].spec.policies, [policy("p")]);
    let query = Query::PolicyList {
        tenant: None,
        policy: None,
    };
    let Answer::Policies { policies, .. } = api.query(seen, query).await else {
        panic!("no policies");
    };
    let ids: Vec<_> = policies[0].rules.iter().map(|r| r.id.to_string()).collect();
    assert_eq!(ids, ["9", "10", "a"]);
    assert_eq!(policies[0].groups, [group("web")]);
    let gone = Command::RuleRemove(RuleRemove {
        tenant: tenant("default"),
        policy: policy("p"),
        rule: "9".parse().expect("an id"),
        immediate: true,
    });
    let (seen, events) = api.accepted(gone).await;
    let kinds: Vec<_> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds, ["rule-removed", "policy-applied"]);
    for query in [
        Query::GroupList {
            tenant: Some(tenant("default")),
            group: Some(group("nope")),
        },
        Query::PolicyList {
            tenant: Some(tenant("default")),
            policy: Some(policy("nope")),
        },
    ] {
        let answer = api.query(seen, query).await;
        assert!(matches!(answer, Answer::Rejected { .. }), "{answer:?}");
    }
}

/// Answers as a node what it is asked.
pub(crate) async fn play(api: &Api, name: &str, reply: NodeReply) {
    let to = subject::of_node(&node(name), "drain-group");
    let mut asked = api.client.subscribe(to).await.expect("connected");
    api.client.flush().await.expect("connected");
    let api = api.clone();
    tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            let request = codec::from_bytes(&message.payload).expect("a request");
            let NodeRequest::DrainGroup { revision, .. } = request else {
                panic!("{request:?}");
            };
            assert!(revision > Revision(0));
            let to = message.reply.expect("a request");
            let bytes = Bytes::from(codec::to_bytes(&reply));
            api.client.publish(to, bytes).await.expect("connected");
        }
    });
}

/// A cluster with group web and nodes n1 and n2.
async fn with_web() -> (Bus, Master, Api) {
    let (bus, api) = with_front().await;
    let master = bus.master("m1").await;
    api.join("n1", "198.18.0.1").await;
    api.join("n2", "198.18.0.2").await;
    api.accepted(create_group("web")).await;
    (bus, master, api)
}

/// The names of all groups, with a mark on those that close.
pub(crate) async fn groups(api: &Api, seen: Revision) -> Vec<String> {
    let query = Query::GroupList {
        tenant: None,
        group: None,
    };
    let Answer::Groups { groups, .. } = api.query(seen, query).await else {
        panic!("no groups");
    };
    let names = groups.iter().map(|group| {
        let closing = if group.closing { " (closing)" } else { "" };
        format!("{}{closing}", group.spec.name)
    });
    names.collect()
}

#[tokio::test]
async fn a_group_goes_when_all_nodes_answered() {
    let (_bus, _master, api) = with_web().await;
    play(&api, "n1", NodeReply::Done).await;
    play(&api, "n2", NodeReply::Done).await;
    let (revision, events) = api.accepted(remove("web", Removal::Close)).await;
    let kinds: Vec<_> = events.iter().map(Event::kind).collect();
    assert_eq!(kinds, ["group-closing", "group-removed"]);
    assert_eq!(groups(&api, revision).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_group_in_use_stays_and_the_answer_names_the_endpoints() {
    let (_bus, _master, api) = with_web().await;
    let used = EndpointUse {
        endpoint: testing::name("e1"),
        node: node("n2"),
        name: Some("db".to_owned()),
        address: testing::ip("20.1.1.2"),
    };
    play(&api, "n1", NodeReply::Done).await;
    let reply = NodeReply::InUse {
        endpoints: vec![used.clone()],
    };
    play(&api, "n2", reply).await;
    let rejection = api.rejected(remove("web", Removal::Close)).await;
    assert_eq!(
        rejection,
        Rejection::GroupInUse {
            tenant: tenant("default"),
            group: group("web"),
            endpoints: vec![used],
        }
    );
    assert_eq!(groups(&api, Revision(0)).await, ["web"]);
}

#[tokio::test]
async fn a_silent_node_is_named_and_the_same_again_goes_on() {
    let (_bus, _master, api) = with_web().await;
    play(&api, "n1", NodeReply::Done).await;
    let rejection = api.rejected(remove("web", Removal::Close)).await;
    assert_eq!(
        rejection,
        Rejection::GroupHeld {
            tenant: tenant("default"),
            group: group("web"),
            nodes: vec![node("n2")],
        }
    );
    assert_eq!(groups(&api, Revision(0)).await, ["web (closing)"]);
    play(&api, "n2", NodeReply::Done).await;
    let (revision, _) = api.accepted(remove("web", Removal::Close)).await;
    assert_eq!(groups(&api, revision).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_held_group_is_kept_or_forced() {
    let (_bus, _master, api) = with_web().await;
    api.rejected(remove("web", Removal::Close)).await;
    let finish = api.rejected(remove("web", Removal::Finish)).await;
    assert!(matches!(finish, Rejection::Unsupported { .. }), "{finish}");
    let (revision, _) = api.accepted(remove("web", Removal::Abort)).await;
    assert_eq!(groups(&api, revision).await, ["web"]);
    let (revision, events) = api.accepted(remove("web", Removal::Force)).await;
    assert!(matches!(&events[..], [Event::GroupRemoved(e)] if e.forced));
    assert_eq!(groups(&api, revision).await, Vec::<String>::new());
}

/// A node that starts while the group is being removed is waited for.
#[tokio::test]
async fn a_node_that_comes_back_in_time_is_asked_again() {
    let (_bus, _master, api) = with_web().await;
    play(&api, "n1", NodeReply::Done).await;
    let removal = {
        let api = api.clone();
        tokio::spawn(async move { api.accepted(remove("web", Removal::Close)).await })
    };
    until("the group closes", async || {
        let closing = groups(&api, Revision(0)).await == ["web (closing)"];
        closing.then_some(())
    })
    .await;
    play(&api, "n2", NodeReply::Done).await;
    let (revision, _) = removal.await.expect("accepted");
    assert_eq!(groups(&api, revision).await, Vec::<String>::new());
}
