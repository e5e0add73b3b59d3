//! The rules of our nft table, as text and as what can be seen of them in the kernel.
//!
//! Rules never name an endpoint, a peer or a network: those are elements of sets, so an attach
//! adds elements and leaves the rules alone. Each rule carries a digest of its own text as its
//! comment, by which it is told again after a restart, whatever way `nft` prints it.

use std::fmt;
use std::net::Ipv4Addr;

use bus_schema::GroupId;
use bus_schema::node::DomainKind;

use super::outer::Outer;
use super::{Steps, TABLE, zone_of};
use crate::policy::Value;

/// Where each domain's DNS server is bound, and the host's forwarder.
pub const DNS_ADDRESS: Ipv4Addr = Ipv4Addr::new(169, 254, 53, 53);

/// The port of each domain's DNS server; asked is 53. VRFs share their ports with the host, on
/// which somebody's server may listen on 53 of every address.
pub const fn dns_port(kind: DomainKind) -> u16 {
    match kind {
        DomainKind::Netns => 53,
        DomainKind::Vrf => 14_753,
    }
}

/// The part of a connection's mark that says who opened it, by the group's id.
pub const OPENER: u32 = 0xffff;
/// The part that holds the low bits of the revision whose rules let it pass.
pub(super) const REVISION: u32 = !OPENER;

/// Before the host's own `dstnat`, of -100, and so that another chain fits in between.
const BEFORE_DNAT: i32 = -102;

/// Which rules a table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    /// The host's: who may send VXLAN's outer packets.
    pub outer: Option<Outer>,
    /// A domain's; of all domains when they are VRFs.
    pub domain: Option<DomainKind>,
}

/// What can't be observed, and so isn't compared: it is there when desired, and never else.
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

/// A rule by the digest of what it does, in words of nft.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule<W = String> {
    pub digest: String,
    pub text: Unseen<W>,
}

/// A chain and its rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Chain<W = String> {
    pub name: String,
    /// Where netfilter calls it: type, hook and priority.
    pub base: Option<(String, String, i32)>,
    pub rules: Vec<Rule<W>>,
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

impl Chain<Steps> {
    pub fn compiled(name: &str, rules: Vec<Steps>) -> Self {
        let rules = rules.into_iter().map(|steps| Rule {
            digest: format!("{:08x}", steps.digest()),
            text: Unseen(Some(steps)),
        });
        Self {
            name: name.to_owned(),
            base: None,
            rules: rules.collect(),
        }
    }

    /// What its rules do, one after another.
    pub fn steps(&self) -> impl Iterator<Item = &Steps> {
        self.rules.iter().filter_map(|rule| rule.text.0.as_ref())
    }

    /// Whether it was made of these.
    pub fn is_of(&self, rules: &[Steps]) -> bool {
        self.steps().eq(rules)
    }
}

/// The rules of a table, without its elements; chains in the order of their names.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ruleset {
    /// Name and declaration.
    pub sets: Vec<(String, Unseen<String>)>,
    pub chains: Vec<Chain>,
    /// The names of counters that rules share. Each is in the kernel as long as a rule uses it, so
    /// the rules alone are compared.
    pub counters: Unseen<Vec<&'static str>>,
}

impl Ruleset {
    pub fn new(parts: Parts) -> Self {
        let mut rules = Self::default();
        rules.set("applied", "set", "typeof ct zone . ct mark . meta mark");
        if let Some(outer) = parts.outer {
            rules.outer(outer, parts.domain);
        }
        if let Some(kind) = parts.domain {
            rules.ingress(kind);
            rules.dns(kind);
            if kind == DomainKind::Vrf {
                rules.no_foreign_nat();
            }
            rules.opening();
            rules.passing(kind);
        }
        rules.sort();
        rules
    }

    /// The order in which rule sets are compared.
    pub fn sort(&mut self) {
        self.sets.sort();
        self.chains.sort_by(|a, b| a.name.cmp(&b.name));
    }

