//! Members of groups.

use super::*;

fn group_fact(name: &str, network: &str, closing: bool) -> GroupFact {
    GroupFact {
        spec: bus_schema::GroupSpec {
            network: network.parse().unwrap(),
            ..fixture::group(&name.parse().unwrap(), None)
        },
        closing,
        newer: false,
    }
}

fn rejection(error: AttachError) -> Rejection {
    match error {
        AttachError::Rejected(rejection) => rejection,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn open_group_takes_endpoints_of_its_network() {
    let bench = Bench::new(&BLOCK);
    let web: GroupName = "web".parse().unwrap();
    let group = |network: &str, closing| group_fact("web", network, closing);
    let set = |fact: GroupFact| {
        bench.facts.send_modify(|facts| {
            let tenant = facts.tenants.get_mut(&tenant()).unwrap();
            tenant.groups = [(web.clone(), fact)].into_iter().collect();
        });
    };
    let ask = |id: &str| Attach {
        group: Some(web.clone()),
        ..attach(id, None)
    };
    let (of, name) = (tenant(), web.clone());
    let unknown = Rejection::GroupUnknown {
        tenant: of.clone(),
        group: name.clone(),
    };
    let error = bench.handle.attach(ask("e1")).await.unwrap_err();
    assert_eq!(rejection(error), unknown);
    set(group("another", false));
    let error = bench.handle.attach(ask("e1")).await.unwrap_err();
    assert_eq!(rejection(error), unknown);

    set(group(net().as_str(), false));
    let attached = bench.handle.attach(ask("e1")).await.unwrap();
    assert_eq!(attached.endpoint.group, Some(web.clone()));

    set(group(net().as_str(), true));
    let closing = Rejection::GroupClosing {
        tenant: of,
        group: name,
    };
    let reserve = Reserve {
        group: Some(web.clone()),
        ..reserve(None)
    };
    assert_eq!(
        rejection(bench.handle.attach(ask("e2")).await.unwrap_err()),
        closing
    );
    assert_eq!(
        rejection(bench.handle.reserve(reserve).await.unwrap_err()),
        closing
    );
    assert_eq!(bench.handle.attach(ask("e1")).await.unwrap(), attached);
}

/// Group `db` has 10.0.0.8 and 10.0.0.9 for its members.
fn range() -> bus_schema::AddressRange {
    bus_schema::AddressRange {
        first: ip("10.0.0.8"),
        last: ip("10.0.0.9"),
    }
}

fn db() -> GroupName {
    "db".parse().unwrap()
}

fn member(id: &str, address: Option<&str>) -> Attach {
    Attach {
        group: Some(db()),
        ..attach(id, address)
    }
}

impl Bench {
    /// Sets the blocks of a network in which group `db` has a pool.
    fn hold_with_pool(&self, blocks: &[(&str, &str)]) {
        self.facts.send_modify(|facts| {
            let tenant = facts.tenants.get_mut(&tenant()).unwrap();
            let mut network = network(blocks);
            network.pools.insert(db(), range());
            tenant.networks.insert(net(), network);
            let mut fact = group_fact("db", net().as_str(), false);
            fact.spec.pool = Some(range());
            tenant.groups.insert(db(), fact);
            facts.applied = facts.applied.next();
        });
    }

    /// Answers the next lease, which is for the group's pool.
    async fn answer_lease(&mut self, outcome: Result<Revision, BusError>) {
        let BusRequest::Command {
            command, answer, ..
        } = self.next_request().await
        else {
            panic!("a lease")
        };
        let Command::BlockLease(lease) = &command else {
            panic!("{command:?}")
        };
        assert_eq!((&lease.group, lease.address), (&Some(db()), None));
        if outcome.is_ok() {
            self.hold_with_pool(&[("10.0.0.0/28", "a"), ("10.0.0.8/32", "a")]);
        }
        answer.send(outcome).unwrap();
    }
}

#[tokio::test]
async fn group_pool_serves_its_members_only() {
    let mut bench = Bench::new(&[("10.0.0.0/28", "a")]);
    bench.hold_with_pool(&[("10.0.0.0/28", "a")]);
    let handle = bench.handle.clone();
    let first = tokio::spawn(async move { handle.attach(member("e1", None)).await });
    bench.answer_lease(Ok(Revision(1))).await;
    let first = first.await.unwrap().unwrap();
    assert_eq!(first.endpoint.addresses, [ip("10.0.0.8")]);
    let exhausted = Rejection::GroupPoolExhausted {
        tenant: tenant(),
        network: net(),
        group: db(),
        pool: range(),
        holders: Box::default(),
    };
    // The block ahead, which is requested before an endpoint needs it.
    bench.answer_lease(Err(rejected(exhausted.clone()))).await;

    let handle = bench.handle.clone();
    let second = tokio::spawn(async move { handle.attach(member("e2", None)).await });
    bench.answer_lease(Err(rejected(exhausted))).await;
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
        assert!(!range().contains(given.endpoint.addresses[0]), "{given:?}");
    }
}
