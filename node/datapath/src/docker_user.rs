//! Our rules in `DOCKER-USER`, Docker's chain for others' rules, by `iptables`.
//!
//! A host may have two kinds of iptables' tables, those of nftables and the legacy ones; Docker writes to
//! those of the `iptables` that it finds. We write to the tables that have the chain.

use std::io;

use bus_schema::node::DomainKind;

use super::netns::Namespace;
use super::{Datapath, DatapathError, command, failure};
use node_core::resource::{DockerUserRule, Object, Place, State};

/// A kind of tables, and the programs for it; the first one that is installed is used.
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

/// Lists the rules of the namespace's `DOCKER-USER` chains; each with its program.
async fn chains(namespace: &Namespace) -> io::Result<Vec<(&'static str, Vec<String>)>> {
    let mut found = Vec::new();
    for tables in BOTH {
        // Listing a legacy table would make it.
        if tables.legacy && !has_legacy(namespace).await? {
            continue;
        }
        for program in tables.programs {
            match command::run(
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

/// Whether the namespace has a legacy filter table. The kernel doesn't notify of its changes.
pub(super) async fn has_legacy(namespace: &Namespace) -> io::Result<bool> {
    // `/proc/net` has those of the process's first thread.
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

/// Whether a rule of ours is there, before a rule by which all packets return.
fn counts(rules: &[String], ours: DockerUserRule) -> bool {
    let mut reached = rules.iter().take_while(|rule| *rule != "-j RETURN");
    reached.any(|rule| rule == ours.rule())
}

impl Datapath {
    /// Reads our rules in `DOCKER-USER`, and nothing else.
    pub async fn docker_user_rules(&self) -> Result<State, DatapathError> {
        let granted = self.kind() == DomainKind::Vrf;
        let seen = observe(&self.inner.host.namespace, granted).await;
        let seen = seen.map_err(failure("list rules of iptables", &Place::Host))?;
        let at_host = |it| Object::DockerUserRule(it).at(&Place::Host);
        Ok(seen.into_iter().map(at_host).collect())
    }
}

/// Reads the rules that are in every `DOCKER-USER` chain. `granted`: without such a chain, all count as
/// present.
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

/// Inserts rules at the top of each chain that lacks them, and deletes others; one transaction a chain.
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
        let output = command::run(namespace, &restore, &args, script).await?;
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
    // A rule that doesn't count is behind a return of all packets.
    for ours in lacking.clone().chain(gone) {
        for _ in rules.iter().filter(|rule| *rule == ours.rule()) {
            script += &format!("-D {chain} {}\n", ours.rule());
        }
    }
    for ours in lacking {
        script += &format!("-I {chain} {}\n", ours.rule());
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_user_rules_count_up_to_the_first_return() {
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
