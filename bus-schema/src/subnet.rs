//! Checks whether a subnet, its gateway and its range make a network, and a range a group's pool. They
//! need no state: netmaster decides by them, and netctl checks a file before it applies it. Pure.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::command::NetworkCreate;
use crate::{AddressRange, NetworkName, Pool, Rejection};

/// Address space that containers can't have, with the reasons.
const RESERVED: [(Ipv4Addr, u8, &str); 5] = [
    (
        Ipv4Addr::UNSPECIFIED,
        8,
        "0.0.0.0/8 is \"this network\" (RFC 1122)",
    ),
    (Ipv4Addr::new(127, 0, 0, 0), 8, "127.0.0.0/8 is loopback"),
    (
        Ipv4Addr::new(169, 254, 0, 0),
        16,
        "169.254.0.0/16 is link-local, and names are answered on 169.254.53.53",
    ),
    (Ipv4Addr::new(224, 0, 0, 0), 4, "224.0.0.0/4 is multicast"),
    (
        Ipv4Addr::new(240, 0, 0, 0),
        4,
        "240.0.0.0/4 is reserved (RFC 1112)",
    ),
];

/// The pool that the command asks for.
pub fn pool(c: &NetworkCreate) -> Result<Pool, Rejection> {
    let net = match c.subnet.trunc() {
        IpNet::V4(net) => net,
        IpNet::V6(_) => return Err(no_v6()),
    };
    if c.subnet6.is_some() || c.gateway6.is_some() {
        return Err(no_v6());
    }
    let subnet = IpNet::V4(net);
    must_not_be_reserved(net)?;
    if let Some(range) = c.range {
        must_lie_inside(range, subnet)?;
    }
    let gateway = match c.gateway {
        Some(gateway) => checked_gateway(gateway, net)?,
        None => first_usable(net),
    };
    docker_name(c.docker_name.as_deref())?;
    let pool = Pool {
        subnet,
        gateway,
        range: c.range,
    };
    if has_address(&pool, net) {
        Ok(pool)
    } else {
        Err(Rejection::SubnetTooSmall { subnet })
    }
}

/// Whether an address lies in both. Host bits are masked away.
pub fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.trunc()) || other.contains(&one.trunc())
}

fn no_v6() -> Rejection {
    Rejection::Unsupported {
        what: "an IPv6 subnet".to_owned(),
        instead: "give an IPv4 one with --subnet".to_owned(),
    }
}

fn must_not_be_reserved(net: Ipv4Net) -> Result<(), Rejection> {
    for (address, prefix, reason) in RESERVED {
        let reserved = Ipv4Net::new(address, prefix);
        if reserved.is_ok_and(|it| overlap(it.into(), net.into())) {
            return Err(Rejection::SubnetReserved {
                subnet: IpNet::V4(net),
                reason: reason.to_owned(),
            });
        }
    }
    Ok(())
}

fn must_lie_inside(range: AddressRange, subnet: IpNet) -> Result<(), Rejection> {
    let inside =
        subnet.contains(&range.first) && subnet.contains(&range.last) && range.first <= range.last;
    if inside {
        Ok(())
    } else {
        Err(Rejection::RangeOutside { range, subnet })
    }
}

fn checked_gateway(gateway: IpAddr, net: Ipv4Net) -> Result<IpAddr, Rejection> {
    let subnet = IpNet::V4(net);
    if !subnet.contains(&gateway) {
        return Err(Rejection::GatewayOutside { gateway, subnet });
    }
    let edge = gateway == net.network() || gateway == net.broadcast();
    if edge && net.prefix_len() < 31 {
        return Err(Rejection::GatewayReserved { gateway, subnet });
    }
    Ok(gateway)
}

fn first_usable(net: Ipv4Net) -> IpAddr {
    let first = u32::from(net.network());
    IpAddr::V4(Ipv4Addr::from(if net.prefix_len() < 31 {
        first + 1
    } else {
        first
    }))
}

/// Whether an endpoint can have an address. At most three of a subnet are reserved, so four in a row
/// are enough to check.
fn has_address(pool: &Pool, net: Ipv4Net) -> bool {
    let (first, last) = match pool.range {
        Some(AddressRange {
            first: IpAddr::V4(first),
            last: IpAddr::V4(last),
        }) => (first, last),
        _ => (net.network(), net.broadcast()),
    };
    (u32::from(first)..=u32::from(last))
        .take(4)
        .any(|n| pool.is_assignable(IpAddr::V4(Ipv4Addr::from(n))))
}

/// Checks a name that a user chose for a Docker network; absent: none.
pub fn docker_name(name: Option<&str>) -> Result<(), Rejection> {
    let Some(name) = name else { return Ok(()) };
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let edge = name
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphanumeric());
    if edge && name.len() <= 128 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Rejection::DockerNameInvalid {
        name: name.to_owned(),
    })
}

/// The pool of a group with the addresses `range`, in a network with the pool `of_network`.
pub fn group_pool(
    range: AddressRange,
    network: &NetworkName,
    of_network: &Pool,
) -> Result<Pool, Rejection> {
    let inside = of_network.span();
    let fits =
        range.first <= range.last && inside.contains(range.first) && inside.contains(range.last);
    if !fits {
        return Err(Rejection::PoolOutside {
            pool: range,
            network: network.clone(),
            inside,
        });
    }
    if let Some(address) = reserved(range, of_network) {
        return Err(Rejection::PoolHoldsReserved {
            pool: range,
            address,
            network: network.clone(),
        });
    }
    Ok(Pool {
        range: Some(range),
        ..of_network.clone()
    })
}

/// The first address of the range that no endpoint can have.
fn reserved(range: AddressRange, network: &Pool) -> Option<IpAddr> {
    let edges = match network.subnet {
        IpNet::V4(net) => vec![IpAddr::V4(net.network()), IpAddr::V4(net.broadcast())],
        IpNet::V6(net) => vec![IpAddr::V6(net.network())],
    };
    let candidates = std::iter::once(network.gateway).chain(edges);
    let mut reserved = candidates.filter(|it| range.contains(*it) && !network.is_assignable(*it));
    reserved.next()
}
