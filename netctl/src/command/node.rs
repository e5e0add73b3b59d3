//! `netctl node`.

mod drain;

use bus_schema::command::{NodeRemove, NodeUncordon};
use bus_schema::healing::{Cleanup, Healing};
use bus_schema::node::{LogState, NodeReply, NodeRequest};
use bus_schema::query::{BlockUsage, NodeInfo};
use bus_schema::{Answer, Command, NodeName, Query};
use clap::Subcommand;
use serde_json::{Value, json};

use super::flags::{ChangeFlags, InspectFlags, ListFlags, OutputFlags};
use super::{change, time, usage};
use crate::client::{Session, node_refusal, unexpected_answer};
use crate::failure::Failure;
use crate::output::{self, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls {
        /// Accepted for scripts: all nodes are listed anyway
        #[arg(long, short)]
        all: bool,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Show a node with its alarms
    Inspect {
        node: NodeName,
        #[command(flatten)]
        flags: InspectFlags,
    },
    /// Stop a node from taking new endpoints, and list those that still run there
    Drain(drain::DrainOptions),
    /// Let a drained node take endpoints again
    #[command(after_help = "Example:\n  netctl node uncordon n3")]
    Uncordon {
        node: NodeName,
        #[command(flatten)]
        flags: ChangeFlags,
    },
    /// Remove a node from the cluster
    #[command(
        visible_alias = "delete",
        after_help = "A live node is drained first. If endpoints run there, or it can't return its addresses, the answer\nnames them, nothing is removed, and the node takes endpoints again, unless it was drained before.\nIf netmaster stops in between, the node stays drained: `netctl node ls` shows it, and\n`netctl node uncordon` ends it. With several netmasters, a refused removal may also end a drain\nthat you start while it runs: drain the node again. A removed node joins again only when its\nnetplugin is restarted. A stopped node is removed if it holds no addresses; otherwise start its\nnetplugin, or, if the machine won't come back, take its addresses with --lost.\n\nExamples:\n  netctl node rm n3           a node without containers\n  netctl node rm n3 --lost    a machine that won't come back"
    )]
    Rm {
        node: NodeName,
        /// Take the node's addresses: its machine won't come back
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        flags: ChangeFlags,
    },
    /// Remove leftovers of an earlier crash from a node now, and list them
    #[command(
        after_help = "A node does this when it starts, and from time to time. Leftovers are endpoints whose namespace or\ncontainer is gone, unused addresses, and Contiv's devices, namespaces and rules without an owner.\n\nExample:\n  netctl node cleanup n1"
    )]
    Cleanup {
        node: NodeName,
        #[command(flatten)]
        flags: ListFlags,
    },
    /// Make a node follow this cluster's log, whatever log it followed before
    #[command(
        after_help = "A node that finds another log than the one it followed changes nothing and raises the alarm\nforeign-log. This command confirms the new log: objects that it doesn't contain are removed\nfrom the node.\n\nExample:\n  netctl node accept-log n1 --yes"
    )]
    AcceptLog {
        node: NodeName,
        /// Confirm that endpoints are closed whose network isn't in this log
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        output: OutputFlags,
    },
}

