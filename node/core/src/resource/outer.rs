//! Rules about the outer packets of VXLAN that the kernel's VXLAN socket receives, that this host
//! forwards, and that its own processes send.
//!
//! The socket accepts any datagram to its port, also one to a broadcast or multicast address, and
//! trusts the mark in it. So three hooks are closed:
//!
//! - `input` sees every packet that the socket would receive, to whatever address it was sent, whole
//!   (fragments are put together before it) and after any DNAT. A packet passes if it comes from a
//!   known node, is for this node's VTEP, and arrived by an interface by which this host would
//!   answer.
//! - `forward`: Docker masquerades what its bridges' containers send, so the packet would arrive at
//!   another node with this node's address.
//! - `output`: a packet that a process of this host sends has this node's address. The kernel's own
//!   tunnel packets belong to no socket.
//!
//! Packet sockets pass none of these hooks: root and CAP_NET_RAW in the host's namespace are trusted.

use std::net::IpAddr;

use bus_schema::node::DomainKind;

use super::{DNS_ADDRESS, Ruleset};

/// This node's end of the underlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outer {
    pub vtep: IpAddr,
    /// The interface with that address; empty if it isn't known.
    pub interface: String,
    /// UDP.
    pub port: u16,
    /// The mark by which packets are routed that this host sends, 0: none; absent: a group's id.
    pub mark: Option<u32>,
}

/// Why a packet to the outer port was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OuterDrop {
    /// The packet's source is no node's address.
    Sender,
    /// The packet has a node's address, but came by an interface that doesn't lead back to that node.
    Interface,
    /// The packet was sent to a broadcast, multicast or other address instead of this node's VTEP.
    Address,
    /// The packet was to be forwarded by this host, and not for a known node.
    Forwarded,
    /// The packet was sent by a process of this host.
    Process,
}

impl OuterDrop {
    pub const ALL: [Self; 5] = [
        Self::Sender,
        Self::Interface,
        Self::Address,
        Self::Forwarded,
        Self::Process,
    ];

    /// The value of the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Interface => "interface",
            Self::Address => "address",
            Self::Forwarded => "forwarded",
            Self::Process => "process",
        }
    }

    /// The name of its counter in our table.
    pub fn counter(self) -> String {
        format!("outer_{}", self.name())
    }

    fn drop(self) -> String {
        format!("counter name {} drop", self.counter())
    }
}

/// The strict reverse path check of RFC 3704; any of several next hops passes in IPv4. IPv6's look-up
/// picks one of them by the flow (`nft_fib6_eval`), so an IPv6 underlay with several loses packets.
const REVERSE_PATH_MATCH: &str = "fib saddr . iif oif exists";

/// Packets that leave by a tenant's devices are no outer packets.
const ACCEPT_TO_TENANTS: [&str; 3] = [
    r#"oifname "cd*" accept"#,
    r#"oifname "cv*" accept"#,
    r#"oifname "cx*" accept"#,
];

impl Ruleset {
    /// Adds the rules. With VRFs as `domain`, tenants' inner packets pass these hooks, too, since VRFs
    /// share the host's table.
    pub(super) fn outer(&mut self, outer: &Outer, domain: Option<DomainKind>) {
        self.set("peers", "set", "type ipv4_addr");
        self.set("peers6", "set", "type ipv6_addr");
        for reason in OuterDrop::ALL {
            self.counter(&reason.counter());
        }
        let vrf = domain == Some(DomainKind::Vrf);
        self.forwarder(&outer.interface, vrf);
        self.outer_through(outer.port, vrf);
        self.outer_out(outer, vrf);
        self.outer_in(outer);
    }

