//! What others changed: whether the kernel still holds what we know it to hold.

use tokio::time::Instant;

use super::Core;
use crate::datapath::Sign;
use crate::resource::Kind;

impl Core {
    /// Looks at the host's own firewall; whether something of ours there has to be put right.
    pub(super) async fn glance(&mut self) -> bool {
        let found = self.neighbours.glance(&self.known, Instant::now()).await;
        for key in &found.lost {
            tracing::info!(
                rule = key.id,
                "letting our packets through this host's firewall"
            );
            self.known.remove(key);
        }
        if found.news {
            let hindrances = self.neighbours.hindrances().to_vec();
            self.progress
                .send_modify(|progress| progress.hindrances = hindrances);
        }
        self.host_drifted |= !found.lost.is_empty();
        !found.lost.is_empty()
    }

    /// Whether the kernel doesn't hold any more what we know it to hold.
    pub(super) async fn is_drift(&self, sign: &Sign) -> bool {
        match sign {
            Sign::Changed => true,
            Sign::Neighbour => false,
            Sign::Gone(device) => self.lacks(Kind::Device, device).await,
            Sign::Down(device) => self.lacks(Kind::Up, device).await,
        }
    }

    /// Whether the kernel's device isn't as we know it: what was said of it may be over.
    async fn lacks(&self, kind: Kind, device: &str) -> bool {
        let mut keys = self.known.iter().map(|(key, _)| key);
        let known = keys.find(|key| key.kind == kind && key.id == device);
        match known {
            Some(key) => match self.datapath.is_up(&key.place, device).await {
                Ok(Some(up)) => kind == Kind::Up && !up,
                Ok(None) | Err(_) => true,
            },
            None => false,
        }
    }

    /// Whether the node was of the other kind and what is left of that may not be deleted yet: two
    /// domains of one tenant would be in each other's way.
    pub(super) async fn waits_to_move(&mut self, in_sync: bool) -> bool {
        if self.other_kind.is_none() {
            let seen = self.datapath.has_other_kind().await;
            self.other_kind = seen.ok();
        }
        if in_sync {
            self.other_kind = Some(false);
        }
        self.other_kind.unwrap_or(true)
    }
}
