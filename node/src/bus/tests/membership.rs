//! A node that leaves, is drained, or is removed while its netplugin runs.

use bus_schema::event::{BlockLeased, NetworkCreated, NodeDrained, NodeRemoved};

use super::*;
use crate::endpoint::fixture::{endpoint, ip, key, net, network};
use crate::endpoint::{Claim, Reserve};

const BLOCK: &str = "10.0.0.16/28";

struct World {
    server: Server,
    master: Master,
    tasks: JoinSet<()>,
    node: Node,
    _store: tempfile::TempDir,
}

/// A member that holds a block.
async fn member() -> World {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let mut tasks = JoinSet::new();
    let master = Master::init(&server, cluster(1)).await;
    master.serve(None, &mut tasks).await;
    let node = Node::start(server.url(), Projection::default());
    node.wait_until_in_sync().await;
    let network = network(&[]).spec;
    let tenant = tenant(network.tenant.as_str());
    master.append(tenant).await;
    master
        .append(Event::NetworkCreated(NetworkCreated { network }))
        .await;
    let leased = BlockLeased {
        tenant: key().0,
        network: net(),
        group: None,
        block: BLOCK.parse().unwrap(),
        node: me().node,
    };
    node.wait_until_applied(master.append(Event::BlockLeased(leased)).await)
        .await;
    World {
        server,
        master,
        tasks,
        node,
        _store: store,
    }
}

fn removed() -> Event {
    Event::NodeRemoved(NodeRemoved {
        node: me().node,
        lost: true,
    })
}

async fn wait_until_published(master: &Master) {
    wait_until("published", async || {
        let said = last_event(master, "new").await;
        matches!(said, Some(EndpointEvent::Up { .. }))
    })
    .await;
}

impl World {
    /// Restarts the server and netmaster.
    async fn restart(&mut self) {
        self.tasks.shutdown().await;
        self.server.restart().await;
        self.master = Master::connect(&self.server).await;
        self.master.serve(None, &mut self.tasks).await;
    }

    async fn ask(&self, request: &NodeRequest) -> Option<NodeReply> {
        let to = subject::of_node(&me().node, request.verb());
        let bytes = codec::to_bytes(request);
        let asked = self.master.client.request(to, bytes.into()).await;
        Some(codec::from_bytes(&asked.ok()?.payload).unwrap())
    }

    fn is_member(&self) -> bool {
        self.node.facts.borrow().nodes.contains_key(&me().node)
    }
}

#[tokio::test]
async fn removed_node_stays_out_until_it_is_started_again() {
    let mut world = member().await;
    world.master.append(removed()).await;
    let is_removed = |log: &LogState| *log == LogState::Removed;
    world.node.wait_for_log_state("removed", is_removed).await;
    for n in 0..2 {
        // It still follows the log, and isn't a member again after a new connection.
        let later = world.master.append(tenant(&format!("t{n}"))).await;
        world.node.wait_until_applied(later).await;
        assert!(!world.is_member());
        assert_eq!(*world.node.log.borrow(), LogState::Removed);
        wait_until("silent", async || {
            world.ask(&NodeRequest::Status).await.is_none()
        })
        .await;
        world.restart().await;
    }
    let known = world.node.facts.borrow().clone();
    world.node = Node::start(world.server.url(), known);
    world.node.wait_until_in_sync().await;
    assert!(world.is_member());
}

#[tokio::test]
async fn node_removed_before_its_start_joins() {
    let mut world = member().await;
    let known = world.node.facts.borrow().clone();
    drop(std::mem::replace(
        &mut world.node,
        Node::start("nats://127.0.0.1:1".to_owned(), known.clone()),
    ));
    world.master.append(removed()).await;
    world.node = Node::start(world.server.url(), known);
    world.node.wait_until_in_sync().await;
    assert!(world.is_member());
}

#[tokio::test]
async fn removed_node_withdraws_its_endpoints_and_attaches_none() {
    let world = member().await;
    attach(&world.node).await;
    wait_until_published(&world.master).await;
    world.master.append(removed()).await;
    wait_until("withdrawn", async || {
        let said = last_event(&world.master, "new").await;
        matches!(said, Some(EndpointEvent::Down { .. }))
    })
    .await;
    let mut again = reserve(Claim::Promise);
    again.address = Some(ip("10.0.0.20"));
    let error = world.node.endpoints.reserve(again).await.unwrap_err();
    assert!(error.to_string().contains("was removed"), "{error}");
}

