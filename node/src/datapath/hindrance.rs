//! Whether somebody else's firewall drops what VRFs forward, or what they ask their name server.
//!
//! An accept of ours overrides no drop of another table, so all that can be done is to say which
//! rule is missing there. Looked at is a new connection's first packet: a rule that may or may
//! not be about it decides nothing, and a drop behind a possible return is none: what is said to be
//! dropped is.

use std::fmt;
use std::io;

use bus_schema::node::DomainKind;
use serde_json::Value;

use super::netns::Namespace;
use super::nft::Foreign;
use super::passage::has_legacy;
use super::{nft, program};
use crate::resource::dns_port;

/// A chain that drops what is ours, by a hook of netfilter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hindrance {
    pub hook: Hook,
    /// Family and name of the table; `None`: the legacy one of iptables.
    pub table: Option<(String, String)>,
    pub chain: String,
    pub keeper: Keeper,
}

/// Who keeps a table, and so undoes what else is written to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeper {
    Firewalld,
    Ufw,
    /// The chains of `iptables`.
    Iptables,
    /// Whoever loads it with `nft`.
    Nft,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Forward,
    Input,
}

impl Hook {
    const ALL: [Self; 2] = [Self::Forward, Self::Input];

    fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Input => "input",
        }
    }

    /// Packets that must pass.
    fn packets(self) -> &'static [Packet] {
        const DNS: u16 = dns_port(DomainKind::Vrf);
        match self {
            Self::Forward => &[
                Packet {
                    output: Some("cv0"),
                    port: None,
                },
                Packet {
                    output: Some("cx0"),
                    port: None,
                },
            ],
            Self::Input => &[Packet {
                output: None,
                port: Some(DNS),
            }],
        }
    }
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            hook,
            table,
            chain,
            keeper,
        } = self;
        f.write_str(match hook {
            Hook::Forward => "this host's firewall drops what containers send each other",
            Hook::Input => "this host's firewall drops what containers ask their name server",
        })?;
        match table {
            Some((family, name)) => write!(f, ": chain {chain} of nft's table {family} {name}. ")?,
            None => write!(f, ": chain {chain} of iptables-legacy. ")?,
        }
        f.write_str("Put this into its configuration: ")?;
        let (family, name) = match table {
            Some((family, name)) => (family.as_str(), name.as_str()),
            None => Default::default(),
        };
        match (keeper, hook) {
            (Keeper::Firewalld, _) => f.write_str(
                "firewall-cmd --permanent --zone=trusted --add-interface=cd+; firewall-cmd --reload",
            ),
            (Keeper::Ufw, Hook::Forward) => f.write_str(
                "ufw route allow in on cd+ out on cv+; ufw route allow in on cd+ out on cx+",
            ),
            (Keeper::Ufw, Hook::Input) => f.write_str("ufw allow in on cd+"),
            (Keeper::Iptables, Hook::Forward) => write!(
                f,
                "iptables -I {chain} -i cd+ -o cv+ -j ACCEPT; iptables -I {chain} -i cd+ -o cx+ -j ACCEPT"
            ),
            (Keeper::Iptables, Hook::Input) => write!(f, "iptables -I {chain} -i cd+ -j ACCEPT"),
            (Keeper::Nft, Hook::Forward) => write!(
                f,
                r#"nft insert rule {family} {name} {chain} iifname "cd*" oifname {{ "cv*", "cx*" }} accept"#
            ),
            (Keeper::Nft, Hook::Input) => write!(
                f,
                r#"nft insert rule {family} {name} {chain} iifname "cd*" accept"#
            ),
        }
    }
}

/// The chain of ufw in which its users' rules about forwarding are.
const UFW_FORWARD: &str = "ufw-user-forward";

impl Keeper {
    fn of(table: &Foreign) -> Self {
        let named = |name| chains(table).any(|chain| chain["name"] == name);
        match (table.family.as_str(), table.name.as_str()) {
            (_, "firewalld") => Self::Firewalld,
            ("ip", "filter") if named(UFW_FORWARD) => Self::Ufw,
            ("ip", "filter") => Self::Iptables,
            _ => Self::Nft,
        }
    }
}

