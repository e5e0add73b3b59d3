//! The reconciler: it reads the kernel, executes the plans of `node_core::step` and reports.
//!
//! A step is incremental after an event or an attach, and a resync at the start, after a failure
//! and every `--resync` seconds. `node_core::step` decides; this folder selects the next input,
//! executes and sends. CNI, `inquiry`, `check` and the doctor use the datapath beside it, to read the
//! kernel and to set up containers' ends.

mod channels;
mod cleanup;
mod drift;
mod enforcement;
mod host_firewall;
mod peer;
mod reports;
mod servers;
mod step;

use std::time::Duration;

use bus_schema::node::LogState;
use bus_schema::surroundings::Surroundings;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::bus::Facts;
use crate::cleanup::CleanupReply;
use crate::endpoint::EndpointsHandle;
use crate::metrics;
use crate::steps::Work;
use channels::{Channels, Wake};
use cleanup::Cleaning;
use host_firewall::HostFirewall;
use node_core::desired::{Params, Resolvers};
use node_core::projection::{EndpointsView, Projection};
use node_core::resource::Key;
use node_core::step::{Memory, RETRY_INTERVAL};
use node_datapath::{Datapath, DatapathError, KernelChange};
use node_dns::DnsHandle;
use servers::Servers;

pub use enforcement::Enforcement;
pub use reports::{Progress, Reports, Watching};

/// From one poll to the next for changes that cause no notification: a namespace that lost its name, or
/// a setting in `/proc/sys`.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The parts that the reconciler starts from.
#[derive(Debug)]
pub struct Start {
    pub params: Params,
    pub datapath: Datapath,
    pub facts: Facts,
    pub reports: Reports,
    pub dns: DnsHandle,
    pub enforcement: Enforcement,
    pub watching: Watching,
    pub surroundings: watch::Receiver<Surroundings>,
}

#[derive(Debug)]
pub struct Reconciler {
    memory: Memory,
    started: Instant,
    datapath: Datapath,
    facts: Facts,
    reports: Reports,
    servers: Servers,
    enforcement: Enforcement,
    host_firewall: HostFirewall,
    watching: Watching,
    surroundings: watch::Receiver<Surroundings>,
    /// The operator's mark of outer packets.
    outer_mark: Option<u32>,
    /// The changes of this step in the kernel.
    work: Work,
    /// The last setting in `/proc/sys` that was polled; absent: the first one is next.
    last_setting: Option<Key>,
    /// A request for a resync that waits for its result.
    cleaning: Option<Cleaning>,
}

/// When the next timers fire.
#[derive(Debug)]
struct Timers {
    resync: Instant,
    poll: Instant,
    /// The next step at the latest.
    step: Instant,
}

impl Reconciler {
    pub fn new(start: Start) -> Self {
        let now = Instant::now();
        Self {
            outer_mark: start.params.outer_mark,
            memory: Memory::new(start.params),
            started: now,
            host_firewall: HostFirewall::new(start.datapath.clone(), now),
            datapath: start.datapath,
            facts: start.facts,
            reports: start.reports,
            servers: Servers::new(start.dns),
            enforcement: start.enforcement,
            watching: start.watching,
            surroundings: start.surroundings,
            work: Work::default(),
            last_setting: None,
            cleaning: None,
        }
    }

