//! Random rules and flows: what `trace` says, what the first matching rule says, and what the
//! kernel does with real packets, which rules it counts included.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use bus_schema::node::{Flow, Trace};
use bus_schema::policy::{Action, Direction, Peer, Protocol, Rule};
use bus_schema::{GroupName, RuleId};
use fastrand::Rng;
use node_core::policy::{Cache, Deciding, End, decide};

use crate::policy::one_tenant;
use crate::traffic::{Echo, echoes, is_closed, listen, opens};
use crate::world::{World, exec, ip, pings, tenant};

const ROUNDS: u64 = 40;
const FLOWS: usize = 50;
const TCP: [u16; 4] = [80, 81, 443, 1_000];
const UDP: [u16; 3] = [53, 80, 1_000];

struct Member {
    name: &'static str,
    host: usize,
    group: Option<&'static str>,
    address: &'static str,
}

const MEMBERS: [Member; 6] = [
    Member {
        name: "web1",
        host: 0,
        group: Some("web"),
        address: "20.1.1.1",
    },
    Member {
        name: "app1",
        host: 0,
        group: Some("app"),
        address: "20.1.1.2",
    },
    Member {
        name: "one1",
        host: 0,
        group: None,
        address: "20.1.1.3",
    },
    Member {
        name: "web2",
        host: 1,
        group: Some("web"),
        address: "20.1.1.129",
    },
    Member {
        name: "both",
        host: 1,
        group: Some("both"),
        address: "20.1.1.130",
    },
    Member {
        name: "one2",
        host: 1,
        group: None,
        address: "20.1.1.131",
    },
];

/// In the words of `world::rule`.
fn rule(dice: &mut Rng, number: usize) -> String {
    let mut pick = |of: &[&str]| dice.choice(of).expect("some").to_string();
    let direction = pick(&["in", "in", "out"]);
    let action = pick(&["allow", "deny"]);
    let protocol = pick(&["", "tcp", "tcp", "udp", "icmp", "sctp"]);
    let ports = match protocol.as_str() {
        "tcp" | "udp" => pick(&["", "80", "81-443", "53,1000", "1-1000", "443"]),
        _ => String::new(),
    };
    let peer = pick(&[
        "",
        "group web",
        "group app",
        "group both",
        "network net",
        "from 20.1.1.0/25",
        "from 20.1.1.128/30",
        "from 20.1.1.1/32",
        "from 20.1.1.131/32",
        "from 0.0.0.0/0",
    ]);
    let priority = pick(&["1", "2", "50", "100"]);
    format!("{number} {direction} {action} {protocol} {ports} {peer} priority {priority}")
}

fn rules(world: &mut World, dice: &mut Rng) {
    for (policy, first) in [("one", 1), ("two", 101)] {
        let count = dice.usize(0..12);
        let rules: Vec<_> = (0..count).map(|it| rule(dice, first + it)).collect();
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        world.policy("red", policy, &rules);
    }
    world.group("red", "web", 2, &["one"]);
    world.group("red", "app", 3, &["two"]);
    world.group("red", "both", 0x1ff, &["one", "two"]);
}

/// A flow, with its two ends.
struct Probe {
    from: &'static Member,
    to: &'static Member,
    flow: Flow,
}

impl Probe {
    fn new(from: &'static Member, to: &'static Member, what: (Protocol, Option<u16>)) -> Self {
        let (protocol, port) = what;
        let flow = Flow {
            tenant: tenant("red"),
            from: ip(from.address),
            to: ip(to.address),
            protocol,
            port,
        };
        Self { from, to, flow }
    }
}

fn probe(dice: &mut Rng) -> Probe {
    let from = dice.choice(&MEMBERS).expect("some");
    let others: Vec<_> = MEMBERS.iter().filter(|it| it.name != from.name).collect();
    let to = *dice.choice(&others).expect("some");
    let what = match dice.u8(0..8) {
        0 => (Protocol::ICMP, None),
        1 | 2 => (Protocol::UDP, dice.choice(UDP)),
        _ => (Protocol::TCP, dice.choice(TCP)),
    };
    Probe::new(from, to, what)
}

fn traced(world: &World, probe: &Probe) -> Trace {
    let end = |of: &Member| End::Endpoint(of.group.map(|it| GroupName::new(it).expect("valid")));
    let deciding = Deciding {
        tenant: &world.facts.tenants[&tenant("red")],
        from: &end(probe.from),
        to: &end(probe.to),
    };
    decide(&deciding, &probe.flow, &mut Cache::default())
}