/// An IPv4 packet that a VRF got: its input is the VRF's device.
struct Packet {
    output: Option<&'static str>,
    /// Of UDP; `None`: it may be of any protocol.
    port: Option<u16>,
}

const INPUT: &str = "cd0";

/// What a chain does with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Accepted,
    Dropped,
    /// It came to the chain's end.
    Through,
}

/// How deep chains call each other at most (`NFT_JUMP_STACK_SIZE`).
const DEEPEST: usize = 16;

/// What hinders in a namespace.
pub(super) async fn observe(namespace: &Namespace) -> io::Result<Vec<Hindrance>> {
    let mut found: Vec<_> = nft::foreign(namespace)
        .await?
        .iter()
        .flat_map(of_table)
        .collect();
    if has_legacy(namespace).await? {
        let args = ["-w", "-S"];
        let listed = program::run(namespace, "iptables-legacy", &args, String::new()).await;
        let listed = listed.map(|output| output.stdout).unwrap_or_default();
        let listed = String::from_utf8_lossy(&listed);
        if legacy_drops(&listed) {
            found.push(Hindrance {
                hook: Hook::Forward,
                table: None,
                chain: "FORWARD".to_owned(),
                keeper: match listed.contains(UFW_FORWARD) {
                    true => Keeper::Ufw,
                    false => Keeper::Iptables,
                },
            });
        }
    }
    Ok(found)
}

/// With Docker's chain there, our rule is in it.
fn legacy_drops(listed: &str) -> bool {
    let passes = |line: &str| {
        let ours = |chain| line.starts_with(&format!("-A {chain} -i cd"));
        ours("FORWARD") || ours(UFW_FORWARD) || line == "-A FORWARD -j DOCKER-USER"
    };
    listed.lines().any(|line| line == "-P FORWARD DROP") && !listed.lines().any(passes)
}

fn of_table(table: &Foreign) -> Vec<Hindrance> {
    let mut found = Vec::new();
    for hook in Hook::ALL {
        for chain in chains(table).filter(|chain| chain["hook"] == hook.name()) {
            let name = chain["name"].as_str().unwrap_or_default();
            let dropped = |packet| match walk(table, name, packet, 0) {
                Fate::Through => chain["policy"] == "drop",
                fate => fate == Fate::Dropped,
            };
            if hook.packets().iter().any(dropped) {
                found.push(Hindrance {
                    hook,
                    table: Some((table.family.clone(), table.name.clone())),
                    chain: name.to_owned(),
                    keeper: Keeper::of(table),
                });
            }
        }
    }
    found
}

fn chains(table: &Foreign) -> impl Iterator<Item = &Value> {
    table
        .objects
        .iter()
        .filter_map(|object| object.get("chain"))
}

fn walk(table: &Foreign, chain: &str, packet: &Packet, depth: usize) -> Fate {
    if depth > DEEPEST {
        return Fate::Through;
    }
    let rules = table.objects.iter().filter_map(|object| object.get("rule"));
    // It may have returned before this rule.
    let mut perhaps_over = false;
    for rule in rules.filter(|rule| rule["chain"] == chain) {
        let Some(statements) = rule["expr"].as_array() else {
            continue;
        };
        let Some(last) = statements.last().and_then(Value::as_object) else {
            continue;
        };
        match all_hold(statements, packet) {
            Some(true) => {}
            Some(false) => continue,
            None => {
                perhaps_over |= last.contains_key("return");
                continue;
            }
        }
        for (verb, body) in last {
            let fate = match verb.as_str() {
                "accept" => Fate::Accepted,
                "drop" | "reject" => Fate::Dropped,
                "xt" if body["type"] == "target" && body["name"] == "REJECT" => Fate::Dropped,
                "return" => return Fate::Through,
                "goto" | "jump" => {
                    let target = body["target"].as_str().unwrap_or_default();
                    match walk(table, target, packet, depth + 1) {
                        Fate::Through if verb == "jump" => continue,
                        fate => fate,
                    }
                }
                _ => continue,
            };
            return match fate {
                Fate::Dropped if perhaps_over => Fate::Through,
                fate => fate,
            };
        }
    }
    Fate::Through
}

