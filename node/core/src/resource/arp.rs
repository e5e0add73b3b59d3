//! The fixed rules about ARP, in a table of family `arp` beside the one of family `inet`.
//!
//! A kernel that is asked by ARP for an address of its own learns the sender as a neighbor (`arp_process`
//! of `net/ipv4/arp.c`). All namespaces share one limit of neighbors, so a container that invents senders
//! would leave no room for the others. A container may ask in another of its addresses' name, one of
//! another network or of a network that isn't ours (`arp_announce` 0), and needs the answer. So its
//! packets aren't dropped: their sender becomes the interface's own address, whose neighbor is permanent.

use super::{Family, Ruleset};

impl Ruleset {
    /// The table is the same in a domain of kind netns and, for all VRFs, in the host.
    ///
    /// The target becomes the network's gateway, the only address that an endpoint has to ask for: in a
    /// VRF the host would answer for its other addresses, too. Before an interface has its elements, its
    /// ARP passes unchanged, so an upgrade leaves no question unanswered. Nodes ask each other nothing.
    pub fn arp() -> Self {
        let mut rules = Self {
            family: Family::Arp,
            ..Self::default()
        };
        for map in ["arp_senders", "arp_targets"] {
            rules.set(map, "map", "type ifname : ipv4_addr");
        }
        rules.base(
            "arriving",
            ("filter", "input", 0),
            &[
                r#"iifname "cx*" counter drop"#,
                r#"iifname "cv*" arp saddr ip set iifname map @arp_senders"#,
                r#"iifname "cv*" arp daddr ip set iifname map @arp_targets"#,
            ],
        );
        rules.sort();
        rules
    }
}
