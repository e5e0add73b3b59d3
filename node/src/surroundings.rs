//! Follows the addresses around this node, of its interfaces, its resolvers and its engine's networks, and
//! its routing rules by the packet mark.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bus_schema::mark_rule::MarkRule;
use bus_schema::surroundings::{EngineSubnet, InterfaceAddress, Surroundings};
use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use tokio::sync::watch;

use crate::underlay::{ip, is_routed};
use node_core::desired::is_own_device;
use node_datapath::Datapath;
use runtime::{pause, send_if_changed};

const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Limits each list, as they are part of every status.
const MAX_ENTRIES: usize = 64;
/// systemd-resolved's list of the real resolvers. The engine uses it if `/etc/resolv.conf` has no
/// resolver but 127.0.0.53 (moby, `libnetwork/resolvconf`, `Path`).
const SYSTEMD_RESOLVED_PATH: &str = "/run/systemd/resolve/resolv.conf";

/// The files that name the resolvers of this host and of its engine's containers.
#[derive(Debug, Clone)]
pub struct ResolverFiles {
    pub resolv_conf: PathBuf,
    pub systemd_resolved: PathBuf,
    pub daemon_json: PathBuf,
}

/// The texts of [`ResolverFiles`], empty when missing.
#[derive(Debug, Default)]
pub struct ResolverTexts {
    pub resolv_conf: String,
    pub systemd_resolved: String,
    pub daemon_json: String,
}

impl Default for ResolverFiles {
    fn default() -> Self {
        Self {
            resolv_conf: "/etc/resolv.conf".into(),
            systemd_resolved: SYSTEMD_RESOLVED_PATH.into(),
            daemon_json: "/etc/docker/daemon.json".into(),
        }
    }
}

impl ResolverFiles {
    pub fn read(&self) -> ResolverTexts {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default();
        ResolverTexts {
            resolv_conf: text(&self.resolv_conf),
            systemd_resolved: text(&self.systemd_resolved),
            daemon_json: text(&self.daemon_json),
        }
    }
}

impl ResolverTexts {
    /// The resolvers that containers may ask, each once; a loopback address is asked by the host.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let mut all = nameservers(&self.resolv_conf);
        all.extend(nameservers(&self.systemd_resolved));
        all.extend(self.of_engine());
        all.retain(|it| !it.is_loopback());
        all.sort_unstable();
        all.dedup();
        all.truncate(MAX_ENTRIES);
        all
    }

    /// The resolvers in the engine's own setting `dns`.
    pub fn of_engine(&self) -> Vec<IpAddr> {
        let config: serde_json::Value = serde_json::from_str(&self.daemon_json).unwrap_or_default();
        let listed = config["dns"].as_array().into_iter().flatten();
        listed.filter_map(|it| it.as_str()?.parse().ok()).collect()
    }
}

/// The resolvers in a resolv.conf(5).
pub fn nameservers(resolv_conf: &str) -> Vec<IpAddr> {
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

/// Reads them again every [`CHECK_INTERVAL`], until nobody listens.
pub async fn watch(
    files: ResolverFiles,
    engine_subnets: watch::Receiver<Vec<EngineSubnet>>,
    datapath: Datapath,
    current: watch::Sender<Surroundings>,
) {
    while !current.is_closed() {
        let subnets = engine_subnets.borrow().clone();
        let mut found = read(&files, &subnets);
        found.mark_rules = match read_mark_rules(&datapath).await {
            Some(rules) => rules,
            None => current.borrow().mark_rules.clone(),
        };
        send_if_changed(&current, found);
        pause(CHECK_INTERVAL).await;
    }
}

/// Reads the routing rules by the packet mark; absent if the kernel doesn't answer.
async fn read_mark_rules(datapath: &Datapath) -> Option<Vec<MarkRule>> {
    match datapath.mark_rules().await {
        Ok(mut rules) => {
            rules.truncate(MAX_ENTRIES);
            Some(rules)
        }
        Err(error) => {
            tracing::debug!(%error, "can't read the routing rules");
            None
        }
    }
}

/// Reads all of them at the start, before anything is known about the engine's networks.
pub async fn first(datapath: &Datapath) -> Surroundings {
    Surroundings {
        mark_rules: read_mark_rules(datapath).await.unwrap_or_default(),
        ..read(&ResolverFiles::default(), &[])
    }
}

/// Reads the addresses once.
fn read(files: &ResolverFiles, engine_subnets: &[EngineSubnet]) -> Surroundings {
    let mut interfaces: Vec<InterfaceAddress> = getifaddrs()
        .into_iter()
        .flatten()
        .filter(|it| !is_own_device(&it.interface_name))
        .filter_map(|it| {
            let address = IpNet::with_netmask(ip(&it.address?)?, ip(&it.netmask?)?).ok()?;
            Some(InterfaceAddress {
                interface: it.interface_name,
                address,
            })
        })
        .filter(|it| is_routed(it.address.addr()))
        .collect();
    interfaces.truncate(MAX_ENTRIES);
    Surroundings {
        interfaces,
        resolvers: files.read().addresses(),
        engine_subnets: engine_subnets.iter().take(MAX_ENTRIES).cloned().collect(),
        mark_rules: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_of_all_files_are_listed_once() {
        let texts = ResolverTexts {
            resolv_conf: "nameserver 127.0.0.53\nnameserver 10.0.0.2".to_owned(),
            systemd_resolved: "nameserver 10.0.0.2\nnameserver fe80::1%eth0".to_owned(),
            daemon_json: r#"{"dns": ["10.0.0.9", "no address"]}"#.to_owned(),
        };
        let shown: Vec<String> = texts.addresses().iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.2", "10.0.0.9", "fe80::1"]);
        assert!(ResolverTexts::default().addresses().is_empty());
    }
}
