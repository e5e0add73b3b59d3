//! `netctl doctor`: asks everybody how they are, and says in plain words what is wrong and what to
//! do. `judge` judges, `monitor` reads the server's own page.

mod addresses;
mod copies;
mod judge;
mod monitor;

use std::collections::BTreeMap;

use bus_schema::NodeName;
use bus_schema::node::{Examination, Grade, NodeReply, NodeRequest};
use bus_schema::query::NodeInfo;
use clap::Args;
use futures::future::join_all;
use serde_json::{Value, json};

use self::addresses::Pool;
use self::copies::Copies;
use self::judge::{Complaint, judge};
use self::monitor::Syncs;
use super::node;
use crate::bus_url::BusUrl;
use crate::cli::Listing;
use crate::client::{self, Session};
use crate::failure::Failure;
use crate::output::{self, Format, printable};
use crate::survey::{self, Clock, Log, Master};

#[derive(Debug, Args)]
#[command(
    after_help = "Looks at the bus, the netmasters, and on each node at kernel, underlay (by packets of full\nsize to every other node), firewall and resolver. Takes some seconds and changes nothing.\nExit codes: 0 nothing is wrong, 1 something is, 2 unreachable.\n\nExamples:\n  netctl doctor\n  netctl doctor -q        only what isn't fine"
)]
pub(crate) struct Options {
    #[command(flatten)]
    listing: Listing,
}

/// What everybody answered.
#[derive(Debug)]
struct Seen {
    /// Of the server that we are connected to.
    server_version: String,
    syncs: Syncs,
    copies: Copies,
    log: Result<Log, String>,
    /// What is wrong with the streams beside the log.
    streams: Vec<String>,
    /// What the servers' own health checks say is wrong.
    health: Vec<String>,
    masters: Vec<Master>,
    /// Or why nobody could be asked for them.
    nodes: Result<Vec<NodeInfo>, String>,
    examinations: BTreeMap<NodeName, Result<(Examination, Clock), String>>,
    /// Or why nobody could be asked for them.
    pools: Result<Vec<Pool>, String>,
}

pub(crate) async fn run(url: BusUrl, linearizable: bool, options: Options) -> Result<(), Failure> {
    let bus = client::connect(&url).await?;
    let info = bus.server_info();
    let mut seen = Seen {
        syncs: monitor::syncs(&url).await,
        copies: copies::copies(&url).await,
        server_version: info.version,
        log: survey::log(&bus).await,
        streams: survey::troubles(&bus).await,
        health: monitor::health(&url).await,
        masters: survey::masters(&bus).await?,
        nodes: Ok(Vec::new()),
        examinations: BTreeMap::new(),
        pools: Ok(Vec::new()),
    };
    match Session::open(url, linearizable).await {
        Ok(mut session) => {
            session.take_any_revision();
            seen.nodes = node::list(&mut session, None)
                .await
                .map_err(|e| e.to_string());
            seen.pools = addresses::ask(&mut session)
                .await
                .map_err(|e| e.to_string());
            seen.examinations = examine(&session, &seen.nodes).await;
        }
        Err(failure) => {
            seen.nodes = Err(failure.to_string());
            seen.pools = Err(failure.to_string());
        }
    }
    let complaints = judge(&seen);
    output::print(&shown(&complaints, &options.listing)?)?;
    match complaints.iter().any(|it| it.grade == Grade::Wrong) {
        true => Err(Failure::Negative),
        false => Ok(()),
    }
}

/// Has all live nodes look at themselves, at once.
async fn examine(
    session: &Session,
    nodes: &Result<Vec<NodeInfo>, String>,
) -> BTreeMap<NodeName, Result<(Examination, Clock), String>> {
    let alive = nodes.iter().flatten().filter(|info| info.alive);
    let asking = alive.map(|info| async {
        let asked = client::now();
        let reply = session.node(&info.node, &NodeRequest::Examine).await;
        let heard = client::now();
        let found = match reply {
            Ok(NodeReply::Examined(examination)) => {
                let says = examination.at;
                Ok((examination, Clock { asked, says, heard }))
            }
            Ok(NodeReply::Refused { reason }) => Err(reason),
            Ok(_) => Err("it answered something else: is it of another version?".to_owned()),
            Err(failure) => Err(failure.to_string()),
        };
        (info.node.clone(), found)
    });
    join_all(asking).await.into_iter().collect()
}

fn shown(complaints: &[Complaint], listing: &Listing) -> Result<String, Failure> {
    let shown = complaints
        .iter()
        .filter(|it| !listing.quiet || it.grade != Grade::Fine);
    match listing.format() {
        Format::Table | Format::Wide => Ok(shown
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
