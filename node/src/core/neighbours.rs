//! The host's own firewall, which VRFs' packets pass as well: whether ours get through.

use std::time::Duration;

use tokio::time::Instant;

use node_core::resource::{Key, Kind, Place, State};
use node_datapath::{Datapath, DatapathError, ForeignDrop};

/// From a change in others' rules to the look at them: whoever changes one changes more.
pub(super) const SETTLE: Duration = Duration::from_millis(200);
/// Between two looks for what is in the way: a busy firewall changes all the time.
const HINDRANCES: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Neighbours {
    datapath: Datapath,
    /// Since the last look.
    changed: bool,
    not_before: Instant,
    foreign_drops: Vec<ForeignDrop>,
}

/// What a look found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Rules that let ours pass and are gone, or belong into a chain that is new.
    pub(super) lost: Vec<Key>,
    /// Others are in the way than before.
    pub(super) news: bool,
}

impl Neighbours {
    pub(super) fn new(datapath: Datapath, now: Instant) -> Self {
        Self {
            datapath,
            changed: true,
            not_before: now,
            foreign_drops: Vec::new(),
        }
    }

    pub(super) fn heard(&mut self) {
        self.changed = true;
    }

    pub(super) fn foreign_drops(&self) -> &[ForeignDrop] {
        &self.foreign_drops
    }

    /// Looks, when there may be something to see. A failure is told once in the log, and the next
    /// change is another try; the look at everything reports it as well.
    pub(super) async fn glance(&mut self, known: &State, now: Instant) -> Found {
        match self.look(known, now).await {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "can't see this host's firewall");
                self.changed = false;
                Found::default()
            }
        }
    }

    async fn look(&mut self, known: &State, now: Instant) -> Result<Found, DatapathError> {
        let silent = self.datapath.has_legacy_firewall().await?;
        if !self.changed && !silent {
            return Ok(Found::default());
        }
        let seen = self.datapath.docker_user_rules().await?;
        let host = known.of(&Place::Host);
        let lost = |key: &&Key| key.kind == Kind::DockerUserRule && seen.get(key).is_none();
        let lost: Vec<_> = host
            .iter()
            .map(|(key, _)| key)
            .filter(lost)
            .cloned()
            .collect();
        if !lost.is_empty() {
            let news = false;
            return Ok(Found { lost, news });
        }
        if now < self.not_before {
            return Ok(Found::default());
        }
        self.not_before = now + HINDRANCES;
        self.changed = false;
        let foreign_drops = self.datapath.foreign_drops().await?;
        let news = self.foreign_drops != foreign_drops;
        self.foreign_drops = foreign_drops;
        let lost = Vec::new();
        Ok(Found { lost, news })
    }
}
