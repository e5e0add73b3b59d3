//! Blocks that netmaster leases, and addresses that another node cedes.

use super::*;

#[tokio::test]
async fn concurrent_attaches_request_one_block() {
    let mut bench = Bench::new(&[]);
    let attaching: Vec<_> = (0..4)
        .map(|n| {
            let handle = bench.handle.clone();
            tokio::spawn(async move { handle.attach(attach(&format!("e{n}"), None)).await })
        })
        .collect();
    let BusRequest::Command {
        command, answer, ..
    } = bench.next_request().await
    else {
        panic!("no command");
    };
    assert!(matches!(command, Command::BlockLease(lease) if lease.address.is_none()));
    bench.hold(&BLOCK);
    answer.send(Ok(Revision(1))).unwrap();
    for attached in attaching {
        attached.await.unwrap().unwrap();
    }
    assert!(bench.asks.try_recv().is_err());
}

#[tokio::test]
async fn node_without_bus_uses_its_addresses_and_then_refuses() {
    let mut bench = Bench::new(&[("10.0.0.2/31", "a")]);
    for id in ["e1", "e2"] {
        bench.handle.attach(attach(id, None)).await.unwrap();
    }
    bench.handle.detach(&attach("e1", None).id).await.unwrap();
    let away = |bench: &mut Bench| {
        let mut asks = std::mem::replace(&mut bench.asks, mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                if let BusRequest::Command { answer, .. } = ask {
                    answer
                        .send(Err(BusError::Unreachable("the bus is away".to_owned())))
                        .ok();
                }
            }
        })
    };
    away(&mut bench);
    // Freed a moment ago, but nothing else is left.
    let third = bench.handle.attach(attach("e3", None)).await.unwrap();
    assert_eq!(third.endpoint.addresses, [ip("10.0.0.2")]);
    let error = bench.handle.attach(attach("e4", None)).await.unwrap_err();
    assert!(matches!(&error, AttachError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn address_in_another_nodes_block_is_ceded() {
    let mut bench = Bench::new(&[("10.0.0.16/28", "b")]);
    let handle = bench.handle.clone();
    let attaching =
        tokio::spawn(async move { handle.attach(attach("e1", Some("10.0.0.20"))).await });
    let BusRequest::Command { answer, .. } = bench.next_request().await else {
        panic!("no command");
    };
    let held = Rejection::AddressHeld {
        address: ip("10.0.0.20"),
        block: "10.0.0.16/28".parse().unwrap(),
        node: node("b"),
    };
    answer.send(Err(rejected(held))).unwrap();
    let BusRequest::Node {
        node: holder,
        request,
        answer,
    } = bench.next_request().await
    else {
        panic!("no request to the holder");
    };
    assert_eq!(holder, node("b"));
    assert!(matches!(request, NodeRequest::Cede { to, .. } if to == node("a")));
    bench.hold(&[("10.0.0.16/28", "b"), ("10.0.0.20/32", "a")]);
    answer.send(Ok(NodeReply::Done)).unwrap();
    let attached = attaching.await.unwrap().unwrap();
    assert_eq!(attached.endpoint.addresses, [ip("10.0.0.20")]);
}

#[tokio::test]
async fn ceded_address_is_not_allocated_again_even_if_the_answer_is_lost() {
    let mut bench = Bench::new(&[("10.0.0.16/31", "a")]);
    let handle = bench.handle.clone();
    let asked = cede_request("10.0.0.16", "b", false);
    let ceding = tokio::spawn(async move { handle.cede(asked).await });
    let BusRequest::Command {
        command, answer, ..
    } = bench.next_request().await
    else {
        panic!("no command");
    };
    assert!(matches!(command, Command::BlockCede(_)));
    answer
        .send(Err(BusError::Unreachable("no answer".to_owned())))
        .unwrap();
    assert!(ceding.await.unwrap().is_err());
    let bench = bench.again(&[("10.0.0.16/31", "a")]);
    let attached = bench.handle.attach(attach("e1", None)).await.unwrap();
    assert_eq!(attached.endpoint.addresses, [ip("10.0.0.17")]);
    let used = bench
        .handle
        .cede(cede_request("10.0.0.17", "b", false))
        .await;
    assert!(matches!(used, Err(AttachError::AddressInUse(..))));
}