/// The first that matches of all the policies' rules, the higher priority first, then deny, then
/// the lower id; none is an allow.
fn first_match(
    world: &World,
    (direction, member, peer): (Direction, &Member, &Member),
    flow: &Flow,
) -> (Action, Option<u8>) {
    let facts = &world.facts.tenants[&tenant("red")];
    let Some(group) = member.group else {
        return (Action::Allow, None);
    };
    let group = &facts.groups[&GroupName::new(group).expect("valid")];
    let of_group = group.spec.policies.iter();
    let mut rules: Vec<&Rule> = of_group
        .flat_map(|it| facts.policies[it].rules.values())
        .collect();
    rules.sort_by_key(|it| {
        let spec = &it.spec;
        let number: u32 = it.id.as_str().parse().expect("a number");
        let last = spec.action == Action::Allow;
        (std::cmp::Reverse(u8::from(spec.priority)), last, number)
    });
    let address: IpAddr = ip(peer.address);
    let matching = rules.into_iter().find(|it| {
        let spec = &it.spec;
        let ports = |port: u16| spec.ports.iter().any(|it| it.contains(port));
        spec.direction == direction
            && spec.protocol.is_none_or(|it| it == flow.protocol)
            && (spec.ports.is_empty() || flow.port.is_some_and(ports))
            && match &spec.peer {
                None => true,
                Some(Peer::Group { group }) => Some(group.as_str()) == peer.group,
                // All of them are in the one that there is.
                Some(Peer::Network { .. }) => true,
                Some(Peer::Addresses { range }) => range.contains(address),
                Some(Peer::World) => false,
            }
    });
    let of = |it: &Rule| (it.spec.action, Some(it.spec.priority.into()));
    matching.map_or((Action::Allow, None), of)
}

/// Whether the kernel lets it pass; what should pass is waited for, for a busy machine's sake.
fn passes(probe: &Probe, netns: &str, expected: bool) -> bool {
    let to = probe.to.address;
    match (probe.flow.protocol, probe.flow.port) {
        (Protocol::TCP, Some(port)) if expected => opens(netns, to, port).is_some(),
        (Protocol::TCP, Some(port)) => !is_closed(netns, to, port),
        (_, Some(port)) if expected => (0..20).any(|_| echoes(netns, to, port)),
        (_, Some(port)) => echoes(netns, to, port),
        (_, None) if expected => pings(netns, to),
        (_, None) => exec(netns, &format!("ping -c 1 -W 0.4 {to}"))
            .status
            .success(),
    }
}

/// The counter of each rule on a host.
async fn counted(world: &World, host: usize) -> BTreeMap<u32, u64> {
    let (place, zone) = (world.place_of(host, "red"), world.zone(host, "red"));
    let counters = world.hosts[host].datapath.counters(&place, zone).await;
    let counters = counters.expect("read");
    counters
        .iter()
        .map(|(rule, it)| (*rule, it.packets))
        .collect()
}

/// Attaches all members; their namespaces by their names.
async fn attach_members(world: &mut World) -> BTreeMap<&'static str, String> {
    let mut namespaces = BTreeMap::new();
    for Member {
        name,
        host,
        group,
        address,
    } in MEMBERS
    {
        let at = ("red", "net", group);
        let netns = world.attach_in(host, at, name, address).await;
        namespaces.insert(name, netns);
    }
    namespaces
}

/// The rule by which the sender's host drops what leaves it: one that is about no group and denies,
/// if no better rule allows it to some group.
fn denied_by_sender(world: &World, probe: &Probe) -> Option<u32> {
    let facts = &world.facts.tenants[&tenant("red")];
    let group = &facts.groups[&GroupName::new(probe.from.group?).expect("valid")];
    let policies = &group.spec.policies;
    let name = tenant("red");
    let program = Cache::default().program((&name, facts), policies, Direction::Out);
    let IpAddr::V4(to) = probe.flow.to else {
        return None;
    };
    let port = probe.flow.port.unwrap_or_default();
    let best = program.best_rule_of_any_group(to, probe.flow.protocol, port)?;
    let ungrouped = Member {
        group: None,
        ..*probe.to
    };
    let (action, priority) =
        first_match(world, (Direction::Out, probe.from, &ungrouped), &probe.flow);
    let allows = policies
        .iter()
        .flat_map(|it| facts.policies[it].rules.values());
    let allows = allows.map(|it| &it.spec).any(|spec| {
        let ports = |port: u16| spec.ports.iter().any(|it| it.contains(port));
        spec.direction == Direction::Out
            && spec.action == Action::Allow
            && matches!(spec.peer, Some(Peer::Group { .. }))
            && spec.protocol.is_none_or(|it| it == probe.flow.protocol)
            && (spec.ports.is_empty() || probe.flow.port.is_some_and(ports))
            && priority.is_none_or(|it| u8::from(spec.priority) > it)
    });
    let denies = action == Action::Deny && !allows;
    assert_eq!(best.action() == Action::Deny, denies, "{:?}", probe.flow);
    denies.then(|| best.number())
}

