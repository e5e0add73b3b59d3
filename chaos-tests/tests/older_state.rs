//! A node's disk or journal is lost, or older than its publications: nothing acts on the older state.

use chaos_tests::{Outcome, WAIT_TIMEOUT, create, invariant, sh, two_nodes};
use lab::{Error, Lab, wait_until};

const STATE_FOLDER: &str = "/var/lib/contiv";
const NODE_NAME: &str = "node-2";
const DENY_RULE: [&str; 7] = [
    "policy",
    "rule-add",
    "p",
    "1",
    "--direction=in",
    "--protocol=tcp",
    "--action=deny",
];

/// `web` on node-2, in a group whose policy `p` denies UDP, and `client` on node-1.
struct Scene {
    /// Dropped before the lab in which it runs.
    _server: lab::Running,
    lab: Lab,
    web: String,
}

impl Scene {
    fn open() -> Result<Self, Error> {
        let mut lab = two_nodes()?;
        create(&lab, "contiv-net", "20.1.1.0/24")?;
        lab.netctl_ok(&["policy", "create", "p"])?;
        let udp = "policy rule-add p 9 --direction=in --protocol=udp --action=deny";
        lab.netctl_ok(&udp.split(' ').collect::<Vec<_>>())?;
        lab.netctl_ok(&["group", "create", "contiv-net", "web", "--policy=p"])?;
        let web = lab.run_workload_with(NODE_NAME, "contiv-net", "web", &["--group", "web"])?;
        lab.run_workload("node-1", "contiv-net", "client")?;
        let server = lab.listen("web", 80)?;
        let scene = Self {
            lab,
            web: web.address.to_string(),
            _server: server,
        };
        assert!(scene.connects()?, "no rule denies TCP yet");
        Ok(scene)
    }

    fn connects(&self) -> Result<bool, Error> {
        self.lab.connects("client", &self.web, 80)
    }

    /// Waits until the node has just saved its events; the next save comes three seconds later.
    fn saved(&self, tick: &str) -> Result<(), Error> {
        let file = format!("{STATE_FOLDER}/projection");
        let saved = || {
            Ok(self
                .lab
                .run(NODE_NAME, &["stat", "-c", "%y", &file])?
                .stdout)
        };
        let before = saved()?;
        self.lab.netctl_ok(&["policy", "create", tick])?;
        wait_until("the events are saved", WAIT_TIMEOUT, || {
            saved().is_ok_and(|now: String| now != before)
        })
    }

    /// Adds the deny rule, and waits until every node has applied it.
    fn deny(&self) -> Result<(), Error> {
        self.netctl(&DENY_RULE.join(" "))
    }

    fn netctl(&self, line: &str) -> Result<(), Error> {
        let words: Vec<&str> = line.split(' ').collect();
        self.lab.netctl_ok(&words)?;
        self.lab
            .netctl_ok(&["wait", "--converged", "--timeout", "20s"])
            .map(drop)
    }

    fn kill(&mut self) -> Result<(), Error> {
        self.lab.kill(&format!("netplugin@{NODE_NAME}"))
    }

    /// Starts netplugin, and waits until it has read its kernel.
    fn start(&mut self) -> Result<(), Error> {
        self.lab.start(&format!("netplugin@{NODE_NAME}"))?;
        wait_until("netplugin restored its endpoint", WAIT_TIMEOUT, || {
            let endpoints = self
                .lab
                .status(NODE_NAME)
                .map(|it| it["endpoints"].as_u64());
            endpoints.is_ok_and(|it| it >= Some(1))
        })
    }

    fn bus_is_back(&mut self) -> Result<(), Error> {
        self.lab.start("nats")?;
        self.lab.await_bus()?;
        invariant::converged(&self.lab)
    }

    fn alarms(&self, code: &str) -> bool {
        let codes = self.lab.alarms(NODE_NAME);
        codes.is_ok_and(|codes| codes.iter().any(|it| it == code))
    }

    fn applied(&self) -> Result<u64, Error> {
        let status = self.lab.status(NODE_NAME)?;
        Ok(status["applied"].as_u64().unwrap_or_default())
    }

    fn sh(&self, script: &str) {
        assert!(sh(&self.lab, NODE_NAME, script), "{script}");
    }

    /// Moves the state folder to a disk of this size.
    fn move_to_disk(&mut self, size: &str) -> Result<(), Error> {
        self.kill()?;
        self.sh(&format!(
            "cp -a {STATE_FOLDER} {STATE_FOLDER}.old && mount -t tmpfs -o size={size} disk {STATE_FOLDER} && cp -a {STATE_FOLDER}.old/. {STATE_FOLDER}"
        ));
        self.start()
    }
}

