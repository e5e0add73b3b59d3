//! Docker's chain for others' rules, by `iptables` as everybody changes it.
//!
//! A host may have two kinds of tables, the newer ones of nftables and the legacy ones; Docker
//! writes to those of the `iptables` that it finds. Rules go where the chain is.

use std::io;

use bus_schema::node::DomainKind;

use super::netns::Namespace;
use super::{Datapath, DatapathError, Hindrance, Traffic, failure, hindrance, program};
use node_core::resource::{DockerUserRule, Object, Place, State};

/// A kind of tables, and the programs for it, of which the first is taken that is there.
struct Tables {
    programs: &'static [&'static str],
    legacy: bool,
}

const BOTH: [Tables; 2] = [
    Tables {
        programs: &["iptables-nft"],
        legacy: false,
    },
    Tables {
        programs: &["iptables-legacy", "iptables"],
        legacy: true,
    },
];

/// Lists the rules of the chains that a namespace has; each with its program.
async fn chains(namespace: &Namespace) -> io::Result<Vec<(&'static str, Vec<String>)>> {
    let mut found = Vec::new();
    for tables in BOTH {
        // Merely asking for a legacy table would make it.
        if tables.legacy && !has_legacy(namespace).await? {
            continue;
        }
        for program in tables.programs {
            match program::run(
                namespace,
                program,
                &["-w", "-S", DockerUserRule::CHAIN],
                String::new(),
            )
            .await
            {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
                // There is no such chain.
                Ok(output) if !output.status.success() => {}
                Ok(output) => found.push((*program, rules(&output.stdout))),
            }
            break;
        }
    }
    Ok(found)
}

/// Whether the namespace has a legacy filter table. Nothing tells of changes in those.
pub(super) async fn has_legacy(namespace: &Namespace) -> io::Result<bool> {
    // `/proc/net` would show those of the process's first thread.
    let names = || Ok(std::fs::read_to_string("/proc/thread-self/net/ip_tables_names").ok());
    let names = namespace.run(names).await?.unwrap_or_default();
    Ok(names.lines().any(|name| name == "filter"))
}

/// The rules in their order.
fn rules(listed: &[u8]) -> Vec<String> {
    let listed = String::from_utf8_lossy(listed).replace('"', "");
    let rules = listed.lines().filter_map(|line| {
        let rule = line
            .strip_prefix("-A ")?
            .strip_prefix(DockerUserRule::CHAIN)?;
        Some(rule.trim().to_owned())
    });
    rules.collect()
}

/// Whether it is there, and before all packets return.
fn counts(rules: &[String], ours: DockerUserRule) -> bool {
    let mut reached = rules.iter().take_while(|rule| *rule != "-j RETURN");
    reached.any(|rule| rule == ours.rule())
}

impl Datapath {
    /// The passages that there are, without a look at anything else.
    pub async fn passages(&self) -> Result<State, DatapathError> {
        let granted = self.kind() == DomainKind::Vrf;
        let seen = observe(&self.inner.host.namespace, granted).await;
        let seen = seen.map_err(failure("list rules of iptables", &Place::Host))?;
        let at_host = |it| Object::DockerUserRule(it).at(&Place::Host);
        Ok(seen.into_iter().map(at_host).collect())
    }

    /// What of others' firewalls drops our packets; namespaces have none of others.
    pub async fn hindrances(&self) -> Result<Vec<Hindrance>, DatapathError> {
        if self.kind() == DomainKind::Netns {
            return Ok(Vec::new());
        }
        self.hindered(&[Traffic::Forwarded, Traffic::Asked]).await
    }

    /// What of others' firewalls on this host drops such traffic.
    pub async fn hindered(&self, traffic: &[Traffic]) -> Result<Vec<Hindrance>, DatapathError> {
        let seen = hindrance::observe(&self.inner.host.namespace, traffic).await;
        seen.map_err(failure("list others' rules", &Place::Host))
    }

    /// Whether others may change rules without a sign of it.
    pub async fn has_silent_neighbours(&self) -> Result<bool, DatapathError> {
        let legacy = self.kind() == DomainKind::Vrf && {
            let seen = has_legacy(&self.inner.host.namespace).await;
            seen.map_err(failure("list tables of iptables", &Place::Host))?
        };
        Ok(legacy)
    }
}

/// Which of them there are: rules in every chain; where no chain is, those that are `granted`.
pub(super) async fn observe(
    namespace: &Namespace,
    granted: bool,
) -> io::Result<Vec<DockerUserRule>> {
    let chains = chains(namespace).await?;
    let has = |ours: &DockerUserRule| match chains.is_empty() {
        true => granted,
        false => chains.iter().all(|(_, rules)| counts(rules, *ours)),
    };
    Ok(DockerUserRule::ALL.into_iter().filter(has).collect())
}

/// Puts these first in every chain that lacks them, and takes those away; each chain at once.
pub(super) async fn change(
    namespace: &Namespace,
    put: &[DockerUserRule],
    gone: &[DockerUserRule],
) -> io::Result<()> {
    for (program, rules) in chains(namespace).await? {
        let script = script(&rules, put, gone);
        if script.is_empty() {
            continue;
        }
        let script = format!("*filter\n{script}COMMIT\n");
        let restore = format!("{program}-restore");
        let args = ["-w", "5", "--noflush"];
        let output = program::run(namespace, &restore, &args, script).await?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(said.trim().to_owned()));
        }
    }
    Ok(())
}

fn script(rules: &[String], put: &[DockerUserRule], gone: &[DockerUserRule]) -> String {
    let chain = DockerUserRule::CHAIN;
    let mut script = String::new();
    let lacking = put.iter().filter(|it| !counts(rules, **it));
    // One that doesn't count stands where no packet comes by.
    for passage in lacking.clone().chain(gone) {
        for _ in rules.iter().filter(|rule| *rule == passage.rule()) {
            script += &format!("-D {chain} {}\n", passage.rule());
        }
    }
    for passage in lacking {
        script += &format!("-I {chain} {}\n", passage.rule());
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_up_to_where_all_packets_return() {
        let ours = DockerUserRule::ALL;
        let [endpoints, nodes] = ours.map(DockerUserRule::rule);
        let listed = format!(
            "-N DOCKER-USER\n-A DOCKER-USER -i eth0 -j DROP\n-A DOCKER-USER {}\n\
             -A DOCKER-USER -j RETURN\n-A DOCKER-USER {nodes}\n",
            endpoints.replace("contiv", "\"contiv\""),
        );
        let rules = rules(listed.as_bytes());
        assert_eq!(ours.map(|it| counts(&rules, it)), [true, false]);

        let anew = format!("-D DOCKER-USER {nodes}\n-I DOCKER-USER {nodes}\n");
        assert_eq!(script(&rules, &ours, &[]), anew);
        let gone = format!("-D DOCKER-USER {endpoints}\n-D DOCKER-USER {nodes}\n");
        assert_eq!(script(&rules, &[], &ours), gone);
    }
}
