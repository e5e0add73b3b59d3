//! `netctl dns` shows the answers that containers get; closed endpoints have no answers.

use chaos_tests::{DnsAnswer, DnsClient, Outcome, Scene, WAIT_TIMEOUT, create};
use lab::{Error, IMAGE, Lab, Output, Signal, Spec, wait_until};
use serde_json::Value;

fn query(lab: &Lab, line: &str) -> Result<Output, Error> {
    let words: Vec<&str> = ["dns", "query"]
        .into_iter()
        .chain(line.split(' '))
        .collect();
    lab.netctl(&words)
}

/// Checks the exit code of a query, and that its output contains all texts.
#[track_caller]
fn says(lab: &Lab, line: &str, code: i32, all: &[&str]) -> Outcome {
    let output = query(lab, line)?;
    assert_eq!(output.status, code, "{line}: {output:?}");
    for text in all {
        assert!(
            output.stdout.contains(text),
            "{line}: no {text}: {output:?}"
        );
    }
    Ok(())
}

/// The scene with a group on both nodes, and the same names in another tenant.
fn scene() -> Result<Scene, Error> {
    let mut scene = Scene::open()?;
    let lab = &mut scene.lab;
    lab.netctl_ok(&["group", "create", "contiv-net", "pool"])?;
    lab.run_workload_with("node-1", "contiv-net", "one", &["--group", "pool"])?;
    lab.run_workload_with("node-2", "contiv-net", "two", &["--group", "pool"])?;
    lab.netctl_ok(&["tenant", "create", "blue"])?;
    lab.netctl_ok(&[
        "net",
        "create",
        "contiv-net",
        "-t",
        "blue",
        "--subnet=20.1.1.0/24",
    ])?;
    lab.run_workload_with("node-2", "contiv-net", "secret", &["--tenant", "blue"])?;
    let web = DnsClient::new(lab, "web")?;
    wait_until("all names resolve on node-1", WAIT_TIMEOUT, || {
        web.addresses("pool").len() == 2 && !web.addresses("db").is_empty()
    })?;
    Ok(scene)
}

#[test]
fn names_are_listed_with_their_endpoints() -> Outcome {
    let scene = scene()?;
    let lab = &scene.lab;
    let list = |more: &[&str]| lab.netctl_ok(&[&["dns", "ls"], more].concat());
    wait_until("netmaster lists all of them", WAIT_TIMEOUT, || {
        list(&["-a", "-q"]).is_ok_and(|it| it.lines().count() == 6)
    })?;
    let names: Vec<String> = list(&["-q"])?.lines().map(str::to_owned).collect();
    let all = ["db", "one", "pool", "two", "web"].map(|it| format!("{it}.contiv-net"));
    assert_eq!(names, all);
    assert_eq!(list(&["-q", "-t", "blue"])?, "secret.contiv-net\n");
    assert_eq!(list(&["-q", "--network", "other"])?, "");

    let listed: Value = serde_json::from_str(&list(&["-o", "json"])?).expect("JSON");
    let of = |name: &str| {
        let all = listed.as_array().expect("a list").iter();
        all.clone().find(|it| it["name"] == name).expect("a name")
    };
    assert_eq!(of("pool")["kind"], "group");
    assert_eq!(of("pool")["nodes"], serde_json::json!(["node-1", "node-2"]));
    // The list is equal to the answers.
    let web = DnsClient::new(lab, "web")?;
    for name in ["db", "one", "pool", "two", "web"] {
        let DnsAnswer::Addresses(mut told) = web.ask(name) else {
            panic!("{name} isn't there");
        };
        told.sort();
        assert_eq!(of(name)["addresses"], serde_json::json!(told), "{name}");
    }
    Ok(())
}

#[test]
fn query_shows_the_containers_answer_and_its_reasons() -> Outcome {
    let scene = scene()?;
    let (db, ctl) = (scene.db.address.to_string(), scene.lab.address("ctl")?);
    let resolvers = format!("forwarded to {ctl}");
    let in_network = format!("because {} is in contiv-net", scene.web.address);
    let lab = &scene.lab;
    for (line, code, all) in [
        (
            "DB --from web",
            0,
            &[
                "found, TTL 5 s",
                &db,
                "on node node-2",
                &in_network,
                "because db is the name of a container in contiv-net",
            ][..],
        ),
        (
            "pool.contiv-net --from one",
            0,
            &["because pool.contiv-net is a member of the group in contiv-net"],
        ),
        (
            "db --from web --type AAAA",
            0,
            &["exists, without AAAA records"],
        ),
        (
            "contiv-net.contiv.local --from web",
            0,
            &["exists, without A records", "names below it"],
        ),
        (
            &format!("{db} --from web"),
            0,
            &["db.contiv-net.contiv.local"],
        ),
        (
            "machine.lab --from web",
            0,
            &[&resolvers, "goes to the host's resolvers"],
        ),
        ("secret --from web", 0, &[&resolvers]),
        (
            "secret.contiv-net.contiv.local --from web",
            1,
            &["doesn't exist (NXDOMAIN, TTL 5 s)"],
        ),
        ("secret --from secret -t blue", 0, &["on node node-2"]),
    ] {
        says(lab, line, code, all)?;
    }
    Ok(())
}

