//! Blocks and addresses that this node gives up, by itself or because another node needs addresses.

mod again;

use bus_schema::command::BlockLease;
use bus_schema::node::{LogState, Spare};
use bus_schema::{CommandId, MachineId, PoolKey};

use super::*;
use crate::store::Saved;
use node_core::projection::NodeFact;
use runtime::now;

fn pool() -> PoolKey {
    PoolKey::of_network(&tenant(), &net())
}

fn returning(bench: &Bench) -> Vec<String> {
    let ledger = bench.handle.snapshots().borrow().ledger.clone();
    let usage = ledger.usage(&key()).cloned().unwrap_or_default();
    usage.returning.iter().map(ToString::to_string).collect()
}

impl Bench {
    async fn spare(&self) -> Spare {
        let now = self.facts.borrow().applied;
        self.handle.spare(&pool(), false, now).await.unwrap()
    }

    async fn commanded(
        &mut self,
    ) -> (
        Command,
        tokio::sync::oneshot::Sender<Result<Revision, BusError>>,
    ) {
        match self.next_request().await {
            BusRequest::Command {
                command, answer, ..
            } => (command, answer),
            other @ BusRequest::Node { .. } => panic!("{other:?}"),
        }
    }

    async fn identified(
        &mut self,
    ) -> (
        CommandId,
        tokio::sync::oneshot::Sender<Result<Revision, BusError>>,
    ) {
        match self.next_request().await {
            BusRequest::Command { id, answer, .. } => (id, answer),
            other @ BusRequest::Node { .. } => panic!("{other:?}"),
        }
    }

    async fn leased(
        &mut self,
    ) -> (
        BlockLease,
        tokio::sync::oneshot::Sender<Result<Revision, BusError>>,
    ) {
        match self.commanded().await {
            (Command::BlockLease(lease), answer) => (lease, answer),
            (other, _) => panic!("{other:?}"),
        }
    }
}

const TWO_BLOCKS: [(&str, &str); 2] = [("10.0.0.16/31", "a"), ("10.0.0.32/31", "a")];

