mod drained;
mod give_up;
mod promises;
mod unread;

use std::time::Duration;

use bus_schema::node::{NodeReply, NodeRequest};
use bus_schema::{Command, EndpointId, Rejection, Revision};
use tokio::sync::{mpsc, watch};

use super::fixture::{Small, facts, ip, key, net, network, node, rejected, tenant};
use bus_schema::{GroupName, NetworkName};

use super::*;
use crate::bus::{Ask, AskError, BusHandle};
use node_core::projection::{GroupFact, Projection};

/// A manager with a kernel that obeys at once, and the test as netmaster and as other nodes.
struct Bench {
    handle: EndpointsHandle,
    facts: watch::Sender<Projection>,
    asks: mpsc::Receiver<Ask>,
    kernel: watch::Sender<Kernel>,
    folder: tempfile::TempDir,
}

fn start(
    journal: &std::path::Path,
    facts: watch::Receiver<Projection>,
    kernel: watch::Receiver<Kernel>,
) -> (EndpointsHandle, mpsc::Receiver<Ask>) {
    let (bus, asks) = BusHandle::new();
    let (handle, found) = EndpointsHandle::start(Parts {
        me: node("a"),
        journal,
        mtu: 1450,
        facts,
        kernel,
        bus,
    })
    .unwrap();
    assert!(matches!(found, Found::Nothing | Found::Whole));
    (handle, asks)
}

impl Bench {
    fn new(blocks: &[(&str, &str)]) -> Self {
        Self::at(tempfile::tempdir().unwrap(), blocks)
    }

    fn at(folder: tempfile::TempDir, blocks: &[(&str, &str)]) -> Self {
        let (facts, facts_rx) = watch::channel(facts(network(blocks)));
        let (kernel, kernel_rx) = watch::channel(Kernel {
            generation: u64::MAX,
            was_in_sync: true,
            in_sync: true,
            ..Kernel::default()
        });
        let journal = folder.path().join("journal");
        let (handle, asks) = start(&journal, facts_rx, kernel_rx);
        Self {
            handle,
            facts,
            asks,
            kernel,
            folder,
        }
    }

    /// The same node after a restart.
    fn again(self, blocks: &[(&str, &str)]) -> Self {
        let Self { handle, folder, .. } = self;
        drop(handle);
        Self::at(folder, blocks)
    }

    fn hold(&self, blocks: &[(&str, &str)]) {
        self.facts.send_modify(|facts| {
            let tenant = facts.tenants.get_mut(&tenant()).unwrap();
            tenant.networks.insert(net(), network(blocks));
            facts.applied = facts.applied.next();
        });
    }

    async fn asked(&mut self) -> Ask {
        let asked = tokio::time::timeout(Duration::from_secs(5), self.asks.recv()).await;
        asked.expect("a request in time").unwrap()
    }
}

fn attach(id: &str, address: Option<&str>) -> Attach {
    Attach {
        id: EndpointId::new(id).unwrap(),
        tenant: tenant(),
        network: net(),
        group: None,
        addresses: address.map(ip).into_iter().collect(),
        owner: Owner::Docker {
            network_id: "n".to_owned(),
        },
        name: None,
        aliases: Vec::new(),
        container: None,
    }
}

fn reserve(address: Option<&str>) -> Reserve {
    Reserve {
        tenant: tenant(),
        network: net(),
        group: None,
        address: address.map(ip),
        claim: Claim::Container,
    }
}

fn ceding(address: &str, to: &str, promised: bool) -> Ceding {
    Ceding {
        key: key(),
        address: ip(address),
        to: node(to),
        promised,
    }
}

const BLOCK: [(&str, &str); 1] = [("10.0.0.16/28", "a")];

