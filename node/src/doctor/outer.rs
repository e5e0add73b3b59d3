//! Reports packets to VXLAN's outer port that were dropped lately, with possible causes.

use bus_schema::node::{Finding, Grade};

use crate::outer_drops::RecentDrops;
use node_core::resource::OuterDrop;
use node_datapath::DatapathError;

const FINDING_SUBJECT: &str = "outer-port";

/// One finding for each reason, or one that says that nothing was dropped.
pub(super) fn findings(recent: Result<RecentDrops, DatapathError>, port: u16) -> Vec<Finding> {
    let recent = match recent {
        Ok(recent) => recent,
        Err(error) => {
            return vec![Finding::new(
                Grade::Unknown,
                FINDING_SUBJECT,
                error.to_string(),
            )];
        }
    };
    let during = during(recent.during.as_secs() / 60);
    if recent.drops.is_empty() {
        let text = format!("no packet to UDP port {port} was dropped {during}");
        return vec![Finding::new(Grade::Fine, FINDING_SUBJECT, text)];
    }
    let finding = |(reason, packets): (&OuterDrop, &u64)| {
        let cause = cause(*reason, port);
        let text = format!("{packets} packets to UDP port {port} were dropped {during}: {cause}");
        Finding::new(Grade::Warning, FINDING_SUBJECT, text)
    };
    recent.drops.iter().map(finding).collect()
}

fn during(minutes: u64) -> String {
    match minutes {
        60.. => "in the last hour".to_owned(),
        minutes => format!("in the {minutes} minutes since netplugin started"),
    }
}

fn cause(reason: OuterDrop, port: u16) -> String {
    match reason {
        OuterDrop::Sender => format!(
            "their source address is no node's (`tcpdump -ni any udp port {port}` shows it): a removed \
             node, a node behind a NAT, or an attacker that tries to reach containers"
        ),
        OuterDrop::Interface => {
            "they have a node's source address, but came by another interface than the one that leads \
             to that node: an attacker forges it, or the routes between the nodes aren't symmetric; \
             compare with `ip route get NODE`"
                .to_owned()
        }
        OuterDrop::Address => {
            "they have a node's source address, but were sent to a broadcast, a multicast or another \
             address of this host, which no node does: an attacker forges it"
                .to_owned()
        }
        OuterDrop::Forwarded => format!(
            "this host was to forward them, and their sender is no node of this cluster, or is one \
             that this host reaches by another interface (`tcpdump -eni any udp port {port}` shows \
             it): a container or a virtual machine of this host tries to reach other nodes' \
             containers; if nodes run in virtual machines here, on a bridge without an address of \
             this host or in another cluster, `sysctl net.bridge.bridge-nf-call-iptables=0` lets \
             bridged packets pass"
        ),
        OuterDrop::Process => format!(
            "a process of this host sent them (`ss -uapn` may show it): it tries to reach other nodes' \
             containers, or it needs another port than {port}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn texts(drops: &[(OuterDrop, u64)], minutes: u64) -> Vec<(Grade, String)> {
        let recent = RecentDrops {
            drops: drops.iter().copied().collect(),
            during: Duration::from_secs(60 * minutes),
        };
        let findings = findings(Ok(recent), 14_789).into_iter();
        findings.map(|it| (it.grade, it.text)).collect()
    }

    #[test]
    fn each_reason_is_a_warning_with_its_number_of_packets() {
        let [(grade, text)] = &texts(&[], 60)[..] else {
            panic!("one finding");
        };
        assert_eq!(*grade, Grade::Fine);
        assert!(text.ends_with("dropped in the last hour"), "{text}");
        let all = OuterDrop::ALL.map(|reason| (reason, 7));
        let found = texts(&all, 12);
        assert_eq!(found.len(), all.len());
        for (grade, text) in &found {
            assert_eq!(*grade, Grade::Warning);
            let begin = "7 packets to UDP port 14789 were dropped in the 12 minutes since";
            assert!(text.starts_with(begin), "{text}");
        }
    }
}