#[test]
fn query_names_silent_nodes_and_fails_without_the_own_node() -> Outcome {
    let mut scene = scene()?;
    let lab = &mut scene.lab;
    let silent = "on node node-2, silent: listed last";
    let nobody = query(lab, "db --from nobody")?;
    assert!(
        nobody.status == 1 && nobody.stderr.contains("nobody"),
        "{nobody:?}"
    );

    lab.kill("netplugin@node-2")?;
    wait_until("the silent member is reported", WAIT_TIMEOUT, || {
        query(lab, "pool --from web").is_ok_and(|it| it.stdout.contains(silent))
    })?;
    lab.kill("netplugin@node-1")?;
    assert_eq!(query(lab, "db --from web")?.status, 2);
    Ok(())
}

#[test]
fn closed_endpoints_are_left_out_of_answers() -> Outcome {
    let scene = scene()?;
    let lab = &scene.lab;
    let web = DnsClient::new(lab, "web")?;
    let db = DnsClient::new(lab, "db")?;
    lab.netctl_ok(&["group", "rm", "pool", "--force"])?;
    let there = DnsAnswer::Addresses(Vec::new());
    for asker in [&web, &db] {
        for name in ["one", "two", "pool"] {
            wait_until(&format!("{name} has no address"), WAIT_TIMEOUT, || {
                asker.ask(name) == there
            })?;
        }
        assert_eq!(asker.addresses("db"), [scene.db.address.to_string()]);
    }
    let why =
        "two is the name of a container in contiv-net, which is closed: its group was removed";
    says(
        lab,
        "two --from web",
        0,
        &["exists, without A records", why],
    )?;
    let shown = lab.netctl_ok(&["endpoint", "inspect", "two"])?;
    assert!(shown.contains("its group was removed"), "{shown}");
    Ok(())
}

/// The engine's configuration lacks the line that `docs/names.md` requires.
#[test]
fn doctor_names_the_line_that_the_engine_lacks() -> Outcome {
    let mut lab = Lab::up(&Spec::test(1).docker(true).loopback_resolver_on(1))?;
    lab.import_image("node-1")?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    let write = |lab: &Lab, text: &str| {
        let script = format!("echo '{text}' > /etc/docker/daemon.json");
        lab.run("node-1", &["sh", "-c", &script]).map(drop)
    };
    // Whether a new container of the engine resolves another's name.
    let finds = |lab: &mut Lab| -> Result<bool, Error> {
        lab.restart("dockerd@node-1", Signal::Term)?;
        wait_until("the engine answers", WAIT_TIMEOUT, || {
            lab.docker("node-1", &["info"]).is_ok_and(|it| it.success())
        })?;
        let run = ["run", "--rm", "--net=contiv-net", "--name=web", IMAGE];
        let ask = [&run[..], &["nslookup", "web.contiv-net.contiv.local"]].concat();
        Ok(lab.docker("node-1", &ask)?.stdout.contains("20.1.1."))
    };
    assert!(finds(&mut lab)?);

    let said = || lab.netctl(&["doctor", "-q"]).map(|it| it.stdout);
    let line = r#"put "dns": ["169.254.53.53"] into /etc/docker/daemon.json"#;
    let lacks = || said().is_ok_and(|it| it.contains("loopback-resolver") && it.contains(line));
    assert!(!said()?.contains("loopback-resolver"));
    write(&lab, "{}")?;
    wait_until("doctor names the line", WAIT_TIMEOUT, lacks)?;
    assert_eq!(lab.netctl(&["doctor"])?.status, 1);
    assert!(!finds(&mut lab)?, "the line is needed");
    write(&lab, r#"{"dns": ["169.254.53.53"]}"#)?;
    let said = || lab.netctl(&["doctor", "-q"]).map(|it| it.stdout);
    wait_until("doctor reports it no more", WAIT_TIMEOUT, || {
        said().is_ok_and(|it| !it.contains("loopback-resolver"))
    })
}
