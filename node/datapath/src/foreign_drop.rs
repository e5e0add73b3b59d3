//! Finds drops in other firewalls: of packets that VRFs forward, of their questions to their name
//! server, of packets that leave by an uplink, and of packets from other nodes.
//!
//! Our accept doesn't override another table's drop, so we can only report which rule is missing
//! there. The first packet of a new connection is evaluated. Report a drop only if it is certain: skip
//! rules we can't evaluate, and drops that a `return` may bypass.

use std::fmt;
use std::io;

use bus_schema::node::DomainKind;
use nftables::expr::{
    CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, SetItem,
};
use nftables::schema::Chain;
use nftables::stmt::{Match, Operator, Statement};
use nftables::types::{NfChainPolicy, NfHook};

use super::docker_user::has_legacy;
use super::netns::Namespace;
use super::nft::Foreign;
use super::nftables::Nftables;
use super::observe::has_uplink;
use super::{Datapath, DatapathError, command, failure, nft};
use node_core::resource::{Place, dns_port};

/// A chain of another firewall that drops our packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForeignDrop {
    pub of: Traffic,
    /// Family and name of the table; `None`: the legacy one of iptables.
    pub table: Option<(String, String)>,
    pub chain: String,
    pub manager: FirewallManager,
}

/// The firewall manager that owns a table, and overwrites others' changes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FirewallManager {
    Firewalld,
    Ufw,
    /// Somebody who runs `iptables`.
    Iptables,
    /// Somebody who runs `nft`.
    Nft,
}

/// Traffic that must pass a host's firewall.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Traffic {
    /// Packets of VRFs to endpoints here and on other nodes.
    Forwarded,
    /// Packets of VRFs to their name servers.
    Asked,
    /// Packets that came by an uplink, out of this host.
    Outward,
    /// VXLAN of other nodes, by this interface to this port of UDP.
    Outer { interface: String, port: u16 },
}

impl Traffic {
    fn hook(&self) -> NfHook {
        match self {
            Self::Forwarded | Self::Outward => NfHook::Forward,
            Self::Asked | Self::Outer { .. } => NfHook::Input,
        }
    }

    fn packets(&self) -> Vec<Packet<'_>> {
        let forwarded = |output| Packet {
            input: OF_VRF,
            output: Some(output),
            port: None,
        };
        match self {
            Self::Forwarded => vec![forwarded("cv?"), forwarded("cx?")],
            Self::Asked => vec![Packet {
                input: OF_VRF,
                output: None,
                port: Some(dns_port(DomainKind::Vrf)),
            }],
            Self::Outward => vec![Packet {
                input: OF_UPLINK,
                output: None,
                port: None,
            }],
            Self::Outer { interface, port } => vec![Packet {
                input: interface,
                output: None,
                port: Some(*port),
            }],
        }
    }
}

impl fmt::Display for ForeignDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            of,
            table,
            chain,
            manager,
        } = self;
        f.write_str(match of {
            Traffic::Forwarded => "this host's firewall drops what containers send each other",
            Traffic::Asked => "this host's firewall drops what containers ask their name server",
            Traffic::Outward => "this host's firewall drops what containers send out of it",
            Traffic::Outer { .. } => "this host's firewall drops what other nodes' containers send",
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
        match (manager, of) {
            (FirewallManager::Firewalld, Traffic::Outer { port, .. }) => write!(
                f,
                "firewall-cmd --permanent --add-port={port}/udp; firewall-cmd --reload"
            ),
            (manager, Traffic::Outward) => self.outward_command(*manager, f),
            (FirewallManager::Firewalld, _) => f.write_str(
                "firewall-cmd --permanent --zone=trusted --add-interface=cd+; firewall-cmd --reload",
            ),
            (FirewallManager::Ufw, Traffic::Forwarded) => f.write_str(
                "ufw route allow in on cd+ out on cv+; ufw route allow in on cd+ out on cx+",
            ),
            (FirewallManager::Ufw, Traffic::Asked) => f.write_str("ufw allow in on cd+"),
            (FirewallManager::Ufw, Traffic::Outer { port, .. }) => write!(f, "ufw allow {port}/udp"),
            (FirewallManager::Iptables, Traffic::Forwarded) => write!(
                f,
                "iptables -I {chain} -i cd+ -o cv+ -j ACCEPT; iptables -I {chain} -i cd+ -o cx+ -j ACCEPT"
            ),
            (FirewallManager::Iptables, Traffic::Asked) => {
                write!(f, "iptables -I {chain} -i cd+ -j ACCEPT")
            }
            (FirewallManager::Iptables, Traffic::Outer { port, .. }) => {
                write!(f, "iptables -I {chain} -p udp --dport {port} -j ACCEPT")
            }
            (FirewallManager::Nft, Traffic::Forwarded) => write!(
                f,
                r#"nft insert rule {family} {name} {chain} iifname "cd*" oifname {{ "cv*", "cx*" }} accept"#
            ),
            (FirewallManager::Nft, Traffic::Asked) => write!(
                f,
                r#"nft insert rule {family} {name} {chain} iifname "cd*" accept"#
            ),
            (FirewallManager::Nft, Traffic::Outer { port, .. }) => write!(
                f,
                "nft insert rule {family} {name} {chain} udp dport {port} accept"
            ),
        }
    }
}

