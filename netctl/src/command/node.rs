//! Nodes.

mod drain;

use bus_schema::command::{NodeRemove, NodeUncordon};
use bus_schema::healing::{Cleanup, Healing};
use bus_schema::node::{LogState, NodeReply, NodeRequest};
use bus_schema::query::{BlockUsage, NodeInfo};
use bus_schema::{Answer, Command, NodeName, Query};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{COMMAND, time, usage};
use crate::cli::{Asking, Inspecting, Listing};
use crate::client::{Session, refused, unexpected};
use crate::failure::Failure;
use crate::output::{self, Format, Table};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls {
        /// Accepted for scripts: all nodes are listed anyway
        #[arg(long, short)]
        all: bool,
        #[command(flatten)]
        listing: Listing,
    },
    /// Show a node with its alarms
    Inspect {
        node: NodeName,
        #[command(flatten)]
        inspecting: Inspecting,
    },
    /// Have a node take no new endpoints; says which still run there
    Drain(drain::Options),
    /// Have a drained node take endpoints again
    #[command(after_help = "Example:\n  netctl node uncordon n3")]
    Uncordon {
        node: NodeName,
        #[command(flatten)]
        asking: Asking,
    },
    /// Remove a node from the cluster
    #[command(
        visible_alias = "delete",
        after_help = "A live node is drained first. If endpoints run there, or its addresses can't be returned, the\nanswer names them, nothing is removed, and the node takes endpoints again, unless it was drained\nbefore. If netmaster stops in between, the node stays drained: `netctl node ls` shows it, and\n`netctl node uncordon` ends it. With several netmasters, a refused removal may also end a drain\nthat you ask for while it runs: drain the node again. A removed node stays out until its netplugin is restarted.\nA stopped node is removed when it holds no addresses; else start its netplugin, or take them from\nit with --lost, when the machine won't come back.\n\nExamples:\n  netctl node rm n3           a node without containers\n  netctl node rm n3 --lost    a machine that won't come back"
    )]
    Rm {
        node: NodeName,
        /// The machine won't come back: take its addresses from it
        #[arg(long)]
        lost: bool,
        #[command(flatten)]
        asking: Asking,
    },
    /// Return at once what an earlier crash left on a node, and say what that was
    #[command(
        after_help = "A node does so by itself when it starts and now and then. This looks now: for endpoints\nwhose namespace or container is gone, addresses that nobody uses, and devices, namespaces\nand rules of ours that belong to nothing.\n\nExample:\n  netctl node cleanup n1"
    )]
    Cleanup {
        node: NodeName,
        #[command(flatten)]
        listing: Listing,
    },
    /// Have a node follow this cluster's log, whatever log it followed before
    #[command(
        after_help = "A node that finds another log than the one it followed changes nothing and alarms\n(foreign-log). This tells it that the log it sees now is right: what isn't in it is\nremoved from the node.\n\nExample:\n  netctl node accept-log n1 --yes"
    )]
    AcceptLog {
        node: NodeName,
        /// Yes: endpoints of networks that this log doesn't know are closed
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(session: &mut Session, verb: Verb) -> Result<(), Failure> {
    if matches!(verb, Verb::Ls { .. } | Verb::AcceptLog { .. }) {
        session.take_any_revision();
    }
    match verb {
        Verb::Ls { listing, .. } => {
            let nodes = list(session, None).await?;
            output::print(&listed(&nodes, &listing)?)
        }
        Verb::Inspect { node, inspecting } => {
            let nodes = list(session, Some(node)).await?;
            let Some(info) = nodes.first() else {
                return Err(Failure::Refused("netmaster named no node".to_owned()));
            };
            let mut value = inspected(info);
            value["Oper"]["blocks"] = info.usage.iter().map(block).collect();
            output::print(&output::document(&value, inspecting.format())?)
        }
        Verb::Rm { node, lost, asking } => {
            output::print(&format!("Deleting node: {node}\n"))?;
            let command = Command::NodeRemove(NodeRemove { node, lost });
            let done = session.command(command, asking.command_id, COMMAND).await?;
            output::print(&done.to_string())
        }
        Verb::Drain(options) => drain::run(session, options).await,
        Verb::Uncordon { node, asking } => {
            let command = Command::NodeUncordon(NodeUncordon { node });
            let done = session.command(command, asking.command_id, COMMAND).await?;
            output::print(&done.to_string())
        }
        Verb::Cleanup { node, listing } => clean_up(session, &node, &listing).await,
        Verb::AcceptLog { node, yes } => accept_log(session, node, yes).await,
    }
}

async fn clean_up(session: &Session, node: &NodeName, listing: &Listing) -> Result<(), Failure> {
    let Cleanup { done, failed } = match session.node(node, &NodeRequest::CleanUp).await? {
        NodeReply::CleanedUp(cleanup) => cleanup,
        reply => return Err(refused(node, "doesn't clean up", reply)),
    };
    let text = match listing.format() {
        Format::Table | Format::Wide if done.is_empty() && failed.is_empty() && !listing.quiet => {
            format!("nothing was left on node {node}\n")
        }
        Format::Table | Format::Wide => {
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

async fn accept_log(session: &mut Session, node: NodeName, yes: bool) -> Result<(), Failure> {
    if !yes {
        return Err(Failure::Usage(format!(
            "on node {node} this removes what isn't in this cluster's log: say --yes when the log is right"
        )));
    }
    let cluster = match session.ask(Query::ClusterInfo).await? {
        Answer::Cluster { cluster, .. } => cluster.cluster,
        answer => return Err(unexpected(&answer)),
    };
    match session
        .node(&node, &NodeRequest::AcceptLog { cluster })
        .await?
    {
        NodeReply::Done => output::print(&format!("node {node} follows cluster {cluster}\n")),
        reply => Err(refused(&node, "refuses", reply)),
    }
}

pub(crate) async fn list(
    session: &mut Session,
    node: Option<NodeName>,
) -> Result<Vec<NodeInfo>, Failure> {
    match session.ask(Query::NodeList { node }).await? {
        Answer::Nodes { nodes, .. } => Ok(nodes),
        answer => Err(unexpected(&answer)),
    }
}

fn listed(nodes: &[NodeInfo], listing: &Listing) -> Result<String, Failure> {
    let value = |info: &NodeInfo| super::flat(&inspected(info));
    listing.show(nodes, |info| info.node.clone(), table, value)
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

/// A block that the node holds, of whatever network.
fn block(of: &BlockUsage) -> Value {
    let mut value = usage::block(of);
    value["tenant"] = json!(of.tenant);
    value["network"] = json!(of.network);
    value
}

/// What others changed and the node put right, since its netplugin started.
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
    fn what_was_healed_is_counted_in_all_and_dated() {
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
    fn held_block_names_its_network_and_group_and_how_it_is_used() {
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
