//! Who has which address in a lab: subnet 198.18.N.0/24 (RFC 2544's range for tests), where N
//! tells labs on one machine apart.

use std::net::Ipv4Addr;

/// The machine's own leg in the underlay.
pub(crate) fn machine(subnet: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, subnet, 254)
}

/// `number` counts from 1, up to 3.
pub(crate) fn ctl(subnet: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, subnet, 1 + number)
}

/// `number` counts from 1.
pub(crate) fn node(subnet: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, subnet, 10 + number)
}

/// The machine's interface into the lab. Making it claims the subnet: the kernel refuses a second.
pub(crate) fn interface(subnet: u8) -> String {
    format!("contivlab{subnet}")
}
