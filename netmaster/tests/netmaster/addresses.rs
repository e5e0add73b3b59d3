//! A pool whose blocks are all leased: netmaster asks the holders, which the test plays, to give up
//! addresses. The network front has 16 blocks of 16 addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus_schema::codec;
use bus_schema::command::{BlockCede, BlockLease, BlockReturn};
use bus_schema::node::{NodeReply, NodeRequest, Spare};
use bus_schema::rejection::{HolderUse, Holders, Unasked};
use bus_schema::{Command, Event, NodeName, Query, Rejection, Reply, Revision};
use bytes::Bytes;
use futures::StreamExt;
use ipnet::IpNet;

use crate::groups::with_front;
use crate::support::{Api, Bus, Master, network, node, request, request_within, tenant, until};

fn lease(holder: &str) -> BlockLease {
    BlockLease {
        tenant: tenant("default"),
        network: network("front"),
        group: None,
        node: node(holder),
        address: None,
        v6: false,
        ahead: false,
        waiting: 0,
    }
}

async fn give_back(api: &Api, holder: &NodeName, block: IpNet) -> Revision {
    let command = Command::BlockReturn(BlockReturn {
        tenant: tenant("default"),
        network: network("front"),
        group: None,
        block,
        node: holder.clone(),
    });
    api.accepted(command).await.0
}

async fn cede(api: &Api, from: &NodeName, to: NodeName, address: IpAddr) -> Revision {
    let command = Command::BlockCede(BlockCede {
        tenant: tenant("default"),
        network: network("front"),
        group: None,
        address,
        from: from.clone(),
        to,
    });
    api.accepted(command).await.0
}

fn leased(events: &[Event]) -> IpNet {
    match events {
        [Event::BlockLeased(leased)] => leased.block,
        other => panic!("{other:?}"),
    }
}

/// A simulated node's reactions to requests.
#[derive(Debug, Clone, Default)]
struct Player {
    /// Blocks of which it uses nothing.
    unused: Vec<IpNet>,
    /// Addresses that it could cede.
    free: Vec<IpAddr>,
    in_use: u64,
    /// The node that leases a returned block before the answer that it was returned.
    thief: Option<&'static str>,
    /// It never answers.
    is_silent: bool,
    /// It answers as a build that doesn't know the requests.
    is_older: bool,
    delay: Duration,
}

impl Player {
    fn spare(&self) -> Spare {
        let (blocks, free) = (self.unused.len(), self.free.len());
        let free = u64::try_from(free + 16 * blocks).expect("few");
        Spare {
            addresses: self.in_use + free,
            in_use: self.in_use,
            blocks: u64::try_from(blocks).expect("few"),
            free,
            recent: 0,
            ceding: 0,
        }
    }

