//! A node that is drained, has left, or was removed.

use std::net::IpAddr;

use super::*;
use node_core::projection::NodeFact;

fn fact(drained: bool, left: bool) -> NodeFact {
    NodeFact {
        drained,
        left,
        ..NodeFact::new(bus_schema::MachineId("m".to_owned()), ip("198.18.0.1"))
    }
}

impl Bench {
    fn is(&self, fact: Option<NodeFact>) {
        self.facts.send_modify(|facts| {
            facts.cluster = Some(bus_schema::ClusterId(uuid::Uuid::nil()));
            facts.nodes = fact.map(|it| (node("a"), it)).into_iter().collect();
        });
    }

    async fn claims(&self, claim: Claim) -> Result<IpAddr, AttachError> {
        let ask = Reserve {
            claim,
            ..reserve(None)
        };
        self.handle.reserve(ask).await
    }
}

#[tokio::test]
async fn drained_node_takes_no_new_endpoints_and_keeps_its_own() {
    let bench = Bench::new(&BLOCK);
    bench.is(Some(fact(false, false)));
    let first = bench.handle.attach(attach("e1", None)).await.unwrap();
    bench.is(Some(fact(true, false)));
    let again = bench.handle.attach(attach("e1", None)).await.unwrap();
    assert_eq!(again, first, "the same attach again");
    let error = bench.handle.attach(attach("e2", None)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "node a is drained: it takes no new endpoints until `netctl node uncordon a`"
    );
    for claim in [Claim::Container, Claim::Task] {
        let refused = bench.claims(claim).await;
        assert!(matches!(refused, Err(AttachError::Drained(_))), "{claim:?}");
    }
    bench.is(Some(fact(false, false)));
    bench.handle.attach(attach("e2", None)).await.unwrap();
}

#[tokio::test]
async fn drained_swarm_manager_promises_and_cedes_addresses() {
    let mut bench = Bench::new(&BLOCK);
    bench.is(Some(fact(true, false)));
    let address = bench.claims(Claim::Promise).await.unwrap();
    let (handle, asked) = (
        bench.handle.clone(),
        cede_request(&address.to_string(), "b", true),
    );
    let ceded = tokio::spawn(async move { handle.cede(asked).await });
    let BusRequest::Command {
        command, answer, ..
    } = bench.next_request().await
    else {
        panic!("no command");
    };
    assert!(matches!(command, Command::BlockCede(_)), "{command:?}");
    answer.send(Ok(Revision(9))).unwrap();
    ceded.await.unwrap().unwrap();
}

#[tokio::test]
async fn leaving_node_takes_no_endpoints_before_the_log_has_its_leave() {
    let bench = Bench::new(&BLOCK);
    bench.is(Some(fact(false, false)));
    bench.handle.leave();
    let error = bench.handle.attach(attach("e1", None)).await.unwrap_err();
    assert!(matches!(error, AttachError::Left(_)), "{error}");
}

#[tokio::test]
async fn left_or_removed_node_refuses_with_the_reason() {
    let bench = Bench::new(&BLOCK);
    for (fact, why) in [
        (Some(fact(false, true)), "node a has left the cluster"),
        (Some(fact(true, true)), "node a has left the cluster"),
        (None, "node a was removed from the cluster"),
    ] {
        bench.is(fact);
        for claim in [Claim::Container, Claim::Task, Claim::Promise] {
            let error = bench.claims(claim).await.unwrap_err().to_string();
            assert!(error.starts_with(why), "{error}");
        }
        let error = bench.handle.attach(attach("e1", None)).await.unwrap_err();
        let text = error.to_string();
        let says_what_to_do = text.contains("restart its netplugin to have it join again");
        assert!(text.starts_with(why) && says_what_to_do, "{text}");
    }
}

#[tokio::test]
async fn node_that_has_not_read_the_log_waits_before_it_refuses_as_removed() {
    let bench = Bench::new(&BLOCK);
    bench.is(None);
    let joining = Kernel {
        generation: u64::MAX,
        ..Kernel::default()
    };
    let read = bench.kernel.send_replace(joining);
    let attaching = bench.handle.clone();
    let attaching = tokio::spawn(async move { attaching.attach(attach("e1", None)).await });
    tokio::task::yield_now().await;
    // Behind this the attach was decided for the first time.
    bench.handle.write_records(Vec::new()).await.unwrap();
    bench.is(Some(fact(false, false)));
    bench.kernel.send_replace(read);
    attaching.await.unwrap().unwrap();
}