impl ForeignDrop {
    /// Writes the command that lets packets of uplinks pass.
    fn outward_command(&self, of: FirewallManager, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, chain, .. } = self;
        let (family, name) = match table {
            Some((family, name)) => (family.as_str(), name.as_str()),
            None => Default::default(),
        };
        match of {
            FirewallManager::Firewalld => f.write_str(
                "firewall-cmd --permanent --zone=trusted --add-interface=cu+; firewall-cmd --reload",
            ),
            FirewallManager::Ufw => {
                f.write_str("ufw route allow in on cu+; ufw route allow out on cu+")
            }
            FirewallManager::Iptables => write!(
                f,
                "iptables -I {chain} -i cu+ -j ACCEPT; iptables -I {chain} -o cu+ -j ACCEPT"
            ),
            FirewallManager::Nft => write!(
                f,
                r#"nft insert rule {family} {name} {chain} iifname "cu*" accept; nft insert rule {family} {name} {chain} oifname "cu*" accept"#
            ),
        }
    }
}

/// The chain in which ufw puts its users' rules about forwarding.
const UFW_FORWARD: &str = "ufw-user-forward";

impl FirewallManager {
    fn of(table: &Foreign) -> Self {
        let named = |name| table.chains.iter().any(|chain| chain.name == name);
        match (table.family, table.name.as_str()) {
            (_, "firewalld") => Self::Firewalld,
            ("ip", "filter") if named(UFW_FORWARD) => Self::Ufw,
            ("ip", "filter") => Self::Iptables,
            _ => Self::Nft,
        }
    }
}

/// The input interface of packets that a VRF received.
const OF_VRF: &str = "cd?";
/// The input interface of packets that came by an uplink.
const OF_UPLINK: &str = "cu?";

/// An IPv4 packet as a hook sees it; a name that ends with `?` is that of any such device of ours.
struct Packet<'a> {
    input: &'a str,
    output: Option<&'a str>,
    /// The UDP port; `None`: the packet may be of any protocol.
    port: Option<u16>,
}

/// The verdict of a chain about a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ChainVerdict {
    Accepted,
    Dropped,
    /// It came to the chain's end.
    Through,
}

impl Datapath {
    /// Finds chains of other firewalls that drop our packets: those of VRFs, and those of uplinks.
    pub async fn foreign_drops(&self) -> Result<Vec<ForeignDrop>, DatapathError> {
        let links = self.inner.host.socket.links().await;
        let links = links.map_err(failure("list devices", &Place::Host))?;
        let of_vrfs = match self.kind() {
            DomainKind::Vrf => vec![Traffic::Forwarded, Traffic::Asked],
            DomainKind::Netns => Vec::new(),
        };
        let of_uplinks = has_uplink(&links).then_some(Traffic::Outward);
        let traffic: Vec<_> = of_vrfs.into_iter().chain(of_uplinks).collect();
        match traffic.is_empty() {
            true => Ok(Vec::new()),
            false => self.foreign_drops_of(&traffic).await,
        }
    }

    /// Finds chains of other firewalls on this host that drop such traffic.
    pub async fn foreign_drops_of(
        &self,
        traffic: &[Traffic],
    ) -> Result<Vec<ForeignDrop>, DatapathError> {
        let host = &self.inner.host;
        let seen = observe(&host.namespace, &host.nftables, traffic).await;
        seen.map_err(failure("list others' rules", &Place::Host))
    }

