//! `netctl policy`: policies and their rules.

use bus_schema::command::{PolicyApply, PolicyCreate, PolicyRemove, RuleAdd, RuleRemove};
use bus_schema::query::PolicyInfo;
use bus_schema::{Answer, Command, PolicyName, Query, Rejection, RuleId, TenantName};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::counters::CounterSum;
use super::flags::{ChangeFlags, InspectFlags, ListFlags, TenantFlag, TenantsFlags};
use super::wait::WaitFlag;
use super::{change, counters, egress, rule};
use crate::client::{Session, unexpected_answer};
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Create a policy: its rules allow or deny connections of the groups that use it
    #[command(
        after_help = "Example, allow only HTTP and HTTPS to the members of a group:\n  netctl policy create prod_web\n  netctl policy rule-add prod_web 1 -direction=in -protocol=tcp -action=deny\n  netctl policy rule-add prod_web 2 -direction=in -protocol=tcp -port=80,443 -action=allow -priority=10\n  netctl group create contiv-net web -policy=prod_web"
    )]
    Create {
        policy: PolicyName,
        #[command(flatten)]
        of: TenantFlag,
        #[command(flatten)]
        flags: ChangeFlags,
    },
    /// Remove a policy that no group uses, with its rules
    #[command(visible_alias = "delete")]
    Rm {
        policy: PolicyName,
        #[command(flatten)]
        of: TenantFlag,
        #[command(flatten)]
        flags: ChangeFlags,
    },
    /// List policies
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        of: TenantsFlags,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Show a policy with its groups, its rules and their counters
    #[command(
        after_help = "The counters contain the packets and bytes that opened connections, summed over the nodes that\nanswer; notCounted names the other nodes.\n\nExample:\n  netctl policy inspect prod_web"
    )]
    Inspect {
        policy: PolicyName,
        #[command(flatten)]
        of: TenantFlag,
        #[command(flatten)]
        flags: InspectFlags,
    },
    /// Add a rule, and wait until the nodes enforce it
    #[command(
        after_help = "The matching rule with the highest priority wins; on a tie deny wins, then the lower id. If no rule\nmatches, the connection is allowed. Replies of an allowed connection are allowed. An established\nconnection survives a new deny, unless --immediate ends it.\n\nExamples:\n  netctl policy rule-add prod_web 1 -direction=in -protocol=tcp -action=deny\n  netctl policy rule-add prod_web 2 -protocol=tcp -port=80,8000-8100 -from-group=lb -priority=10\n  netctl policy rule-add prod_web 3 -direction=out -to-ip-address=10.1.1.1-20 -action=deny --immediate\n  netctl policy rule-add prod_web 4 -direction=out -to-ip-address=world -action=deny"
    )]
    RuleAdd(Box<RuleAddOptions>),
    /// Remove a rule
    RuleRm {
        policy: PolicyName,
        #[arg(value_name = "ID")]
        rule: RuleId,
        #[command(flatten)]
        of: TenantFlag,
        /// Also end connections that aren't allowed without the rule
        #[arg(long)]
        immediate: bool,
        #[command(flatten)]
        wait: WaitFlag,
        #[command(flatten)]
        flags: ChangeFlags,
    },
    /// List a policy's rules
    RuleLs {
        policy: PolicyName,
        #[command(flatten)]
        of: TenantsFlags,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// End, once, the established connections that a policy doesn't allow
    #[command(after_help = "Example:\n  netctl policy apply --immediate prod_web")]
    Apply {
        policy: PolicyName,
        #[command(flatten)]
        of: TenantFlag,
        /// Confirm that connections are cut
        #[arg(long, required = true)]
        immediate: bool,
        #[command(flatten)]
        wait: WaitFlag,
        #[command(flatten)]
        flags: ChangeFlags,
    },
}

// Contiv's `-o` of this verb is `--to-network`.
#[derive(Debug, Args)]
#[command(mut_arg("output", |output| output.short(None)))]
pub(crate) struct RuleAddOptions {
    policy: PolicyName,
    #[arg(value_name = "ID")]
    rule: RuleId,
    #[command(flatten)]
    of: TenantFlag,
    #[command(flatten)]
    spec: rule::RuleFlags,
    /// Also end established connections that the policy no longer allows
    #[arg(long)]
    immediate: bool,
    #[command(flatten)]
    wait: WaitFlag,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl PolicyVerb {
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::RuleAdd(add) => add.spec.spec().map(|_| ()),
            _ => Ok(()),
        }
    }
}

