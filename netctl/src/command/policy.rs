//! Policies and their rules.

use std::collections::BTreeMap;

use bus_schema::command::{PolicyApply, PolicyCreate, PolicyRemove, RuleAdd, RuleRemove};
use bus_schema::node::{Counter, NodeReply, NodeRequest};
use bus_schema::query::PolicyInfo;
use bus_schema::{Answer, Command, NodeName, PolicyName, Query, Rejection, RuleId, TenantName};
use clap::{Args, Subcommand};
use futures::future::join_all;
use serde_json::{Value, json};

use super::wait::Waiting;
use super::{COMMAND, OfTenant, OfTenants, node, rule};
use crate::cli::{Asking, Inspecting, Listing};
use crate::client::{Session, unexpected};
use crate::failure::Failure;
use crate::output::{self, Format, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Create a policy: rules say what it forbids and allows, groups use it
    #[command(
        after_help = "Example, only HTTP and HTTPS to the members of a group:\n  netctl policy create prod_web\n  netctl policy rule-add prod_web 1 -direction=in -protocol=tcp -action=deny\n  netctl policy rule-add prod_web 2 -direction=in -protocol=tcp -port=80,443 -action=allow -priority=10\n  netctl group create contiv-net web -policy=prod_web"
    )]
    Create {
        policy: PolicyName,
        #[command(flatten)]
        of: OfTenant,
        #[command(flatten)]
        asking: Asking,
    },
    /// Remove a policy that no group uses, with its rules
    #[command(visible_alias = "delete")]
    Rm {
        policy: PolicyName,
        #[command(flatten)]
        of: OfTenant,
        #[command(flatten)]
        asking: Asking,
    },
    /// List policies
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        of: OfTenants,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show a policy: who uses it, its rules, and how often each decided
    #[command(
        after_help = "Packets and bytes count what opened connections, summed over the nodes that answer; the\nothers are named under notCounted.\n\nExample:\n  netctl policy inspect prod_web"
    )]
    Inspect {
        policy: PolicyName,
        #[command(flatten)]
        of: OfTenant,
        #[command(flatten)]
        inspecting: Inspecting,
    },
    /// Add a rule, and wait until the nodes enforce it
    #[command(
        after_help = "The rule with the highest priority decides, at equal priority a deny, then the lower id; where\nno rule matches, connections are allowed. Replies pass with their connection, and a connection\nthat stands outlives a new deny, unless --immediate ends it.\n\nExamples:\n  netctl policy rule-add prod_web 1 -direction=in -protocol=tcp -action=deny\n  netctl policy rule-add prod_web 2 -protocol=tcp -port=80,8000-8100 -from-group=lb -priority=10\n  netctl policy rule-add prod_web 3 -direction=out -to-ip-address=10.1.1.1-20 -action=deny --immediate"
    )]
    RuleAdd(Box<Add>),
    /// Remove a rule
    RuleRm {
        policy: PolicyName,
        #[arg(value_name = "ID")]
        rule: RuleId,
        #[command(flatten)]
        of: OfTenant,
        /// Also end the connections that aren't allowed without it
        #[arg(long)]
        immediate: bool,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        asking: Asking,
    },
    /// List a policy's rules
    RuleLs {
        policy: PolicyName,
        #[command(flatten)]
        of: OfTenants,
        #[command(flatten)]
        listing: Listing,
    },
    /// End the connections that a policy doesn't allow, now and once
    #[command(after_help = "Example:\n  netctl policy apply --immediate prod_web")]
    Apply {
        policy: PolicyName,
        #[command(flatten)]
        of: OfTenant,
        /// Yes: connections are cut
        #[arg(long, required = true)]
        immediate: bool,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        asking: Asking,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    policy: PolicyName,
    #[arg(value_name = "ID")]
    rule: RuleId,
    #[command(flatten)]
    of: OfTenant,
    #[command(flatten)]
    flags: rule::Flags,
    /// Also end the connections that the policy then doesn't allow any more
    #[arg(long)]
    immediate: bool,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    asking: Asking,
}

impl Verb {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::RuleAdd(add) => add.flags.spec().map(|_| ()),
            _ => Ok(()),
        }
    }
}

pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { policy, of, asking } => {
            let tenant = of.tenant;
            output::print(&format!("Creating policy {tenant}:{policy}\n"))?;
            let command = Command::PolicyCreate(PolicyCreate { tenant, policy });
            let done = session.command(command, asking.command_id, COMMAND).await?;
            output::print(&done.to_string())
        }
        Verb::Rm { policy, of, asking } => {
            let tenant = of.tenant;
            output::print(&format!("Deleting policy {tenant}:{policy}\n"))?;
            let command = Command::PolicyRemove(PolicyRemove { tenant, policy });
            let done = session.command(command, asking.command_id, COMMAND).await?;
            output::print(&done.to_string())
        }
        Verb::Ls { of, listing } => {
            let policies = list(session, of.tenant(), None).await?;
            output::print(&listed(&policies, &listing)?)
        }
        Verb::Inspect {
            policy,
            of,
            inspecting,
        } => {
            let info = one(session, of.tenant, policy).await?;
            let counted = counters(session, &info.tenant).await?;
            let value = inspected(&info, &counted);
            output::print(&output::document(&value, inspecting.format())?)
        }
        Verb::RuleAdd(add) => rule_add(session, *add).await,
        Verb::RuleRm {
            policy,
            rule,
            of,
            immediate,
            waiting,
            asking,
        } => {
            let command = Command::RuleRemove(RuleRemove {
                tenant: of.tenant,
                policy,
                rule,
                immediate,
            });
            change(session, command, asking, waiting).await
        }
        Verb::RuleLs {
            policy,
            of,
            listing,
        } => {
            let policies = match of.tenant() {
                Some(tenant) => vec![one(session, tenant, policy).await?],
                None => {
                    let mut all = list(session, None, None).await?;
                    all.retain(|info| info.policy == policy);
                    all
                }
            };
            output::print(&rules_listed(&policies, &listing)?)
        }
        Verb::Apply {
            policy,
            of,
            waiting,
            asking,
            ..
        } => {
            let tenant = of.tenant;
            let command = Command::PolicyApply(PolicyApply { tenant, policy });
            change(session, command, asking, waiting).await
        }
    }
}

async fn rule_add(session: &mut Session, add: Add) -> Result<(), Failure> {
    let command = Command::RuleAdd(RuleAdd {
        tenant: add.of.tenant,
        policy: add.policy,
        rule: add.rule,
        spec: add.flags.spec()?,
        immediate: add.immediate,
    });
    change(session, command, add.asking, add.waiting).await
}

/// What nodes are to enforce before the next line of a script.
async fn change(
    session: &mut Session,
    command: Command,
    asking: Asking,
    waiting: Waiting,
) -> Result<(), Failure> {
    let accepted = session.command(command, asking.command_id, COMMAND).await?;
    output::print(&accepted.to_string())?;
    waiting.applied(session, &accepted).await;
    Ok(())
}

pub(crate) async fn list(
    session: &mut Session,
    tenant: Option<TenantName>,
    policy: Option<PolicyName>,
) -> Result<Vec<PolicyInfo>, Failure> {
    match session.ask(Query::PolicyList { tenant, policy }).await? {
        Answer::Policies { policies, .. } => Ok(policies),
        answer => Err(unexpected(&answer)),
    }
}

async fn one(
    session: &mut Session,
    tenant: TenantName,
    policy: PolicyName,
) -> Result<PolicyInfo, Failure> {
    let found = list(session, Some(tenant.clone()), Some(policy.clone())).await?;
    let unknown = || session.refuse(&Rejection::PolicyUnknown { tenant, policy });
    found.into_iter().next().ok_or_else(unknown)
}

/// Counters of a tenant's rules, by their numbers.
#[derive(Debug, Default)]
struct Counted {
    rules: BTreeMap<u32, Counter>,
    nodes: Vec<NodeName>,
    /// Who didn't answer, and why.
    missing: BTreeMap<NodeName, String>,
}

impl Counted {
    fn add(&mut self, node: NodeName, answer: Result<NodeReply, Failure>) {
        let why = match answer {
            Ok(NodeReply::Counters { rules }) => {
                self.nodes.push(node);
                for (number, counter) in rules {
                    let sum = self.rules.entry(number).or_default();
                    sum.packets = sum.packets.saturating_add(counter.packets);
                    sum.bytes = sum.bytes.saturating_add(counter.bytes);
                }
                return;
            }
            Ok(NodeReply::Refused { reason }) => reason,
            Ok(_) => "it answers something else: is it of another version?".to_owned(),
            Err(failure) => failure.to_string(),
        };
        self.missing.insert(node, why);
    }
}

/// Asks every live node at once.
async fn counters(session: &mut Session, tenant: &TenantName) -> Result<Counted, Failure> {
    let nodes = node::list(session, None).await?;
    let (alive, silent): (Vec<_>, Vec<_>) = nodes.into_iter().partition(|info| info.alive);
    let request = NodeRequest::Counters {
        tenant: tenant.clone(),
    };
    let asked = alive.iter().map(|info| session.node(&info.node, &request));
    let answers = join_all(asked).await;
    let mut counted = Counted::default();
    for info in silent {
        let why = "nothing is heard of it".to_owned();
        counted.missing.insert(info.node, why);
    }
    for (info, answer) in alive.into_iter().zip(answers) {
        counted.add(info.node, answer);
    }
    Ok(counted)
}

