//! Groups, policies and rules on whole clusters.

use std::net::UdpSocket;
use std::time::Duration;

use chaos_tests::{Outcome, WAIT_TIMEOUT, create, invariant, two_nodes};
use lab::{Error, Lab, Running, wait_until};

const QUICK_START_RULES: [&[&str]; 3] = [
    &["1", "-direction=in", "-protocol=tcp", "-action=deny"],
    &[
        "2",
        "-direction=in",
        "-protocol=tcp",
        "-port=80",
        "-action=allow",
        "-priority=10",
    ],
    &[
        "3",
        "-direction=in",
        "-protocol=tcp",
        "-port=443",
        "-action=allow",
        "-priority=10",
    ],
];

/// The quick start's policy, with `web` on node-2 in the group, and `client` on node-1 in no group.
fn prod_web() -> Result<Lab, Error> {
    let mut lab = two_nodes()?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.netctl_ok(&["policy", "create", "prod_web"])?;
    for rule in QUICK_START_RULES {
        lab.netctl_ok(&[&["policy", "rule-add", "prod_web"], rule].concat())?;
    }
    lab.netctl_ok(&["group", "create", "contiv-net", "web", "-policy=prod_web"])?;
    lab.run_workload_with("node-2", "contiv-net", "web-1", &["--group", "web"])?;
    lab.run_workload("node-1", "contiv-net", "client")?;
    Ok(lab)
}

#[test]
fn policy_of_the_quick_start_allows_its_ports_only() -> Outcome {
    let lab = prod_web()?;
    let web = lab.address_of("web-1")?.to_string();
    let client = lab.address_of("client")?.to_string();
    let _servers = [80, 443, 8080]
        .map(|port| lab.listen("web-1", port))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let _outside = lab.listen("client", 8080)?;

    assert!(lab.connects("client", &web, 80)?, "port 80 is allowed");
    assert!(lab.connects("client", &web, 443)?, "port 443 is allowed");
    assert!(!lab.connects("client", &web, 8080)?, "port 8080 is denied");
    assert!(lab.ping("client", &web)?, "no rule speaks of ICMP");
    assert!(
        lab.connects("web-1", &client, 8080)?,
        "the group's own connections get their replies"
    );
    wait_until("the group is found by its name", WAIT_TIMEOUT, || {
        lab.connects("client", "web", 80)
            .is_ok_and(|connected| connected)
    })?;
    invariant::converged(&lab)
}

#[test]
fn rules_and_policies_change_under_running_containers() -> Outcome {
    let lab = prod_web()?;
    let web = lab.address_of("web-1")?.to_string();
    let _server = lab.listen("web-1", 8080)?;
    assert!(!lab.connects("client", &web, 8080)?);

    let rule = [
        "policy",
        "rule-add",
        "prod_web",
        "4",
        "-protocol=tcp",
        "-port=8000-8100",
        "-priority=10",
    ];
    lab.netctl_ok(&rule)?;
    assert!(lab.connects("client", &web, 8080)?, "a new rule allows it");
    lab.netctl_ok(&["policy", "rule-rm", "prod_web", "4"])?;
    assert!(!lab.connects("client", &web, 8080)?, "the rule is gone");
    lab.netctl_ok(&["policy", "create", "open"])?;
    lab.netctl_ok(&["group", "update", "web", "-policy=open"])?;
    assert!(
        lab.connects("client", &web, 8080)?,
        "the policy is detached"
    );
    lab.netctl_ok(&["group", "update", "web", "-policy=open", "-policy=prod_web"])?;
    assert!(
        !lab.connects("client", &web, 8080)?,
        "the policy is attached"
    );
    Ok(())
}

/// The reason for the group id in the packet (docs/design.md): a node without the bus must not treat a
/// new container of a denied group as one without a group.
#[test]
fn node_cut_off_refuses_a_new_container_of_a_denied_group() -> Outcome {
    let mut lab = two_nodes()?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.netctl_ok(&["group", "create", "contiv-net", "evil"])?;
    lab.netctl_ok(&["group", "create", "contiv-net", "good"])?;
    lab.netctl_ok(&["policy", "create", "db"])?;
    lab.netctl_ok(&[
        "policy",
        "rule-add",
        "db",
        "1",
        "-from-group=evil",
        "-action=deny",
    ])?;
    lab.netctl_ok(&["group", "create", "contiv-net", "db", "-policy=db"])?;
    lab.run_workload_with("node-2", "contiv-net", "db-1", &["--group", "db"])?;
    // Both nodes have each other's blocks before the partition.
    let early = lab.run_workload_with("node-1", "contiv-net", "early", &["--group", "good"])?;
    let db = lab.address_of("db-1")?.to_string();
    let _server = lab.listen("db-1", 5432)?;
    assert!(lab.connects("early", &db, 5432)?);
    invariant::converged(&lab)?;

    lab.kill("nats")?;
    lab.run_workload_with("node-1", "contiv-net", "late", &["--group", "evil"])?;
    assert!(
        !lab.connects("late", &db, 5432)?,
        "a denied group, whatever the receiver has heard"
    );

    // A container of the denied group takes the address that an allowed one has just released.
    lab.remove_workload("early")?;
    let address = early.address.to_string();
    lab.run_workload_with(
        "node-1",
        "contiv-net",
        "heir",
        &["--group", "evil", "--ip", &address],
    )?;
    assert!(
        !lab.connects("heir", &db, 5432)?,
        "an address is no identity"
    );
    lab.run_workload_with("node-1", "contiv-net", "friend", &["--group", "good"])?;
    assert!(lab.connects("friend", &db, 5432)?);
    Ok(())
}