#[tokio::test]
async fn the_same_attach_again_gives_the_same_answer_also_after_a_restart() {
    let bench = Bench::new(&BLOCK);
    let first = bench.handle.attach(attach("e1", None)).await.unwrap();
    assert_eq!(first.endpoint.addresses, [ip("10.0.0.16")]);
    assert_eq!(first.gateways, [ip("10.0.0.1")]);
    assert_eq!(first.mtu, 1450);
    assert_eq!(
        bench.handle.attach(attach("e1", None)).await.unwrap(),
        first
    );
    let bench = bench.again(&BLOCK);
    assert_eq!(
        bench.handle.attach(attach("e1", None)).await.unwrap(),
        first
    );
    let other = bench.handle.attach(attach("e1", Some("10.0.0.20"))).await;
    assert!(matches!(other, Err(AttachError::EndpointDiffers(_))));
}

#[tokio::test]
async fn an_address_of_a_live_endpoint_is_neither_reserved_nor_attached_again() {
    let bench = Bench::new(&BLOCK);
    let address = bench.handle.reserve(reserve(None)).await.unwrap();
    let text = address.to_string();
    bench
        .handle
        .attach(attach("e1", Some(&text)))
        .await
        .unwrap();
    let bench = bench.again(&BLOCK);
    let again = bench.handle.reserve(reserve(Some(&text))).await;
    assert!(matches!(again, Err(AttachError::AddressInUse(..))));
    let second = bench.handle.attach(attach("e2", Some(&text))).await;
    assert!(matches!(second, Err(AttachError::AddressInUse(..))));

    bench.handle.detach(&attach("e1", None).id).await.unwrap();
    assert_ne!(bench.handle.reserve(reserve(None)).await.unwrap(), address);
    bench
        .handle
        .release(tenant(), net(), address, Claim::Container)
        .await
        .unwrap();
    bench
        .handle
        .release(tenant(), net(), address, Claim::Container)
        .await
        .unwrap();
    bench
        .handle
        .attach(attach("e3", Some(&text)))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_refused_says_why() {
    let bench = Bench::new(&BLOCK);
    let gateway = bench.handle.attach(attach("e1", Some("10.0.0.1"))).await;
    assert!(matches!(
        gateway,
        Err(AttachError::Rejected(
            Rejection::AddressNotAssignable { .. }
        ))
    ));
    let unknown = Attach {
        network: NetworkName::new("nowhere").unwrap(),
        ..attach("e1", None)
    };
    assert!(matches!(
        bench.handle.attach(unknown).await,
        Err(AttachError::Rejected(Rejection::NetworkUnknown { .. }))
    ));
    let absent = attach("e9", None).id;
    assert!(matches!(
        bench.handle.detach(&absent).await,
        Err(AttachError::EndpointUnknown(_))
    ));
    let mut closing = network(&BLOCK);
    closing.closing = true;
    bench.facts.send_replace(facts(closing));
    assert!(matches!(
        bench.handle.attach(attach("e1", None)).await,
        Err(AttachError::Rejected(Rejection::NetworkClosing { .. }))
    ));
}

#[tokio::test]
async fn an_endpoint_is_journaled_before_the_kernel_has_it() {
    let bench = Bench::new(&BLOCK);
    bench.kernel.send_replace(Kernel::default());
    let (one, two) = (attach("e1", None), attach("e2", None));
    let id = |it: &Attach| it.id.clone();
    let promised = bench.handle.start_attach(one.clone()).await.unwrap();
    assert_eq!(promised.endpoint, bench.handle.endpoint(&id(&one)).unwrap());
    bench.handle.start_attach(two.clone()).await.unwrap();
    let handle = bench.handle.clone();
    let mut attached = Box::pin(handle.attached(&one.id));
    assert!(futures::poll!(attached.as_mut()).is_pending());
    bench.kernel.send_replace(Kernel {
        generation: u64::MAX,
        failed: [(id(&two), "no memory".to_owned())].into(),
        ..Kernel::default()
    });
    attached.await.unwrap();
    let refused = handle.attached(&two.id).await.unwrap_err();
    assert!(refused.to_string().contains("no memory"), "{refused}");
    handle.start_detach(&one.id).await.unwrap();
    drop(handle);
    let bench = bench.again(&BLOCK);
    assert_eq!(bench.handle.list().len(), 1);
}

#[tokio::test]
async fn many_attaches_at_once_ask_for_one_block() {
    let mut bench = Bench::new(&[]);
    let attaching: Vec<_> = (0..4)
        .map(|n| {
            let handle = bench.handle.clone();
            tokio::spawn(async move { handle.attach(attach(&format!("e{n}"), None)).await })
        })
        .collect();
    let Ask::Command {
        command, answer, ..
    } = bench.asked().await
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
async fn cut_off_a_node_uses_up_what_it_has_and_then_says_so() {
    let mut bench = Bench::new(&[("10.0.0.2/31", "a")]);
    for id in ["e1", "e2"] {
        bench.handle.attach(attach(id, None)).await.unwrap();
    }
    bench.handle.detach(&attach("e1", None).id).await.unwrap();
    let away = |bench: &mut Bench| {
        let mut asks = std::mem::replace(&mut bench.asks, mpsc::channel(1).1);
        tokio::spawn(async move {
            while let Some(ask) = asks.recv().await {
                if let Ask::Command { answer, .. } = ask {
                    answer
                        .send(Err(AskError::Unreachable("the bus is away".to_owned())))
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
async fn an_address_in_anothers_block_is_ceded() {
    let mut bench = Bench::new(&[("10.0.0.16/28", "b")]);
    let handle = bench.handle.clone();
    let attaching =
        tokio::spawn(async move { handle.attach(attach("e1", Some("10.0.0.20"))).await });
    let Ask::Command { answer, .. } = bench.asked().await else {
        panic!("no command");
    };
    let held = Rejection::AddressHeld {
        address: ip("10.0.0.20"),
        block: "10.0.0.16/28".parse().unwrap(),
        node: node("b"),
    };
    answer.send(Err(rejected(held))).unwrap();
    let Ask::Node {
        node: holder,
        request,
        answer,
    } = bench.asked().await
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
async fn a_ceded_address_is_never_given_out_again_even_if_the_answer_is_lost() {
    let mut bench = Bench::new(&[("10.0.0.16/31", "a")]);
    let handle = bench.handle.clone();
    let asked = ceding("10.0.0.16", "b", false);
    let ceding = tokio::spawn(async move { handle.cede(asked).await });
    let Ask::Command {
        command, answer, ..
    } = bench.asked().await
    else {
        panic!("no command");
    };
    assert!(matches!(command, Command::BlockCede(_)));
    answer
        .send(Err(AskError::Unreachable("no answer".to_owned())))
        .unwrap();
    assert!(ceding.await.unwrap().is_err());
    let bench = bench.again(&[("10.0.0.16/31", "a")]);
    let attached = bench.handle.attach(attach("e1", None)).await.unwrap();
    assert_eq!(attached.endpoint.addresses, [ip("10.0.0.17")]);
    let used = bench
        .handle
        .cede(self::ceding("10.0.0.17", "b", false))
        .await;
    assert!(matches!(used, Err(AttachError::AddressInUse(..))));
}

#[tokio::test]
async fn what_the_kernel_refuses_is_not_attached() {
    let bench = Bench::new(&BLOCK);
    let id = attach("e1", None).id;
    bench.kernel.send_modify(|kernel| {
        kernel.failed.insert(id.clone(), "no room".to_owned());
    });
    let error = bench.handle.attach(attach("e1", None)).await.unwrap_err();
    assert!(error.to_string().contains("no room"), "{error}");
    assert_eq!(bench.handle.list(), []);
}

#[tokio::test]
async fn on_a_full_disk_nothing_is_attached_and_nothing_is_lost() {
    let disk = Small::new("64k");
    let journal = disk.path().join("journal");
    let (_facts, facts) = watch::channel(facts(network(&BLOCK)));
    let (_kernel, kernel) = watch::channel(Kernel {
        generation: u64::MAX,
        ..Kernel::default()
    });
    let (handle, _asks) = start(&journal, facts, kernel);
    disk.fill();
    // What is left of the file's last page takes a few records.
    let mut attached = Vec::new();
    let error = loop {
        match handle
            .attach(attach(&format!("e{}", attached.len()), None))
            .await
        {
            Ok(attachment) => attached.push(attachment.endpoint),
            Err(error) => break error,
        }
        assert!(attached.len() < 16, "the disk is full");
    };
    assert!(matches!(error, AttachError::Journal { .. }), "{error}");
    assert!(
        error.to_string().contains("nothing was attached"),
        "{error}"
    );
    assert_eq!(handle.list().len(), attached.len());
    disk.free();
    handle.attach(attach("late", None)).await.unwrap();
    assert_eq!(handle.list().len(), attached.len() + 1);
}

#[tokio::test]
async fn a_group_takes_endpoints_of_its_network_while_it_is_open() {
    let bench = Bench::new(&BLOCK);
    let web: GroupName = "web".parse().unwrap();
    let group = |network: &str, closing| GroupFact {
        spec: bus_schema::GroupSpec {
            tenant: tenant(),
            network: network.parse().unwrap(),
            name: "web".parse().unwrap(),
            id: bus_schema::GroupId::FIRST,
            policies: Vec::new(),
            docker_name: None,
            pool: None,
        },
        closing,
        newer: false,
    };
    let set = |fact: Option<GroupFact>| {
        bench.facts.send_modify(|facts| {
            let tenant = facts.tenants.get_mut(&tenant()).unwrap();
            tenant.groups = fact.map(|fact| (web.clone(), fact)).into_iter().collect();
        });
    };
    let ask = |id: &str| Attach {
        group: Some(web.clone()),
        ..attach(id, None)
    };
    let refused = |error: AttachError| match error {
        AttachError::Rejected(rejection) => rejection,
        other => panic!("{other}"),
    };
    let (of, name) = (tenant(), web.clone());
    let unknown = Rejection::GroupUnknown {
        tenant: of.clone(),
        group: name.clone(),
    };
    let error = bench.handle.attach(ask("e1")).await.unwrap_err();
    assert_eq!(refused(error), unknown);
    set(Some(group("another", false)));
    let error = bench.handle.attach(ask("e1")).await.unwrap_err();
    assert_eq!(refused(error), unknown);

    set(Some(group(net().as_str(), false)));
    let attached = bench.handle.attach(ask("e1")).await.unwrap();
    assert_eq!(attached.endpoint.group, Some(web.clone()));

    set(Some(group(net().as_str(), true)));
    let closing = Rejection::GroupClosing {
        tenant: of,
        group: name,
    };
    let reserve = Reserve {
        group: Some(web.clone()),
        ..reserve(None)
    };
    assert_eq!(
        refused(bench.handle.attach(ask("e2")).await.unwrap_err()),
        closing
    );
    assert_eq!(
        refused(bench.handle.reserve(reserve).await.unwrap_err()),
        closing
    );
    assert_eq!(bench.handle.attach(ask("e1")).await.unwrap(), attached);
}

#[tokio::test]
async fn what_lost_its_namespace_is_detached_and_nothing_else() {
    let bench = Bench::new(&BLOCK);
    let there = bench.folder.path().join("there");
    std::fs::write(&there, "").unwrap();
    let owner = |path: &std::path::Path| Owner::Namespace {
        path: path.display().to_string(),
        interface: "eth0".to_owned(),
        cni: None,
    };
    for (id, owner) in [
        ("stays", owner(&there)),
        ("gone", owner(&bench.folder.path().join("gone"))),
        ("docker", attach("docker", None).owner),
    ] {
        let ask = Attach {
            owner,
            ..attach(id, None)
        };
        bench.handle.attach(ask).await.unwrap();
    }
    let watch = vanished::run(bench.handle.clone(), Duration::from_millis(5));
    let watch = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(watch));
    let mut snapshots = bench.handle.snapshots();
    let mut left = async |count: usize| -> Vec<String> {
        let fewer = snapshots.wait_for(|it| it.endpoints.len() == count);
        let seen = tokio::time::timeout(Duration::from_secs(5), fewer).await;
        let seen = seen.expect("it is detached").unwrap();
        seen.endpoints.keys().map(ToString::to_string).collect()
    };
    assert_eq!(left(2).await, ["docker", "stays"]);
    std::fs::remove_file(&there).unwrap();
    assert_eq!(left(1).await, ["docker"]);
    drop(watch);
}

/// Group `db` has 10.0.0.8 and 10.0.0.9 for its members.
#[tokio::test]
async fn a_member_gets_an_address_of_its_groups_pool_and_nobody_else_does() {
    let mut bench = Bench::new(&[("10.0.0.0/28", "a")]);
    let db: GroupName = "db".parse().unwrap();
    let range = bus_schema::AddressRange {
        first: ip("10.0.0.8"),
        last: ip("10.0.0.9"),
    };
    let facts = bench.facts.clone();
    let hold = |blocks: &[(&str, &str)]| {
        facts.send_modify(|facts| {
            let tenant = facts.tenants.get_mut(&tenant()).unwrap();
            let mut network = network(blocks);
            network.pools.insert(db.clone(), range);
            tenant.networks.insert(net(), network);
            let spec = fixture::group(&db, Some(range));
            let closing = false;
            tenant.groups.insert(
                db.clone(),
                GroupFact {
                    spec,
                    closing,
                    newer: false,
                },
            );
            facts.applied = facts.applied.next();
        });
    };
    hold(&[("10.0.0.0/28", "a")]);
    let member = |id: &str, address| Attach {
        group: Some(db.clone()),
        ..attach(id, address)
    };
    let attaching = bench.handle.clone();
    let ask = member("e1", None);
    let first = tokio::spawn(async move { attaching.attach(ask).await });
    let Ask::Command {
        command, answer, ..
    } = bench.asked().await
    else {
        panic!("a lease")
    };
    let Command::BlockLease(lease) = &command else {
        panic!("{command:?}")
    };
    assert_eq!((&lease.group, lease.address), (&Some(db.clone()), None));
    hold(&[("10.0.0.0/28", "a"), ("10.0.0.8/32", "a")]);
    answer.send(Ok(Revision(1))).unwrap();
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.endpoint.addresses, [ip("10.0.0.8")]);
    // The block ahead: it has come before anybody needs it.
    let Ask::Command { answer, .. } = bench.asked().await else {
        panic!("a lease")
    };
    let exhausted = Rejection::GroupPoolExhausted {
        tenant: tenant(),
        network: net(),
        group: db.clone(),
        pool: range,
        holders: Box::default(),
    };
    answer.send(Err(rejected(exhausted.clone()))).unwrap();

    let attaching = bench.handle.clone();
    let ask = member("e2", None);
    let second = tokio::spawn(async move { attaching.attach(ask).await });
    let Ask::Command { answer, .. } = bench.asked().await else {
        panic!("a lease")
    };
    answer.send(Err(rejected(exhausted))).unwrap();
    let error = second.await.unwrap().unwrap_err().to_string();
    assert!(error.contains("has no free address left"), "{error}");

    for (ask, why) in [
        (attach("e3", Some("10.0.0.9")), "only its members"),
        (member("e3", Some("10.0.0.5")), "doesn't lie in the pool"),
    ] {
        let error = bench.handle.attach(ask).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    for n in 0..12 {
        let ask = attach(&format!("o{n}"), None);
        let given = bench.handle.attach(ask).await.unwrap();
        assert!(!range.contains(given.endpoint.addresses[0]), "{given:?}");
    }
}
