//! Rules like those of a big and careless tenant: mixed ports, overlapping ranges, CIDRs, groups, twenty
//! priorities. None matches the measured flow, so the kernel may evaluate each, and the flow still passes.

use std::net::{IpAddr, Ipv4Addr};

use bus_schema::policy::{Action, Direction, Peer, PortRange, Priority, Protocol};
use bus_schema::{AddressRange, GroupName, RuleSpec};

use chaos_tests::traffic::{ACCEPT_PORT, SINK_PORT};

pub(crate) fn draw(random: &mut fastrand::Rng, groups: &[GroupName]) -> RuleSpec {
    let peer = match random.u8(..10) {
        0..4 => Some(Peer::Group {
            group: groups[random.usize(..groups.len())].clone(),
        }),
        4..8 => Some(Peer::Addresses {
            range: cidr(random),
        }),
        _ => None,
    };
    RuleSpec {
        direction: Direction::In,
        priority: Priority::new(random.u8(1..=20)).unwrap_or(Priority::DEFAULT),
        action: if random.bool() {
            Action::Allow
        } else {
            Action::Deny
        },
        protocol: Some(if random.u8(..4) > 0 {
            Protocol::TCP
        } else {
            Protocol::UDP
        }),
        ports: vec![ports(random)],
        peer,
    }
}

fn ports(random: &mut fastrand::Rng) -> PortRange {
    loop {
        let first = random.u16(1..60_000);
        let length = if random.bool() {
            0
        } else {
            random.u16(1..2_000)
        };
        let range = PortRange {
            first,
            last: first + length,
        };
        if !range.contains(ACCEPT_PORT) && !range.contains(SINK_PORT) {
            return range;
        }
    }
}

fn cidr(random: &mut fastrand::Rng) -> AddressRange {
    let bits = 32 - u32::from(random.u8(12..=32));
    let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
    let first = random.u32(..) & mask;
    let address = |bits| IpAddr::V4(Ipv4Addr::from_bits(bits));
    AddressRange {
        first: address(first),
        last: address(first | !mask),
    }
}
