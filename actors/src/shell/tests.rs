mod commands;
mod feeding;
mod panics;
mod proofs;

use bus_schema::testing;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bus_schema::codec;
use bus_schema::command::{BlockLease, NetworkCreate, NodeJoin, Request, TenantCreate};
use bus_schema::event::{ClusterCreated, Settings as ClusterSettings, TenantOpened};
use bus_schema::{
    AggregateId, ClusterId, Command, CommandId, Event, MachineId, NodeName, Rejection, Reply,
    Revision, subject,
};
use uuid::Uuid;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::cached_fold::SharedFold;
use super::decider::{Decider, Execute};
use super::facts::{Gather, Source, SourceState};
use super::proof::Prover;
use super::refresh::Freshness;
use super::supervise::{Supervised, supervise};
use super::{External, Log, Registry, Settings};
use crate::aggregate::Aggregate;
use crate::journal::{self, AppendError, Fault, Journal, LoadError, Memory, NewRecord, Record};

async fn cluster() -> Arc<Memory> {
    let log = Arc::new(Memory::default());
    let created = Event::ClusterCreated(ClusterCreated {
        cluster: ClusterId(Uuid::new_v4()),
        settings: ClusterSettings::default(),
    });
    let (entries, _) = journal::batch(&[created], id(), "test", 0, |_| Some(Revision(0)));
    log.append(&entries).await.expect("an empty log");
    log
}

fn master(log: &Arc<Memory>) -> Rc<Registry> {
    master_on(Arc::<Memory>::clone(log))
}

fn master_on(log: Arc<dyn Journal>) -> Rc<Registry> {
    master_with(log, |_| {})
}

fn master_with(log: Arc<dyn Journal>, fed: impl Fn(&Record) + 'static) -> Rc<Registry> {
    let settings = Settings {
        actor: "test".to_owned(),
        give_up: Arc::new(|why| panic!("{why}")),
        fed: Rc::new(fed),
        pause_after_append: None,
    };
    Registry::new(log, settings)
}

fn id() -> CommandId {
    CommandId(Uuid::new_v4())
}

fn tenant(name: &str) -> Command {
    Command::TenantCreate(TenantCreate {
        max_connections: None,
        egress: None,
        tenant: testing::name(name),
    })
}

fn network(name: &str, subnet: &str) -> Command {
    Command::NetworkCreate(NetworkCreate {
        max_connections: None,
        egress: None,
        allow_metadata: None,
        tenant: testing::name("blue"),
        network: testing::name(name),
        subnet: testing::subnet(subnet),
        range: None,
        gateway: None,
        subnet6: None,
        gateway6: None,
        vni: None,
        docker_name: None,
    })
}

async fn ask(master: &Rc<Registry>, id: CommandId, command: Command) -> Reply {
    let request = Request::new(id, command, Duration::from_secs(2), master.log().now());
    master.execute(request, External::default()).await
}

#[track_caller]
fn accepted(reply: Reply) -> (u64, Vec<Event>) {
    match reply {
        Reply::Accepted { revision, events } => (revision.0, events),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn rejection(reply: Reply) -> Rejection {
    match reply {
        Reply::Rejected { rejection, .. } => rejection,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn overlaps(reply: Reply) -> bool {
    matches!(rejection(reply), Rejection::SubnetOverlaps { .. })
}

/// Feeds a master what it wasn't fed yet.
async fn feed(master: &Registry, log: &Memory) {
    let all = log.load(subject::LOG_ALL, Revision(0), 1_000).await;
    for record in all.expect("in memory") {
        master.log().feed(&record);
    }
}
