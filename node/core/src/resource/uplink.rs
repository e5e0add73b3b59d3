//! A domain's uplink: the veth pair by which its packets leave the node and come back.
//!
//! The host's end `cu<N>` is in the host's namespace, the domain's end `cw<N>` in the domain. The
//! domain translates a container's address to that of its end, so the host knows the tenant of a packet;
//! the host forwards it and translates the address again, to its own (`masquerade`). Tenants with equal
//! subnets so never meet.
//!
//! The rules of the host check a connection's first packet; the others pass with their connection. That
//! holds because the domain translates every packet to an address that no other domain has.

use std::net::Ipv4Addr;

use bus_schema::MacAddr;
use bus_schema::node::DomainKind;
use ipnet::Ipv4Net;

use super::Ruleset;
use super::domain_rules::NAT_PRIORITY;

/// The ends of a domain's uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// In the host's namespace: `cu7`.
    pub host_device: String,
    pub host_address: Ipv4Addr,
    /// In the domain: `cw7`.
    pub domain_device: String,
    pub domain_address: Ipv4Addr,
}

impl Uplink {
    /// The first letters of the host's ends.
    pub const HOST_PREFIX: &str = "cu";
    /// The first letters of the domains' ends.
    pub const DOMAIN_PREFIX: &str = "cw";

    /// The pool of all uplinks' addresses, unless the operator names another: in class E, which the
    /// Internet doesn't route (RFC 1112 §4) and Linux forwards, at a place that no example uses.
    pub const DEFAULT_POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(251, 146, 0, 0), 15);

    /// The longest prefix of a pool: it has two addresses for each tenant's number, of 16 bits.
    pub const MAX_POOL_PREFIX: u8 = 15;

    /// The MAC addresses of the two ends: no two uplinks share a link.
    pub const HOST_MAC: MacAddr = MacAddr([0x02, 0x01, 0, 0, 0, 1]);
    pub const DOMAIN_MAC: MacAddr = MacAddr([0x02, 0x01, 0, 0, 0, 2]);

    /// The uplink of the tenant with this number, which no other tenant of the cluster has.
    pub fn new(pool: Ipv4Net, tenant: u16) -> Self {
        let host = pool.network().to_bits() | u32::from(tenant) << 1;
        Self {
            host_device: format!("{}{tenant}", Self::HOST_PREFIX),
            host_address: host.into(),
            domain_device: format!("{}{tenant}", Self::DOMAIN_PREFIX),
            domain_address: (host | 1).into(),
        }
    }

    /// The other end's name of a device with one of these names.
    pub fn other_end(device: &str) -> Option<String> {
        let of = |prefix: &str, other: &str| {
            let number = device.strip_prefix(prefix)?;
            number.parse::<u16>().ok()?;
            Some(format!("{other}{number}"))
        };
        of(Self::HOST_PREFIX, Self::DOMAIN_PREFIX)
            .or_else(|| of(Self::DOMAIN_PREFIX, Self::HOST_PREFIX))
    }
}

/// Why a packet to or from an uplink was dropped or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum UplinkDrop {
    /// A new connection from a network without a way out.
    Egress,
    /// A new connection to the metadata of a cloud.
    Metadata,
    /// A connection that the sender's `out` rules deny.
    Policy,
    /// A packet to the host itself.
    Host,
    /// A new connection to another tenant.
    Tenant,
    /// A packet whose source isn't the uplink's address.
    Source,
    /// A packet to an address that is never outside: a loopback or a multicast one.
    Destination,
    /// A packet without a known connection.
    Connection,
    /// A packet from elsewhere to an address of the pool.
    Pool,
}

impl UplinkDrop {
    pub const ALL: [Self; 9] = [
        Self::Egress,
        Self::Metadata,
        Self::Policy,
        Self::Host,
        Self::Tenant,
        Self::Source,
        Self::Destination,
        Self::Connection,
        Self::Pool,
    ];

