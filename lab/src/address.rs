//! The addresses of a lab: subnet 198.18.N.0/24 (RFC 2544's range for tests), with a different N for
//! each lab on the machine.

use std::net::Ipv4Addr;

/// The machine's own address in the underlay.
pub(crate) fn machine(subnet: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, subnet, 254)
}

/// The address of a host of the bus; `number` is 1 to 3.
pub(crate) fn ctl(subnet: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, subnet, 1 + number)
}

/// The address of a node; `number` counts from 1.
pub(crate) fn node(subnet: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, subnet, 10 + number)
}

/// The machine's interface into the lab. Creating it claims the subnet, since the kernel refuses a
/// second interface of this name.
pub(crate) fn interface(subnet: u8) -> String {
    format!("contivlab{subnet}")
}