#[test]
fn acknowledged_deny_survives_kills_without_the_bus() -> Outcome {
    let mut scene = Scene::open()?;
    for round in 0..3 {
        scene.saved(&format!("tick-{round}"))?;
        let deny = revision(&scene.lab.netctl_ok(&DENY_RULE)?);
        wait_until("the rule is enforced", WAIT_TIMEOUT, || {
            scene.applied().is_ok_and(|applied| applied >= deny)
        })?;
        scene.kill()?;
        scene.lab.kill("nats")?;
        for start in 0..2 {
            scene.start()?;
            for _ in 0..3 {
                assert!(!scene.connects()?, "round {round}, start {start}");
            }
            scene.kill()?;
        }
        scene.start()?;
        scene.bus_is_back()?;
        assert!(!scene.connects()?, "round {round}, in sync");
        scene.netctl("policy rule-rm p 1")?;
        assert!(scene.connects()?, "round {round}, allowed again");
    }
    Ok(())
}

#[test]
fn rules_in_the_kernel_stay_if_the_disk_lost_events() -> Outcome {
    let mut scene = Scene::open()?;
    let lose: [&str; 3] = [
        // An older copy of everything.
        "cp -a STATE_FOLDER.old/projection STATE_FOLDER; rm -rf STATE_FOLDER/events; cp -a STATE_FOLDER.old/events STATE_FOLDER; true",
        // Everything is lost, as if a newer build couldn't read the older files.
        "rm -rf STATE_FOLDER/projection STATE_FOLDER/events",
        // A damaged copy; the journal still has the cluster's id.
        "head -c 100 STATE_FOLDER.old/projection >STATE_FOLDER/projection; rm -rf STATE_FOLDER/events",
    ];
    for lose in lose {
        scene.sh(&format!(
            "rm -rf {STATE_FOLDER}.old; cp -a {STATE_FOLDER} {STATE_FOLDER}.old"
        ));
        scene.deny()?;
        scene.kill()?;
        scene.lab.kill("nats")?;
        scene.sh(&lose.replace("STATE_FOLDER", STATE_FOLDER));
        scene.start()?;
        wait_until("the node reports that it waits", WAIT_TIMEOUT, || {
            scene.alarms("datapath")
        })?;
        assert!(!scene.connects()?, "{lose}");
        let refused = scene
            .lab
            .try_workload(NODE_NAME, "contiv-net", "new", &[])?;
        assert!(!refused.success(), "{lose}: {refused:?}");
        scene.sh("ip netns del w-new");
        scene.bus_is_back()?;
        assert!(!scene.connects()?, "{lose}: in sync");
        scene.lab.run_workload(NODE_NAME, "contiv-net", "new")?;
        wait_until("new containers are reachable", WAIT_TIMEOUT, || {
            scene.lab.ping("client", "new").unwrap_or(false)
        })?;
        scene.lab.remove_workload("new")?;
        scene.netctl("policy rule-rm p 1")?;
        assert!(scene.connects()?, "{lose}: allowed again");
    }
    Ok(())
}

#[test]
fn ceded_address_is_not_assigned_again_after_a_kill() -> Outcome {
    let mut scene = Scene::open()?;
    for round in 0..2 {
        let address = format!("20.1.1.{}", 9 + round);
        let name = format!("q{round}");
        let ip = ["--ip", &address];
        scene.saved(&format!("tick-{round}"))?;
        scene
            .lab
            .run_workload_with("node-1", "contiv-net", &name, &ip)?;
        let settled = format!(
            "test $(grep -ao cede-ended {STATE_FOLDER}/endpoints.journal | wc -l) -gt {round}"
        );
        wait_until(
            "the journal says that the address is ceded",
            WAIT_TIMEOUT,
            || sh(&scene.lab, NODE_NAME, &settled),
        )?;
        scene.kill()?;
        scene.lab.kill("nats")?;
        scene.start()?;
        let again = scene
            .lab
            .try_workload(NODE_NAME, "contiv-net", "again", &ip)?;
        assert!(!again.success(), "round {round}: {again:?}");
        scene.sh("ip netns del w-again");
        scene.bus_is_back()?;
    }
    Ok(())
}

#[test]
fn full_disk_is_an_alarm_and_opens_nothing() -> Outcome {
    let mut scene = Scene::open()?;
    scene.move_to_disk("256k")?;
    invariant::converged(&scene.lab)?;
    scene.sh(&format!("cat /dev/zero >{STATE_FOLDER}/ballast; true"));
    wait_until("the node raises the alarm", WAIT_TIMEOUT, || {
        scene.alarms("disk")
    })?;
    // Small changes may still fit into a file's last page.
    let before = scene.applied()?;
    let mut last = 0;
    for number in 0..60 {
        let name = format!("filler-{number}");
        let done = scene.lab.netctl_ok(&["policy", "create", &name])?;
        last = revision(&done);
    }
    scene.lab.netctl_ok(&DENY_RULE)?;
    wait_until("the kernel is updated nevertheless", WAIT_TIMEOUT, || {
        scene.connects().is_ok_and(|connects| !connects)
    })?;
    let reported = scene.applied()?;
    assert!((before..=last).contains(&reported), "{reported}");
    let attached = (0..40).map(|number| {
        let name = format!("new-{number}");
        scene.lab.try_workload(NODE_NAME, "contiv-net", &name, &[])
    });
    let refused = attached.filter_map(Result::ok).find(|it| !it.success());
    let text = refused.map(|it| it.text()).unwrap_or_default();
    assert!(text.contains("journal"), "{text}");

    scene.kill()?;
    scene.lab.kill("nats")?;
    scene.start()?;
    assert!(!scene.connects()?, "the disk knows nothing of the rule");
    scene.sh(&format!("rm {STATE_FOLDER}/ballast"));
    scene.bus_is_back()?;
    wait_until("the alarm ends", WAIT_TIMEOUT, || !scene.alarms("disk"))?;
    assert!(!scene.connects()?);
    Ok(())
}

