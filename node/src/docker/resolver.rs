//! Whether the containers' questions reach our DNS: the alarm `loopback-resolver`.
//!
//! Docker's resolver forwards what it doesn't know from inside the container's namespace, where we
//! catch it; but to a resolver on a loopback address it asks from the host's namespace, past us.
//! Pure; `engine` reads the files.

use std::net::IpAddr;

use bus_schema::node::{Alarm, Grade};

/// netplugin's own forwarder, in the node's root namespace.
pub(super) const FORWARDER: &str = "169.254.53.53";

/// systemd-resolved's list of the real resolvers; the engine takes it when `/etc/resolv.conf`
/// names nothing but 127.0.0.53 (moby, `libnetwork/resolvconf`, `Path`).
pub(super) const SYSTEMD_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";

/// `resolv_conf`, `systemd_resolved` and `daemon_json` are the files' texts, empty when missing.
pub(super) fn alarm(resolv_conf: &str, systemd_resolved: &str, daemon_json: &str) -> Option<Alarm> {
    let mut resolvers = nameservers(resolv_conf);
    if resolvers == [IpAddr::from([127, 0, 0, 53])] {
        resolvers = nameservers(systemd_resolved);
    }
    // The engine asks its resolvers in their order and takes the first answer, also a "no".
    let first = *resolvers.first()?;
    if !first.is_loopback() || engine_asks_us(daemon_json) {
        return None;
    }
    Some(Alarm::new(
        Grade::Wrong,
        "loopback-resolver",
        format!(
            "this host's resolver is {first}, a loopback address, which the engine asks from the host's namespace, so containers can't resolve contiv's names: put \"dns\": [\"{FORWARDER}\"] into /etc/docker/daemon.json and restart the engine"
        ),
    ))
}

fn nameservers(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let address = (words.next()? == "nameserver").then(|| words.next())??;
            // A link-local IPv6 resolver carries its interface: fe80::1%eth0.
            address.split('%').next()?.parse().ok()
        })
        .collect()
}

fn engine_asks_us(daemon_json: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(daemon_json)
        .ok()
        .and_then(|config| Some(config.get("dns")?.as_array()?.first()? == FORWARDER))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKS_US: &str = r#"{"dns": ["169.254.53.53"], "live-restore": true}"#;

    fn raised(resolv_conf: &str, systemd_resolved: &str, daemon_json: &str) -> bool {
        alarm(resolv_conf, systemd_resolved, daemon_json).is_some()
    }

    #[test]
    fn a_loopback_resolver_needs_the_engine_to_ask_us() {
        for loopback in ["nameserver 127.0.0.1", "search x\nnameserver ::1\n"] {
            assert!(raised(loopback, "", ""), "{loopback}");
            assert!(raised(loopback, "", "not json"), "{loopback}");
            assert!(
                raised(loopback, "", r#"{"dns": ["1.1.1.1"]}"#),
                "{loopback}"
            );
            assert!(!raised(loopback, "", ASKS_US), "{loopback}");
        }
    }

    #[test]
    fn a_resolver_elsewhere_is_caught_in_the_domain() {
        assert!(!raised("nameserver 10.0.0.2\nnameserver 127.0.0.1", "", ""));
        assert!(!raised("", "", ""));
    }

    #[test]
    fn behind_systemd_resolved_the_engine_asks_the_real_resolvers() {
        let stub = "nameserver 127.0.0.53\noptions edns0";
        assert!(!raised(stub, "nameserver 10.0.0.2", ""));
        assert!(raised(stub, "nameserver 127.0.0.1", ""));
        assert!(raised("nameserver 127.0.0.54", "nameserver 10.0.0.2", ""));
    }
}
