//! Raises the alarm `loopback-resolver` if containers' queries don't reach our DNS. Pure; `engine`
//! reads the files.
//!
//! Docker's resolver forwards unknown names from inside the container's namespace, where our rules
//! redirect the queries to our server. But it sends queries to a loopback address from the host's
//! namespace, which bypasses our server.

use std::net::IpAddr;

use bus_schema::node::{Alarm, Grade};

use crate::surroundings::{ResolverTexts, nameservers};

/// The address of netplugin's own forwarder in the host's namespace.
pub(super) const FORWARDER_ADDRESS: &str = "169.254.53.53";

pub(super) fn alarm(texts: &ResolverTexts) -> Option<Alarm> {
    let mut resolvers = nameservers(&texts.resolv_conf);
    if resolvers == [IpAddr::from([127, 0, 0, 53])] {
        resolvers = nameservers(&texts.systemd_resolved);
    }
    // The engine asks its resolvers in order and takes the first answer, also a negative one.
    let first = *resolvers.first()?;
    if !first.is_loopback() || uses_our_forwarder(texts) {
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

fn uses_our_forwarder(texts: &ResolverTexts) -> bool {
    let first = texts.of_engine().first().copied();
    first.is_some_and(|it| it.to_string() == FORWARDER_ADDRESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAEMON_JSON_WITH_US: &str = r#"{"dns": ["169.254.53.53"], "live-restore": true}"#;

    fn raised(resolv_conf: &str, systemd_resolved: &str, daemon_json: &str) -> bool {
        let texts = ResolverTexts {
            resolv_conf: resolv_conf.to_owned(),
            systemd_resolved: systemd_resolved.to_owned(),
            daemon_json: daemon_json.to_owned(),
        };
        alarm(&texts).is_some()
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