    /// The value of the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Egress => "egress",
            Self::Metadata => "metadata",
            Self::Policy => "policy",
            Self::Host => "host",
            Self::Tenant => "tenant",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Connection => "connection",
            Self::Pool => "pool",
        }
    }

    /// The name of its counter in our table.
    pub fn counter(self) -> String {
        format!("uplink_{}", self.name())
    }

    /// The reasons for which a domain's rules drop packets; the host's rules have the others.
    pub fn is_of_domain(self) -> bool {
        matches!(self, Self::Egress | Self::Metadata | Self::Policy)
    }

    pub(super) fn counted(self) -> String {
        format!("counter name {}", self.counter())
    }

    fn drop(self) -> String {
        format!("{} drop", self.counted())
    }
}

impl Ruleset {
    /// Declares the set of the uplinks, which the host's table always has: a table that loses a set is
    /// created anew.
    pub(super) fn uplink_set(&mut self) {
        self.set("uplinks", "set", "type ifname . ipv4_addr");
    }

    /// Adds the host's rules about uplinks, whose addresses are in `pool`. With VRFs as `domain`, the
    /// packets of the domains' ends pass these hooks, too.
    pub(super) fn uplinks(&mut self, pool: Ipv4Net, domain: Option<DomainKind>) {
        for reason in UplinkDrop::ALL.into_iter().filter(|it| !it.is_of_domain()) {
            self.counter(&reason.counter());
        }
        // The mark is the group's id inside of a domain, and the operator's outside.
        let mut rules = vec![r#"iifname "cu*" meta mark set 0 accept"#.to_owned()];
        if domain == Some(DomainKind::Vrf) {
            rules.extend([r#"iifname "cw*" accept"#, r#"iifname "cd*" accept"#].map(str::to_owned));
        }
        rules.push(format!("ip daddr {pool} {}", UplinkDrop::Pool.drop()));
        let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        self.base("uplink_in", ("filter", "prerouting", -300), &rules);
        self.base(
            "uplink_local",
            ("filter", "input", 0),
            &[r#"iifname "cu*" goto to_host"#],
        );
        let answers = "ct direction reply accept";
        self.chain("to_host", &[answers, &UplinkDrop::Host.drop()]);
        self.base(
            "uplink_forward",
            ("filter", "forward", 0),
            &[
                r#"iifname "cu*" goto from_domain"#,
                r#"oifname "cu*" goto into_domain"#,
            ],
        );
        let unasked = UplinkDrop::Connection.drop();
        self.chain("into_domain", &[answers, &unasked]);
        self.checks_of_openings(&unasked);
        self.base(
            "uplink_nat",
            ("nat", "postrouting", NAT_PRIORITY),
            &[r#"iifname "cu*" oifname != "cu*" masquerade"#],
        );
    }

    /// A connection whose address was translated has passed the checks; one that was opened while our
    /// rules were gone wasn't translated.
    fn checks_of_openings(&mut self, unasked: &str) {
        let (source, tenant) = (UplinkDrop::Source.drop(), UplinkDrop::Tenant.drop());
        let destination = UplinkDrop::Destination.drop();
        self.chain(
            "from_domain",
            &[
                "ct direction reply accept",
                "ct status snat accept",
                "ct state related accept",
                &format!("ct state invalid,untracked {unasked}"),
                &format!("ct status confirmed {unasked}"),
                &format!("iifname . ip saddr != @uplinks {source}"),
                &format!(r#"oifname "cu*" {tenant}"#),
                &format!("ip daddr {{ 127.0.0.0/8, 224.0.0.0/4 }} {destination}"),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_of_all_tenants_have_addresses_of_their_own() {
        let pool = Uplink::DEFAULT_POOL;
        let [one, last] = [1, u16::MAX].map(|tenant| Uplink::new(pool, tenant));
        assert_eq!(one.host_address, Ipv4Addr::new(251, 146, 0, 2));
        assert_eq!(one.domain_address, Ipv4Addr::new(251, 146, 0, 3));
        assert_eq!(last.host_address, Ipv4Addr::new(251, 147, 255, 254));
        assert_eq!(last.domain_address, pool.broadcast());
        assert!(last.host_device.len() < 16, "IFNAMSIZ");
    }

    #[test]
    fn ends_of_an_uplink_name_each_other() {
        let other = |name| Uplink::other_end(name);
        assert_eq!(other("cu7"), Some("cw7".to_owned()));
        assert_eq!(other("cw65535"), Some("cu65535".to_owned()));
        assert_eq!(other("cu70000"), None);
        assert_eq!(other("cv7"), None);
    }
}