/// The answer of our trace, which must be that of the first matching rules. `counts` are what the
/// rules count on each host.
fn is_allowed(world: &World, probe: &Probe, counts: &mut [BTreeMap<u32, u64>; 2]) -> bool {
    let trace = traced(world, probe);
    let ends = [
        first_match(world, (Direction::Out, probe.from, probe.to), &probe.flow),
        first_match(world, (Direction::In, probe.to, probe.from), &probe.flow),
    ];
    let facts = &world.facts.tenants[&tenant("red")];
    for (end, expected) in trace.ends.iter().zip(ends) {
        let of = end.rule.as_ref();
        let of = of.map(|(policy, id)| facts.policies[policy].rules[id].spec.priority.into());
        assert_eq!((end.action, of), expected, "{:?}", probe.flow);
    }
    if probe.from.host != probe.to.host
        && let Some(rule) = denied_by_sender(world, probe)
    {
        *counts[probe.from.host].entry(rule).or_default() += 1;
        assert!(!trace.allowed, "{:?}", probe.flow);
        return false;
    }
    let counts = &mut counts[probe.to.host];
    let number = |id: &RuleId| id.as_str().parse::<u32>().expect("a number");
    // The receiver's rules are evaluated if the sender's own rules let it out.
    for end in &trace.ends {
        if let Some((_, rule)) = &end.rule {
            *counts.entry(number(rule)).or_default() += 1;
        }
        if end.action == Action::Deny {
            break;
        }
    }
    trace.allowed
}

#[tokio::test(flavor = "multi_thread")]
async fn trace_rule_text_and_kernel_agree() {
    let mut world = one_tenant().await;
    rules(&mut world, &mut Rng::with_seed(0));
    world.sync_all().await;
    let namespaces = attach_members(&mut world).await;
    let mut servers = (Vec::new(), Vec::new());
    for netns in namespaces.values() {
        servers.0.extend(TCP.map(|port| listen(netns, port)));
        servers.1.extend(UDP.map(|port| Echo::start(netns, port)));
    }
    let mut decided = [0; 2];
    for seed in 0..ROUNDS {
        let dice = &mut Rng::with_seed(seed);
        rules(&mut world, dice);
        world.sync_all().await;
        let before = [counted(&world, 0).await, counted(&world, 1).await];
        let mut counts = before.clone();
        let probes: Vec<_> = (0..FLOWS).map(|_| probe(dice)).collect();
        let mut expected = Vec::new();
        for it in &probes {
            let allowed = is_allowed(&world, it, &mut counts);
            decided[usize::from(allowed)] += 1;
            expected.push(allowed);
        }
        std::thread::scope(|scope| {
            for (probe, expected) in probes.iter().zip(&expected) {
                let netns = &namespaces[probe.from.name];
                scope.spawn(move || {
                    let passed = passes(probe, netns, *expected);
                    let (from, to, flow) = (probe.from.name, probe.to.name, &probe.flow);
                    let what = format!("seed {seed}: {from} to {to}: {flow:?}");
                    assert_eq!(passed, *expected, "{what}");
                });
            }
        });
        assert_eq!(
            [counted(&world, 0).await, counted(&world, 1).await],
            counts,
            "seed {seed}"
        );
    }
    assert!(decided.iter().all(|it| *it > 300), "{decided:?}");
}

/// `nft monitor trace` of a host's netfilter, line by line; ends when it is dropped.
struct Traced {
    program: Child,
    lines: Receiver<String>,
}

impl Traced {
    fn start(world: &World, host: usize) -> Self {
        let mut program = Command::new("nsenter")
            .arg(format!("--net={}", world.netfilter(host, "red").display()))
            .args(["nft", "monitor", "trace"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("nft runs");
        let output = program.stdout.take().expect("piped");
        let (told, lines) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(Result::ok);
            // Until nobody listens any more.
            lines
                .map(|line| told.send(line))
                .take_while(Result::is_ok)
                .count();
        });
        Self { program, lines }
    }