#[tokio::test]
async fn removed_node_keeps_endpoints_of_another_machine_of_its_name() {
    let mut world = member().await;
    world.master.append(removed()).await;
    let is_removed = |log: &LogState| *log == LogState::Removed;
    world.node.wait_for_log_state("removed", is_removed).await;
    let other = NodeJoined {
        node: me().node,
        machine: MachineId("another".to_owned()),
        vtep: me().vtep,
    };
    let joined = world.master.append(Event::NodeJoined(other)).await;
    world.node.wait_until_applied(joined).await;
    for (id, of) in [("theirs", "a"), ("last", "b")] {
        let of = NodeName::new(of).unwrap();
        let endpoint = to_published(&endpoint(id, "10.0.0.9"), &of, me().vtep);
        let to = subject::of_endpoint(&endpoint);
        let event = EndpointEvent::Up {
            endpoint,
            applied: Revision(1),
        };
        world.master.put(to, codec::to_bytes(&event)).await;
    }
    world.restart().await;
    let later = world.master.append(tenant("later")).await;
    world.node.wait_until_applied(later).await;
    // The first publication of a session comes at once; its absence has no signal to wait for.
    pause(Duration::from_millis(500)).await;
    let said = last_event(&world.master, "theirs").await;
    assert!(matches!(said, Some(EndpointEvent::Up { .. })), "{said:?}");
}

fn reserve(claim: Claim) -> Reserve {
    Reserve {
        tenant: key().0,
        network: net(),
        group: None,
        address: None,
        claim,
    }
}

#[tokio::test]
async fn drained_node_lists_endpoints_and_promised_addresses() {
    let world = member().await;
    let handle = &world.node.endpoints;
    let address = handle.reserve(reserve(Claim::Promise)).await.unwrap();
    attach(&world.node).await;
    let node = me().node;
    let drained = Event::NodeDrained(NodeDrained { node });
    let revision = world.master.append(drained).await;
    let asked = NodeRequest::DrainNode { revision };
    let Some(NodeReply::InUse { endpoints }) = world.ask(&asked).await else {
        panic!("it isn't empty");
    };
    assert_eq!(endpoints[0].name.as_deref(), Some("web"));

    handle.detach(&endpoints[0].endpoint).await.unwrap();
    let Some(NodeReply::HoldsBlocks { reason }) = world.ask(&asked).await else {
        panic!("it holds a block");
    };
    let names = format!("{address} of default:web");
    assert!(reason.contains(&names), "{reason}");

    let asking = world.ask(&asked);
    let returned = bus_schema::event::BlockReturned {
        tenant: key().0,
        network: net(),
        group: None,
        block: BLOCK.parse().unwrap(),
        node: me().node,
    };
    let returning = world.master.append(Event::BlockReturned(returned));
    let (answer, _) = tokio::join!(asking, returning);
    assert_eq!(answer, Some(NodeReply::Done));
}

#[tokio::test]
async fn leave_is_logged_also_when_netmaster_starts_later() {
    let world = member().await;
    attach(&world.node).await;
    wait_until_published(&world.master).await;
    let leave = world.node.leave.clone();
    let early = leave.complete().await.unwrap_err();
    assert!(early.to_string().contains("as soon as they do"), "{early}");
    wait_until("withdrawn", async || {
        let said = last_event(&world.master, "new").await;
        matches!(said, Some(EndpointEvent::Down { .. }))
    })
    .await;
    let (said, ()) = tokio::join!(leave.complete(), take_leave(&world.master));
    said.unwrap();
    wait_until("refused", async || {
        let promised = world.node.endpoints.reserve(reserve(Claim::Promise)).await;
        promised.is_err_and(|error| error.to_string().contains("has left the cluster"))
    })
    .await;
}