#[test]
fn outgoing_rules_apply_at_the_other_end() -> Outcome {
    let mut lab = two_nodes()?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    create(&lab, "back-net", "20.1.2.0/24")?;
    lab.netctl_ok(&["group", "create", "back-net", "store"])?;
    lab.netctl_ok(&["policy", "create", "jail"])?;
    lab.netctl_ok(&[
        "policy",
        "rule-add",
        "jail",
        "1",
        "-direction=out",
        "-action=deny",
    ])?;
    lab.netctl_ok(&[
        "policy",
        "rule-add",
        "jail",
        "2",
        "-direction=out",
        "-to-group=store",
        "-protocol=tcp",
        "-port=80",
        "-action=allow",
        "-priority=5",
    ])?;
    lab.netctl_ok(&["group", "create", "contiv-net", "jailed", "-policy=jail"])?;
    lab.run_workload_with("node-1", "contiv-net", "inmate", &["--group", "jailed"])?;
    for (node, network, name, group) in [
        ("node-2", "back-net", "store-far", Some("store")),
        ("node-1", "back-net", "store-near", Some("store")),
        ("node-2", "contiv-net", "other", None),
    ] {
        let group = group.map_or(vec![], |group| vec!["--group", group]);
        lab.run_workload_with(node, network, name, &group)?;
        let server = lab.listen(name, 80)?;
        let address = lab.address_of(name)?.to_string();
        let reached = lab.connects("inmate", &address, 80)?;
        assert_eq!(reached, !group.is_empty(), "{name}");
        assert!(!lab.ping("inmate", &address)?, "{name}");
        assert!(
            lab.ping(name, &lab.address_of("inmate")?.to_string())?,
            "{name} may ping in"
        );
        drop(server);
    }
    Ok(())
}

#[test]
fn group_with_members_stays_and_names_them() -> Outcome {
    let mut lab = prod_web()?;
    let refused = lab.netctl(&["group", "rm", "web"])?;
    assert_eq!(refused.status, 1, "{}", refused.text());
    assert!(refused.text().contains("web-1"), "{}", refused.text());
    let used = lab.netctl(&["policy", "rm", "prod_web"])?;
    assert_eq!(used.status, 1);
    assert!(used.text().contains("web"), "{}", used.text());
    lab.remove_workload("web-1")?;
    lab.netctl_ok(&["group", "rm", "web"])?;
    lab.netctl_ok(&["policy", "rm", "prod_web"])?;
    let groups = lab.netctl_ok(&["group", "ls", "-q"])?;
    assert_eq!(groups.trim(), "");
    Ok(())
}

/// Rules stay enforced while netplugin is down, and its start opens no gap.
#[test]
fn killed_netplugin_leaves_the_rules() -> Outcome {
    let mut lab = prod_web()?;
    let web = lab.address_of("web-1")?.to_string();
    let _servers = [80, 8080]
        .map(|port| lab.listen("web-1", port))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    lab.kill("netplugin@node-2")?;
    assert!(lab.connects("client", &web, 80)?);
    assert!(!lab.connects("client", &web, 8080)?);
    lab.start("netplugin@node-2")?;
    for _ in 0..5 {
        assert!(!lab.connects("client", &web, 8080)?);
    }
    invariant::converged(&lab)?;
    assert!(lab.connects("client", &web, 80)?);
    Ok(())
}

/// A connection that sends a line every 0.1 s to an echo server.
struct Talk {
    lines: String,
    _client: Running,
}

impl Talk {
    fn start(lab: &Lab, from: &str, to: &str, port: u16) -> Result<Self, Error> {
        let lines = format!("/run/talk-{from}-{port}");
        let script =
            format!("while echo line; do sleep 0.1; done | busybox nc {to} {port} >{lines}");
        let client = lab.start_in(from, &["sh", "-c", &script])?;
        let talk = Self {
            lines,
            _client: client,
        };
        wait_until("the connection carries data", WAIT_TIMEOUT, || {
            talk.answers(lab) > 2
        })?;
        Ok(talk)
    }