pub(crate) async fn run(session: &mut Session, verb: NodeVerb) -> Result<(), Failure> {
    if matches!(verb, NodeVerb::Ls { .. } | NodeVerb::AcceptLog { .. }) {
        session.accept_any_revision();
    }
    match verb {
        NodeVerb::Ls { flags, .. } => {
            let nodes = list(session, None).await?;
            output::print(&listed(&nodes, &flags)?)
        }
        NodeVerb::Inspect { node, flags } => {
            let nodes = list(session, Some(node)).await?;
            let Some(info) = nodes.first() else {
                return Err(Failure::Refused("netmaster returned no node".to_owned()));
            };
            let mut value = inspected(info);
            value["Oper"]["blocks"] = info.usage.iter().map(block).collect();
            output::print(&output::document(&value, flags.format())?)
        }
        NodeVerb::Rm { node, lost, flags } => {
            let announcement = format!("Deleting node: {node}");
            let command = Command::NodeRemove(NodeRemove { node, lost });
            change::send(session, &announcement, command, &flags)
                .await
                .map(drop)
        }
        NodeVerb::Drain(options) => drain::run(session, options).await,
        NodeVerb::Uncordon { node, flags } => {
            let command = Command::NodeUncordon(NodeUncordon { node });
            change::send(session, "", command, &flags).await.map(drop)
        }
        NodeVerb::Cleanup { node, flags } => clean_up(session, &node, &flags).await,
        NodeVerb::AcceptLog { node, yes, output } => accept_log(session, node, yes, &output).await,
    }
}

async fn clean_up(session: &Session, node: &NodeName, flags: &ListFlags) -> Result<(), Failure> {
    let Cleanup { done, failed } = match session.node(node, &NodeRequest::CleanUp).await? {
        NodeReply::CleanedUp(cleanup) => cleanup,
        reply => return Err(node_refusal(node, "can't clean up", reply)),
    };
    let text = match flags.format() {
        format if format.is_text() && done.is_empty() && failed.is_empty() && !flags.quiet => {
            format!("no leftovers on node {node}\n")
        }
        format if format.is_text() => {
            let lines = done.iter().map(|it| output::printable(it) + "\n");
            lines.collect()
        }
        format => output::document(&json!({ "done": done, "failed": failed }), format)?,
    };
    output::print(&text)?;
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Failure::Refused(format!(
            "node {node}: {}",
            failed.join("; ")
        ))),
    }
}

async fn accept_log(
    session: &mut Session,
    node: NodeName,
    yes: bool,
    flags: &OutputFlags,
) -> Result<(), Failure> {
    if !yes {
        return Err(Failure::Usage(format!(
            "this removes everything from node {node} that isn't in this cluster's log: add --yes if the log is right"
        )));
    }
    let cluster = match session.ask(Query::ClusterInfo).await? {
        Answer::Cluster { cluster, .. } => cluster.cluster,
        answer => return Err(unexpected_answer(&answer)),
    };
    match session
        .node(&node, &NodeRequest::AcceptLog { cluster })
        .await?
    {
        NodeReply::Done => flags.outcome(
            "done",
            &format!("node {node} follows cluster {cluster}"),
            &json!({ "node": node, "cluster": cluster }),
        ),
        reply => Err(node_refusal(&node, "refuses", reply)),
    }
}

pub(crate) async fn list(
    session: &mut Session,
    node: Option<NodeName>,
) -> Result<Vec<NodeInfo>, Failure> {
    match session.ask(Query::NodeList { node }).await? {
        Answer::Nodes { nodes, .. } => Ok(nodes),
        answer => Err(unexpected_answer(&answer)),
    }
}

fn listed(nodes: &[NodeInfo], flags: &ListFlags) -> Result<String, Failure> {
    let value = |info: &NodeInfo| output::flattened(&inspected(info));
    flags.show(nodes, |info| info.node.clone(), table, value)
}

fn table(nodes: &[NodeInfo]) -> Table {
    let mut table = Table::new(
        &[
            "Name",
            "VTEP",
            "State",
            "Applied",
            "Log",
            "Endpoints",
            "Blocks",
            "Alarms",
        ],
        &["Domain", "Engine", "Healed", "Version", "Machine"],
    );
    for info in nodes {
        let of = |cell: fn(&bus_schema::node::NodeStatus) -> String| {
            info.status.as_ref().map(cell).unwrap_or_default()
        };
        table.row(vec![
            info.node.to_string(),
            info.vtep.to_string(),
            state(info),
            of(|s| s.applied.to_string()),
            of(|s| log(&s.log).to_owned()),
            of(|s| s.endpoints.to_string()),
            of(|s| s.blocks.to_string()),
            of(|s| {
                let codes: Vec<&str> = s.alarms.iter().map(|a| a.code.as_str()).collect();
                codes.join(",")
            }),
            of(|s| s.domain.to_string()),
            of(|s| match &s.engine {
                None => "none".to_owned(),
                Some(engine) if !engine.answers => "silent".to_owned(),
                Some(engine) => engine.version.clone().unwrap_or_default(),
            }),
            of(|s| {
                let healing = s.healing.as_deref();
                healing.map(|it| it.total().to_string()).unwrap_or_default()
            }),
            of(|s| s.version.clone()),
            info.machine.to_string(),
        ]);
    }
    table
}

