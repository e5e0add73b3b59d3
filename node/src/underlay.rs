//! Selects this machine's outer address: `--underlay IF|CIDR|ADDR`.

use std::net::IpAddr;

use std::time::Duration;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;
use tokio::sync::watch;

use node_datapath::Datapath;
use runtime::pause;

/// Time between two checks of the machine's addresses.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Another address is used after so many checks with the same result: a DHCP client may remove an
/// address and add it again.
const STEADY_CHECKS: u32 = 2;

/// No address was found; each message has a remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnderlayError {
    #[error("no interface has an address that matches --underlay {asked}; this machine has {}", list(.has))]
    None {
        asked: String,
        has: Vec<(String, IpAddr)>,
    },
    #[error("--underlay {asked} matches several addresses: {}; select one of them", list(.found))]
    Several {
        asked: String,
        found: Vec<(String, IpAddr)>,
    },
    #[error("can't list this machine's addresses: {0}")]
    System(String),
}

fn list(addresses: &[(String, IpAddr)]) -> String {
    let items = addresses.iter().map(|(name, it)| format!("{it} ({name})"));
    items.collect::<Vec<_>>().join(", ")
}

/// The address that matches `asked` on this machine; the one that the log has for this node, if no
/// interface has the name `asked` any more. Of several on one interface (keepalived and
/// kube-vip add some) it is `logged`, the one that the log has for this node, else the first, which is
/// the primary one: the kernel lists addresses in that order.
pub fn resolve(asked: &str, logged: Option<IpAddr>) -> Result<IpAddr, UnderlayError> {
    let mut has = addresses().map_err(|error| UnderlayError::System(error.to_string()))?;
    has.retain(|(_, address)| is_routed(*address));
    let address = pick(asked, has, logged)?;
    let name = interface_of(address).unwrap_or_default();
    if is_name(asked) && name != asked {
        tracing::warn!(
            asked,
            name,
            "the underlay's interface has another name now: change --underlay"
        );
    }
    Ok(address)
}

/// Whether `--underlay` names an interface.
fn is_name(asked: &str) -> bool {
    asked.parse::<IpAddr>().is_err() && asked.parse::<IpNet>().is_err()
}

/// A change of this machine's outer address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    None,
    /// No interface has it any more; the text says why there is no other.
    Gone(String),
    /// `--underlay` matches this one now.
    To(IpAddr),
}

/// Compares the outer address `vtep`, which matched `asked` before, with this machine's addresses.
pub fn change(asked: &str, vtep: IpAddr) -> Change {
    match (interface_of(vtep), resolve(asked, None)) {
        (Some(_), _) => Change::None,
        (None, Ok(other)) => Change::To(other),
        (None, Err(error)) => Change::Gone(error.to_string()),
    }
}

/// Publishes changes in `current`; returns when another address has matched for [`STEADY_CHECKS`].
pub async fn watch(asked: String, vtep: IpAddr, current: watch::Sender<Change>) {
    let mut since = 0;
    loop {
        pause(CHECK_INTERVAL).await;
        let found = change(&asked, vtep);
        let same = *current.borrow() == found;
        since = if same { since + 1 } else { 0 };
        if !same {
            current.send_replace(found.clone());
        }
        if matches!(found, Change::To(_)) && since >= STEADY_CHECKS {
            return;
        }
    }
}

/// Returns when the interface with the outer address has had another MTU than `mtu` for
/// [`STEADY_CHECKS`]. An address that no interface has is a change of its own.
pub async fn watch_mtu(datapath: Datapath, vtep: IpAddr, mtu: u32) {
    let mut since = 0;
    while since <= STEADY_CHECKS {
        pause(CHECK_INTERVAL).await;
        let now = datapath.link_mtu(vtep).await.ok().flatten();
        since = match now.is_some_and(|now| now != mtu) {
            true => since + 1,
            false => 0,
        };
    }
}

/// The interface with this address; `None` if there is none.
pub fn interface_of(address: IpAddr) -> Option<String> {
    let has = addresses().ok()?;
    has.into_iter()
        .find_map(|(name, it)| (it == address).then_some(name))
}