    /// Whether the host has rules of iptables-legacy, whose changes the kernel doesn't notify of.
    pub async fn has_legacy_firewall(&self) -> Result<bool, DatapathError> {
        let seen = has_legacy(&self.inner.host.namespace).await;
        seen.map_err(failure("list tables of iptables", &Place::Host))
    }
}

/// The kernel's limit of nested jumps (`NFT_JUMP_STACK_SIZE`).
const MAX_JUMP_DEPTH: usize = 16;

/// Finds the chains in a namespace that drop such traffic.
pub(super) async fn observe(
    namespace: &Namespace,
    nftables: &Nftables,
    traffic: &[Traffic],
) -> io::Result<Vec<ForeignDrop>> {
    let tables = nft::foreign(namespace, nftables).await?;
    let of_table = |table| traffic.iter().flat_map(move |of| of_table(table, of));
    let mut found: Vec<_> = tables.iter().flat_map(of_table).collect();
    let legacy = [(Traffic::Forwarded, "cd"), (Traffic::Outward, "cu")];
    let legacy: Vec<_> = legacy
        .into_iter()
        .filter(|(it, _)| traffic.contains(it))
        .collect();
    if !legacy.is_empty() && has_legacy(namespace).await? {
        let args = ["-w", "-S"];
        let listed = command::run(namespace, "iptables-legacy", &args, String::new()).await;
        let listed = listed.map(|output| output.stdout).unwrap_or_default();
        let listed = String::from_utf8_lossy(&listed);
        let dropped = legacy
            .into_iter()
            .filter(|(_, from)| legacy_drops(&listed, from));
        for (of, _) in dropped {
            found.push(ForeignDrop {
                of,
                table: None,
                chain: "FORWARD".to_owned(),
                manager: match listed.contains(UFW_FORWARD) {
                    true => FirewallManager::Ufw,
                    false => FirewallManager::Iptables,
                },
            });
        }
    }
    Ok(found)
}

/// Whether the legacy tables drop packets forwarded from devices with these first letters. If they have
/// Docker's chain, our rule is in it.
fn legacy_drops(listed: &str, from: &str) -> bool {
    let passes = |line: &str| {
        let ours = |chain| line.starts_with(&format!("-A {chain} -i {from}"));
        ours("FORWARD") || ours(UFW_FORWARD) || line == "-A FORWARD -j DOCKER-USER"
    };
    listed.lines().any(|line| line == "-P FORWARD DROP") && !listed.lines().any(passes)
}

fn of_table(table: &Foreign, of: &Traffic) -> Vec<ForeignDrop> {
    let hooked = table.chains.iter().filter(|it| it.hook == Some(of.hook()));
    let drops = |chain: &&Chain<'_>| {
        let dropped = |packet| match walk(table, &chain.name, packet, 0) {
            ChainVerdict::Through => chain.policy == Some(NfChainPolicy::Drop),
            fate => fate == ChainVerdict::Dropped,
        };
        of.packets().iter().any(dropped)
    };
    let dropping = hooked.filter(drops).map(|chain| ForeignDrop {
        of: of.clone(),
        table: Some((table.family.to_owned(), table.name.clone())),
        chain: chain.name.to_string(),
        manager: FirewallManager::of(table),
    });
    dropping.collect()
}

fn walk(table: &Foreign, chain: &str, packet: &Packet<'_>, depth: usize) -> ChainVerdict {
    if depth > MAX_JUMP_DEPTH {
        return ChainVerdict::Through;
    }
    // Whether a rule before this one may have returned.
    let mut perhaps_over = false;
    let of_chain = table.rules.iter().filter(|(of, _)| of == chain);
    for (_, statements) in of_chain {
        let Some(last) = statements.last() else {
            perhaps_over = true;
            continue;
        };
        match all_hold(statements, packet) {
            Some(true) => {}
            Some(false) => continue,
            None => {
                perhaps_over |= matches!(last, Statement::Return(_));
                continue;
            }
        }
        let fate = match last {
            Statement::Accept(_) => ChainVerdict::Accepted,
            Statement::Drop(_) | Statement::Reject(_) => ChainVerdict::Dropped,
            Statement::XT(Some(xt)) if xt["type"] == "target" && xt["name"] == "REJECT" => {
                ChainVerdict::Dropped
            }
            Statement::Return(_) => return ChainVerdict::Through,
            Statement::Goto(to) => walk(table, &to.target, packet, depth + 1),
            Statement::Jump(to) => match walk(table, &to.target, packet, depth + 1) {
                ChainVerdict::Through => continue,
                fate => fate,
            },
            _ => continue,
        };
        return match fate {
            ChainVerdict::Dropped if perhaps_over => ChainVerdict::Through,
            fate => fate,
        };
    }
    ChainVerdict::Through
}

