//! Another program removes our rules for a while: connections accepted meanwhile are ended, no others.

use chaos_tests::{Outcome, WAIT_TIMEOUT, create, sh, two_nodes};
use lab::{Error, Lab, Running, wait_until};

/// Opens a connection from `client` that writes a line every 0.1 s while it is echoed.
fn talk(lab: &Lab, web: &str, port: u16) -> Result<Running, Error> {
    let script = format!(
        "exec 3<>/dev/tcp/{web}/{port}; \
         while echo x >&3 && read -t 3 -u 3 line; do echo $line >> /run/echo-{port}; sleep 0.1; done; \
         touch /run/ended-{port}"
    );
    lab.start_in("client", &["bash", "-c", &script])
}

fn echoes(lab: &Lab, port: u16) -> usize {
    let file = format!("/run/echo-{port}");
    let lines = lab.exec("node-1", &["cat", &file]);
    lines.map_or(0, |it| it.stdout.lines().count())
}

fn echoes_more(lab: &Lab, port: u16) -> Result<(), Error> {
    let before = echoes(lab, port);
    wait_until("the connection is echoed", WAIT_TIMEOUT, || {
        echoes(lab, port) > before
    })
}

/// Runs a command in the network namespace that has our table on node-2.
fn in_domain(lab: &Lab, command: &str) -> Result<String, Error> {
    Ok(match lab.domain("node-2")?.as_str() {
        "netns" => format!("ip netns exec contiv-default {command}"),
        _ => command.to_owned(),
    })
}

#[test]
fn connections_opened_while_a_map_was_flushed_are_ended_and_older_ones_stay() -> Outcome {
    let mut lab = two_nodes()?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.netctl_ok(&["policy", "create", "p"])?;
    for rule in [
        &["1", "-protocol=tcp", "-action=deny"][..],
        &[
            "2",
            "-protocol=tcp",
            "-port=82",
            "-action=allow",
            "-priority=10",
        ],
    ] {
        let add = [&["policy", "rule-add", "p"], rule, &["-direction=in"]].concat();
        lab.netctl_ok(&add)?;
    }
    lab.netctl_ok(&["group", "create", "contiv-net", "web", "-policy=p"])?;
    lab.run_workload_with("node-2", "contiv-net", "web-1", &["--group", "web"])?;
    lab.run_workload("node-1", "contiv-net", "client")?;
    let web = lab.address_of("web-1")?.to_string();
    let serve =
        |port: &str| lab.start_in("web-1", &["busybox", "nc", "-ll", "-p", port, "-e", "cat"]);
    let _servers = (serve("81")?, serve("82")?);
    let listens = |port| {
        let filter = format!("sport = :{port}");
        let sockets = lab.exec_in("web-1", &["ss", "-Hltn", &filter]);
        sockets.is_ok_and(|it| !it.stdout.is_empty())
    };
    wait_until("the servers listen", WAIT_TIMEOUT, || {
        listens(81) && listens(82)
    })?;
    let _older = talk(&lab, &web, 82)?;
    echoes_more(&lab, 82)?;
    lab.netctl_ok(&["policy", "rule-rm", "p", "2"])?;
    let flush = in_domain(&lab, "nft flush map inet contiv programs_in")?;

    lab.pause("netplugin@node-2")?;
    assert!(sh(&lab, "node-2", &flush));
    let _denied = talk(&lab, &web, 81)?;
    echoes_more(&lab, 81)?;
    lab.resume("netplugin@node-2")?;
    wait_until(
        "connections opened meanwhile are ended",
        WAIT_TIMEOUT,
        || sh(&lab, "node-1", "test -e /run/ended-81"),
    )?;
    echoes_more(&lab, 82)?;
    assert!(!sh(&lab, "node-1", "test -e /run/ended-82"));
    Ok(())
}

#[test]
fn flushed_ruleset_is_restored_and_denies_as_before() -> Outcome {
    let mut lab = two_nodes()?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    lab.netctl_ok(&["policy", "create", "p"])?;
    let deny = ["1", "-direction=in", "-protocol=tcp", "-action=deny"];
    lab.netctl_ok(&[&["policy", "rule-add", "p"], &deny[..]].concat())?;
    lab.netctl_ok(&["group", "create", "contiv-net", "web", "-policy=p"])?;
    lab.run_workload_with("node-2", "contiv-net", "web-1", &["--group", "web"])?;
    lab.run_workload("node-1", "contiv-net", "client")?;
    let web = lab.address_of("web-1")?.to_string();
    let _server = lab.listen("web-1", 81)?;
    assert!(!lab.connects("client", &web, 81)?);
    let flush = in_domain(&lab, "nft flush ruleset")?;
    let rules = in_domain(&lab, "nft list map inet contiv programs_in")?;
    for _ in 0..5 {
        assert!(sh(&lab, "node-2", &flush));
        wait_until("the rules are back", WAIT_TIMEOUT, || {
            sh(&lab, "node-2", &format!("{rules} | grep -q jump"))
        })?;
        assert!(!lab.connects("client", &web, 81)?);
    }
    Ok(())
}
