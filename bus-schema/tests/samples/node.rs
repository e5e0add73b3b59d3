use super::*;

pub(super) fn healing() -> Healing {
    Healing {
        kinds: [("route".to_owned(), 3)].into(),
        last: Some(Healed {
            what: "20.1.1.32/28 via 198.18.0.12 dev cx1001".to_owned(),
            at: 1_700_000_000_000,
        }),
    }
}

pub(crate) fn node_requests() -> Vec<NodeRequest> {
    let mut all = vec![
        NodeRequest::Status,
        NodeRequest::Drain {
            tenant: tenant(),
            network: network(),
            revision: Revision(42),
        },
        NodeRequest::Cede {
            tenant: tenant(),
            network: network(),
            address: ip("20.1.1.17"),
            to: node("node2"),
            promised: false,
        },
        NodeRequest::Spare {
            pool: PoolKey::of_network(&tenant(), &network()),
            v6: false,
            revision: Revision(42),
        },
        NodeRequest::ReturnBlock {
            pool: PoolKey::of_network(&tenant(), &network()),
            v6: false,
        },
        NodeRequest::CedeAny {
            pool: PoolKey::of_network(&tenant(), &network()),
            v6: false,
            to: node("node2"),
            count: 3,
        },
        NodeRequest::DrainNode {
            revision: Revision(42),
        },
        NodeRequest::AcceptLog {
            cluster: ClusterId(id(1)),
        },
        NodeRequest::Examine,
        NodeRequest::Steps {
            revisions: vec![Revision(41), Revision(42)],
        },
        NodeRequest::CleanUp,
    ];
    all.extend(policy::node_requests());
    all
}

pub(crate) fn node_replies() -> Vec<NodeReply> {
    let mut all = vec![
        NodeReply::Status(Box::new(status())),
        NodeReply::Done,
        NodeReply::Spare(Spare {
            addresses: 14,
            in_use: 3,
            blocks: 0,
            free: 11,
            recent: 2,
            ceding: 1,
        }),
        NodeReply::GaveUp {
            revision: Revision(42),
        },
        NodeReply::InUse {
            endpoints: vec![endpoint_use()],
        },
        NodeReply::Refused {
            reason: "not in sync yet".to_owned(),
        },
        NodeReply::HoldsBlocks {
            reason: "its blocks aren't returned yet".to_owned(),
        },
        NodeReply::Examined(Examination {
            at: 1_700_000_000_000,
            findings: vec![Finding::new(
                Grade::Wrong,
                "underlay",
                "packets of 1500 bytes don't arrive",
            )],
        }),
        NodeReply::Steps(Steps {
            steps: vec![Step {
                revision: Revision(42),
                read: 1_700_000_000_000_000,
                applied: Some(1_700_000_000_004_000),
                ops: 3,
                last: Some("+ 20.1.1.32/28 via 198.18.0.12 dev cx1001".to_owned()),
            }],
            read: Revision(43),
        }),
        NodeReply::CleanedUp(Cleanup {
            done: vec!["- cv0123456789".to_owned()],
            failed: vec!["the engine doesn't answer".to_owned()],
        }),
    ];
    all.extend(policy::node_replies());
    all
}
