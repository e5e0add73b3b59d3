//! Addresses that a swarm's manager promises to tasks, which start on any node.

use super::*;

fn claim(address: Option<&str>, claim: Claim) -> Reserve {
    Reserve {
        claim,
        ..reserve(address)
    }
}

async fn promise(bench: &Bench, address: Option<&str>) -> String {
    let asked = claim(address, Claim::Promise);
    bench.handle.reserve(asked).await.unwrap().to_string()
}

#[tokio::test]
async fn promised_address_is_for_its_task_only() {
    let bench = Bench::new(&BLOCK);
    let address = promise(&bench, None).await;
    let bench = bench.again(&BLOCK);
    let handle = &bench.handle;
    assert_eq!(handle.promised(), [(tenant(), net(), ip(&address))]);
    let refused = |error| assert!(matches!(error, Err(AttachError::AddressPromised(_))));
    refused(handle.reserve(reserve(Some(&address))).await.map(drop));
    refused(handle.attach(attach("e1", Some(&address))).await.map(drop));
    refused(handle.cede(cede_request(&address, "b", false)).await);
    assert_ne!(handle.reserve(reserve(None)).await.unwrap(), ip(&address));

    let task = claim(Some(&address), Claim::Task);
    handle.reserve(task).await.unwrap();
    handle.attach(attach("t1", Some(&address))).await.unwrap();
    handle.detach(&attach("t1", None).id).await.unwrap();
    let release = |claim| handle.release(tenant(), net(), ip(&address), claim);
    release(Claim::Task).await.unwrap();
    refused(handle.attach(attach("e1", Some(&address))).await.map(drop));

    for _ in 0..2 {
        release(Claim::Promise).await.unwrap();
    }
    handle.attach(attach("e1", Some(&address))).await.unwrap();
}

#[tokio::test]
async fn promised_address_is_ceded_to_the_node_of_its_task_and_returned() {
    let mut bench = Bench::new(&BLOCK);
    let address = promise(&bench, None).await;
    assert_eq!(address, "10.0.0.16");
    let handle = bench.handle.clone();
    let asked = cede_request(&address, "b", true);
    let ceding = tokio::spawn(async move { handle.cede(asked).await });
    let BusRequest::Command {
        command, answer, ..
    } = bench.next_request().await
    else {
        panic!("no command");
    };
    assert!(matches!(command, Command::BlockCede(_)));
    answer.send(Ok(Revision(9))).unwrap();
    ceding.await.unwrap().unwrap();
    bench.hold(&[BLOCK[0], ("10.0.0.16/32", "b")]);
    bench
        .handle
        .write_records(vec![Record::CedeEnded {
            key: key(),
            address: ip(&address),
        }])
        .await
        .unwrap();

    // The node of the task has returned it; the manager keeps the promise.
    bench.hold(&BLOCK);
    let other = bench.handle.reserve(reserve(None)).await.unwrap();
    assert_eq!(other, ip("10.0.0.17"));
    assert_eq!(bench.handle.promised().len(), 1);
}

#[tokio::test]
async fn next_leader_may_reserve_addresses_that_another_promised() {
    let bench = Bench::new(&[("10.0.0.16/28", "a"), ("10.0.0.32/28", "b")]);
    for _ in 0..2 {
        assert_eq!(promise(&bench, Some("10.0.0.20")).await, "10.0.0.20");
        // Its holder keeps it for the task.
        assert_eq!(promise(&bench, Some("10.0.0.40")).await, "10.0.0.40");
    }
    assert_eq!(
        bench.handle.promised(),
        [(tenant(), net(), ip("10.0.0.20"))]
    );
}

/// A block of the pool is one address, so an address that was ceded for a task is a block like any other.
#[tokio::test]
async fn task_in_a_tiny_pool_returns_its_address() {
    let bench = Bench::new(&[("10.0.0.16/32", "a"), ("10.0.0.17/32", "a")]);
    let returning = |bench: &Bench| {
        let snapshot = bench.handle.snapshots().borrow().clone();
        let usage = snapshot.ledger.usage(&key()).cloned().unwrap_or_default();
        usage
            .returning
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let promised = promise(&bench, Some("10.0.0.16")).await;
    for address in ["10.0.0.17", &promised] {
        let handle = &bench.handle;
        let task = claim(Some(address), Claim::Task);
        handle.reserve(task).await.unwrap();
        let released = handle.release(tenant(), net(), ip(address), Claim::Task);
        released.await.unwrap();
    }
    assert_eq!(
        returning(&bench),
        ["10.0.0.17/32"],
        "the manager keeps its own"
    );
}