    /// Runs until its channels close.
    pub async fn run(
        mut self,
        endpoints: EndpointsHandle,
        log: watch::Receiver<LogState>,
        cleanups: mpsc::Receiver<CleanupReply>,
        views: watch::Receiver<EndpointsView>,
    ) {
        let mut channels = Channels {
            facts: self.facts.subscribe(),
            snapshots: endpoints.snapshots(),
            log,
            cleanups,
            views,
            surroundings: self.surroundings.clone(),
            changes: match self.watching.listens {
                true => self.datapath.kernel_changes().await,
                false => None,
            },
        };
        drop(endpoints);
        let mut view = channels.views.borrow_and_update().clone();
        let resync = self.watching.resync;
        let now = Instant::now();
        let mut timers = Timers {
            resync: now + resync,
            poll: now + POLL_INTERVAL,
            step: now,
        };
        loop {
            if Instant::now() >= timers.resync {
                self.memory.want_resync();
            }
            let log = channels.log.borrow_and_update().clone();
            // Facts are read after what they touched, so that they are as new.
            self.memory.touch(self.facts.take_touched());
            let facts = channels.facts.borrow_and_update().clone();
            let snapshot = channels.snapshots.borrow_and_update().clone();
            if self.memory.wants_resync() {
                timers.resync = Instant::now() + resync;
            }
            self.follow_resolvers(&facts, &view);
            self.follow_mark_rules();
            self.step(&log, &facts, &snapshot).await;
            self.answer_cleanup(log.has_read_log());
            let retry = match self.memory.wants_resync() {
                true => RETRY_INTERVAL,
                false => resync,
            };
            timers.step = timers.resync.min(Instant::now() + retry);
            if !self
                .wait(&mut channels, &mut timers, &mut view, &facts)
                .await
            {
                return;
            }
        }
    }

    /// Waits until there is work for a step; false: a channel closed.
    async fn wait(
        &mut self,
        channels: &mut Channels,
        timers: &mut Timers,
        view: &mut EndpointsView,
        facts: &Projection,
    ) -> bool {
        loop {
            let drifted = match channels.next(timers.poll, timers.step).await {
                Wake::Closed => return false,
                Wake::Work => return true,
                Wake::Clean(asked) => {
                    self.clean(asked);
                    return true;
                }
                Wake::View => {
                    let before =
                        std::mem::replace(view, channels.views.borrow_and_update().clone());
                    let reused = self.memory.note_reuse(&before, view, facts);
                    // Nearly always no network covers a resolver.
                    let covered = !self.memory.params().resolvers.is_empty();
                    if covered && self.follow_resolvers(facts, view) || reused {
                        return true;
                    }
                    false
                }
                Wake::Change(KernelChange::HostFirewall) => {
                    self.host_firewall.has_changed();
                    let settled = Instant::now() + host_firewall::SETTLE_TIME;
                    timers.poll = timers.poll.min(settled);
                    false
                }
                Wake::Change(change) => self.is_drift(&change).await,
                Wake::Poll => {
                    timers.poll = Instant::now() + POLL_INTERVAL;
                    if self.poll_host_firewall().await {
                        return true;
                    }
                    self.datapath.lost_a_domain().await
                        || self.watching.listens && self.poll_settings().await
                }
            };
            if drifted {
                self.note_drift(channels).await;
                return true;
            }
        }
    }

    /// Follows the host's resolvers that networks cover, and the endpoints that have their addresses;
    /// whether they changed.
    fn follow_resolvers(&mut self, facts: &Projection, view: &EndpointsView) -> bool {
        let covered = Resolvers::covered(&self.surroundings.borrow().resolvers, facts, view);
        self.memory.follow_resolvers(covered)
    }

    /// Has outer packets routed by a mark that isn't a group's if the operator named one, or if a rule of
    /// the host looks at marks: a second look-up for each packet costs about a twentieth of its pace.
    fn follow_mark_rules(&mut self) {
        let has_rules = !self.surroundings.borrow().mark_rules.is_empty();
        let mark = self.outer_mark.or(has_rules.then_some(0));
        self.memory.follow_outer_mark(mark);
    }

    /// Another program changed our resources: a resync repairs them.
    async fn note_drift(&mut self, channels: &mut Channels) {
        tracing::warn!("another program changed Contiv's kernel objects; restoring them");
        metrics::drift();
        self.memory.want_resync();
        // Further changes mostly follow the first; the resync sees all but those of names and tables.
        for change in channels.clear_changes() {
            self.is_drift(&change).await;
        }
    }
}

/// The MTU of the underlay, by this node's outer address.
pub async fn underlay_mtu(
    datapath: &Datapath,
    vtep: std::net::IpAddr,
) -> Result<u32, DatapathError> {
    const ETHERNET: u32 = 1_500;
    Ok(datapath.link_mtu(vtep).await?.unwrap_or(ETHERNET))
}
