//! A host's routing rules by the packet mark, which may match the number of a group.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::GroupId;

/// A rule such as `ip rule add pref 100 fwmark 0x5/0xff lookup 77` (ip-rule(8)).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MarkRule {
    pub preference: u32,
    pub mark: u32,
    /// The bits of the mark that are compared.
    pub mask: u32,
    /// It matches all other packets.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub not: bool,
    /// It is one of the rules for IPv6.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ipv6: bool,
    /// In the words of `ip rule`: `lookup 77`, `blackhole`.
    pub action: String,
}

impl MarkRule {
    /// Whether it treats packets that have this group's number as their mark unlike those without a mark.
    pub fn concerns(&self, group: GroupId) -> bool {
        let matches = |mark: u32| (mark ^ self.mark) & self.mask == 0;
        matches(u32::from(group.0)) != matches(0)
    }
}

impl fmt::Display for MarkRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.ipv6 { "-6 " } else { "" };
        let not = if self.not { "not " } else { "" };
        write!(
            f,
            "ip {family}rule {}: {not}from all fwmark {:#x}",
            self.preference, self.mark
        )?;
        if self.mask != u32::MAX {
            write!(f, "/{:#x}", self.mask)?;
        }
        write!(f, " {}", self.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(mark: u32, mask: u32, not: bool) -> MarkRule {
        MarkRule {
            preference: 100,
            mark,
            mask,
            not,
            ipv6: false,
            action: "lookup 77".to_owned(),
        }
    }

    #[test]
    fn rule_concerns_groups_that_it_treats_unlike_packets_without_a_mark() {
        let concerned = |rule: MarkRule| {
            let groups = (1..=u16::MAX).map(GroupId);
            groups.filter(|it| rule.concerns(*it)).count()
        };
        let all = u32::MAX;
        assert!(rule(5, all, false).concerns(GroupId(5)));
        assert_eq!(concerned(rule(5, all, false)), 1);
        // wg-quick's rule matches each packet but the tunnel's own.
        assert!(rule(0xca6c, all, true).concerns(GroupId(0xca6c)));
        assert_eq!(concerned(rule(0xca6c, all, true)), 1);
        assert_eq!(concerned(rule(0x200, 0xf00, false)), 1 << 12);
        // No number of a group has the bit.
        assert_eq!(concerned(rule(0x1_0000, 0x1_0000, false)), 0);
        assert_eq!(concerned(rule(0x2_0005, all, false)), 0);
        // It also matches packets without a mark: the numbers that it doesn't match are the exception.
        assert!(!rule(0, 0xff, false).concerns(GroupId(0x300)));
        assert!(rule(0, 0xff, false).concerns(GroupId(0x301)));
    }

    #[test]
    fn rule_is_shown_in_the_words_of_ip() {
        let shown = rule(5, u32::MAX, false).to_string();
        assert_eq!(shown, "ip rule 100: from all fwmark 0x5 lookup 77");
        let shown = rule(0xca6c, 0xffff, true).to_string();
        assert_eq!(
            shown,
            "ip rule 100: not from all fwmark 0xca6c/0xffff lookup 77"
        );
    }
}