/// Whether the packet matches all of a rule's statements up to its verdict; `None`: uncertain.
fn all_hold(statements: &[Statement<'_>], packet: &Packet<'_>) -> Option<bool> {
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

fn holds(statement: &Statement<'_>, packet: &Packet<'_>) -> Option<bool> {
    let passes = match statement {
        Statement::Match(it) => return matches(it, packet),
        Statement::XT(Some(xt)) => xt["type"] == "target" || xt["name"] == "comment",
        Statement::Accept(_) | Statement::Drop(_) | Statement::Reject(_) => true,
        Statement::Return(_) | Statement::Goto(_) | Statement::Jump(_) => true,
        Statement::Counter(_) | Statement::Log(_) | Statement::Mangle(_) => true,
        _ => false,
    };
    passes.then_some(true)
}

fn matches(matching: &Match<'_>, packet: &Packet<'_>) -> Option<bool> {
    let Expression::Named(left) = &matching.left else {
        return None;
    };
    let fact = fact(left, &matching.right, packet);
    match matching.op {
        Operator::NEQ => fact.map(|it| !it),
        Operator::EQ | Operator::IN => fact,
        _ => None,
    }
}

/// Whether the left side of a match has the value on its right side; `None`: uncertain.
fn fact(left: &NamedExpression<'_>, right: &Expression<'_>, packet: &Packet<'_>) -> Option<bool> {
    let is = |word: &str| any(right, &|it| text(it).map(|it| it == word));
    match left {
        NamedExpression::Meta(Meta { key }) => match key {
            MetaKey::Iifname => is_named(right, packet.input),
            MetaKey::Oifname => is_named(right, packet.output?),
            MetaKey::Nfproto => is("ipv4"),
            MetaKey::L4proto => packet.port.and_then(|_| is("udp")),
            _ => None,
        },
        NamedExpression::Payload(Payload::PayloadField(PayloadField { protocol, field })) => {
            let port = packet.port?;
            match &**field {
                "protocol" => is("udp"),
                "dport" => {
                    let fits = protocol == "udp" || protocol == "th";
                    any(right, &|it| Some(fits && covers(it, port.into())))
                }
                _ => None,
            }
        }
        // The connection is new, and a DNAT rule redirected one to the name server.
        NamedExpression::CT(CT { key, .. }) => match &**key {
            "state" => is("new"),
            "status" if packet.input == OF_VRF && packet.port.is_some() => {
                is("dnat").filter(|it| *it)
            }
            _ => None,
        },
        _ => None,
    }
}

fn text<'a>(value: &'a Expression<'_>) -> Option<&'a str> {
    match value {
        Expression::String(it) => Some(it),
        _ => None,
    }
}

fn is_named(right: &Expression<'_>, name: &str) -> Option<bool> {
    any(right, &|it| {
        let pattern = text(it).filter(|it| !it.starts_with('@'))?;
        Some(match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        })
    })
}

/// Whether the predicate holds for a value, or for one value of an anonymous set; `None`: uncertain.
fn any(right: &Expression<'_>, is: &dyn Fn(&Expression<'_>) -> Option<bool>) -> Option<bool> {
    match right {
        Expression::List(items) => items
            .iter()
            .try_fold(false, |so_far, it| Some(so_far | is(it)?)),
        Expression::Named(NamedExpression::Set(items)) => {
            items.iter().try_fold(false, |so_far, it| match it {
                SetItem::Element(it) => Some(so_far | is(it)?),
                _ => None,
            })
        }
        _ => is(right),
    }
}

fn covers(value: &Expression<'_>, port: u32) -> bool {
    let number = |value: &Expression<'_>| match value {
        Expression::Number(it) => Some(*it),
        _ => None,
    };
    match value {
        Expression::Range(it) => {
            let [first, last] = &it.range;
            number(first).is_some_and(|it| it <= port) && number(last).is_some_and(|it| it >= port)
        }
        _ => number(value) == Some(port),
    }
}

#[cfg(test)]
#[path = "foreign_drop_tests.rs"]
mod tests;
