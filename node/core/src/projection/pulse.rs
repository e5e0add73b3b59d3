//! Which nodes have fallen silent, by the status that each tells everybody every second.
//!
//! Pure: times are those since some beginning. A node hears its own status come back over the bus;
//! without it, it is itself who hears nothing, and judges nobody.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bus_schema::NodeName;

/// Whoever wasn't heard for this long is silent.
const SILENT: Duration = Duration::from_secs(3);
/// Without our own status for this long we are deaf. What others said a second before the last
/// one of ours is then still no older than [`SILENT`].
const DEAF: Duration = Duration::from_millis(1_900);

#[derive(Debug, Default)]
pub struct Pulse {
    heard: BTreeMap<NodeName, Duration>,
    /// When our own status came back last.
    own: Option<Duration>,
    /// Since when we hear without a gap.
    since: Duration,
    silent: BTreeSet<NodeName>,
}

impl Pulse {
    /// A status of `node` was heard.
    pub fn beat(&mut self, node: NodeName, me: &NodeName, now: Duration) {
        if node == *me {
            if self.is_deaf(now) {
                self.since = now;
            }
            self.own = Some(now);
            return;
        }
        self.silent.remove(&node);
        self.heard.insert(node, now);
    }

    /// Who of the members is silent. A node that was never heard is, too, after that time.
    pub fn judge<'a>(
        &mut self,
        members: impl Iterator<Item = &'a NodeName>,
        me: &NodeName,
        now: Duration,
    ) -> &BTreeSet<NodeName> {
        let members: BTreeSet<&NodeName> = members.filter(|node| *node != me).collect();
        self.silent.retain(|node| members.contains(node));
        self.heard.retain(|node, _| members.contains(node));
        if !self.is_deaf(now) {
            for node in members {
                let heard = self.heard.get(node).copied().unwrap_or_default();
                if now.saturating_sub(heard.max(self.since)) >= SILENT {
                    self.silent.insert(node.clone());
                }
            }
        }
        &self.silent
    }

    fn is_deaf(&self, now: Duration) -> bool {
        self.own.is_none_or(|own| now.saturating_sub(own) > DEAF)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is heard in the first half of each second, `.` for nothing: `"a b"` is a status of
    /// each; `me` is us. Says who is silent at the second's end.
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
    fn who_was_not_heard_for_three_seconds_is_silent_until_it_is_heard() {
        let said = silent(&["me a b", "me a", "me a", "me a", "me a", "me a b"]);
        assert_eq!(said, ["", "", "", "b", "b", ""]);
        // Never heard at all: it died before we came.
        assert_eq!(silent(&["me a", "me a", "me a", "me a"]), ["", "", "", "b"]);
    }

    #[test]
    fn who_hears_nothing_judges_nobody() {
        let said = silent(&["me a b", ".", ".", ".", ".", ".", "me", "me a b"]);
        assert_eq!(said, [""; 8]);
        // What was known of somebody before stays.
        let said = silent(&[
            "me a", "me a", "me a", "me a", ".", ".", ".", ".", "me a", "me a",
        ]);
        assert_eq!(said[3..], ["b"; 7]);
        // And after a gap everybody has the whole time to be heard.
        let said = silent(&["me a b", ".", ".", ".", ".", "me a", "me a", "me a", "me a"]);
        assert_eq!(said[5..], ["", "", "", "b"]);
    }
}
