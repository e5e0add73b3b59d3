//! What others changed: whether the kernel still holds what we know it to hold.

use tokio::time::Instant;

use super::allowed::Allowed;
use super::{Concerned, Core};
use node_core::desired::{desired, domain_name, tenants};
use node_core::projection::Projection;
use node_core::reconcile::Op;
use node_core::resource::{Kind, Place, State};
use node_datapath::KernelChange;

impl Core {
    /// Looks at the host's own firewall; whether something of ours there has to be put right.
    pub(super) async fn glance(&mut self) -> bool {
        let found = self.neighbours.glance(&self.known, Instant::now()).await;
        if !found.lost.is_empty() {
            self.before = Some(self.known.clone());
        }
        for key in &found.lost {
            tracing::info!(
                rule = key.id,
                "letting our packets through this host's firewall"
            );
            self.known.remove(key);
        }
        if found.news {
            let foreign_drops = self.neighbours.foreign_drops().to_vec();
            self.progress
                .send_modify(|progress| progress.foreign_drops = foreign_drops);
        }
        self.host_drifted |= !found.lost.is_empty();
        !found.lost.is_empty()
    }

    /// Whether the kernel doesn't hold any more what we know it to hold.
    pub(super) async fn is_drift(&mut self, sign: &KernelChange) -> bool {
        match sign {
            KernelChange::Changed => true,
            KernelChange::Rules(place) => {
                self.torn.insert(place.clone());
                true
            }
            KernelChange::HostFirewall => false,
            KernelChange::Renamed { from, to } => self.rename_back(from, to).await,
            KernelChange::Gone(device) => self.lacks(Kind::Device, device).await,
            KernelChange::Down(device) => self.lacks(Kind::Up, device).await,
        }
    }

    /// Puts our table right in one netfilter, before everything is looked at, which takes several times
    /// as long: denied traffic may pass meanwhile. Then it ends the connections that were opened in
    /// between. What fails here is done by the look that follows.
    pub(super) async fn mend_rules(
        &mut self,
        place: &Place,
        facts: &Projection,
        allowed: &Allowed,
    ) {
        // Nothing was looked at yet, so it isn't known what must be kept.
        if self.kept.is_none() {
            return;
        }
        let Ok(seen) = self.datapath.rules(place).await else {
            return;
        };
        let before = self.known.clone();
        let known = before.iter().map(|(key, _)| key);
        let gone = known.filter(|key| key.kind.is_of_table() && key.place.netfilter() == *place);
        gone.for_each(|key| self.known.remove(key));
        seen.resources()
            .for_each(|resource| self.known.insert(resource.clone()));
        self.before = Some(before);
        let kind = self.params.kind;
        let mut concerned = tenants(facts, &self.locals, &self.params);
        concerned.retain(|it| Place::Domain(domain_name(kind, it)).netfilter() == *place);
        let host = *place == Place::Host;
        let tenants = concerned.clone();
        let mended = self.part(facts, Concerned { host, tenants }, allowed).await;
        if mended.is_ok() && self.was_in_sync {
            let (locals, params) = (&self.locals, &self.params);
            let ending = self
                .ending
                .strays(facts, &concerned, locals, params, &self.datapath);
            if let Err(error) = ending.await {
                tracing::warn!(error, "can't end what was opened while our rules were gone");
            }
        }
    }

    /// A port that is made anew has lost its container, and two VXLAN devices can't have one VNI:
    /// so the device itself gets its name back.
    async fn rename_back(&mut self, name: &str, now: &str) -> bool {
        // Not what is known: a look may have missed it already, and its replacement was refused.
        let facts = self.facts.snapshot();
        let want = desired(&facts, &self.locals, &self.params, &mut self.programs);
        let mut keys = want.iter().map(|(key, _)| key);
        let wanted = keys.find(|key| key.kind == Kind::Device && key.id == name);
        let Some(key) = wanted else {
            return false;
        };
        match self.datapath.rename_back(&key.place, now, name).await {
            Ok(()) => {
                let what = format!("{name}, which somebody had named {now}");
                self.healings.note(vec![("name", what)]);
            }
            Err(error) => tracing::warn!(%error, now, name, "can't give a device its name back"),
        }
        true
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

/// Those ops that put right what others changed: of each its kind, and what it is. `before` is
/// what was known to be there; what is wanted only now, or wanted no more, is nobody's fault.
pub(super) fn healed(before: &State, ops: &[Op]) -> Vec<(&'static str, String)> {
    let healed = ops.iter().filter_map(|op| {
        let (resource, is) = match op {
            Op::Put(it) | Op::Change { to: it, .. } => (it, before.get(&it.key()) == Some(it)),
            Op::Delete(it) => (it, before.get(&it.key()).is_none()),
            Op::FlushConntrack { .. } => return None,
        };
        is.then(|| (kind_of(resource.object.kind()), resource.to_string()))
    });
    healed.collect()
}

fn kind_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Domain => "domain",
        Kind::DomainSysctl | Kind::DeviceSysctl => "setting",
        Kind::Device => "device",
        Kind::Up => "device-down",
        Kind::Address => "address",
        Kind::Neighbor => "neighbor",
        Kind::Fdb => "fdb",
        Kind::Route => "route",
        Kind::DockerUserRule => "passage",
        // Whatever nft holds.
        _ => "rule",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_core::resource::{Object, Resource, Up};

    fn up(device: &str) -> Resource {
        let device = device.to_owned();
        Object::Up(Up { device }).at(&Place::Host)
    }

    #[test]
    fn healed_is_what_was_there_and_what_nobody_wanted() {
        let mut before = State::default();
        before.insert(up("cv1"));
        before.insert(up("cv4"));
        let ops = [
            Op::Put(up("cv1")),
            Op::Put(up("cv2")),
            Op::Delete(up("cv3")),
            Op::Delete(up("cv4")),
        ];
        let healed: Vec<String> = healed(&before, &ops).into_iter().map(|it| it.1).collect();
        let expected = [up("cv1"), up("cv3")].map(|it| it.to_string());
        assert_eq!(healed, expected);
    }
}
