//! Polls the host firewall, which VRFs' packets pass as well: whether it accepts ours.

use std::time::Duration;

use tokio::time::Instant;

use node_core::resource::{Key, Kind, Place, State};
use node_datapath::{Datapath, DatapathError, ForeignDrop};

/// From a change in others' rules to their poll: one change is mostly followed by more.
pub(super) const SETTLE_TIME: Duration = Duration::from_millis(200);
/// From one search for foreign drops to the next: a busy firewall changes all the time.
const SEARCH_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct HostFirewall {
    datapath: Datapath,
    /// Since the last poll.
    changed: bool,
    /// The number of our rules in it at the last poll: others come with the first uplink.
    rules: usize,
    not_before: Instant,
    foreign_drops: Vec<ForeignDrop>,
}

/// The result of a poll.
#[derive(Debug, Default)]
pub(super) struct PollResult {
    /// Rules that accept our packets and are gone, or belong into a chain that is new.
    pub(super) lost: Vec<Key>,
    /// The foreign drops changed.
    pub(super) has_news: bool,
}

impl HostFirewall {
    pub(super) fn new(datapath: Datapath, now: Instant) -> Self {
        Self {
            datapath,
            changed: true,
            rules: 0,
            not_before: now,
            foreign_drops: Vec::new(),
        }
    }

    pub(super) fn has_changed(&mut self) {
        self.changed = true;
    }

    pub(super) fn foreign_drops(&self) -> &[ForeignDrop] {
        &self.foreign_drops
    }

    /// Reads the rules if they may have changed. A failure is logged once, and the next change causes
    /// another try; a resync reports it as well.
    pub(super) async fn poll(&mut self, known: &State, now: Instant) -> PollResult {
        match self.read(known, now).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "can't see this host's firewall");
                self.changed = false;
                PollResult::default()
            }
        }
    }

    async fn read(&mut self, known: &State, now: Instant) -> Result<PollResult, DatapathError> {
        let ours = known.of_kind(&Place::Host, Kind::DockerUserRule);
        let ours: Vec<_> = ours.map(|(key, _)| key).collect();
        self.changed |= self.rules != ours.len();
        self.rules = ours.len();
        let silent = !ours.is_empty() && self.datapath.has_legacy_firewall().await?;
        if !self.changed && !silent {
            return Ok(PollResult::default());
        }
        let seen = self.datapath.docker_user_rules().await?;
        let lost = ours.into_iter().filter(|key| seen.get(key).is_none());
        let lost: Vec<_> = lost.cloned().collect();
        if !lost.is_empty() {
            let has_news = false;
            return Ok(PollResult { lost, has_news });
        }
        if now < self.not_before {
            return Ok(PollResult::default());
        }
        self.not_before = now + SEARCH_INTERVAL;
        self.changed = false;
        let foreign_drops = self.datapath.foreign_drops().await?;
        let has_news = self.foreign_drops != foreign_drops;
        self.foreign_drops = foreign_drops;
        let lost = Vec::new();
        Ok(PollResult { lost, has_news })
    }
}