    async fn reply(&mut self, api: &Api, me: &NodeName, request: NodeRequest) -> NodeReply {
        if self.is_older {
            let reason = "malformed message: unknown variant `spare`, expected one of `status`";
            let reason = reason.to_owned();
            return NodeReply::Refused { reason };
        }
        match request {
            NodeRequest::Spare { .. } => NodeReply::Spare(self.spare()),
            NodeRequest::ReturnBlock { .. } => {
                let block = self.unused.remove(0);
                let revision = give_back(api, me, block).await;
                if let Some(thief) = self.thief.take() {
                    api.accepted(Command::BlockLease(lease(thief))).await;
                }
                NodeReply::GaveUp { revision }
            }
            NodeRequest::CedeAny { to, .. } => {
                let address = self.free.remove(0);
                let revision = cede(api, me, to, address).await;
                NodeReply::GaveUp { revision }
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The requests to the simulated nodes, such as `n1 spare`.
#[derive(Debug, Clone, Default)]
struct Asked(Arc<Mutex<Vec<String>>>);

impl Asked {
    fn take(&self) -> Vec<String> {
        let mut asked = std::mem::take(&mut *self.0.lock().expect("no panic"));
        asked.sort();
        asked
    }
}

#[expect(clippy::disallowed_methods, reason = "a node that is slow")]
async fn delay(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Plays a node until the test ends, and says once that it lives.
async fn play(api: &Api, name: &'static str, asked: &Asked, mut player: Player) {
    let (api, asked, me) = (api.clone(), asked.clone(), node(name));
    let requests = api.client.subscribe(format!("contiv.node.{name}.*")).await;
    let mut requests = requests.expect("connected");
    api.client.flush().await.expect("connected");
    api.status(name, Revision(0)).await;
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let request: NodeRequest = codec::from_bytes(&message.payload).expect("a request");
            let line = format!("{name} {}", request.verb());
            asked.0.lock().expect("no panic").push(line);
            if player.is_silent {
                continue;
            }
            delay(player.delay).await;
            let reply = player.reply(&api, &me, request).await;
            let bytes = Bytes::from(codec::to_bytes(&reply));
            let to = message.reply.expect("a request");
            api.client.publish(to, bytes).await.expect("connected");
        }
    });
}

/// A cluster whose network has no free block: n1 and n2 hold eight each, n3 is a member.
struct Full {
    _bus: Bus,
    _master: Master,
    api: Api,
    asked: Asked,
    blocks: BTreeMap<&'static str, Vec<IpNet>>,
}

impl Full {
    async fn new() -> Self {
        let (bus, api) = with_front().await;
        let master = bus.master("m1").await;
        for (i, name) in (1..).zip(["n1", "n2", "n3"]) {
            api.join(name, &format!("198.18.0.{i}")).await;
        }
        let mut blocks: BTreeMap<&str, Vec<IpNet>> = BTreeMap::new();
        for name in ["n1", "n2"].into_iter().cycle().take(16) {
            let (_, events) = api.accepted(Command::BlockLease(lease(name))).await;
            blocks.entry(name).or_default().push(leased(&events));
        }
        let asked = Asked::default();
        Self {
            _bus: bus,
            _master: master,
            api,
            asked,
            blocks,
        }
    }

    async fn play(&self, name: &'static str, player: Player) {
        play(&self.api, name, &self.asked, player).await;
    }

    /// Asks as n3 for addresses of the network.
    async fn lease(&self) -> Reply {
        self.api.command(Command::BlockLease(lease("n3"))).await
    }

    async fn holders(&self) -> Holders {
        match self.lease().await {
            Reply::Rejected {
                rejection: Rejection::PoolExhausted { holders, .. },
                ..
            } => *holders,
            other => panic!("{other:?}"),
        }
    }
}

fn uses(addresses: u64) -> Player {
    Player {
        in_use: addresses,
        ..Player::default()
    }
}

fn use_of(name: &str, addresses: u64, in_use: u64) -> HolderUse {
    HolderUse {
        node: node(name),
        addresses,
        in_use,
    }
}

fn addresses(block: IpNet, last: &[u8]) -> Vec<IpAddr> {
    let IpAddr::V4(first) = block.network() else {
        panic!("{block}");
    };
    let [a, b, c, d] = first.octets();
    let each = last.iter().map(|more| IpAddr::from([a, b, c, d + more]));
    each.collect()
}

#[tokio::test]
async fn whole_block_is_asked_for_first_and_then_an_address_of_the_node_with_the_most() {
    let full = Full::new().await;
    let (unused, first) = (full.blocks["n1"][3], full.blocks["n1"][0]);
    let one = Player {
        unused: vec![unused],
        free: addresses(first, &[3]),
        in_use: 9,
        ..Player::default()
    };
    let free = addresses(full.blocks["n2"][1], &[4, 5]);
    let other = Player {
        free: free.clone(),
        in_use: 9,
        ..Player::default()
    };
    full.play("n1", one).await;
    full.play("n2", other).await;

    let Reply::Accepted { events, .. } = full.lease().await else {
        panic!("not accepted");
    };
    assert_eq!(leased(&events), unused);
    assert!(full.asked.take().contains(&"n1 return-block".to_owned()));

    // Now n3 holds a block, too. It is asked for its counts.
    full.play("n3", uses(16)).await;
    let Reply::Accepted { revision, events } = full.lease().await else {
        panic!("not accepted");
    };
    assert_eq!(events, []);
    assert_eq!(
        full.asked.take(),
        ["n1 spare", "n2 cede-any", "n2 spare", "n3 spare"]
    );
    let query = Query::NetworkList {
        tenant: None,
        network: Some(network("front")),
    };
    let bus_schema::Answer::Networks { networks, .. } = full.api.query(revision, query).await
    else {
        panic!("no networks");
    };
    let ceded = networks[0].blocks.get(&IpNet::from(free[0]));
    assert_eq!(ceded, Some(&node("n3")));
}

#[tokio::test]
async fn refusal_names_who_holds_how_many_addresses_and_who_cannot_be_asked() {
    let full = Full::new().await;
    full.play("n1", uses(127)).await;
    let older = Player {
        is_older: true,
        ..Player::default()
    };
    full.play("n2", older).await;
    let holders = full.holders().await;
    assert_eq!(holders.asked, [use_of("n1", 127, 127)]);
    let [Unasked { node: name, reason }] = &holders.unasked[..] else {
        panic!("{holders:?}");
    };
    assert_eq!(*name, node("n2"));
    assert!(reason.contains("older"), "{reason}");
}

#[tokio::test]
async fn silent_holder_is_waited_for_less_than_a_second_and_named_and_later_not_asked() {
    let full = Full::new().await;
    full.play("n1", uses(127)).await;
    let silent = Player {
        is_silent: true,
        ..Player::default()
    };
    full.play("n2", silent).await;
    let asked = Instant::now();
    let holders = full.holders().await;
    let took = asked.elapsed();
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(holders.asked, [use_of("n1", 127, 127)]);
    let reason = "no answer in time".to_owned();
    let node = node("n2");
    assert_eq!(holders.unasked, [Unasked { node, reason }]);
    full.asked.take();

    // Its status grows old, n1's doesn't.
    let holders = until("n2 is not asked any more", async || {
        full.api.status("n1", Revision(0)).await;
        let holders = full.holders().await;
        let asked = full.asked.take();
        (asked == ["n1 spare"]).then_some(holders)
    })
    .await;
    let reason = &holders.unasked[0].reason;
    assert!(reason.contains("nothing was heard of it"), "{reason}");
}

#[tokio::test]
async fn only_the_first_search_waits_for_a_silent_holder_while_others_offer_addresses() {
    let full = Full::new().await;
    let free = addresses(full.blocks["n1"][0], &[3, 4, 5]);
    let offers = Player {
        free,
        ..Player::default()
    };
    full.play("n1", offers).await;
    let silent = Player {
        is_silent: true,
        ..Player::default()
    };
    full.play("n2", silent).await;
    for round in 0..3 {
        let reply = full.lease().await;
        assert!(matches!(reply, Reply::Accepted { .. }), "{reply:?}");
        let asked = full.asked.take();
        let silent_too = asked.iter().any(|it| it == "n2 spare");
        assert_eq!(silent_too, round == 0, "{asked:?}");
    }
    // Before it refuses, netmaster asks everybody.
    let holders = full.holders().await;
    let unasked: Vec<String> = holders
        .unasked
        .iter()
        .map(|it| it.node.to_string())
        .collect();
    // The test plays no n3, the asker.
    assert_eq!(unasked, ["n2", "n3"], "{holders:?}");
    let asked = full.asked.take();
    assert!(asked.iter().any(|it| it == "n2 spare"), "{asked:?}");
}

#[tokio::test]
async fn holders_are_asked_again_when_another_node_leases_the_returned_block_first() {
    let full = Full::new().await;
    let unused = full.blocks["n1"][2..4].to_vec();
    let player = Player {
        unused: unused.clone(),
        in_use: 9,
        thief: Some("n2"),
        ..Player::default()
    };
    full.play("n1", player).await;
    full.play("n2", uses(127)).await;
    let Reply::Accepted { events, .. } = full.lease().await else {
        panic!("not accepted");
    };
    assert_eq!(leased(&events), unused[1]);
    let asked = full.asked.take();
    let returns = asked.iter().filter(|it| *it == "n1 return-block");
    assert_eq!(returns.count(), 2, "{asked:?}");
}

#[tokio::test]
async fn lease_ahead_of_need_asks_nobody() {
    let full = Full::new().await;
    let player = Player {
        unused: full.blocks["n1"].clone(),
        ..Player::default()
    };
    full.play("n1", player).await;
    full.play("n2", uses(127)).await;
    let ahead = Command::BlockLease(BlockLease {
        ahead: true,
        ..lease("n3")
    });
    match full.api.rejected(ahead).await {
        Rejection::PoolExhausted { holders, .. } => assert!(holders.is_empty(), "{holders:?}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(full.asked.take(), Vec::<String>::new());
}

#[tokio::test]
async fn command_sent_again_waits_for_the_search_under_way_and_gets_its_outcome() {
    let full = Full::new().await;
    let player = Player {
        free: addresses(full.blocks["n1"][0], &[3, 4, 5, 6]),
        in_use: 9,
        delay: Duration::from_millis(200),
        ..Player::default()
    };
    full.play("n1", player).await;
    full.play("n2", uses(127)).await;
    let sent = request(Command::BlockLease(lease("n3")));
    let (one, other) = tokio::join!(full.api.send(&sent), full.api.send(&sent));
    // A block that is free by now isn't leased on top of the ceded address.
    give_back(&full.api, &node("n2"), full.blocks["n2"][0]).await;
    let later = full.api.send(&sent).await;
    assert!(matches!(one, Ok(Reply::Accepted { .. })), "{one:?}");
    assert_eq!(one, other);
    assert_eq!(one, later);
    assert_eq!(
        full.asked.take(),
        ["n1 cede-any", "n1 spare", "n2 spare"],
        "one search"
    );
}

#[tokio::test]
async fn searches_in_one_pool_take_turns_and_each_gets_its_own_address() {
    let full = Full::new().await;
    let free = addresses(full.blocks["n1"][0], &[3, 4, 5]);
    let player = Player {
        free,
        in_use: 9,
        delay: Duration::from_millis(30),
        ..Player::default()
    };
    full.play("n1", player).await;
    full.play("n2", uses(127)).await;
    let mut replies = Vec::new();
    let all = (0..4).map(|_| full.lease());
    for reply in futures::future::join_all(all).await {
        replies.push(match reply {
            Reply::Accepted { .. } => "accepted",
            Reply::Rejected { .. } => "rejected",
            Reply::Unknown { .. } => "unknown",
        });
    }
    replies.sort_unstable();
    assert_eq!(replies, ["accepted", "accepted", "accepted", "rejected"]);
    let asked = full.asked.take();
    let ceded = asked.iter().filter(|it| *it == "n1 cede-any");
    assert_eq!(ceded.count(), 3, "{asked:?}");
}

#[tokio::test]
async fn holder_that_offers_and_never_gives_is_named_at_the_deadline() {
    let full = Full::new().await;
    full.play("n2", uses(127)).await;
    // It answers Spare at once and then nothing more.
    let requests = full.api.client.subscribe("contiv.node.n1.spare").await;
    let mut requests = requests.expect("connected");
    full.api.status("n1", Revision(0)).await;
    let api = full.api.clone();
    tokio::spawn(async move {
        while let Some(message) = requests.next().await {
            let spare = Spare {
                addresses: 128,
                in_use: 127,
                blocks: 0,
                free: 1,
                recent: 0,
                ceding: 0,
            };
            let bytes = Bytes::from(codec::to_bytes(&NodeReply::Spare(spare)));
            let to = message.reply.expect("a request");
            api.client.publish(to, bytes).await.expect("connected");
        }
    });
    let sent = request_within(1_500, Command::BlockLease(lease("n3")));
    match full.api.send(&sent).await {
        Ok(Reply::Rejected { rejection, .. }) => {
            let text = rejection.to_string();
            let expected =
                "(n2 uses 127 of its 127); these nodes hold addresses and gave none up: n1 (";
            assert!(text.contains(expected), "{text}");
        }
        other => panic!("{other:?}"),
    }
}