pub(crate) async fn run(session: &mut Session, verb: PolicyVerb) -> Result<(), Failure> {
    match verb {
        PolicyVerb::Create { policy, of, flags } => {
            let tenant = of.tenant;
            let announcement = format!("Creating policy {tenant}:{policy}");
            let command = Command::PolicyCreate(PolicyCreate { tenant, policy });
            change::send(session, &announcement, command, &flags)
                .await
                .map(drop)
        }
        PolicyVerb::Rm { policy, of, flags } => {
            let tenant = of.tenant;
            let announcement = format!("Deleting policy {tenant}:{policy}");
            let command = Command::PolicyRemove(PolicyRemove { tenant, policy });
            change::send(session, &announcement, command, &flags)
                .await
                .map(drop)
        }
        PolicyVerb::Ls { of, flags } => {
            let policies = list(session, of.tenant(), None).await?;
            output::print(&listed(&policies, &flags)?)
        }
        PolicyVerb::Inspect { policy, of, flags } => {
            let info = one(session, of.tenant, policy).await?;
            let counted = counters::ask(session, &info.tenant).await?;
            let value = inspected(&info, &counted);
            output::print(&output::document(&value, flags.format())?)
        }
        PolicyVerb::RuleAdd(add) => rule_add(session, *add).await,
        PolicyVerb::RuleRm {
            policy,
            rule,
            of,
            immediate,
            wait,
            flags,
        } => {
            let command = Command::RuleRemove(RuleRemove {
                tenant: of.tenant,
                policy,
                rule,
                immediate,
            });
            change::send_and_wait(session, "", command, &flags, wait).await
        }
        PolicyVerb::RuleLs { policy, of, flags } => {
            let policies = match of.tenant() {
                Some(tenant) => vec![one(session, tenant, policy).await?],
                None => {
                    let mut all = list(session, None, None).await?;
                    all.retain(|info| info.policy == policy);
                    all
                }
            };
            output::print(&rules_listed(&policies, &flags)?)
        }
        PolicyVerb::Apply {
            policy,
            of,
            wait,
            flags,
            ..
        } => {
            let tenant = of.tenant;
            let command = Command::PolicyApply(PolicyApply { tenant, policy });
            change::send_and_wait(session, "", command, &flags, wait).await
        }
    }
}

async fn rule_add(session: &mut Session, add: RuleAddOptions) -> Result<(), Failure> {
    let (tenant, policy, rule) = (add.of.tenant, add.policy, add.rule);
    let spec = add.spec.spec()?;
    let may_lead_outside = egress::may_lead_outside(&spec);
    let command = Command::RuleAdd(RuleAdd {
        tenant: tenant.clone(),
        policy: policy.clone(),
        rule: rule.clone(),
        spec,
        immediate: add.immediate,
    });
    change::send_and_wait(session, "", command, &add.flags, add.wait).await?;
    if may_lead_outside {
        egress::warn_of_rule(session, tenant, &policy, &rule).await;
    }
    Ok(())
}

pub(crate) async fn list(
    session: &mut Session,
    tenant: Option<TenantName>,
    policy: Option<PolicyName>,
) -> Result<Vec<PolicyInfo>, Failure> {
    match session.ask(Query::PolicyList { tenant, policy }).await? {
        Answer::Policies { policies, .. } => Ok(policies),
        answer => Err(unexpected_answer(&answer)),
    }
}

async fn one(
    session: &mut Session,
    tenant: TenantName,
    policy: PolicyName,
) -> Result<PolicyInfo, Failure> {
    let found = list(session, Some(tenant.clone()), Some(policy.clone())).await?;
    let unknown = || session.rejected(&Rejection::PolicyUnknown { tenant, policy });
    found.into_iter().next().ok_or_else(unknown)
}

fn listed(policies: &[PolicyInfo], flags: &ListFlags) -> Result<String, Failure> {
    let value = |info: &PolicyInfo| {
        let mut value = config(info);
        value["Oper"] = json!({ "groups": info.groups, "numRules": info.rules.len() });
        value
    };
    flags.show(policies, |info| info.policy.clone(), table, value)
}

fn table(policies: &[PolicyInfo]) -> Table {
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
    table
}

fn groups(info: &PolicyInfo) -> String {
    let names: Vec<&str> = info.groups.iter().map(|g| g.as_str()).collect();
    names.join(",")
}

fn rules_listed(policies: &[PolicyInfo], flags: &ListFlags) -> Result<String, Failure> {
    let rules = policies
        .iter()
        .flat_map(|info| info.rules.iter().map(move |rule| (info, rule)));
    if flags.quiet {
        return Ok(rules.map(|(_, rule)| format!("{}\n", rule.id)).collect());
    }
    match flags.format() {
        format if format.is_text() => Ok(policies
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

fn inspected(info: &PolicyInfo, counted: &CounterSum) -> Value {
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
    use bus_schema::node::{Counter, NodeReply};
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
    fn counters_are_summed_and_missing_nodes_are_named() {
        let mut counted = CounterSum::default();
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
    fn quiet_prints_names_only() {
        let policies = [info()];
        let quiet = ListFlags::quiet();
        assert_eq!(listed(&policies, &quiet).unwrap(), "prod_web\n");
        assert_eq!(rules_listed(&policies, &quiet).unwrap(), "1\n2\n");
    }
}
