//! The fixed rules of a domain: ingress, DNS, the decision about a connection, input and output.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::GroupId;
use bus_schema::node::DomainKind;
use ipnet::{IpNet, Ipv4Net};

use super::ruleset::{CT_MARK_GROUP, DNS_ADDRESS, Ruleset, dns_port};
use super::uplink::UplinkDrop;
use crate::policy::Value;

/// The part that holds the low bits of the revision whose rules accepted it.
const CT_MARK_REVISION: u32 = !CT_MARK_GROUP;

/// The priority of the DNS translation: before the host's own `dstnat`, which has -100, with room for
/// one chain in between.
const DNS_DNAT_PRIORITY: i32 = -102;

/// The priority of our translation of sources: before the host's own `srcnat`, which has 100.
pub(super) const NAT_PRIORITY: i32 = 99;

/// The addresses at which clouds give their machines credentials and other secrets: AWS, Azure, Google
/// and OpenStack in the link-local range, Alibaba Cloud, and Azure's second one.
const METADATA: [Ipv4Net; 3] = [
    Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 0, 0), 16),
    Ipv4Net::new_assert(Ipv4Addr::new(100, 100, 100, 200), 32),
    Ipv4Net::new_assert(Ipv4Addr::new(168, 63, 129, 16), 32),
];

/// Whether a cloud may have its metadata at the address.
pub fn is_metadata(address: IpAddr) -> bool {
    METADATA
        .iter()
        .any(|net| IpNet::V4(*net).contains(&address))
}

/// Sets the best result so far to none.
fn no_result() -> String {
    format!("ct mark set {:#x}", Value::NONE)
}

/// Counts the rule that decided.
fn counted_hit() -> String {
    format!("ct zone . ct mark & {:#x} @hits", Value::NUMBER)
}

/// Matches if the best rule denies.
fn denies() -> String {
    format!("ct mark & {:#x} == 0", Value::ALLOWS)
}

/// Drops a packet that was decided by rules of two revisions.
fn checked_revision() -> String {
    format!("ct zone . ct mark & {CT_MARK_REVISION:#x} != @revisions counter drop")
}