fn listed(policies: &[PolicyInfo], listing: &Listing) -> Result<String, Failure> {
    if listing.quiet {
        return Ok(policies.iter().map(|p| format!("{}\n", p.policy)).collect());
    }
    match listing.format() {
        format @ (Format::Table | Format::Wide) => {
            let mut table = Table::new(&["Tenant", "Policy", "Rules", "Groups"], &["Revision"]);
            for info in policies {
                table.row(vec![
                    info.tenant.to_string(),
                    info.policy.to_string(),
                    info.rules.len().to_string(),
                    groups(info),
                    info.created.to_string(),
                ]);
            }
            Ok(table.render(format))
        }
        format => {
            let all = policies.iter().map(|info| {
                let mut value = config(info);
                value["Oper"] = json!({ "groups": info.groups, "numRules": info.rules.len() });
                value
            });
            output::document(&Value::Array(all.collect()), format)
        }
    }
}

fn groups(info: &PolicyInfo) -> String {
    let names: Vec<&str> = info.groups.iter().map(|g| g.as_str()).collect();
    names.join(",")
}

fn rules_listed(policies: &[PolicyInfo], listing: &Listing) -> Result<String, Failure> {
    let rules = policies
        .iter()
        .flat_map(|info| info.rules.iter().map(move |rule| (info, rule)));
    if listing.quiet {
        return Ok(rules.map(|(_, rule)| format!("{}\n", rule.id)).collect());
    }
    match listing.format() {
        Format::Table | Format::Wide => Ok(policies
            .iter()
            .map(|info| rule::tables(&info.rules))
            .collect()),
        format => {
            let all = rules.map(|(info, rule)| rule::config(&info.tenant, &info.policy, rule));
            output::document(&Value::Array(all.collect()), format)
        }
    }
}

fn config(info: &PolicyInfo) -> Value {
    json!({
        "key": format!("{}:{}", info.tenant, info.policy),
        "policyName": info.policy,
        "tenantName": info.tenant,
    })
}

fn inspected(info: &PolicyInfo, counted: &Counted) -> Value {
    let rules = info.rules.iter().map(|rule| {
        let mut value = rule::config(&info.tenant, &info.policy, rule);
        let counter = counted.rules.get(&rule.number);
        let counter = counter.copied().unwrap_or_default();
        value["packets"] = json!(counter.packets);
        value["bytes"] = json!(counter.bytes);
        value
    });
    json!({
        "Config": config(info),
        "Oper": {
            "groups": info.groups,
            "rules": rules.collect::<Vec<_>>(),
            "countedNodes": counted.nodes,
            "notCounted": counted.missing,
            "createdRevision": info.created,
        },
    })
}

#[cfg(test)]
mod tests {
    use bus_schema::policy::{Action, Direction, Priority};
    use bus_schema::{Revision, Rule, RuleSpec};

    use super::*;

    fn info() -> PolicyInfo {
        let rule = |id: &str, number| Rule {
            id: id.parse().unwrap(),
            number,
            spec: RuleSpec {
                direction: Direction::In,
                priority: Priority::DEFAULT,
                action: Action::Deny,
                protocol: None,
                ports: vec![],
                peer: None,
            },
        };
        PolicyInfo {
            tenant: TenantName::default_tenant(),
            policy: "prod_web".parse().unwrap(),
            created: Revision(5),
            rules: vec![rule("1", 7), rule("2", 8)],
            groups: vec!["web".parse().unwrap()],
        }
    }

    fn counters(packets: u64) -> NodeReply {
        let counter = Counter {
            packets,
            bytes: packets * 60,
        };
        NodeReply::Counters {
            rules: [(7, counter)].into(),
        }
    }

    #[test]
    fn counters_are_summed_and_who_is_missing_is_named() {
        let mut counted = Counted::default();
        counted.add("n1".parse().unwrap(), Ok(counters(2)));
        counted.add("n2".parse().unwrap(), Ok(counters(3)));
        let away = Failure::Unreachable("no answer".to_owned());
        counted.add("n3".parse().unwrap(), Err(away));
        let reason = "catching up".to_owned();
        counted.add("n4".parse().unwrap(), Ok(NodeReply::Refused { reason }));
        let oper = &inspected(&info(), &counted)["Oper"];
        assert_eq!(oper["rules"][0]["packets"], 5);
        assert_eq!(oper["rules"][0]["bytes"], 300);
        assert_eq!(oper["rules"][1]["packets"], 0);
        assert_eq!(oper["countedNodes"], json!(["n1", "n2"]));
        let missing = json!({ "n3": "no answer", "n4": "catching up" });
        assert_eq!(oper["notCounted"], missing);
        assert_eq!(oper["groups"], json!(["web"]));
    }

    #[test]
    fn quiet_names_only() {
        let policies = [info()];
        let quiet = Listing::quiet();
        assert_eq!(listed(&policies, &quiet).unwrap(), "prod_web\n");
        assert_eq!(rules_listed(&policies, &quiet).unwrap(), "1\n2\n");
    }
}