/// Whether a rule's statements let the packet come to the last one's verdict; `None`: perhaps.
fn all_hold(statements: &[Value], packet: &Packet) -> Option<bool> {
    let mut sure = Some(true);
    for statement in statements {
        match holds(statement, packet) {
            Some(true) => {}
            Some(false) => return Some(false),
            None => sure = None,
        }
    }
    sure
}

fn holds(statement: &Value, packet: &Packet) -> Option<bool> {
    let (kind, body) = statement.as_object()?.iter().next()?;
    let passes = match kind.as_str() {
        "match" => return matches(body, packet),
        "xt" => body["type"] == "target" || body["name"] == "comment",
        "accept" | "drop" | "reject" | "return" | "goto" | "jump" => true,
        "counter" | "log" | "mangle" => true,
        _ => false,
    };
    passes.then_some(true)
}

fn matches(body: &Value, packet: &Packet) -> Option<bool> {
    let (left, right) = (&body["left"], &body["right"]);
    let meta = left["meta"]["key"].as_str();
    let fact = match (meta, left["payload"]["field"].as_str()) {
        (Some("iifname"), _) => is_named(right, INPUT),
        (Some("oifname"), _) => packet.output.and_then(|name| is_named(right, name)),
        (Some("nfproto"), _) => right.as_str().map(|it| it == "ipv4"),
        (Some("l4proto"), _) | (_, Some("protocol")) if packet.port.is_some() => {
            any(right, &|it| it.as_str().map(|it| it == "udp"))
        }
        (_, Some("dport")) => packet.port.and_then(|port| {
            let protocol = &left["payload"]["protocol"];
            let fits = protocol == "udp" || protocol == "th";
            any(right, &|it| Some(fits && covers(it, u64::from(port))))
        }),
        _ => of_connection(&left["ct"]["key"], right, packet),
    };
    match body["op"].as_str() {
        Some("!=") => fact.map(|it| !it),
        Some("==" | "in") => fact,
        _ => None,
    }
}

/// The connection is new, and one to the name server was taken there from where it was asked.
fn of_connection(key: &Value, right: &Value, packet: &Packet) -> Option<bool> {
    let is = |word: &str| any(right, &|it| it.as_str().map(|it| it == word));
    match key.as_str() {
        Some("state") => is("new"),
        Some("status") if packet.port.is_some() => is("dnat").filter(|it| *it),
        _ => None,
    }
}

fn is_named(right: &Value, name: &str) -> Option<bool> {
    any(right, &|it| {
        let pattern = it.as_str().filter(|it| !it.starts_with('@'))?;
        Some(match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            // The packet stands for those of all our devices.
            None => false,
        })
    })
}

/// Of a value or of one in a set that is written out; `None`: it can't be said.
fn any(right: &Value, is: &dyn Fn(&Value) -> Option<bool>) -> Option<bool> {
    match right.as_array().or(right["set"].as_array()) {
        None => is(right),
        Some(values) => values
            .iter()
            .try_fold(false, |so_far, it| Some(so_far | is(it)?)),
    }
}

fn covers(value: &Value, port: u64) -> bool {
    let number = |value: &Value| value.as_u64();
    match value["range"].as_array().map(Vec::as_slice) {
        Some([first, last]) => {
            number(first).is_some_and(|it| it <= port) && number(last).is_some_and(|it| it >= port)
        }
        _ => number(value) == Some(port),
    }
}

#[cfg(test)]
#[path = "hindrance_tests.rs"]
mod tests;
