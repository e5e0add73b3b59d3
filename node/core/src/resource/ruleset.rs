//! The fixed rules of our nft tables, as text and by the digests that the kernel holds.
//!
//! Rules never name an endpoint, a peer or a network: those are elements of sets, so an attach
//! adds elements and changes no rule. Each rule carries a digest of its own text as its comment; a
//! restart recognises the rule by it, however `nft` prints the rule.

use std::fmt;
use std::net::Ipv4Addr;

use bus_schema::node::DomainKind;
use ipnet::Ipv4Net;

use super::outer::Outer;
use super::{RuleBody, TABLE, zone_of};

/// The address on which each domain's DNS server and the host's forwarder listen.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

/// The port of each domain's DNS server, to which queries to port 53 are translated. VRFs share their
/// ports with the host, where another server may listen on port 53 of every address.
pub const fn dns_port(kind: DomainKind) -> u16 {
    match kind {
        DomainKind::Netns => 53,
        DomainKind::Vrf => 14_753,
    }
}

/// The part of a connection's mark that holds the id of the group that opened it.
pub const CT_MARK_GROUP: u32 = 0xffff;
/// The places whose rules a table holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableScope {
    /// The rules of the host, about VXLAN's outer packets.
    pub outer: Option<Outer>,
    /// The pool of the uplinks' addresses, if the host has any uplink.
    pub uplinks: Option<Ipv4Net>,
    /// The rules of a domain; of all domains if they are VRFs.
    pub domain: Option<DomainKind>,
}

/// A value that can't be observed and so isn't compared: it is present in a desired state only.
#[derive(Debug, Clone, Default)]
pub struct Unseen<T>(pub Option<T>);

impl<T> PartialEq for Unseen<T> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl<T> Eq for Unseen<T> {}

impl<T> PartialOrd for Unseen<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Unseen<T> {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// A rule by the digest of its nft text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule<Text = String> {
    pub digest: String,
    pub text: Unseen<Text>,
}

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain<Text = String> {
    pub name: String,
    /// Type, hook and priority of a base chain.
    pub base: Option<(String, String, i32)>,
    pub rules: Vec<Rule<Text>>,
}

impl Chain {
    fn new<'a>(name: &str, rules: impl IntoIterator<Item = &'a str>) -> Self {
        let rules = rules.into_iter().map(|text| Rule {
            digest: format!("{:08x}", crc32fast::hash(text.as_bytes())),
            text: Unseen(Some(text.to_owned())),
        });
        Self {
            name: name.to_owned(),
            base: None,
            rules: rules.collect(),
        }
    }
}

impl Chain<RuleBody> {
    pub fn compiled(name: &str, rules: Vec<RuleBody>) -> Self {
        let rules = rules.into_iter().map(|body| Rule {
            digest: format!("{:08x}", body.digest()),
            text: Unseen(Some(body)),
        });
        Self {
            name: name.to_owned(),
            base: None,
            rules: rules.collect(),
        }
    }

    /// The bodies of its rules, in their order.
    pub fn bodies(&self) -> impl Iterator<Item = &RuleBody> {
        self.rules.iter().filter_map(|rule| rule.text.0.as_ref())
    }

    /// Whether the chain was made of these rules.
    pub fn is_of(&self, rules: &[RuleBody]) -> bool {
        self.bodies().eq(rules)
    }
}

/// The family of a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    #[default]
    Inet,
    Arp,
}

impl Family {
    pub const ALL: [Self; 2] = [Self::Inet, Self::Arp];
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Arp => "arp",
        })
    }
}

/// The rules of a table, without its elements; chains in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ruleset {
    pub family: Family,
    /// The name and the declaration of each set and map.
    pub sets: Vec<(String, Unseen<String>)>,
    pub chains: Vec<Chain>,
    /// The declarations of counters and time-outs that rules share. Such an object is in the kernel as
    /// long as a rule uses it, so only the rules are compared.
    pub objects: Unseen<Vec<String>>,
}

