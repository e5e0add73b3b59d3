//! Whether a kernel change is drift: the kernel doesn't hold any more what we know it to hold.

use tokio::time::Instant;

use super::Reconciler;
use node_core::resource::{Key, Kind, Sysctl};
use node_datapath::KernelChange;

/// The settings that one poll reads. Each costs about 5 µs, and each namespace a thread of 50 µs: with
/// two polls a second all settings of 200 domains are read within a second, for 2 % of a core.
const MAX_POLLED_SETTINGS: usize = 1_000;

type Setting = (Key, Sysctl);

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
            KernelChange::Altered(device) => {
                self.differs(device).await || self.lacks(Kind::Up, device).await
            }
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
        let Some(known) = self.memory.find(kind, device) else {
            return false;
        };
        match self.datapath.is_up(&known.place, device).await {
            Ok(Some(up)) => kind == Kind::Up && !up,
            Ok(None) | Err(_) => true,
        }
    }

    /// Whether the kernel's device has other settings than we know.
    async fn differs(&self, device: &str) -> bool {
        let Some(known) = self.memory.find(Kind::Device, device) else {
            return false;
        };
        !self.datapath.is_as_known(known).await.unwrap_or(false)
    }

    /// Reads the next of our settings in `/proc/sys`; whether one has another value.
    pub(super) async fn poll_settings(&mut self) -> bool {
        let known = self.memory.known();
        let settings = known.settings_after(self.last_setting.as_ref(), MAX_POLLED_SETTINGS);
        let is_end = settings.len() < MAX_POLLED_SETTINGS;
        self.last_setting = settings.last().map(|(key, _)| key.clone());
        self.last_setting.take_if(|_| is_end);
        let same_netns = |(one, _): &Setting, (other, _): &Setting| {
            one.place.netfilter() == other.place.netfilter()
        };
        for settings in settings.chunk_by(same_netns) {
            if !matches!(
                self.datapath.has_settings(settings.to_vec()).await,
                Ok(true)
            ) {
                return true;
            }
        }
        false
    }
}