    fn answers(&self, lab: &Lab) -> usize {
        let lines = lab.exec("node-1", &["cat", &self.lines]);
        lines.map_or(0, |output| output.stdout.lines().count())
    }

    /// Whether more echoes arrive within 1.5 s.
    fn goes_on(&self, lab: &Lab) -> bool {
        let before = self.answers(lab);
        let more = || self.answers(lab) > before + 1;
        wait_until("more answers", Duration::from_millis(1_500), more).is_ok()
    }
}

/// A deny keeps established connections; with `--immediate` it ends those that it denies, and no others.
#[test]
fn deny_ends_established_connections_only_with_immediate() -> Outcome {
    let lab = prod_web()?;
    let web = lab.address_of("web-1")?.to_string();
    let echo =
        |port: &str| lab.start_in("web-1", &["busybox", "nc", "-ll", "-p", port, "-e", "cat"]);
    let _servers = [echo("80")?, echo("443")?];
    for port in [80, 443] {
        wait_until("the server answers", WAIT_TIMEOUT, || {
            lab.exec_in(
                "client",
                &["busybox", "nc", "-w", "1", &web, &port.to_string()],
            )
            .is_ok_and(|output| output.success())
        })?;
    }
    let kept = Talk::start(&lab, "client", &web, 80)?;
    let denied = Talk::start(&lab, "client", &web, 443)?;
    lab.netctl_ok(&["policy", "rule-rm", "prod_web", "3"])?;
    assert!(denied.goes_on(&lab), "a standing connection survives");

    lab.netctl_ok(&["policy", "apply", "prod_web", "--immediate"])?;
    wait_until("the denied connection ends", WAIT_TIMEOUT, || {
        !denied.goes_on(&lab)
    })?;
    assert!(kept.goes_on(&lab), "the allowed one goes on");
    Ok(())
}

/// The opener's node accepts replies of a connection without a rule, so the next owner of the answerer's
/// address must not be able to send them.
#[test]
fn next_owner_of_an_address_answers_no_old_connection() -> Outcome {
    let mut lab = two_nodes()?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.netctl_ok(&["policy", "create", "p"])?;
    lab.netctl_ok(&["group", "create", "contiv-net", "closed"])?;
    let deny = [
        "policy",
        "rule-add",
        "p",
        "1",
        "-from-group=closed",
        "-action=deny",
    ];
    lab.netctl_ok(&deny)?;
    lab.netctl_ok(&["group", "create", "contiv-net", "web", "-policy=p"])?;
    lab.run_workload_with("node-1", "contiv-net", "asker", &["--group", "web"])?;
    lab.run_workload("node-2", "contiv-net", "asked")?;
    let (asker, asked) = (lab.address_of("asker")?, lab.address_of("asked")?);
    let from = lab.udp_in("asker")?;
    let to = lab.udp_in("asked")?;
    let port = |of: &UdpSocket| of.local_addr().expect("bound").port();
    let (from_port, to_port) = (port(&from), port(&to));
    for socket in [&from, &to] {
        socket.set_read_timeout(Some(WAIT_TIMEOUT)).expect("set");
    }
    let mut bytes = [0; 16];
    wait_until("the node answers", WAIT_TIMEOUT, || {
        from.send_to(b"asked", (asked, to_port)).is_ok()
            && to.recv(&mut bytes).is_ok()
            && to.send_to(b"answer", (asker, from_port)).is_ok()
            && from.recv(&mut bytes).is_ok()
    })?;
    drop(to);
    lab.remove_workload("asked")?;
    let at = asked.to_string();
    let given = ["--group", "closed", "--ip", &at];
    lab.run_workload_with("node-2", "contiv-net", "heir", &given)?;
    lab.run_workload("node-2", "contiv-net", "beside")?;
    let (heir, beside) = (lab.udp_from("heir", to_port)?, lab.udp_in("beside")?);
    // Longer than a packet is in flight.
    let moment = Duration::from_millis(300);
    from.set_read_timeout(Some(moment)).expect("set");
    let comes = |sender: &UdpSocket, from: &UdpSocket| {
        let sent = sender.send_to(b"unasked", (asker, from_port));
        sent.is_ok() && from.recv(&mut [0; 16]).is_ok()
    };
    wait_until(
        "the asker's node knows who has the address",
        WAIT_TIMEOUT,
        || !comes(&heir, &from) && comes(&beside, &from),
    )?;
    assert!((0..5).all(|_| !comes(&heir, &from)));
    Ok(())
}
