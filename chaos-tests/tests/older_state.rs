//! A node's disk or journal is older than what it has told others, or lost: nothing acts on the
//! older state.

use chaos_tests::{Outcome, SOON, create, invariant, sh, two_nodes};
use lab::{Error, Lab, wait_until};

const STATE: &str = "/var/lib/contiv";
const NODE: &str = "node-2";
const DENY: [&str; 7] = [
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
    /// Dropped before the lab that it runs in.
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
        let web = lab.run_workload_with(NODE, "contiv-net", "web", &["--group", "web"])?;
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

    /// Returns when the node has just saved its facts: the next save is three seconds away.
    fn saved(&self, tick: &str) -> Result<(), Error> {
        let file = format!("{STATE}/projection");
        let saved = || Ok(self.lab.run(NODE, &["stat", "-c", "%y", &file])?.stdout);
        let before = saved()?;
        self.lab.netctl_ok(&["policy", "create", tick])?;
        wait_until("the facts are saved", SOON, || {
            saved().is_ok_and(|now: String| now != before)
        })
    }

    /// Returns when every node has applied it.
    fn deny(&self) -> Result<(), Error> {
        self.netctl(&DENY.join(" "))
    }

    fn netctl(&self, line: &str) -> Result<(), Error> {
        let words: Vec<&str> = line.split(' ').collect();
        self.lab.netctl_ok(&words)?;
        self.lab
            .netctl_ok(&["wait", "--converged", "--timeout", "20s"])
            .map(drop)
    }

    fn kill(&mut self) -> Result<(), Error> {
        self.lab.kill(&format!("netplugin@{NODE}"))
    }

    /// Returns when it has looked at its kernel.
    fn start(&mut self) -> Result<(), Error> {
        self.lab.start(&format!("netplugin@{NODE}"))?;
        wait_until("netplugin has its endpoint again", SOON, || {
            let endpoints = self.lab.status(NODE).map(|it| it["endpoints"].as_u64());
            endpoints.is_ok_and(|it| it >= Some(1))
        })
    }

    fn bus_is_back(&mut self) -> Result<(), Error> {
        self.lab.start("nats")?;
        self.lab.await_bus()?;
        invariant::converged(&self.lab)
    }

    fn alarms(&self, code: &str) -> bool {
        let codes = self.lab.alarms(NODE);
        codes.is_ok_and(|codes| codes.iter().any(|it| it == code))
    }

    fn applied(&self) -> Result<u64, Error> {
        let status = self.lab.status(NODE)?;
        Ok(status["applied"].as_u64().unwrap_or_default())
    }

    fn sh(&self, script: &str) {
        assert!(sh(&self.lab, NODE, script), "{script}");
    }

    /// The state folder on a disk of its own, of this size.
    fn move_to_disk(&mut self, size: &str) -> Result<(), Error> {
        self.kill()?;
        self.sh(&format!(
            "cp -a {STATE} {STATE}.old && mount -t tmpfs -o size={size} disk {STATE} && cp -a {STATE}.old/. {STATE}"
        ));
        self.start()
    }
}

