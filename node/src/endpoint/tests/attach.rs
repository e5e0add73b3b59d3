//! Attaches and detaches on a node with free addresses.

use super::*;

#[tokio::test]
async fn repeated_attach_returns_the_same_also_after_a_restart() {
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
async fn address_of_a_live_endpoint_is_neither_reserved_nor_attached_again() {
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
async fn names_beyond_the_limits_are_refused_or_ignored() {
    let bench = Bench::new(&BLOCK);
    let many = Attach {
        aliases: vec!["a".to_owned(); 65],
        ..attach("e1", None)
    };
    let long = Attach {
        name: Some("a".repeat(64)),
        ..attach("e1", None)
    };
    for (ask, says) in [(many, "at most 64"), (long, "at most 63")] {
        let refused = bench.handle.attach(ask).await.unwrap_err();
        assert!(refused.to_string().contains(says), "{refused}");
    }
    let id = attach("e1", None).id;
    bench.handle.attach(attach("e1", None)).await.unwrap();
    // A container that runs already isn't refused.
    let description = Description {
        name: "web".to_owned(),
        aliases: Some((0..65).map(|it| format!("a{it}")).collect()),
        container: "c1".to_owned(),
    };
    bench.handle.describe(&id, description).await.unwrap();
    let known = bench.handle.list();
    assert_eq!(known[0].aliases.len(), 64);
    assert_eq!(known[0].name.as_deref(), Some("web"));
}

#[tokio::test]
async fn refusals_have_their_reasons() {
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
async fn endpoint_is_journaled_before_the_kernel_has_it() {
    let bench = Bench::new(&BLOCK);
    bench.kernel.send_replace(Kernel::default());
    let (one, two) = (attach("e1", None), attach("e2", None));
    let id = |it: &Attach| it.id.clone();
    let promised = bench.handle.start_attach(one.clone()).await.unwrap();
    assert_eq!(promised.endpoint, bench.handle.endpoint(&id(&one)).unwrap());
    bench.handle.start_attach(two.clone()).await.unwrap();
    let handle = bench.handle.clone();
    let mut attached = Box::pin(handle.wait_until_in_kernel(&one.id));
    assert!(futures::poll!(attached.as_mut()).is_pending());
    bench.kernel.send_replace(Kernel {
        generation: u64::MAX,
        failed: [(id(&two), "no memory".to_owned())].into(),
        ..Kernel::default()
    });
    attached.await.unwrap();
    let refused = handle.wait_until_in_kernel(&two.id).await.unwrap_err();
    assert!(refused.to_string().contains("no memory"), "{refused}");
    handle.start_detach(&one.id).await.unwrap();
    drop(handle);
    let bench = bench.again(&BLOCK);
    assert_eq!(bench.handle.list().len(), 1);
}

#[tokio::test]
async fn endpoint_that_the_kernel_refuses_is_not_attached() {
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
async fn full_disk_attaches_and_loses_no_endpoint() {
    let disk = SmallDisk::new("64k");
    let journal = disk.path().join("journal");
    let (_facts, facts) = watch::channel(facts(network(&BLOCK)));
    let (_kernel, kernel) = watch::channel(Kernel {
        generation: u64::MAX,
        ..Kernel::default()
    });
    let (handle, _asks) = start(&journal, facts, kernel);
    disk.fill();
    // The rest of the file's last page takes a few records.
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
async fn endpoint_without_its_namespace_is_detached_and_no_other() {
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