pub(super) fn state(info: &NodeInfo) -> String {
    let mut words = Vec::new();
    words.extend(info.drained.then(|| "drained".to_owned()));
    words.extend(info.left.then(|| "left".to_owned()));
    match (info.alive, info.age) {
        (true, _) if words.is_empty() => words.push("alive".to_owned()),
        (true, _) => {}
        (false, Some(age)) => words.push(format!("silent {}s", age / 1_000)),
        (false, None) => words.push("silent".to_owned()),
    }
    words.join(", ")
}

pub(super) fn log(state: &LogState) -> &'static str {
    match state {
        LogState::CatchingUp => "catching up",
        LogState::InSync => "in sync",
        LogState::Disconnected { .. } => "disconnected",
        LogState::Foreign { .. } => "foreign",
        LogState::Refused { .. } => "refused",
        LogState::Removed => "removed",
    }
}

fn inspected(info: &NodeInfo) -> Value {
    json!({
        "Config": {
            "key": info.node,
            "nodeName": info.node,
            "machineID": info.machine,
            "vtepIP": info.vtep,
        },
        "Oper": {
            "alive": info.alive,
            "drained": info.drained,
            "left": info.left,
            "heardMillisecondsAgo": info.age,
            "healed": info.status.as_ref().and_then(|it| it.healing.as_deref()).map(healed),
            "status": info.status,
        },
    })
}

/// A block that the node holds, with its network.
fn block(of: &BlockUsage) -> Value {
    let mut value = usage::block(of);
    value["tenant"] = json!(of.tenant);
    value["network"] = json!(of.network);
    value
}

/// The drift that the node has reverted since its netplugin started.
fn healed(healing: &Healing) -> Value {
    let last = healing.last.as_ref();
    json!({
        "total": healing.total(),
        "kinds": healing.kinds,
        "last": last.map(|it| it.what.as_str()),
        "lastTime": last.map(|it| time::show(it.at)),
    })
}

#[cfg(test)]
mod tests {
    use bus_schema::healing::Healed;

    use super::*;

    #[test]
    fn healed_drift_is_counted_and_dated() {
        let healing = Healing {
            kinds: [("fdb".to_owned(), 2), ("route".to_owned(), 1)].into(),
            last: Some(Healed {
                what: "a route".to_owned(),
                at: 1_000,
            }),
        };
        let value = healed(&healing);
        assert_eq!(value["total"], 3);
        assert_eq!(value["kinds"]["fdb"], 2);
        assert_eq!(value["last"], "a route");
        assert_eq!(value["lastTime"], "1970-01-01T00:00:01.000Z");
    }

    #[test]
    fn block_has_its_network_group_and_usage() {
        let of = BlockUsage {
            tenant: "blue".parse().unwrap(),
            network: "front".parse().unwrap(),
            group: Some("db".parse().unwrap()),
            block: "20.1.1.0/28".parse().unwrap(),
            node: "n1".parse().unwrap(),
            in_use: 3,
            free: 11,
            ceded: 2,
        };
        let expected = json!({
            "tenant": "blue", "network": "front", "group": "db", "block": "20.1.1.0/28",
            "node": "n1", "inUse": 3, "free": 11, "ceded": 2,
        });
        assert_eq!(block(&of), expected);
    }
}
