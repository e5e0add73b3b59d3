//! Finds silent nodes by the status that each node publishes every second.
//!
//! Pure: times are relative to any start. A node receives its own status from the bus, too; while it
//! doesn't, its own connection is at fault and it marks no other node silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus_schema::NodeName;

/// A node whose status wasn't received for this long is silent.
const SILENT_TIMEOUT: Duration = Duration::from_secs(3);
/// A node that didn't receive its own status for this long receives nothing. A status that another
/// node sent a second before this node's last one is then no older than [`SILENT_TIMEOUT`].
const OWN_STATUS_TIMEOUT: Duration = Duration::from_millis(1_900);

/// The times at which the statuses of nodes were received last.
#[derive(Debug, Default)]
pub struct Pulse {
    heard: BTreeMap<NodeName, Duration>,
    /// The time at which this node's own status was received last.
    own: Option<Duration>,
    /// The start of the time in which own statuses came without a gap.
    since: Duration,
    silent: BTreeSet<NodeName>,
}

impl Pulse {
    /// Records a status of `node`.
    pub fn beat(&mut self, node: NodeName, me: &NodeName, now: Duration) {
        if node == *me {
            if self.is_cut_off(now) {
                self.since = now;
            }
            self.own = Some(now);
            return;
        }
        self.silent.remove(&node);
        self.heard.insert(node, now);
    }

    /// The silent members. A node that never sent a status is silent after that time, too.
    pub fn judge<'a>(
        &mut self,
        members: impl Iterator<Item = &'a NodeName>,
        me: &NodeName,
        now: Duration,
    ) -> &BTreeSet<NodeName> {
        let members: BTreeSet<&NodeName> = members.filter(|node| *node != me).collect();
        self.silent.retain(|node| members.contains(node));
        self.heard.retain(|node, _| members.contains(node));
        if !self.is_cut_off(now) {
            for node in members {
                let heard = self.heard.get(node).copied().unwrap_or_default();
                if now.saturating_sub(heard.max(self.since)) >= SILENT_TIMEOUT {
                    self.silent.insert(node.clone());
                }
            }
        }
        &self.silent
    }

    fn is_cut_off(&self, now: Duration) -> bool {
        self.own
            .is_none_or(|own| now.saturating_sub(own) > OWN_STATUS_TIMEOUT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The silent nodes at the end of each second. `seconds` names the nodes whose status is received
    /// in the second's first half, `.` for none; `me` is this node.
    fn silent(seconds: &[&str]) -> Vec<String> {
        let (me, mut pulse) = ("me".parse().unwrap(), Pulse::default());
        let members: Vec<NodeName> = ["a", "b", "me"].map(|it| it.parse().unwrap()).into();
        let mut said = Vec::new();
        for (second, heard) in seconds.iter().enumerate() {
            let start = Duration::from_secs(second as u64);
            for (number, node) in heard.split(' ').filter(|it| *it != ".").enumerate() {
                let at = start + Duration::from_millis(number as u64);
                pulse.beat(node.parse().unwrap(), &me, at);
            }
            let end = start + Duration::from_millis(900);
            let silent = pulse.judge(members.iter(), &me, end);
            let silent: Vec<String> = silent.iter().map(ToString::to_string).collect();
            said.push(silent.join(" "));
        }
        said
    }

    #[test]
    fn node_without_status_for_three_seconds_is_silent_until_the_next_one() {
        let said = silent(&["me a b", "me a", "me a", "me a", "me a", "me a b"]);
        assert_eq!(said, ["", "", "", "b", "b", ""]);
        // It never sent one: it died before this node started.
        assert_eq!(silent(&["me a", "me a", "me a", "me a"]), ["", "", "", "b"]);
    }

    #[test]
    fn node_without_own_status_marks_no_peer_silent() {
        let said = silent(&["me a b", ".", ".", ".", ".", ".", "me", "me a b"]);
        assert_eq!(said, [""; 8]);
        // A node that was silent before stays silent.
        let said = silent(&[
            "me a", "me a", "me a", "me a", ".", ".", ".", ".", "me a", "me a",
        ]);
        assert_eq!(said[3..], ["b"; 7]);
        // After a gap every node has the whole time again.
        let said = silent(&["me a b", ".", ".", ".", ".", "me a", "me a", "me a", "me a"]);
        assert_eq!(said[5..], ["", "", "", "b"]);
    }
}
