//! Our rules in `DOCKER-USER`, Docker's chain for others' rules, by `iptables`.
//!
//! A host may have two kinds of iptables' tables, those of nftables and the legacy ones; Docker writes to
//! those of the `iptables` that it finds. We write to the tables that have the chain.

use std::io;

use bus_schema::node::DomainKind;
use netlink_packet_route::link::LinkMessage;

use super::netns::Namespace;
use super::observe::has_uplink;
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

/// The rule by which all packets return, at the end of the chain of older engines.
const RETURN_ALL: &str = "-j RETURN";

/// Whether a rule of ours is there, before a rule by which all packets return, and behind those that it
/// needs.
fn counts(rules: &[String], ours: DockerUserRule) -> bool {
    let mut reached = rules.iter().take_while(|rule| *rule != RETURN_ALL);
    let mut wanted = ours.rules().iter();
    wanted.all(|wanted| reached.any(|rule| rule == wanted))
}

/// The rules that count as present in a host without Docker's chain: those that these devices need.
pub(super) fn granted(kind: DomainKind, links: &[LinkMessage]) -> Vec<DockerUserRule> {
    let of_vrfs = (kind == DomainKind::Vrf).then_some(DockerUserRule::OF_VRFS);
    let of_uplinks = has_uplink(links).then_some(DockerUserRule::OF_UPLINKS);
    of_vrfs.into_iter().chain(of_uplinks).flatten().collect()
}

impl Datapath {
    /// Reads our rules in `DOCKER-USER`, and nothing else.
    pub async fn docker_user_rules(&self) -> Result<State, DatapathError> {
        let host = &self.inner.host;
        let seen = async {
            let granted = granted(self.kind(), &host.socket.links().await?);
            observe(&host.namespace, &granted).await
        };
        let seen = seen
            .await
            .map_err(failure("list rules of iptables", &Place::Host))?;
        let at_host = |it| Object::DockerUserRule(it).at(&Place::Host);
        Ok(seen.into_iter().map(at_host).collect())
    }
}

/// Reads the rules that are in every `DOCKER-USER` chain; those that are `granted` without such a chain.
pub(super) async fn observe(
    namespace: &Namespace,
    granted: &[DockerUserRule],
) -> io::Result<Vec<DockerUserRule>> {
    let chains = chains(namespace).await?;
    let has = |ours: &DockerUserRule| match chains.is_empty() {
        true => granted.contains(ours),
        false => chains.iter().all(|(_, rules)| counts(rules, *ours)),
    };
    Ok(DockerUserRule::ALL.into_iter().filter(has).collect())
}

/// Inserts rules into each chain that lacks them, and deletes others; one transaction a chain.
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
    let mut rules = rules.to_vec();
    let lacking: Vec<_> = put.iter().filter(|it| !counts(&rules, **it)).collect();
    // A rule that doesn't count is behind a return of all packets, or in the wrong order.
    let superfluous = lacking.iter().copied().chain(gone);
    for ours in superfluous.flat_map(|it| it.rules()) {
        for _ in rules.extract_if(.., |rule| rule == ours) {
            script += &format!("-D {chain} {ours}\n");
        }
    }
    for ours in lacking {
        let end = rules.iter().position(|rule| rule == RETURN_ALL);
        let end = end.unwrap_or(rules.len());
        let first = if ours.is_last() { end } else { 0 };
        for (at, rule) in (first..).zip(ours.rules()) {
            rules.insert(at, (*rule).to_owned());
            script += &format!("-I {chain} {} {rule}\n", at + 1);
        }
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_user_rules_count_up_to_the_first_return() {
        let ours = DockerUserRule::OF_VRFS;
        let [endpoints, nodes] = ours.map(DockerUserRule::name);
        let listed = format!(
            "-N DOCKER-USER\n-A DOCKER-USER -i eth0 -j DROP\n-A DOCKER-USER {}\n\
             -A DOCKER-USER -j RETURN\n-A DOCKER-USER {nodes}\n",
            endpoints.replace("contiv", "\"contiv\""),
        );
        let rules = rules(listed.as_bytes());
        assert_eq!(ours.map(|it| counts(&rules, it)), [true, false]);

        let anew = format!("-D DOCKER-USER {nodes}\n-I DOCKER-USER 1 {nodes}\n");
        assert_eq!(script(&rules, &ours, &[]), anew);
        let gone = format!("-D DOCKER-USER {endpoints}\n-D DOCKER-USER {nodes}\n");
        assert_eq!(script(&rules, &[], &ours), gone);
    }

    #[test]
    fn uplinks_rules_stand_behind_others_and_in_their_order() {
        let ours = DockerUserRule::FromUplinks;
        let drop = "-d 10.0.0.0/8 -j DROP".to_owned();
        let mut chain = vec![drop.clone(), RETURN_ALL.to_owned()];
        let lines = |script: &str| script.lines().map(str::to_owned).collect::<Vec<_>>();
        let [docker, bridges, all] = ours.rules() else {
            panic!("three rules");
        };
        let put = script(&chain, &[ours], &[]);
        assert_eq!(
            lines(&put),
            [
                format!("-I DOCKER-USER 2 {docker}"),
                format!("-I DOCKER-USER 3 {bridges}"),
                format!("-I DOCKER-USER 4 {all}"),
            ]
        );
        // A broad accept before the returns opens what Docker's containers don't publish.
        chain.splice(1..1, [*all, *docker, *bridges].map(str::to_owned));
        assert!(!counts(&chain, ours));
        let again = script(&chain, &[ours], &[]);
        assert_eq!(lines(&again).len(), 6, "{again}");
        chain.splice(1..4, [*docker, *bridges, *all].map(str::to_owned));
        assert!(counts(&chain, ours));
        assert_eq!(script(&chain, &[ours], &[]), "");
        // An operator's rule that comes later is still decided first.
        chain.insert(0, drop);
        assert!(counts(&chain, ours));
    }
}
