//! Reads the host's routing rules by the packet mark that may apply to our packets.

use std::io;

use bus_schema::mark_rule::MarkRule;
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::IpVersion;

use super::netlink::Socket;
use super::{Datapath, DatapathError, failure};
use node_core::desired::is_own_device;
use node_core::resource::Place;

impl Datapath {
    /// The host's rules by `fwmark`, IPv4's first, by their preferences. Rules about packets of other
    /// interfaces than ours are left out.
    pub async fn mark_rules(&self) -> Result<Vec<MarkRule>, DatapathError> {
        let rules = read(&self.inner.host.socket).await;
        rules.map_err(failure("list routing rules", &Place::Host))
    }
}

async fn read(socket: &Socket) -> io::Result<Vec<MarkRule>> {
    let v4 = socket.rules(IpVersion::V4).await?;
    // A kernel without IPv6 has no such rules.
    let v6 = socket.rules(IpVersion::V6).await.unwrap_or_default();
    let v4 = v4.iter().filter_map(|it| mark_rule(it, false));
    let v6 = v6.iter().filter_map(|it| mark_rule(it, true));
    Ok(v4.chain(v6).collect())
}

fn mark_rule(rule: &RuleMessage, ipv6: bool) -> Option<MarkRule> {
    let (mut preference, mut mark, mut mask, mut table) = (0, None, None, None);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::Priority(it) => preference = *it,
            RuleAttribute::FwMark(it) => mark = Some(*it),
            RuleAttribute::FwMask(it) => mask = Some(*it),
            RuleAttribute::Table(it) => table = Some(*it),
            // Packets that this host sends come by `lo`.
            RuleAttribute::Iifname(it) if it != "lo" && !is_own_device(it) => return None,
            RuleAttribute::Oifname(_) => return None,
            _ => {}
        }
    }
    // The kernel leaves out a mark of 0 and tells its mask.
    if mark.is_none() && mask.is_none() {
        return None;
    }
    let table = table.unwrap_or_else(|| u32::from(rule.header.table));
    let action = match rule.header.action {
        RuleAction::ToTable => format!("lookup {table}"),
        RuleAction::Blackhole => "blackhole".to_owned(),
        RuleAction::Unreachable => "unreachable".to_owned(),
        RuleAction::Prohibit => "prohibit".to_owned(),
        RuleAction::Goto => "goto".to_owned(),
        _ => "nop".to_owned(),
    };
    Some(MarkRule {
        preference,
        mark: mark.unwrap_or_default(),
        mask: mask.unwrap_or(u32::MAX),
        not: rule.header.flags.contains(RuleFlags::Invert),
        ipv6,
        action,
    })
}
