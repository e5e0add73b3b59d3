//! Three nats-servers and three netmasters: any one of them may fail, and nothing is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chaos_tests::{Outcome, Scene, create, invariant};
use lab::{Error, Lab, Spec, wait_until};
use serde_json::Value;

/// Servers that lost their leader elect another one in 4 to 14 s.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(60);
/// A request that takes this long waited for a leader; others take a few milliseconds.
const MIN_OUTAGE: Duration = Duration::from_secs(1);

fn three() -> Result<Scene, Error> {
    let mut lab = Lab::up(&Spec::test(2).servers(3).netmasters(3))?;
    create(&lab, "contiv-net", "20.1.1.0/24")?;
    let web = lab.run_workload("node-1", "contiv-net", "web")?;
    let db = lab.run_workload("node-2", "contiv-net", "db")?;
    Ok(Scene { lab, web, db })
}

/// The exit code of each requested network, and the time of the request.
type Replies = BTreeMap<String, (i32, Duration)>;

/// Creates one network after another until `stop`, also after failures.
fn ask(lab: &Lab, stop: &AtomicBool) -> Result<Replies, Error> {
    let mut told = Replies::new();
    for number in 0_u16.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("n{number}");
        let subnet = format!("--subnet=10.{}.{}.0/24", number / 256, number % 256);
        let begin = Instant::now();
        let asked = lab.netctl(&["net", "create", &name, &subnet, "--no-wait"])?;
        told.insert(name, (asked.status, begin.elapsed()));
    }
    Ok(told)
}

/// The number of creations of each network in the log.
fn created(lab: &Lab) -> Result<BTreeMap<String, usize>, Error> {
    let mut told = String::new();
    // The stream of endpoints may get its leader later than the log.
    wait_until("every stream can be read", ELECTION_TIMEOUT, || {
        let read = lab.netctl(&["events", "--since", "1", "-o", "json"]);
        read.is_ok_and(|read| {
            told.clone_from(&read.stdout);
            read.success()
        })
    })?;
    let mut times = BTreeMap::new();
    for line in told.lines() {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        let body = &event["event"];
        // Written in one batch with the network.
        if body["type"] == "leases-opened" {
            let name = body["network"].as_str().unwrap_or_default().to_owned();
            *times.entry(name).or_default() += 1;
        }
    }
    Ok(times)
}

fn decides(lab: &Lab, network: &str, third: u8) -> Outcome {
    let subnet = format!("--subnet=20.2.{third}.0/24");
    wait_until("the other two netmasters decide", ELECTION_TIMEOUT, || {
        let made = lab.netctl(&["net", "create", network, &subnet, "--no-wait"]);
        // If an earlier try succeeded, the next is refused since the name is taken.
        made.is_ok_and(|made| made.success() || made.text().contains("exists"))
    })
}

#[test]
fn intent_survives_the_loss_of_any_server_and_netmaster() -> Outcome {
    let mut scene = three()?;
    let operator = Lab::open(scene.lab.name())?;
    let stop = AtomicBool::new(false);
    let pinging = scene.lab.start_ping("web", &scene.db.address.to_string())?;
    let told = std::thread::scope(|scope| {
        let asking = scope.spawn(|| ask(&operator, &stop));
        let lost = (1..=3).try_for_each(|number: u8| {
            let (server, master) = (format!("nats-{number}"), format!("netmaster-{number}"));
            scene.lab.kill(&server)?;
            scene.lab.kill(&master)?;
            decides(&scene.lab, &format!("without-{number}"), number)?;
            scene.lab.start(&server)?;
            scene.lab.start(&master)?;
            scene.lab.await_bus()?;
            invariant::converged_within(&scene.lab, ELECTION_TIMEOUT)
        });
        stop.store(true, Ordering::Relaxed);
        let told = asking.join().expect("the operator doesn't panic");
        lost.and(told)
    })?;
    let pings = pinging.stop()?;
    assert_eq!(pings.lost(), 0, "forwarding needs none of them: {pings:?}");

    let created = created(&scene.lab)?;
    // netctl sends a request again, so one during an outage is slow or fails.
    let in_outage = |(status, took): &(i32, Duration)| *status != 0 || *took >= MIN_OUTAGE;
    let accepted = told.values().filter(|(status, _)| *status == 0);
    assert!(
        accepted.count() > 0 && told.values().any(in_outage),
        "asked before, in and after the outages: {told:?}"
    );
    for (name, (status, _)) in &told {
        let times = created.get(name).copied().unwrap_or_default();
        match status {
            0 => assert_eq!(times, 1, "{name} was acknowledged"),
            // Unreachable: not delivered. Unknown: done at most once.
            2 => assert_eq!(times, 0, "{name} was never handed over"),
            3 => assert!(times <= 1, "{name}: outcome unknown"),
            other => panic!("{name}: exit status {other}"),
        }
    }
    let networks = scene.lab.netctl_ok(&["net", "ls", "-o", "json"])?;
    for name in created.keys() {
        assert!(networks.contains(&format!("\"{name}\"")), "{name} is gone");
    }
    Ok(())
}