/// The revision in netctl's output: `done at revision 7 by command …`.
fn revision(done: &str) -> u64 {
    let words: Vec<&str> = done.split_whitespace().collect();
    let at = words.iter().position(|it| *it == "revision");
    let number = at.and_then(|at| words.get(at + 1));
    number.and_then(|it| it.parse().ok()).unwrap_or_default()
}

#[test]
fn read_only_disk_prevents_new_endpoints_only() -> Outcome {
    let mut scene = Scene::open()?;
    scene.move_to_disk("8m")?;
    invariant::converged(&scene.lab)?;
    scene.kill()?;
    scene.sh(&format!("mount -o remount,ro {STATE_FOLDER}"));
    scene.start()?;
    wait_until("the node raises the alarm", WAIT_TIMEOUT, || {
        scene.alarms("disk")
    })?;
    wait_until("it follows the log", WAIT_TIMEOUT, || {
        scene
            .lab
            .log_state(NODE_NAME)
            .is_ok_and(|it| it == "in-sync")
    })?;
    assert!(scene.connects()?);
    wait_until("names resolve", WAIT_TIMEOUT, || {
        scene.lab.ping("web", "client").unwrap_or(false)
    })?;
    scene.lab.netctl_ok(&DENY_RULE)?;
    wait_until("policies are enforced", WAIT_TIMEOUT, || {
        scene.connects().is_ok_and(|connects| !connects)
    })?;
    let refused = scene
        .lab
        .try_workload(NODE_NAME, "contiv-net", "new", &[])?;
    assert!(
        !refused.success() && refused.text().contains("Read-only file system"),
        "{refused:?}"
    );
    scene.sh("ip netns del w-new");
    scene.sh(&format!("mount -o remount,rw {STATE_FOLDER}"));
    invariant::converged(&scene.lab)?;
    wait_until("the alarm ends", WAIT_TIMEOUT, || !scene.alarms("disk"))?;
    scene
        .lab
        .run_workload(NODE_NAME, "contiv-net", "new")
        .map(drop)
}

#[test]
fn damaged_or_missing_journal_cuts_no_endpoint() -> Outcome {
    let mut scene = Scene::open()?;
    let journal = format!("{STATE_FOLDER}/endpoints.journal");
    // The copy of the journal's endpoints may be lost, too; then they come from the bus or the kernel.
    let flip = format!(
        "printf '\\377' | dd of={journal} bs=1 seek=$(($(stat -c %s {journal}) / 2)) conv=notrunc"
    );
    let gone = format!("rm {journal}");
    let copy = format!("rm -f {STATE_FOLDER}/endpoints.copy");
    let damages = [
        (flip.clone(), false),
        (gone.clone(), false),
        (format!("{gone}; {copy}"), true),
        (format!("{flip}; {copy}"), true),
    ];
    let ping = scene.lab.start_ping("client", &scene.web.clone())?;
    for (damage, bus) in damages {
        wait_until("the endpoint is in the copy", WAIT_TIMEOUT, || {
            sh(
                &scene.lab,
                NODE_NAME,
                &format!("grep -q web {STATE_FOLDER}/endpoints.copy"),
            )
        })?;
        scene.kill()?;
        if !bus {
            scene.lab.kill("nats")?;
        }
        scene.sh(&damage);
        scene.start()?;
        wait_until("the node raises the alarm", WAIT_TIMEOUT, || {
            scene.alarms("journal-truncated") || scene.alarms("journal-missing")
        })?;
        ping.wait_for(10)?;
        if !bus {
            scene.bus_is_back()?;
        }
        invariant::converged(&scene.lab)?;
        ping.wait_for(10)?;
        let listed = scene.lab.netctl_ok(&["endpoint", "ls"])?;
        let lines = listed.lines().filter(|it| it.contains(&scene.web));
        assert_eq!(lines.count(), 1, "{damage}: {listed}");
        scene.deny()?;
        assert!(!scene.connects()?, "{damage}: its policy still decides");
        scene.netctl("policy rule-rm p 1")?;
        assert!(scene.connects()?, "{damage}");
        // After one more start nothing is uncertain.
        scene.kill()?;
        scene.start()?;
        invariant::converged(&scene.lab)?;
        assert!(!scene.alarms("journal-missing"), "{damage}");
    }
    let report = ping.stop()?;
    assert!(report.is_whole(), "{report:?}");
    Ok(())
}