    /// Admits this host and its guests behind bridges to its name forwarder, and nobody else: Linux
    /// accepts a packet to an address of any of its devices by every other one.
    fn forwarder(&mut self, underlay: &str, vrf: bool) {
        let to_underlay = format!(r#"iifname "{underlay}" counter drop"#);
        let mut rules = vec![r#"iifname "lo" accept"#];
        if vrf {
            rules.extend([r#"iifname "cd*" accept"#, r#"iifname "cv*" accept"#]);
        }
        if !underlay.is_empty() {
            rules.push(&to_underlay);
        }
        rules.extend([r#"meta iifkind "bridge" accept"#, "counter drop"]);
        self.chain("forwarder", &rules);
    }

    fn outer_in(&mut self, Outer { vtep, port, .. }: &Outer) {
        let (family, peers) = match vtep {
            IpAddr::V4(_) => ("ip", "peers"),
            IpAddr::V6(_) => ("ip6", "peers6"),
        };
        let to_vtep = format!("{family} daddr {vtep}");
        let of_node = format!("{family} saddr @{peers}");
        // Tunnels need no conntrack entries.
        self.base(
            "outer_in",
            ("filter", "prerouting", -300),
            &[&format!("udp dport {port} {to_vtep} notrack")],
        );
        self.base(
            "outer_local",
            ("filter", "input", -300),
            &[
                &format!("udp dport {port} goto outer"),
                &format!("ip daddr {DNS_ADDRESS} goto forwarder"),
            ],
        );
        // Nearly all packets match the first rule; the others count why the rest is dropped.
        self.chain(
            "outer",
            &[
                &format!("{of_node} {to_vtep} {REVERSE_PATH_MATCH} accept"),
                &format!(
                    "{of_node} {REVERSE_PATH_MATCH} {}",
                    OuterDrop::Address.drop()
                ),
                &format!("{of_node} {}", OuterDrop::Interface.drop()),
                &OuterDrop::Sender.drop(),
            ],
        );
    }

    /// Accepts forwarded packets of known nodes: a node may be the router or the hypervisor of other
    /// nodes. With br_netfilter, which Docker loads, packets between two ports of a bridge pass this
    /// hook, too; they are accepted if the bridge has an address by which this host reaches the node.
    fn outer_through(&mut self, port: u16, vrf: bool) {
        self.base(
            "outer_forward",
            ("filter", "forward", -300),
            &[&format!("udp dport {port} goto outer_through")],
        );
        let v4 = format!("ip saddr @peers {REVERSE_PATH_MATCH} accept");
        let v6 = format!("ip6 saddr @peers6 {REVERSE_PATH_MATCH} accept");
        let drop = OuterDrop::Forwarded.drop();
        let mut rules = if vrf {
            ACCEPT_TO_TENANTS.to_vec()
        } else {
            Vec::new()
        };
        rules.extend([v4.as_str(), &v6, &drop]);
        self.chain("outer_through", &rules);
    }

    fn outer_out(&mut self, Outer { port, mark, .. }: &Outer, vrf: bool) {
        self.base(
            "outer_out",
            ("filter", "output", -300),
            &[&format!("udp dport {port} goto outer_sent")],
        );
        // In a VRF a process of the host may send through the tunnel: the outer packet still belongs
        // to the process's socket, but has its mark, which only CAP_NET_ADMIN or CAP_NET_RAW may set.
        let by_tunnel = if vrf {
            "meta mark and 0xffff == 0 "
        } else {
            ""
        };
        let drop = OuterDrop::Process.drop();
        let drop = format!("meta skuid 0-4294967294 {by_tunnel}{drop}");
        let accept_inner: &[&str] = if vrf { &ACCEPT_TO_TENANTS } else { &[] };
        let mut sent = [accept_inner, &[drop.as_str(), "notrack"]].concat();
        let Some(mark) = *mark else {
            return self.chain("outer_sent", &sent);
        };
        // VXLAN routes by the inner packet's mark, a group's id, so a rule `ip rule fwmark` of the host's
        // would send the packets of one group elsewhere. A chain of type `route` has a packet routed
        // again if it changes the mark (`ip_route_me_harder`). Another mark is set before, because the
        // mark of a packet from another namespace is 0 by then (`skb_scrub_packet`).
        let other = format!("meta mark set {:#x}", mark ^ 1);
        sent.push(&other);
        self.chain("outer_sent", &sent);
        let routed = format!("udp dport {port} meta mark set {mark:#x}");
        self.base(
            "outer_routed",
            ("route", "output", -299),
            &[accept_inner, &[routed.as_str()]].concat(),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::TableScope;
    use super::*;

    #[test]
    fn sets_keep_their_names_over_an_upgrade_which_so_leaves_their_elements() {
        let rules = |domain| {
            let vtep = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 1));
            let outer = Some(Outer {
                vtep,
                interface: "eth0".to_owned(),
                port: 14_789,
                mark: None,
            });
            let uplinks = None;
            Ruleset::new(TableScope {
                outer,
                uplinks,
                domain,
            })
        };
        let sets = |rules: &Ruleset| {
            let names = rules.sets.iter().map(|(name, _)| name.clone());
            names.collect::<Vec<_>>()
        };
        assert_eq!(
            sets(&rules(None)),
            ["applied", "peers", "peers6", "uplinks"]
        );
        let vrf = rules(Some(DomainKind::Vrf));
        let before = [
            "endpoints",
            "gateways",
            "hits",
            "known",
            "members",
            "openers",
            "peers",
            "peers6",
            "programs_in",
            "programs_out",
            "revised",
            "revisions",
            "same",
            "stamps",
            "subnets",
            "zones",
        ];
        let kept = |name: &&str| sets(&vrf).iter().any(|it| it == name);
        assert!(before.iter().all(kept), "{:?}", sets(&vrf));
    }
}