    /// The verdict of our table on the next packet about which it decides whether to open a
    /// connection.
    fn next(&self) -> Option<Vec<String>> {
        const TRACE_TIMEOUT: Duration = Duration::from_millis(700);
        let until = Instant::now() + TRACE_TIMEOUT;
        let mut packets: BTreeMap<String, Vec<String>> = BTreeMap::new();
        while let Ok(line) = {
            let left = until.saturating_duration_since(Instant::now());
            self.lines.recv_timeout(left)
        } {
            let Some((id, of_ours)) = line.split_once(" inet contiv ") else {
                continue;
            };
            let packet = packets.entry(id.to_owned()).or_default();
            packet.push(of_ours.to_owned());
            let passed = ["forward", "passing"]
                .iter()
                .any(|it| of_ours.starts_with(it))
                && (of_ours.contains("(verdict accept)") || of_ours.contains(" policy accept"));
            let ended = passed || of_ours.contains("(verdict drop)");
            let opening = |packet: &[String]| packet.iter().any(|it| it.starts_with("opening"));
            if ended
                && let Some(packet) = packets.remove(id)
                && opening(&packet)
            {
                return Some(packet);
            }
        }
        None
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Rules of both directions with every kind of peer.
fn few_rules(world: &mut World) {
    let of_web = [
        "1 in deny tcp 80",
        "2 in allow tcp 81",
        "3 in deny icmp group app",
        "4 in deny udp 53 from 20.1.1.131/32",
        "5 in allow udp 80 network net",
    ];
    world.policy("red", "one", &of_web);
    world.policy(
        "red",
        "two",
        &["101 out deny tcp 443 group web", "102 out allow udp 53"],
    );
    world.group("red", "web", 2, &["one"]);
    world.group("red", "app", 3, &["two"]);
    world.group("red", "both", 0x1ff, &["two"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn kernel_trace_agrees_with_ours() {
    let mut world = one_tenant().await;
    few_rules(&mut world);
    world.sync_all().await;
    let namespaces = attach_members(&mut world).await;
    let to = &MEMBERS[0];
    let servers = TCP.map(|port| listen(&namespaces[to.name], port));
    let echoes = UDP.map(|port| Echo::start(&namespaces[to.name], port));
    let look = "nft -f - <<'X'\ntable inet look {\nchain pre {\n\
        type filter hook prerouting priority -400\n\
        ip daddr 20.1.1.1 meta nftrace set 1\n}\n}\nX";
    let looked = world.in_domain(0, "red", look);
    assert!(looked.status.success(), "{looked:?}");
    let traced_by_kernel = Traced::start(&world, 0);
    let mut decided = [0; 2];
    const KINDS: [(Protocol, Option<u16>); 6] = [
        (Protocol::TCP, Some(80)),
        (Protocol::TCP, Some(81)),
        (Protocol::TCP, Some(443)),
        (Protocol::UDP, Some(53)),
        (Protocol::UDP, Some(80)),
        (Protocol::ICMP, None),
    ];
    for what in KINDS {
        for from in &MEMBERS[1..] {
            let probe = Probe::new(from, to, what);
            let trace = traced(&world, &probe);
            // Lines of earlier packets, which are at their ends.
            while traced_by_kernel.lines.try_recv().is_ok() {}
            let mut seen = None;
            for _ in 0..20 {
                passes(&probe, &namespaces[from.name], trace.allowed);
                seen = traced_by_kernel.next();
                if seen.is_some() {
                    break;
                }
            }
            let what = format!("{} {:?}", from.name, probe.flow);
            let seen = seen.unwrap_or_else(|| panic!("no trace of {what}"));
            let last = seen.last().expect("a line");
            assert_eq!(
                !last.contains("(verdict drop)"),
                trace.allowed,
                "{what}: {seen:#?}"
            );
            // A rule that decided stands in a chain of compiled ones.
            let compiled = |line: &String| node_core::resource::zone_of(line).is_some();
            let by_rule = trace.ends.iter().any(|end| end.rule.is_some());
            let counts = |line: &String| line.starts_with("opening") && line.contains("@hits");
            let hit = seen.iter().filter(|it| counts(it)).count();
            assert!(
                !by_rule || seen.iter().any(compiled) && hit > 0,
                "{what}: {seen:#?}"
            );
            decided[usize::from(trace.allowed)] += 1;
        }
    }
    assert!(decided.iter().all(|it| *it > 5), "{decided:?}");
    drop((servers, echoes));
}