#[test]
fn server_cut_off_acknowledges_nothing_and_catches_up() -> Outcome {
    let scene = three()?;
    scene.lab.isolate("ctl")?;
    // Only its own netmaster receives this, and it has no majority.
    let alone = format!(
        "CONTIV_NATS_URL={} timeout 30 netctl net create alone --subnet=10.9.9.0/24 --no-wait",
        scene.lab.nats_url().split(',').next().unwrap_or_default()
    );
    let alone = scene.lab.exec("ctl", &["sh", "-c", &alone])?;
    assert_ne!(alone.status, 0, "a minority decided: {alone:?}");
    wait_until("the other two netmasters decide", ELECTION_TIMEOUT, || {
        let create = ["net", "create", "most", "--subnet=10.9.8.0/24", "--no-wait"];
        let made = scene.lab.netctl_from("ctl-2", &create);
        made.is_ok_and(|made| made.success() || made.text().contains("exists"))
    })?;
    assert!(scene.pings_both_ways()?, "the nodes go on");
    wait_until("they serve their decisions", ELECTION_TIMEOUT, || {
        let listed = scene.lab.netctl_from("ctl-2", &["net", "ls"]);
        listed.is_ok_and(|listed| listed.stdout.contains("most"))
    })?;
    scene.lab.repair()?;
    invariant::converged_within(&scene.lab, ELECTION_TIMEOUT)?;
    wait_until(
        "the one that was cut off knows it too",
        ELECTION_TIMEOUT,
        || {
            scene
                .lab
                .netctl_ok(&["net", "ls"])
                .is_ok_and(|all| all.contains("most"))
        },
    )?;
    Ok(())
}

/// The host of the log's leader.
fn leading_host(lab: &Lab) -> Result<&'static str, Error> {
    let mut host = None;
    wait_until("a server leads the log", ELECTION_TIMEOUT, || {
        let status = lab.netctl(&["status", "-o", "json"]);
        let status = status.map(|it| serde_json::from_str::<Value>(&it.stdout));
        let status = status.ok().and_then(Result::ok).unwrap_or_default();
        let servers = status["servers"].as_array().cloned();
        let leads = |server: &Value| server["leads"] == true;
        let leader = servers.into_iter().flatten().find(leads);
        host = match leader.as_ref().and_then(|it| it["name"].as_str()) {
            Some("nats-1") => Some("ctl"),
            Some("nats-2") => Some("ctl-2"),
            Some("nats-3") => Some("ctl-3"),
            _ => None,
        };
        host.is_some()
    })?;
    Ok(host.unwrap_or("ctl"))
}

#[test]
fn side_of_a_cut_off_leader_never_answers_by_old_state() -> Outcome {
    let scene = three()?;
    let lab = &scene.lab;
    let rule = "policy rule-add p 1 --direction=in --protocol=tcp --action=deny --no-wait";
    let rule: Vec<&str> = rule.split(' ').collect();
    lab.netctl_ok(&["policy", "create", "p"])?;
    lab.netctl_ok(&rule)?;
    let all = ["ctl", "ctl-2", "ctl-3"];
    let cut = leading_host(lab)?;
    let url = lab.nats_url();
    let index = all.iter().position(|it| *it == cut).unwrap_or(0);
    let own = url.split(',').nth(index).unwrap_or_default();
    let majority = all.iter().copied().find(|it| *it != cut);
    let majority = majority.unwrap_or("ctl-2");
    lab.isolate(cut)?;
    // By the state of this side the same rule again would be "unchanged".
    let ask = format!("CONTIV_NATS_URL={own} timeout 30 netctl {}", rule.join(" "));
    let removed = AtomicBool::new(false);
    let operator = Lab::open(lab.name())?;
    let asked = std::thread::scope(|scope| {
        let removing = scope.spawn(|| {
            let remove = ["policy", "rule-rm", "p", "1", "--no-wait"];
            let done = wait_until("the majority removes the rule", ELECTION_TIMEOUT, || {
                let done = operator.netctl_from(majority, &remove);
                done.is_ok_and(|done| done.success() || done.text().contains("no rule 1"))
            });
            removed.store(true, Ordering::Relaxed);
            done
        });
        let ask = || lab.exec(cut, &["sh", "-c", &ask]);
        while !removed.load(Ordering::Relaxed) {
            ask()?;
        }
        removing.join().expect("no panic")?;
        // The old leader steps down after some seconds; until then it answers reads.
        let asked = (0..3).map(|_| ask()).collect::<Result<Vec<_>, Error>>()?;
        Ok::<_, Error>(asked)
    })?;
    for answer in &asked {
        assert!(
            matches!(answer.status, 2 | 3),
            "unknown or unreachable, not {answer:?}"
        );
    }
    lab.repair()?;
    invariant::converged_within(lab, ELECTION_TIMEOUT)?;
    Ok(())
}