#[tokio::test]
async fn return_is_journaled_before_netmaster_is_asked() {
    let mut bench = Bench::new(&TWO_BLOCKS);
    bench.handle.attach(attach("e1", None)).await.unwrap();
    let spare = bench.spare().await;
    assert_eq!((spare.in_use, spare.blocks, spare.free), (1, 1, 3));
    let handle = bench.handle.clone();
    let returned = tokio::spawn(async move { handle.return_block(pool(), false).await });
    let (command, answer) = bench.commanded().await;
    let Command::BlockReturn(command) = command else {
        panic!("{command:?}")
    };
    assert_eq!(command.block.to_string(), TWO_BLOCKS[1].0);
    assert_eq!(returning(&bench), [TWO_BLOCKS[1].0]);
    // A second request waits for the same return.
    let handle = bench.handle.clone();
    let mut again = Box::pin(handle.return_block(pool(), false));
    for _ in 0..2 {
        assert!(futures::poll!(again.as_mut()).is_pending());
        // Behind this the manager has answered earlier requests.
        bench.handle.write_records(Vec::new()).await.unwrap();
    }
    let spare = bench.spare().await;
    assert_eq!((spare.in_use, spare.blocks, spare.free), (1, 1, 1));
    bench.hold(&TWO_BLOCKS[..1]);
    answer.send(Ok(Revision(7))).unwrap();
    assert_eq!(returned.await.unwrap().unwrap(), Revision(7));
    again.await.unwrap();
    assert!(bench.asks.try_recv().is_err(), "it was asked for once");
    let error = bench.handle.return_block(pool(), false).await.unwrap_err();
    assert!(
        matches!(error, AttachError::NothingToGive { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn longest_freed_address_is_ceded_first() {
    let mut bench = Bench::new(&[("10.0.0.16/30", "a")]);
    for id in ["e1", "e2", "e3", "e4"] {
        bench.handle.attach(attach(id, None)).await.unwrap();
    }
    for id in ["e3", "e2"] {
        bench.handle.detach(&attach(id, None).id).await.unwrap();
        let freed = now();
        while now() == freed {
            tokio::task::yield_now().await;
        }
    }
    for (address, to) in [("10.0.0.18", "b"), ("10.0.0.17", "c")] {
        let handle = bench.handle.clone();
        let ceded = tokio::spawn(async move { handle.cede_any(pool(), false, node(to), 1).await });
        let (command, answer) = loop {
            match bench.commanded().await {
                // The attaches requested a block ahead.
                (Command::BlockLease(lease), _) if lease.ahead => {}
                (Command::BlockCede(command), answer) => break (command, answer),
                (other, _) => panic!("{other:?}"),
            }
        };
        assert_eq!((command.address, command.to), (ip(address), node(to)));
        answer.send(Ok(Revision(9))).unwrap();
        assert_eq!(ceded.await.unwrap().unwrap(), Revision(9));
    }
    let none = bench.handle.cede_any(pool(), false, node("d"), 1).await;
    assert!(matches!(none, Err(AttachError::NothingToGive { .. })));
    let itself = bench.handle.cede_any(pool(), false, node("a"), 1).await;
    assert!(matches!(itself, Err(AttachError::NothingToGive { .. })));
}

#[tokio::test]
async fn half_of_the_free_addresses_are_ceded_at_most() {
    let mut bench = Bench::new(&[("10.0.0.16/29", "a")]);
    let handle = bench.handle.clone();
    let ceded = tokio::spawn(async move { handle.cede_any(pool(), false, node("b"), 60).await });
    for (address, revision) in [("16", 9), ("17", 11), ("18", 10), ("19", 8)] {
        let (command, answer) = bench.commanded().await;
        let Command::BlockCede(command) = command else {
            panic!("{command:?}")
        };
        assert_eq!(command.address, ip(&format!("10.0.0.{address}")));
        answer.send(Ok(Revision(revision))).unwrap();
    }
    assert_eq!(ceded.await.unwrap().unwrap(), Revision(11));
    assert!(bench.asks.try_recv().is_err());
}

#[tokio::test]
async fn address_is_given_up_after_the_kernel_has_dropped_its_endpoint() {
    for by_name in [false, true] {
        let mut bench = Bench::new(&[("10.0.0.16/32", "a")]);
        bench.handle.attach(attach("e1", None)).await.unwrap();
        let (ahead, _) = bench.leased().await;
        assert!(ahead.ahead);
        bench.kernel.send_modify(|kernel| kernel.generation = 0);
        let generation = bench.handle.start_detach(&attach("e1", None).id).await;
        let generation = generation.unwrap();
        let handle = bench.handle.clone();
        let ceded = tokio::spawn(async move {
            match by_name {
                true => handle.cede(cede_request("10.0.0.16", "b", false)).await,
                false => handle.cede_any(pool(), false, node("b"), 1).await.map(drop),
            }
        });
        let mut snapshots = bench.handle.snapshots();
        let journaled = snapshots.wait_for(|it| {
            let usage = it.ledger.usage(&key());
            usage.is_some_and(|usage| usage.ceding.contains_key(&ip("10.0.0.16")))
        });
        journaled.await.unwrap();
        // Behind this the manager has answered earlier requests; then their tasks run.
        bench.handle.write_records(vec![]).await.unwrap();
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        assert!(bench.asks.try_recv().is_err(), "the kernel still has it");
        bench
            .kernel
            .send_modify(|kernel| kernel.generation = generation);
        let (_, answer) = bench.commanded().await;
        answer.send(Ok(Revision(9))).unwrap();
        ceded.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn address_is_not_given_up_while_the_kernel_keeps_its_endpoint() {
    let mut bench = Bench::new(&[("10.0.0.16/32", "a")]);
    bench.kernel.send_modify(|kernel| kernel.generation = 0);
    let error = bench.handle.cede_any(pool(), false, node("b"), 1).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("hasn't dropped the address's endpoint yet"),
        "{error}"
    );
    assert!(bench.asks.try_recv().is_err());
}

#[tokio::test]
async fn node_without_its_journal_gives_up_nothing() {
    let bench = Bench::new(&TWO_BLOCKS);
    bench.handle.restore_records(vec![Record::Incomplete]).await;
    let spare = bench.spare().await;
    let nothing = Spare {
        addresses: 4,
        ..Spare::default()
    };
    assert_eq!(spare, nothing);
    let block = "10.0.0.16/31".parse().unwrap();
    for refused in [
        bench.handle.return_block(pool(), false).await.map(drop),
        bench
            .handle
            .cede_any(pool(), false, node("b"), 1)
            .await
            .map(drop),
        bench.handle.start_return(key(), block).await.map(drop),
    ] {
        assert!(matches!(refused, Err(AttachError::Incomplete)));
    }
    assert!(returning(&bench).is_empty());
}

/// Runs `settle` with this node in sync.
fn settling(bench: &Bench, idle: Duration) -> tokio_util::task::AbortOnDropHandle<()> {
    let (handle, facts) = (bench.handle.clone(), bench.facts.subscribe());
    let bus = handle.bus.clone();
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        let saved = Saved {
            revision: Revision(u64::MAX),
            ..Saved::default()
        };
        let (_saved, saved) = watch::channel(saved);
        let (_log, log) = watch::channel(LogState::InSync);
        let settler = Settler {
            endpoints: handle,
            bus,
            me: node("a"),
            facts,
            saved,
            log,
            block_idle: idle,
        };
        settler.run().await;
    }))
}

#[tokio::test]
async fn idle_block_is_returned_and_a_used_one_stays() {
    let mut bench = Bench::new(&TWO_BLOCKS);
    bench.handle.attach(attach("e1", None)).await.unwrap();
    let _settling = settling(&bench, Duration::from_millis(50));
    // While netmaster doesn't answer, the block stays for this node's next endpoints.
    let (asked, answer) = bench.leased().await;
    assert_eq!(asked.address, Some(ip("10.0.0.32")));
    answer
        .send(Err(BusError::Unreachable("nobody".to_owned())))
        .unwrap();
    let (_, answer) = bench.leased().await;
    assert!(returning(&bench).is_empty());
    answer.send(Ok(Revision(1))).unwrap();
    let (command, answer) = bench.commanded().await;
    let Command::BlockReturn(command) = command else {
        panic!("{command:?}")
    };
    assert_eq!(command.block.to_string(), TWO_BLOCKS[1].0);
    bench.hold(&TWO_BLOCKS[..1]);
    answer.send(Ok(Revision(2))).unwrap();
    let mut snapshots = bench.handle.snapshots();
    let ended = snapshots.wait_for(|it| {
        let usage = it.ledger.usage(&key());
        usage.is_none_or(|usage| usage.returning.is_empty())
    });
    ended.await.unwrap();
    assert!(bench.asks.try_recv().is_err());
}

#[tokio::test]
async fn return_journaled_before_a_kill_is_requested_after_the_start() {
    let bench = Bench::new(&TWO_BLOCKS);
    bench
        .handle
        .start_return(key(), TWO_BLOCKS[1].0.parse().unwrap())
        .await
        .unwrap();
    let mut bench = bench.again(&TWO_BLOCKS);
    let attached = bench.handle.attach(attach("e1", None)).await.unwrap();
    assert_eq!(attached.endpoint.addresses, [ip("10.0.0.16")]);
    let _settling = settling(&bench, Duration::from_secs(60));
    // The requests for a block ahead and for the return.
    for _ in 0..2 {
        let (command, answer) = bench.commanded().await;
        match command {
            Command::BlockReturn(command) => assert_eq!(command.block.to_string(), TWO_BLOCKS[1].0),
            Command::BlockLease(lease) => assert!(lease.ahead),
            other => panic!("{other:?}"),
        }
        answer
            .send(Err(BusError::Unreachable("no answer".to_owned())))
            .unwrap();
    }
    assert_eq!(returning(&bench), [TWO_BLOCKS[1].0]);
}

#[tokio::test]
async fn drained_node_returns_blocks_at_once_but_not_while_it_requests_one() {
    let mut bench = Bench::new(&[]);
    bench.facts.send_modify(|facts| {
        let mut fact = NodeFact::new(MachineId("m".to_owned()), ip("198.18.0.1"));
        fact.drained = true;
        facts.nodes.insert(node("a"), fact);
    });
    let _settling = settling(&bench, Duration::from_secs(3600));
    let handle = bench.handle.clone();
    let promise = Reserve {
        claim: Claim::Promise,
        ..reserve(None)
    };
    let promised = tokio::spawn(async move { handle.reserve(promise).await });
    let (_, answer) = bench.leased().await;
    bench.hold(&TWO_BLOCKS);
    answer.send(Ok(Revision(1))).unwrap();
    let address = promised.await.unwrap().unwrap();
    assert_eq!(address, ip("10.0.0.16"));
    // Only then the other block is returned, and no block ahead is requested.
    let (command, _answer) = bench.commanded().await;
    let Command::BlockReturn(command) = command else {
        panic!("{command:?}")
    };
    assert_eq!(command.block.to_string(), TWO_BLOCKS[1].0);
}

#[tokio::test]
async fn netmaster_is_asked_while_it_leases_something() {
    let mut bench = Bench::new(&[]);
    let handle = bench.handle.clone();
    let attaching = tokio::spawn(async move { handle.attach(attach("e1", None)).await });
    for _ in 0..6 {
        let (lease, answer) = bench.leased().await;
        assert!(!lease.ahead);
        // A block with the gateway only.
        bench.hold(&[("10.0.0.0/31", "a")]);
        answer.send(Ok(Revision(1))).unwrap();
    }
    let (_, answer) = bench.leased().await;
    bench.hold(&BLOCK);
    answer.send(Ok(Revision(1))).unwrap();
    attaching.await.unwrap().unwrap();
}

#[tokio::test]
async fn other_nodes_are_not_asked_while_a_recently_freed_address_is_left() {
    let mut bench = Bench::new(&[("10.0.0.16/32", "a")]);
    bench.handle.attach(attach("e1", None)).await.unwrap();
    let exhausted = || {
        rejected(Rejection::PoolExhausted {
            tenant: tenant(),
            network: net(),
            subnet: "10.0.0.0/24".parse().unwrap(),
            holders: Box::default(),
        })
    };
    let (lease, answer) = bench.leased().await;
    assert!(lease.ahead, "half of what it has is taken");
    answer.send(Err(exhausted())).unwrap();
    bench.handle.detach(&attach("e1", None).id).await.unwrap();

    let handle = bench.handle.clone();
    let attaching = tokio::spawn(async move { handle.attach(attach("e2", None)).await });
    let (lease, answer) = bench.leased().await;
    assert!(lease.ahead);
    answer.send(Err(exhausted())).unwrap();
    let attached = attaching.await.unwrap().unwrap();
    assert_eq!(attached.endpoint.addresses, [ip("10.0.0.16")]);

    let (lease, answer) = bench.leased().await;
    assert!(lease.ahead);
    answer.send(Err(exhausted())).unwrap();
    let handle = bench.handle.clone();
    let attaching = tokio::spawn(async move { handle.attach(attach("e3", None)).await });
    let (lease, answer) = bench.leased().await;
    assert!(!lease.ahead, "nothing is left: other nodes are asked");
    answer.send(Err(exhausted())).unwrap();
    let error = attaching.await.unwrap().unwrap_err();
    assert!(matches!(error, AttachError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn ceded_address_is_kept_for_the_endpoint_that_named_it() {
    let mut bench = Bench::new(&[("10.0.0.16/28", "b")]);
    let held = [("10.0.0.16/28", "b"), ("10.0.0.20/32", "a")];
    let handle = bench.handle.clone();
    let named =
        tokio::spawn(async move { handle.attach(attach("named", Some("10.0.0.20"))).await });
    let (_, answer) = bench.leased().await;
    bench.hold(&held);
    let handle = bench.handle.clone();
    let any = tokio::spawn(async move { handle.attach(attach("any", None)).await });
    // The requested address isn't allocated to it, nor given up.
    assert_eq!(bench.spare().await.free, 0);
    let taken = bench
        .handle
        .cede(cede_request("10.0.0.20", "c", false))
        .await;
    assert!(matches!(taken, Err(AttachError::AddressInUse(..))));
    answer.send(Ok(Revision(1))).unwrap();
    let attached = named.await.unwrap().unwrap();
    assert_eq!(attached.endpoint.addresses, [ip("10.0.0.20")]);
    let (_, answer) = bench.leased().await;
    bench
        .handle
        .detach(&attach("named", None).id)
        .await
        .unwrap();
    let exhausted = Rejection::PoolExhausted {
        tenant: tenant(),
        network: net(),
        subnet: "10.0.0.0/24".parse().unwrap(),
        holders: Box::default(),
    };
    answer.send(Err(rejected(exhausted))).unwrap();
    let attached = any.await.unwrap().unwrap();
    assert_eq!(attached.endpoint.addresses, [ip("10.0.0.20")]);
}