impl Ruleset {
    pub fn new(scope: TableScope) -> Self {
        let mut rules = Self::default();
        rules.set("applied", "set", "typeof ct zone . ct mark . meta mark");
        if let Some(outer) = scope.outer {
            rules.outer(&outer, scope.domain);
            rules.uplink_set();
        }
        if let Some(pool) = scope.uplinks {
            rules.uplinks(pool, scope.domain);
        }
        if let Some(kind) = scope.domain {
            rules.ingress(kind);
            rules.dns(kind);
            rules.translations(kind);
            rules.connection_limits();
            rules.opening();
            rules.going_out();
            rules.passing(kind);
        }
        rules.sort();
        rules
    }

    /// Sorts sets and chains by their names, as comparisons need it.
    pub fn sort(&mut self) {
        self.sets.sort();
        self.chains.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Whether the change removes all elements and compiled rules: rules may use a set that isn't
    /// desired any more, so the table is recreated, closed until it is filled.
    pub fn empties(&self, present: &Self) -> bool {
        let wanted = |name: &str| self.sets.iter().any(|(it, _)| it == name);
        present.sets.iter().any(|(name, _)| !wanted(name))
    }

    pub(super) fn set(&mut self, name: &str, keyword: &str, body: &str) {
        let text = format!("{keyword} {name} {{ {body}; }}");
        self.sets.push((name.to_owned(), Unseen(Some(text))));
    }

    /// Declares a counter that rules share.
    pub(super) fn counter(&mut self, name: &str) {
        self.object(format!("counter {name} {{}}"));
    }

    /// Declares an object that rules share; the declaration of one that exists changes nothing.
    pub(super) fn object(&mut self, declaration: String) {
        self.objects.0.get_or_insert_default().push(declaration);
    }

    pub(super) fn base(
        &mut self,
        name: &str,
        (kind, hook, priority): (&str, &str, i32),
        rules: &[&str],
    ) {
        self.chain(name, rules);
        if let Some(chain) = self.chains.last_mut() {
            chain.base = Some((kind.to_owned(), hook.to_owned(), priority));
        }
    }

    pub(super) fn chain(&mut self, name: &str, rules: &[&str]) {
        self.chains.push(Chain::new(name, rules.iter().copied()));
    }

    /// The nft script that replaces the rules `present` by these in one transaction. It keeps the
    /// elements and the compiled rules, unless it [`empties`](Self::empties) the table.
    pub fn script(&self, present: &Self) -> String {
        let family = self.family;
        let mut script = format!("add table {family} {TABLE}\n");
        if self.empties(present) {
            script += &format!("delete table {family} {TABLE}\n");
        } else {
            for verb in ["flush", "delete"] {
                let names = present.chains.iter().map(|chain| &chain.name);
                for chain in names.filter(|it| zone_of(it).is_none()) {
                    script += &format!("{verb} chain {family} {TABLE} {chain}\n");
                }
            }
        }
        script += &format!("table {family} {TABLE} {{\n");
        for (_, Unseen(text)) in &self.sets {
            script += &format!("\t{}\n", text.as_deref().unwrap_or_default());
        }
        for object in self.objects.0.iter().flatten() {
            script += &format!("\t{object}\n");
        }
        for chain in &self.chains {
            script += &format!("\tchain {} {{\n", chain.name);
            if let Some((kind, hook, priority)) = &chain.base {
                script +=
                    &format!("\t\ttype {kind} hook {hook} priority {priority}; policy accept;\n");
            }
            for rule in &chain.rules {
                let text = rule.text.0.as_deref().unwrap_or_default();
                script += &format!("\t\t{text} comment \"{}\"\n", rule.digest);
            }
            script += "\t}\n";
        }
        script + "}\n"
    }
}

impl fmt::Display for Ruleset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules: usize = self.chains.iter().map(|chain| chain.rules.len()).sum();
        write!(f, "{} chains, {rules} rules", self.chains.len())
    }
}