impl Ruleset {
    /// Sets zone and mark of a packet and drops forged source addresses, before conntrack.
    ///
    /// In a VRF prerouting runs twice, first with the slave as input, so the zone and the mark
    /// are set here, by the slave's name; and table `local` comes before the VRF's rule, so packets to
    /// the host's own addresses must be dropped here.
    pub(super) fn ingress(&mut self, kind: DomainKind) {
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
            r#"iifname "cw*" goto from_outside"#,
        ]);
        self.base("ingress", ("filter", "prerouting", -300), &rules);

        // An accepted packet matches the first rule about addresses; the others count why the rest is
        // dropped.
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

        // The mark of a packet from outside is the operator's; as no group's, it opens no connection.
        self.chain(
            "from_outside",
            &["meta nfproto ipv6 drop", "meta mark set 0 accept"],
        );
    }

    /// Redirects DNS queries to the domain's DNS server: those to addresses outside the tenant's subnets,
    /// and those to a resolver of the host inside of them whose address no endpoint has.
    pub(super) fn dns(&mut self, kind: DomainKind) {
        for set in ["gateways", "resolvers"] {
            self.set(set, "set", "typeof ct zone . ip daddr");
        }
        self.set(
            "subnets",
            "set",
            "typeof ct zone . ip daddr; flags interval",
        );
        self.base(
            "dns_in",
            ("nat", "prerouting", DNS_DNAT_PRIORITY),
            &[r#"iifname "cv*" meta l4proto { tcp, udp } th dport 53 jump dns"#],
        );
        let port = dns_port(kind);
        let catch = format!("meta l4proto {{ tcp, udp }} dnat ip to {DNS_ADDRESS}:{port}");
        self.chain(
            "dns",
            &[
                &format!("ct zone . ip daddr @gateways {catch}"),
                &format!("ct zone . ip daddr @resolvers {catch}"),
                "ct zone . ip daddr @subnets return",
                &catch,
            ],
        );
    }

    /// Translates what leaves by an uplink to the address of its end in the domain. Without an address the
    /// packet leaves as it is, and the host drops it.
    ///
    /// Keeps the host's NAT off VRFs' packets, whose addresses may be equal to its own: Docker
    /// masquerades its bridges' subnets, which may be a tenant's as well. The first chain of a hook
    /// that translates an address is final (`nf_nat_inet_fn`), so these translate it to itself.
    pub(super) fn translations(&mut self, kind: DomainKind) {
        self.set("uplink_addresses", "map", "type ifname : ipv4_addr");
        let out = r#"oifname "cw*" snat ip to oifname map @uplink_addresses"#;
        let out_hook = ("nat", "postrouting", NAT_PRIORITY);
        if kind == DomainKind::Netns {
            self.base("nat_out", out_hook, &[out]);
            return;
        }
        let to = r#"iifname "c[vx]*" dnat ip to ip daddr"#;
        let from = r#"oifname "c[vx]*" snat ip to ip saddr"#;
        let both = |rule: &str| ["cv*", "cx*"].map(|it| rule.replace("c[vx]*", it));
        let [to, from] = [to, from].map(both);
        let hook = ("nat", "prerouting", DNS_DNAT_PRIORITY + 1);
        self.base("nat_in", hook, &[&to[0], &to[1]]);
        self.base("nat_out", out_hook, &[&from[0], &from[1], out]);
    }

    /// Decides the first packet of a connection, at the receiver's node, and at the sender's as far as the
    /// sender's rules deny it to every group that the destination may be in.
    ///
    /// The map `known` copies the sender's id into the packet's priority; the mark is then free for
    /// the receiver's id and for the result of a look-up; the connection's mark holds the best result
    /// so far, in the end the sender's id and the rules' revision. Read `policy` first.
    ///
    /// The kernel walks the rules of one generation, the one at the packet's first rule, but looks
    /// each element up in the latest (`nft_do_chain`, `nft_genmask_cur`): a packet under way while a
    /// transaction commits meets old rules and new elements. So the revision that it ends with comes
    /// from a rule and must be the one in the set; else the packet is dropped, and the sender's next
    /// one is decided by the new rules alone.
    pub(super) fn opening(&mut self) {
        self.opening_sets();
        let (none, hit, revised) = (no_result(), counted_hit(), checked_revision());
        let denied = format!("{} counter drop", denies());
        let nobody = format!("meta mark set {}", GroupId::UNGROUPED.0);
        self.chain(
            "opening",
            &[
                "meta priority set none",
                "meta priority set ct zone . meta mark map @known",
                "meta priority none counter drop",
                r#"oifname "cx*" goto sending_on"#,
                r#"oifname "cw*" goto going_out"#,
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
                "jump limited",
                "ct mark set 0",
                "ct mark set ct zone . meta priority map @openers",
                "ct mark 0 counter drop",
                "ct zone vmap @revised",
                &revised,
                &nobody,
                "meta priority set none",
            ],
        );
        // The receiver's node decides, and counts the rule. This node only drops what that one would
        // drop, too, whatever group the destination is in: so a new deny holds although that node's
        // netplugin is away.
        self.chain(
            "sending_on",
            &[
                &none,
                "ct zone . meta mark vmap @programs_out",
                &format!("{} goto denied", denies()),
                "jump limited",
                "ct mark set 0",
                "ct mark set ct zone . meta priority map @openers",
                "ct mark 0 counter drop",
                "meta mark set ct mark",
                "meta priority set none accept",
            ],
        );
        self.chain("denied", &[&hit, "counter drop"]);
    }

    /// Decides the first packet of a connection to an address in no subnet of the tenant. No other node
    /// decides about it, so the `out` rules do so here as a receiver's node has it.
    pub(super) fn going_out(&mut self) {
        for set in ["nat_sources", "metadata_sources"] {
            self.set(set, "set", "typeof ct zone . ip saddr; flags interval");
        }
        for reason in UplinkDrop::ALL.into_iter().filter(|it| it.is_of_domain()) {
            self.counter(&reason.counter());
        }
        let (none, hit, revised) = (no_result(), counted_hit(), checked_revision());
        let denied = format!("{} {} drop", denies(), UplinkDrop::Policy.counted());
        let metadata = METADATA.map(|net| net.to_string()).join(", ");
        let metadata = format!("ip daddr {{ {metadata} }} ct zone . ip saddr != @metadata_sources");
        // The sender learns it at once, also by UDP: this code is the one that ends its connection.
        let refuse = |why: UplinkDrop| {
            let counted = why.counted();
            format!("{counted} reject with icmp type admin-prohibited")
        };
        self.chain("no_egress", &[&refuse(UplinkDrop::Egress)]);
        self.chain("no_metadata", &[&refuse(UplinkDrop::Metadata)]);
        self.chain(
            "going_out",
            &[
                "ct zone . ip saddr != @nat_sources goto no_egress",
                &format!("{metadata} goto no_metadata"),
                &none,
                "ct zone . meta mark vmap @programs_out",
                &hit,
                &denied,
                "jump limited",
                "ct mark set 0",
                "ct mark set ct zone . meta priority map @openers",
                "ct mark 0 counter drop",
                "ct zone vmap @revised",
                &revised,
                "meta mark set 0",
                "meta priority set none accept",
            ],
        );
    }

    fn opening_sets(&mut self) {
        self.set("known", "map", "typeof ct zone . meta mark : meta priority");
        self.set("members", "map", "typeof ct zone . ip daddr : meta mark");
        self.set(
            "pools",
            "map",
            "typeof ct zone . ip daddr : meta mark; flags interval",
        );
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
    }

    /// Decides packets that the domain forwards, receives and sends; its own errors about a packet
    /// have the mark of that packet's sender (`fwmark_reflect`) or that of no group.
    ///
    /// A connection belongs to the group that opened it: the address's next owner may be of another
    /// group and on another node, and only the old node flushes the address's conntrack entries. Until
    /// a reply is seen each packet of a connection is `new` for conntrack, but it is decided once the
    /// connection is confirmed: a second decision would write to a mark that several CPUs share by
    /// then.
    pub(super) fn passing(&mut self, kind: DomainKind) {
        self.set("same", "set", "typeof ct zone . ct mark . meta mark");
        let opener = format!("ct zone . ct mark & {CT_MARK_GROUP:#x} . meta mark");
        self.base(
            "forward",
            ("filter", "forward", 0),
            &[
                r#"oifname "cv*" goto passing"#,
                r#"oifname "cx*" goto leaving"#,
                r#"oifname "cw*" goto passing"#,
            ],
        );
        // In a VRF the input interface is the VRF device, and its slave is the `sdif`.
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
        // Established connections come first: nearly all packets are theirs. An invalid packet and one
        // that isn't tracked have no connection to look up.
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
        self.input(kind);
        self.output(kind);
    }

    fn input(&mut self, kind: DomainKind) {
        let mut inputs = vec![
            r#"iifname "cv*" jump to_domain"#,
            r#"iifname "cx*" jump to_domain"#,
        ];
        match kind {
            DomainKind::Netns => inputs.push(r#"iifname "cw*" goto answered"#),
            DomainKind::Vrf => inputs.extend([
                r#"meta sdifname "cw*" goto answered"#,
                r#"iifname "cd*" jump to_domain"#,
            ]),
        }
        self.base("input", ("filter", "input", 0), &inputs);
        self.chain("answered", &["ct direction reply accept", "counter drop"]);
        let port = dns_port(kind);
        self.chain(
            "to_domain",
            &[
                "ct state invalid counter drop",
                "ct state established,related accept",
                "jump limited",
                "ct mark set 0",
                &format!(
                    "ip daddr {DNS_ADDRESS} meta l4proto {{ tcp, udp }} th dport {port} accept"
                ),
                "icmp type echo-request ct zone . ip daddr @gateways accept",
                "counter drop",
            ],
        );
    }

    fn output(&mut self, kind: DomainKind) {
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
}
