//! `netctl doctor`: observes the bus, the netmasters and the nodes, and reports problems with their
//! remedies. `monitor` reads nats-server's monitoring pages, `copies` compares its copies of the log,
//! `judge` turns the observations into results.

mod addresses;
mod check;
mod copies;
mod judge;
mod monitor;
mod streams;

use std::collections::BTreeMap;

use bus_schema::NodeName;
use bus_schema::node::{Examination, Grade, NodeReply, NodeRequest};
use bus_schema::query::NodeInfo;
use clap::Args;
use futures::future::join_all;
use serde_json::{Value, json};

use self::addresses::Pool;
use self::check::CheckResult;
use self::copies::LogCopies;
use self::judge::judge;
use self::monitor::SyncSetting;
use super::node;
use crate::bus_url::BusUrl;
use crate::client::Session;
use crate::clocks::{self, Clock};
use crate::command::flags::ListFlags;
use crate::connection;
use crate::failure::Failure;
use crate::output::{self, printable};
use crate::survey::{self, Log, Netmaster};

#[derive(Debug, Args)]
#[command(
    after_help = "Checks the bus, the netmasters, and on each node the kernel, the underlay (by full-size packets\nto every other node), the firewall and the resolver. Takes some seconds and changes nothing.\nExit codes: 0 nothing is wrong, 1 something is, 2 unreachable.\n\nExamples:\n  netctl doctor\n  netctl doctor -q        only problems"
)]
pub(crate) struct DoctorOptions {
    #[command(flatten)]
    flags: ListFlags,
}

/// The answers of the bus, the netmasters and the nodes.
#[derive(Debug)]
struct Observations {
    /// The version of the connected server.
    server_version: String,
    syncs: SyncSetting,
    copies: LogCopies,
    log: Result<Log, String>,
    /// The configurations of the streams other than the log, or their errors.
    streams: Vec<Result<Value, String>>,
    /// The errors that the servers' health pages report.
    health: Vec<String>,
    netmasters: Vec<Netmaster>,
    /// The error is the reason why netmaster couldn't be asked.
    nodes: Result<Vec<NodeInfo>, String>,
    examinations: BTreeMap<NodeName, Result<(Examination, Clock), String>>,
    /// The error is the reason why netmaster couldn't be asked.
    pools: Result<Vec<Pool>, String>,
}

pub(crate) async fn run(
    url: BusUrl,
    linearizable: bool,
    options: DoctorOptions,
) -> Result<(), Failure> {
    let bus = connection::connect(&url).await?;
    let info = bus.server_info();
    let mut observed = Observations {
        syncs: monitor::syncs(&url).await,
        copies: copies::copies(&url).await,
        server_version: info.version,
        log: survey::log(&bus).await,
        streams: survey::other_streams(&bus).await,
        health: monitor::health(&url).await,
        netmasters: survey::netmasters(&bus).await?,
        nodes: Ok(Vec::new()),
        examinations: BTreeMap::new(),
        pools: Ok(Vec::new()),
    };
    match Session::open(url, linearizable).await {
        Ok(mut session) => {
            session.accept_any_revision();
            observed.nodes = node::list(&mut session, None)
                .await
                .map_err(|e| e.to_string());
            observed.pools = addresses::ask(&mut session)
                .await
                .map_err(|e| e.to_string());
            observed.examinations = examine(&session, &observed.nodes).await;
        }
        Err(failure) => {
            observed.nodes = Err(failure.to_string());
            observed.pools = Err(failure.to_string());
        }
    }
    let results = judge(&observed);
    output::print(&shown(&results, &options.flags)?)?;
    match results.iter().any(|it| it.grade == Grade::Wrong) {
        true => Err(Failure::Negative),
        false => Ok(()),
    }
}

/// Lets all live nodes examine themselves, in parallel.
async fn examine(
    session: &Session,
    nodes: &Result<Vec<NodeInfo>, String>,
) -> BTreeMap<NodeName, Result<(Examination, Clock), String>> {
    let alive = nodes.iter().flatten().filter(|info| info.alive);
    let asking = alive.map(|info| async {
        let sent = clocks::now();
        let reply = session.node(&info.node, &NodeRequest::Examine).await;
        let received = clocks::now();
        let found = match reply {
            Ok(NodeReply::Examined(examination)) => {
                let time = examination.at;
                Ok((
                    examination,
                    Clock {
                        sent,
                        time,
                        received,
                    },
                ))
            }
            Ok(NodeReply::Refused { reason }) => Err(reason),
            Ok(_) => Err("its reply doesn't fit the request: is it of another version?".to_owned()),
            Err(failure) => Err(failure.to_string()),
        };
        (info.node.clone(), found)
    });
    join_all(asking).await.into_iter().collect()
}

fn shown(results: &[CheckResult], flags: &ListFlags) -> Result<String, Failure> {
    let shown = results
        .iter()
        .filter(|it| !flags.quiet || it.grade != Grade::Fine);
    match flags.format() {
        format if format.is_text() => Ok(shown
            .map(|it| format!("{:8} {}: {}\n", it.grade, it.of, printable(&it.text)))
            .collect()),
        format => {
            let all = shown
                .map(|it| json!({"grade": it.grade, "of": it.of, "text": it.text}))
                .collect();
            output::document(&Value::Array(all), format)
        }
    }
}