fn addresses() -> nix::Result<Vec<(String, IpAddr)>> {
    let addresses = getifaddrs()?.filter_map(|interface| {
        let address = ip(&interface.address?)?;
        Some((interface.interface_name, address))
    });
    Ok(addresses.collect())
}

pub(crate) fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
    v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
}

/// Whether routers forward packets to the address.
pub(crate) fn is_routed(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    !address.is_loopback() && !link_local
}

/// Selects by address, by network, or by interface; IPv4 before IPv6.
fn pick(
    asked: &str,
    has: Vec<(String, IpAddr)>,
    logged: Option<IpAddr>,
) -> Result<IpAddr, UnderlayError> {
    let means = |name: &str, address: IpAddr| {
        if let Ok(exact) = asked.parse::<IpAddr>() {
            return address == exact;
        }
        match asked.parse::<IpNet>() {
            Ok(net) => net.trunc().contains(&address),
            Err(_) => name == asked,
        }
    };
    let all = has.iter().filter(|(name, address)| means(name, *address));
    let mut found: Vec<_> = all.cloned().collect();
    if found.iter().any(|(_, address)| address.is_ipv4()) {
        found.retain(|(_, address)| address.is_ipv4());
    }
    let is_renamed = is_name(asked) && !has.iter().any(|(name, _)| name == asked);
    let candidates = if is_renamed { &has } else { &found };
    if let Some(logged) = logged.filter(|it| candidates.iter().any(|(_, address)| address == it)) {
        return Ok(logged);
    }
    let asked = asked.to_owned();
    match found.as_slice() {
        [] => Err(UnderlayError::None { asked, has }),
        [(interface, address), others @ ..] if others.iter().all(|(it, _)| it == interface) => {
            Ok(*address)
        }
        _ => Err(UnderlayError::Several { asked, found }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine() -> Vec<(String, IpAddr)> {
        [
            ("eth0", "10.0.2.15"),
            ("eth1", "192.168.2.10"),
            ("eth1", "fd00::10"),
            ("eth2", "172.16.0.1"),
            ("eth2", "172.16.0.2"),
        ]
        .map(|(name, address)| (name.to_owned(), address.parse().unwrap()))
        .to_vec()
    }

    #[test]
    fn underlay_is_selected_by_interface_network_or_address() {
        for asked in ["eth1", "192.168.0.0/16", "192.168.2.1/24", "192.168.2.10"] {
            let address = pick(asked, machine(), None).unwrap();
            assert_eq!(address.to_string(), "192.168.2.10", "{asked}");
        }
    }

    #[test]
    fn no_match_and_several_matches_are_errors() {
        for asked in ["eth9", "10.9.0.0/16", "10.0.2.16", ""] {
            let error = pick(asked, machine(), None).unwrap_err();
            assert!(matches!(error, UnderlayError::None { .. }), "{asked}");
            assert!(error.to_string().contains("192.168.2.10 (eth1)"));
        }
        let error = pick("0.0.0.0/0", machine(), None).unwrap_err();
        assert!(matches!(error, UnderlayError::Several { .. }));
    }

    #[test]
    fn interface_with_a_new_name_is_found_by_its_logged_address() {
        let logged = "172.16.0.2".parse().ok();
        for asked in ["eth9", "eth2"] {
            let address = pick(asked, machine(), logged).unwrap();
            assert_eq!(Some(address), logged, "{asked}");
        }
        for asked in ["10.9.0.0/16", "10.0.2.16"] {
            pick(asked, machine(), logged).unwrap_err();
        }
        let elsewhere = "10.9.9.9".parse().ok();
        pick("eth9", machine(), elsewhere).unwrap_err();
    }

    #[test]
    fn logged_or_first_address_of_an_interface_is_selected() {
        let pick = |logged: Option<&str>| {
            let logged = logged.map(|it| it.parse().unwrap());
            pick("eth2", machine(), logged).unwrap().to_string()
        };
        assert_eq!(pick(None), "172.16.0.1");
        assert_eq!(pick(Some("172.16.0.2")), "172.16.0.2");
        assert_eq!(pick(Some("172.16.0.9")), "172.16.0.1", "no such address");
        assert_eq!(
            pick(Some("192.168.2.10")),
            "172.16.0.1",
            "another interface"
        );
    }
}