#[test]
fn an_acknowledged_deny_holds_after_kills_while_the_bus_is_away() -> Outcome {
    let mut scene = Scene::open()?;
    for round in 0..3 {
        scene.saved(&format!("tick-{round}"))?;
        let deny = revision(&scene.lab.netctl_ok(&DENY)?);
        wait_until("the rule is enforced", SOON, || {
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
fn rules_in_the_kernel_stay_when_the_disk_lost_facts() -> Outcome {
    let mut scene = Scene::open()?;
    let lose: [&str; 3] = [
        // An older copy of all of it.
        "cp -a STATE.old/projection STATE; rm -rf STATE/events; cp -a STATE.old/events STATE; true",
        // All of it, as a newer build reads none of what an older one saved.
        "rm -rf STATE/projection STATE/events",
        // And a damaged one: the journal says which cluster it is of.
        "head -c 100 STATE.old/projection >STATE/projection; rm -rf STATE/events",
    ];
    for lose in lose {
        scene.sh(&format!("rm -rf {STATE}.old; cp -a {STATE} {STATE}.old"));
        scene.deny()?;
        scene.kill()?;
        scene.lab.kill("nats")?;
        scene.sh(&lose.replace("STATE", STATE));
        scene.start()?;
        wait_until("the node says that it waits", SOON, || {
            scene.alarms("datapath")
        })?;
        assert!(!scene.connects()?, "{lose}");
        let refused = scene.lab.try_workload(NODE, "contiv-net", "new", &[])?;
        assert!(!refused.success(), "{lose}: {refused:?}");
        scene.sh("ip netns del w-new");
        scene.bus_is_back()?;
        assert!(!scene.connects()?, "{lose}: in sync");
        scene.lab.run_workload(NODE, "contiv-net", "new")?;
        wait_until("what starts now is reached", SOON, || {
            scene.lab.ping("client", "new").unwrap_or(false)
        })?;
        scene.lab.remove_workload("new")?;
        scene.netctl("policy rule-rm p 1")?;
        assert!(scene.connects()?, "{lose}: allowed again");
    }
    Ok(())
}

#[test]
fn a_ceded_address_is_not_given_out_again_after_a_kill() -> Outcome {
    let mut scene = Scene::open()?;
    for round in 0..2 {
        let address = format!("20.1.1.{}", 9 + round);
        let name = format!("q{round}");
        let ip = ["--ip", &address];
        scene.saved(&format!("tick-{round}"))?;
        scene
            .lab
            .run_workload_with("node-1", "contiv-net", &name, &ip)?;
        let settled =
            format!("test $(grep -ao cede-ended {STATE}/endpoints.journal | wc -l) -gt {round}");
        wait_until("the journal says that the address is ceded", SOON, || {
            sh(&scene.lab, NODE, &settled)
        })?;
        scene.kill()?;
        scene.lab.kill("nats")?;
        scene.start()?;
        let again = scene.lab.try_workload(NODE, "contiv-net", "again", &ip)?;
        assert!(!again.success(), "round {round}: {again:?}");
        scene.sh("ip netns del w-again");
        scene.bus_is_back()?;
    }
    Ok(())
}

#[test]
fn a_full_disk_is_told_and_opens_nothing() -> Outcome {
    let mut scene = Scene::open()?;
    scene.move_to_disk("256k")?;
    invariant::converged(&scene.lab)?;
    scene.sh(&format!("cat /dev/zero >{STATE}/ballast; true"));
    wait_until("the node alarms", SOON, || scene.alarms("disk"))?;
    // Small changes may still find room in a file's last page.
    let before = scene.applied()?;
    let mut last = 0;
    for number in 0..60 {
        let name = format!("filler-{number}");
        let done = scene.lab.netctl_ok(&["policy", "create", &name])?;
        last = revision(&done);
    }
    scene.lab.netctl_ok(&DENY)?;
    wait_until("the kernel follows all the same", SOON, || {
        scene.connects().is_ok_and(|connects| !connects)
    })?;
    let reported = scene.applied()?;
    assert!((before..=last).contains(&reported), "{reported}");
    let attached = (0..40).map(|number| {
        let name = format!("new-{number}");
        scene.lab.try_workload(NODE, "contiv-net", &name, &[])
    });
    let refused = attached.filter_map(Result::ok).find(|it| !it.success());
    let text = refused.map(|it| it.text()).unwrap_or_default();
    assert!(text.contains("journal"), "{text}");

    scene.kill()?;
    scene.lab.kill("nats")?;
    scene.start()?;
    assert!(!scene.connects()?, "the disk knows nothing of the rule");
    scene.sh(&format!("rm {STATE}/ballast"));
    scene.bus_is_back()?;
    wait_until("the alarm ends", SOON, || !scene.alarms("disk"))?;
    assert!(!scene.connects()?);
    Ok(())
}

/// What `netctl` prints: `done at revision 7 by command …`.
fn revision(done: &str) -> u64 {
    let words: Vec<&str> = done.split_whitespace().collect();
    let at = words.iter().position(|it| *it == "revision");
    let number = at.and_then(|at| words.get(at + 1));
    number.and_then(|it| it.parse().ok()).unwrap_or_default()
}

#[test]
fn on_a_read_only_disk_everything_but_new_endpoints_works() -> Outcome {
    let mut scene = Scene::open()?;
    scene.move_to_disk("8m")?;
    invariant::converged(&scene.lab)?;
    scene.kill()?;
    scene.sh(&format!("mount -o remount,ro {STATE}"));
    scene.start()?;
    wait_until("the node alarms", SOON, || scene.alarms("disk"))?;
    wait_until("it follows the log", SOON, || {
        scene.lab.log_state(NODE).is_ok_and(|it| it == "in-sync")
    })?;
    assert!(scene.connects()?);
    wait_until("names resolve", SOON, || {
        scene.lab.ping("web", "client").unwrap_or(false)
    })?;
    scene.lab.netctl_ok(&DENY)?;
    wait_until("policies are enforced", SOON, || {
        scene.connects().is_ok_and(|connects| !connects)
    })?;
    let refused = scene.lab.try_workload(NODE, "contiv-net", "new", &[])?;
    assert!(
        !refused.success() && refused.text().contains("Read-only file system"),
        "{refused:?}"
    );
    scene.sh("ip netns del w-new");
    scene.sh(&format!("mount -o remount,rw {STATE}"));
    invariant::converged(&scene.lab)?;
    wait_until("the alarm ends", SOON, || !scene.alarms("disk"))?;
    scene.lab.run_workload(NODE, "contiv-net", "new").map(drop)
}

#[test]
fn a_damaged_or_missing_journal_cuts_no_endpoint() -> Outcome {
    let mut scene = Scene::open()?;
    let journal = format!("{STATE}/endpoints.journal");
    // The copy of the journal's endpoints may be gone, too: then the bus knows them, or the kernel.
    let flip = format!(
        "printf '\\377' | dd of={journal} bs=1 seek=$(($(stat -c %s {journal}) / 2)) conv=notrunc"
    );
    let gone = format!("rm {journal}");
    let copy = format!("rm -f {STATE}/endpoints.copy");
    let damages = [
        (flip.clone(), false),
        (gone.clone(), false),
        (format!("{gone}; {copy}"), true),
        (format!("{flip}; {copy}"), true),
    ];
    let ping = scene.lab.start_ping("client", &scene.web.clone())?;
    for (damage, bus) in damages {
        wait_until("the endpoint is in the copy", SOON, || {
            sh(
                &scene.lab,
                NODE,
                &format!("grep -q web {STATE}/endpoints.copy"),
            )
        })?;
        scene.kill()?;
        if !bus {
            scene.lab.kill("nats")?;
        }
        scene.sh(&damage);
        scene.start()?;
        wait_until("the node alarms", SOON, || {
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
        // Who starts once more is no more in doubt.
        scene.kill()?;
        scene.start()?;
        invariant::converged(&scene.lab)?;
        assert!(!scene.alarms("journal-missing"), "{damage}");
    }
    let report = ping.stop()?;
    assert!(report.is_whole(), "{report:?}");
    Ok(())
}
