//! Which ops repaired changes of others. Pure.

use crate::reconcile::Op;
use crate::resource::{Kind, State};

/// A change of others that was repaired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// The key of the counter.
    pub kind: &'static str,
    pub resource: String,
}

/// The ops that repaired changes of others. `before` is what was known to be there; resources that
/// are wanted only since then, or not wanted any more, were nobody's fault.
pub(super) fn repairs(before: &State, ops: &[Op]) -> Vec<Repair> {
    let healed = ops.iter().filter_map(|op| {
        let (resource, is_healed) = match op {
            Op::Put(it) | Op::Change { to: it, .. } => (it, before.get(&it.key()) == Some(it)),
            Op::Delete(it) => (it, before.get(&it.key()).is_none()),
            Op::FlushConntrack { .. } => return None,
        };
        is_healed.then(|| Repair {
            kind: counter_of(resource.object.kind()),
            resource: resource.to_string(),
        })
    });
    healed.collect()
}

fn counter_of(kind: Kind) -> &'static str {
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
        Kind::VrfRule => "vrf-rule",
        // All that nft holds.
        _ => "rule",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{Object, Place, Resource, Up};

    fn up(device: &str) -> Resource {
        let device = device.to_owned();
        Object::Up(Up { device }).at(&Place::Host)
    }

    #[test]
    fn repair_restores_known_or_deletes_unwanted_resources() {
        let mut before = State::default();
        before.insert(up("cv1"));
        before.insert(up("cv4"));
        let ops = [
            Op::Put(up("cv1")),
            Op::Put(up("cv2")),
            Op::Delete(up("cv3")),
            Op::Delete(up("cv4")),
        ];
        let healed = repairs(&before, &ops).into_iter().map(|it| it.resource);
        let expected = [up("cv1"), up("cv3")].map(|it| it.to_string());
        assert_eq!(healed.collect::<Vec<_>>(), expected);
    }
}
