//! Whether a kernel change is drift: the kernel doesn't hold any more what we know it to hold.

use tokio::time::Instant;

use super::Reconciler;
use node_core::resource::Kind;
use node_datapath::KernelChange;

impl Reconciler {
    /// Reads the host firewall; whether a rule of ours in it must be restored.
    pub(super) async fn poll_host_firewall(&mut self) -> bool {
        let known = self.memory.known();
        let found = self.host_firewall.poll(known, Instant::now()).await;
        for key in &found.lost {
            tracing::info!(
                rule = key.id,
                "letting our packets through this host's firewall"
            );
        }
        self.memory.lose(&found.lost);
        if found.has_news {
            let foreign_drops = self.host_firewall.foreign_drops().to_vec();
            let progress = &self.reports.progress;
            progress.send_modify(|progress| progress.foreign_drops = foreign_drops);
        }
        !found.lost.is_empty()
    }

    pub(super) async fn is_drift(&mut self, change: &KernelChange) -> bool {
        match change {
            KernelChange::Changed => true,
            KernelChange::Rules(place) => {
                self.memory.tear(place.clone());
                true
            }
            KernelChange::HostFirewall => false,
            KernelChange::Renamed { from, to } => self.rename_back(from, to).await,
            KernelChange::Gone(device) => self.lacks(Kind::Device, device).await,
            KernelChange::Down(device) => self.lacks(Kind::Up, device).await,
        }
    }

    /// Renames the device itself: a port that is created anew has lost its container, and two VXLAN
    /// devices can't have one VNI.
    async fn rename_back(&mut self, name: &str, now: &str) -> bool {
        let facts = self.facts.snapshot();
        let Some(place) = self.memory.place_of_desired(name, &facts) else {
            return false;
        };
        match self.datapath.rename_back(&place, now, name).await {
            Ok(()) => {
                let what = format!("{name}, which somebody had named {now}");
                self.reports.healings.note(vec![("name", what)]);
            }
            Err(error) => tracing::warn!(%error, now, name, "can't give a device its name back"),
        }
        true
    }

    /// Whether the kernel's device isn't as we know it. The notification may be out of date.
    async fn lacks(&self, kind: Kind, device: &str) -> bool {
        let Some(key) = self.memory.find(kind, device) else {
            return false;
        };
        match self.datapath.is_up(&key.place, device).await {
            Ok(Some(up)) => kind == Kind::Up && !up,
            Ok(None) | Err(_) => true,
        }
    }
}
