//! Raises the alarm `loopback-resolver` if containers' queries don't reach our DNS. Pure; `engine`
//! reads the files.
//!
//! Docker's resolver forwards unknown names from inside the container's namespace, where our rules
//! redirect the queries to our server. But it sends queries to a loopback address from the host's
//! namespace, which bypasses our server.

use std::net::IpAddr;

use bus_schema::node::{Alarm, Grade};

/// The address of netplugin's own forwarder in the host's namespace.
pub(super) const FORWARDER_ADDRESS: &str = "169.254.53.53";

/// systemd-resolved's list of the real resolvers. The engine uses it if `/etc/resolv.conf` has no
/// resolver but 127.0.0.53 (moby, `libnetwork/resolvconf`, `Path`).
pub(super) const SYSTEMD_RESOLVED_PATH: &str = "/run/systemd/resolve/resolv.conf";

/// `resolv_conf`, `systemd_resolved` and `daemon_json` are the files' texts, empty when missing.
pub(super) fn alarm(resolv_conf: &str, systemd_resolved: &str, daemon_json: &str) -> Option<Alarm> {
    let mut resolvers = nameservers(resolv_conf);
    if resolvers == [IpAddr::from([127, 0, 0, 53])] {
        resolvers = nameservers(systemd_resolved);
    }
    // The engine asks its resolvers in order and takes the first answer, also a negative one.
    let first = *resolvers.first()?;
    if !first.is_loopback() || uses_our_forwarder(daemon_json) {
        return None;
    }
    Some(Alarm::new(
        Grade::Wrong,
        "loopback-resolver",
        format!(
            "this host's resolver is {first}, a loopback address: the engine queries it from the host's namespace, so containers can't resolve contiv's names: put \"dns\": [\"{FORWARDER_ADDRESS}\"] into /etc/docker/daemon.json and restart the engine"
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

fn uses_our_forwarder(daemon_json: &str) -> bool {
    serde_json::from_str::<serde_json::Value>(daemon_json)
        .ok()
        .and_then(|config| Some(config.get("dns")?.as_array()?.first()? == FORWARDER_ADDRESS))
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON_JSON_WITH_US: &str = r#"{"dns": ["169.254.53.53"], "live-restore": true}"#;

    fn raised(resolv_conf: &str, systemd_resolved: &str, daemon_json: &str) -> bool {
        alarm(resolv_conf, systemd_resolved, daemon_json).is_some()
    }

    #[test]
    fn loopback_resolver_raises_the_alarm_unless_the_engine_asks_us() {
        for loopback in ["nameserver 127.0.0.1", "search x\nnameserver ::1\n"] {
            assert!(raised(loopback, "", ""), "{loopback}");
            assert!(raised(loopback, "", "not json"), "{loopback}");
            assert!(
                raised(loopback, "", r#"{"dns": ["1.1.1.1"]}"#),
                "{loopback}"
            );
            assert!(!raised(loopback, "", DAEMON_JSON_WITH_US), "{loopback}");
        }
    }

    #[test]
    fn other_resolvers_raise_no_alarm() {
        assert!(!raised("nameserver 10.0.0.2\nnameserver 127.0.0.1", "", ""));
        assert!(!raised("", "", ""));
    }

    #[test]
    fn engine_behind_systemd_resolved_asks_the_real_resolvers() {
        let stub = "nameserver 127.0.0.53\noptions edns0";
        assert!(!raised(stub, "nameserver 10.0.0.2", ""));
        assert!(raised(stub, "nameserver 127.0.0.1", ""));
        assert!(raised("nameserver 127.0.0.54", "nameserver 10.0.0.2", ""));
    }
}