    /// Before conntrack: who sent it, and may it come from there at all.
    ///
    /// In a VRF prerouting runs twice, first with the slave as input, so the zone and the mark
    /// are set here, by the slave's name; and table `local` comes before the VRF's rule, so the
    /// host's own addresses must be closed here.
    fn ingress(&mut self, kind: DomainKind) {
        self.set("stamps", "map", "type ifname . ipv4_addr : mark");
        self.set("endpoints", "set", "type ifname . ipv4_addr");
        let vrf = kind == DomainKind::Vrf;
        let when = |on: bool, rules: &[&'static str]| if on { rules.to_vec() } else { Vec::new() };
        if vrf {
            self.set("zones", "map", "typeof iifname : ct zone");
            self.base(
                "zone_out",
                ("filter", "output", -300),
                &["ct zone set oifname map @zones"],
            );
        }
        let mut rules = when(vrf, &["ct zone set iifname map @zones"]);
        rules.extend([
            r#"iifname "cv*" goto from_endpoint"#,
            r#"iifname "cx*" goto from_overlay"#,
        ]);
        self.base("ingress", ("filter", "prerouting", -300), &rules);

        // What passes is found by the first rule that looks at it, and the rest says why it doesn't.
        let mut rules = when(
            vrf,
            &[
                "fib daddr type local meta l4proto != { tcp, udp } counter drop",
                "fib daddr type local th dport != 53 counter drop",
            ],
        );
        rules.extend([
            "meta mark set iifname . ip saddr map @stamps accept",
            "meta nfproto ipv6 drop",
            "counter drop",
        ]);
        self.chain("from_endpoint", &rules);

        let mut rules = when(vrf, &["fib daddr type local counter drop"]);
        rules.extend([
            "meta mark and 0xffff != 0 iifname . ip daddr @endpoints \
             meta mark set meta mark and 0xffff accept",
            "meta nfproto ipv6 drop",
            "meta mark and 0xffff == 0 counter drop",
            "counter drop",
        ]);
        self.chain("from_overlay", &rules);
    }

    /// What an endpoint asks any resolver outside its tenant is answered by its domain's.
    fn dns(&mut self, kind: DomainKind) {
        self.set("gateways", "set", "typeof ct zone . ip daddr");
        self.set(
            "subnets",
            "set",
            "typeof ct zone . ip daddr; flags interval",
        );
        self.base(
            "dns_in",
            ("nat", "prerouting", BEFORE_DNAT),
            &[r#"iifname "cv*" meta l4proto { tcp, udp } th dport 53 jump dns"#],
        );
        let port = dns_port(kind);
        let catch = format!("meta l4proto {{ tcp, udp }} dnat ip to {DNS_ADDRESS}:{port}");
        self.chain(
            "dns",
            &[
                &format!("ct zone . ip daddr @gateways {catch}"),
                "ct zone . ip daddr @subnets return",
                &catch,
            ],
        );
    }

    /// The host's NAT is not for VRFs' packets, whose addresses may be the same as its own: Docker
    /// masquerades its bridges' subnets, which may be a tenant's as well. The first chain of a hook
    /// that says what becomes of an address has said it (`nf_nat_inet_fn`).
    fn no_foreign_nat(&mut self) {
        let to = r#"iifname "c[vx]*" dnat ip to ip daddr"#;
        let from = r#"oifname "c[vx]*" snat ip to ip saddr"#;
        let both = |rule: &str| ["cv*", "cx*"].map(|it| rule.replace("c[vx]*", it));
        let [to, from] = [to, from].map(both);
        let hook = ("nat", "prerouting", BEFORE_DNAT + 1);
        self.base("nat_in", hook, &[&to[0], &to[1]]);
        let hook = ("nat", "postrouting", 99);
        self.base("nat_out", hook, &[&from[0], &from[1]]);
    }

    /// Who may open a connection to whom: asked at the end where it arrives, for its first packet.
    ///
    /// The sender's id is put aside in the packet's priority, which the map of known ids does; the
    /// mark is then free for the receiver's id and for a line's result; the best result so far is
    /// the connection's mark, in the end the sender's id and the rules' revision. Read `policy`
    /// first.
    ///
    /// The kernel walks the rules of one generation, the one of its first step, but looks each
    /// element up in the latest (`nft_do_chain`, `nft_genmask_cur`): a packet under way while a
    /// transaction commits sees rules of before and elements of after. So the revision that it
    /// ends with comes from a rule, and must be the one in the set; else it is dropped, and its
    /// sender's next one is decided by the new rules alone.
    fn opening(&mut self) {
        self.set("known", "map", "typeof ct zone . meta mark : meta priority");
        self.set("members", "map", "typeof ct zone . ip daddr : meta mark");
        self.set("programs_in", "map", "typeof ct zone . meta mark : verdict");
        self.set(
            "programs_out",
            "map",
            "typeof ct zone . meta mark : verdict",
        );
        self.set("hits", "set", "typeof ct zone . ct mark; counter");
        self.set("revised", "map", "typeof ct zone : verdict");
        self.set("revisions", "set", "typeof ct zone . ct mark");
        self.set("openers", "map", "typeof ct zone . meta priority : ct mark");
        let none = format!("ct mark set {:#x}", Value::NONE);
        let hit = format!("ct zone . ct mark & {:#x} @hits", Value::NUMBER);
        let denied = format!("ct mark & {:#x} == 0 counter drop", Value::ALLOWS);
        let revised = format!("ct zone . ct mark & {REVISION:#x} != @revisions counter drop");
        let nobody = format!("meta mark set {}", GroupId::UNGROUPED.0);
        self.chain(
            "opening",
            &[
                "meta priority set none",
                "meta priority set ct zone . meta mark map @known",
                "meta priority none counter drop",
                r#"oifname "cx*" ct mark set meta mark meta priority set none accept"#,
                &none,
                "ct zone . meta mark vmap @programs_out",
                &hit,
                &denied,
                &none,
                "meta mark set 0",
                "meta mark set ct zone . ip daddr map @members",
                "meta mark 0 counter drop",
                "ct zone . meta mark vmap @programs_in",
                &hit,
                &denied,
                "ct mark set 0",
                "ct mark set ct zone . meta priority map @openers",
                "ct mark 0 counter drop",
                "ct zone vmap @revised",
                &revised,
                &nobody,
                "meta priority set none",
            ],
        );
    }

    /// What passes through the domain, what ends in it and what starts there: the domain's own
    /// errors about a packet bear its sender's stamp (`fwmark_reflect`) or that of no group.
    ///
    /// A connection is its opener's: who has the address next may be of another group and on
    /// another node, which is all that forgets its connections. Until an answer is seen each of
    /// its packets is a `new` one for conntrack, but decided once it is confirmed: another look
    /// would write to a mark that several CPUs share by then.
    fn passing(&mut self, kind: DomainKind) {
        self.set("same", "set", "typeof ct zone . ct mark . meta mark");
        let opener = format!("ct zone . ct mark & {OPENER:#x} . meta mark");
        self.base(
            "forward",
            ("filter", "forward", 0),
            &[
                r#"oifname "cv*" goto passing"#,
                r#"oifname "cx*" goto leaving"#,
            ],
        );
        // In a VRF the input is the VRF, and its slave the `sdif`.
        let from_overlay = match kind {
            DomainKind::Netns => "iifname",
            DomainKind::Vrf => "meta sdifname",
        };
        self.chain(
            "leaving",
            &[
                &format!(r#"{from_overlay} "cx*" counter drop"#),
                "goto passing",
            ],
        );
        // What stands comes first: nearly all packets are of it. An invalid packet and one that isn't
        // tracked have no connection to be asked about.
        self.chain(
            "passing",
            &[
                "ct direction reply accept",
                &format!("ct status confirmed {opener} @same accept"),
                "ct state invalid counter drop",
                "ct state untracked counter drop",
                "ct state related accept",
                "ct status confirmed counter drop",
                "tcp flags & (fin | syn | rst | ack) != syn counter drop",
                "goto opening",
            ],
        );
        let mut inputs = vec![
            r#"iifname "cv*" jump to_domain"#,
            r#"iifname "cx*" jump to_domain"#,
        ];
        if kind == DomainKind::Vrf {
            inputs.push(r#"iifname "cd*" jump to_domain"#);
        }
        self.base("input", ("filter", "input", 0), &inputs);
        let port = dns_port(kind);
        self.chain(
            "to_domain",
            &[
                "ct state invalid counter drop",
                "ct state established,related accept",
                &format!(
                    "ip daddr {DNS_ADDRESS} meta l4proto {{ tcp, udp }} th dport {port} accept"
                ),
                "icmp type echo-request ct zone . ip daddr @gateways accept",
                "counter drop",
            ],
        );
        let stamp = format!(
            "meta mark and 0xffff == 0 meta mark set {}",
            GroupId::UNGROUPED.0
        );
        let device = match kind {
            DomainKind::Netns => "cx*",
            DomainKind::Vrf => "cd*",
        };
        self.base(
            "sending",
            ("filter", "output", -150),
            &[&format!(r#"oifname "{device}" {stamp}"#)],
        );
    }

    /// Whether elements and compiled rules are gone after the change: rules may lead to a set that
    /// isn't wanted any more, so the table is made anew, closed until it is filled.
    pub fn empties(&self, present: &Self) -> bool {
        let wanted = |name: &str| self.sets.iter().any(|(it, _)| it == name);
        present.sets.iter().any(|(name, _)| !wanted(name))
    }

    pub(super) fn set(&mut self, name: &str, keyword: &str, body: &str) {
        let text = format!("{keyword} {name} {{ {body}; }}");
        self.sets.push((name.to_owned(), Unseen(Some(text))));
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

    /// The script that makes the table's rules these, in one transaction, and leaves the
    /// elements and the compiled rules, unless it [`empties`](Self::empties) the table: `present`
    /// is what is there now.
    pub fn script(&self, present: &Self) -> String {
        let mut script = format!("add table inet {TABLE}\n");
        if self.empties(present) {
            script += &format!("delete table inet {TABLE}\n");
        } else {
            for verb in ["flush", "delete"] {
                let names = present.chains.iter().map(|chain| &chain.name);
                for chain in names.filter(|it| zone_of(it).is_none()) {
                    script += &format!("{verb} chain inet {TABLE} {chain}\n");
                }
            }
        }
        script += &format!("table inet {TABLE} {{\n");
        for (_, Unseen(text)) in &self.sets {
            script += &format!("\t{}\n", text.as_deref().unwrap_or_default());
        }
        for counter in self.counters.0.iter().flatten() {
            script += &format!("\tcounter {counter} {{}}\n");
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