/// Puts the next leave into the log.
async fn take_leave(master: &Master) {
    let of = "contiv.api.v1.node.leave";
    let mut requests = master.client.subscribe(of).await.unwrap();
    master.client.flush().await.unwrap();
    let message = requests.next().await.unwrap();
    let request: Request<Command> = codec::from_bytes(&message.payload).unwrap();
    let Command::NodeLeave(leave) = request.body else {
        panic!("no leave");
    };
    assert_eq!((leave.node, leave.machine), (me().node, me().machine));
    let left = bus_schema::event::NodeLeft { node: me().node };
    let reply = Reply::Accepted {
        revision: master.append(Event::NodeLeft(left)).await,
        events: Vec::new(),
    };
    let bytes = codec::to_bytes(&reply);
    let to = message.reply.unwrap();
    master.client.publish(to, bytes.into()).await.unwrap();
}

/// A member whose netplugin started while no netmaster answered.
async fn member_without_netmaster() -> World {
    let mut world = member().await;
    world.tasks.shutdown().await;
    let known = world.node.facts.borrow().clone();
    world.node = Node::start(world.server.url(), known);
    world.node.wait_until_in_sync().await;
    world
}

#[tokio::test]
async fn node_started_without_netmaster_stays_out_when_it_is_removed() {
    let mut world = member_without_netmaster().await;
    world.master.serve(None, &mut world.tasks).await;
    world.master.append(removed()).await;
    let is_removed = |log: &LogState| *log == LogState::Removed;
    world.node.wait_for_log_state("removed", is_removed).await;
    world.restart().await;
    let later = world.master.append(tenant("later")).await;
    world.node.wait_until_applied(later).await;
    assert!(!world.is_member());
}

#[tokio::test]
async fn node_started_without_netmaster_stays_out_when_it_is_removed_while_cut_off() {
    let mut world = member_without_netmaster().await;
    let port = world.server.port;
    world.server.stop();
    let is_away = |log: &LogState| matches!(log, LogState::Disconnected { .. });
    world.node.wait_for_log_state("away", is_away).await;
    // The node finds its server again when the removal is in the log.
    let mut elsewhere = Server::start(None, &world.server.store, true).await;
    Master::connect(&elsewhere).await.append(removed()).await;
    elsewhere.stop();
    world.server = Server::start(Some(port), &world.server.store.clone(), true).await;
    world.master = Master::connect(&world.server).await;
    world.master.serve(None, &mut world.tasks).await;
    let is_removed = |log: &LogState| *log == LogState::Removed;
    world.node.wait_for_log_state("removed", is_removed).await;
    assert!(!world.is_member());
}

#[tokio::test]
async fn node_started_without_netmaster_stays_left_when_the_bus_restarts() {
    let mut world = member_without_netmaster().await;
    let leave = world.node.leave.clone();
    let (said, ()) = tokio::join!(leave.complete(), take_leave(&world.master));
    said.unwrap();
    world.restart().await;
    let later = world.master.append(tenant("later")).await;
    world.node.wait_until_applied(later).await;
    assert!(world.node.facts.borrow().nodes[&me().node].left);
}

#[tokio::test]
async fn node_that_leaves_before_it_joined_does_not_join() {
    let store = tempfile::tempdir().unwrap();
    let server = Server::start(None, store.path(), true).await;
    let master = Master::init(&server, cluster(1)).await;
    let node = Node::start(server.url(), Projection::default());
    let waits = |log: &LogState| matches!(log, LogState::Disconnected { reason } if reason.contains("can't join"));
    node.wait_for_log_state("waiting for netmaster", waits)
        .await;
    let (leave, mut tasks) = (node.leave.clone(), JoinSet::new());
    tasks.spawn(async move { leave.complete().await.unwrap_err() });
    let mut asked = node.leave.requested();
    asked.wait_for(|asked| *asked).await.unwrap();
    let refused = |log: &LogState| matches!(log, LogState::Refused { reason } if reason.contains("restart its netplugin"));
    let mut netmaster = JoinSet::new();
    master.serve(None, &mut netmaster).await;
    node.wait_for_log_state("refused", refused).await;
    let later = master.append(tenant("later")).await;
    node.wait_until_applied(later).await;
    assert!(!node.facts.borrow().nodes.contains_key(&me().node));
}
