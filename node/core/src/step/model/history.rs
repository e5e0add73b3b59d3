//! Histories of a node: everything that happens to it beside its own steps.

use bus_schema::node::LogState;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::kernel::Refusal;
use crate::desired::interface_names;
use crate::resource::Kind;

const ENDPOINTS: &[&str] = &["web", "db", "app"];
const ADDRESSES: &[&str] = &["20.1.1.1", "20.1.1.2", "20.1.1.3"];

#[derive(Debug, Clone)]
pub(super) enum Action {
    /// Only time passes.
    Wait,
    Attach {
        endpoint: &'static str,
        address: &'static str,
    },
    Detach(&'static str),
    /// An event: the address is another node's, or this node's again.
    Cede {
        address: &'static str,
        holder: &'static str,
    },
    /// An event: the node's block is another node's, or its own again. Without it and without
    /// endpoints, the node has no domain.
    Lease(&'static str),
    /// An event: the other node moves.
    MoveNode(&'static str),
    /// An event: a second network exists, or not.
    Network(bool),
    /// Another node's address belongs to another endpoint.
    Reuse(&'static str),
    Log(LogState),
    JournalIncomplete(bool),
    Refuse(Refusal),
    Accept,
    /// Whether the kernel can be read.
    Readable(bool),
    /// Another program deletes one of the node's resources; with or without a notification.
    Delete {
        index: usize,
        is_heard: bool,
    },
    /// Another program adds a resource that the node had before.
    Add(usize),
    /// Another program deletes the host's or the domain's table.
    Tear {
        host: bool,
    },
    /// netplugin restarts, with all of its facts or with those of its first start.
    Restart {
        is_older: bool,
    },
    /// The log is another one.
    OtherLog,
}

/// An action, and the time until the next one in milliseconds. No time: no step between the two.
pub(super) type Moment = (Action, u64);

pub(super) fn histories() -> impl Strategy<Value = Vec<Moment>> {
    let pause = select(vec![0, 1, 200, 1_000, 40_000]);
    vec((actions(), pause), 1..24)
}

fn actions() -> impl Strategy<Value = Action> {
    let endpoint = || select(ENDPOINTS);
    let address = || select(ADDRESSES);
    prop_oneof![
        1 => Just(Action::Wait),
        6 => (endpoint(), address())
            .prop_map(|(endpoint, address)| Action::Attach { endpoint, address }),
        4 => endpoint().prop_map(Action::Detach),
        2 => (address(), select(vec!["n1", "n2"]))
            .prop_map(|(address, holder)| Action::Cede { address, holder }),
        2 => select(vec!["n1", "n2"]).prop_map(Action::Lease),
        1 => select(vec!["198.18.0.2", "198.18.0.9"]).prop_map(Action::MoveNode),
        1 => any::<bool>().prop_map(Action::Network),
        1 => select(vec!["20.1.1.17", "20.1.1.18"]).prop_map(Action::Reuse),
        5 => logs().prop_map(Action::Log),
        1 => any::<bool>().prop_map(Action::JournalIncomplete),
        3 => refusals().prop_map(Action::Refuse),
        2 => Just(Action::Accept),
        1 => any::<bool>().prop_map(Action::Readable),
        3 => (0_usize..200, any::<bool>())
            .prop_map(|(index, is_heard)| Action::Delete { index, is_heard }),
        1 => (0_usize..200).prop_map(Action::Add),
        1 => any::<bool>().prop_map(|host| Action::Tear { host }),
        2 => any::<bool>().prop_map(|is_older| Action::Restart { is_older }),
        1 => Just(Action::OtherLog),
    ]
}

fn logs() -> impl Strategy<Value = LogState> {
    let reason = "the bus is away".to_owned();
    select(vec![
        LogState::InSync,
        LogState::InSync,
        LogState::CatchingUp,
        LogState::Disconnected { reason },
    ])
}

fn refusals() -> impl Strategy<Value = Refusal> {
    let device = |name: &str| {
        let id = name.parse().expect("an endpoint's id");
        Refusal::Device(interface_names(&id).0)
    };
    let mut all: Vec<Refusal> = ENDPOINTS.iter().map(|it| device(it)).collect();
    let kinds = [
        Kind::Domain,
        Kind::Table,
        Kind::Device,
        Kind::Element,
        Kind::Up,
        Kind::Route,
    ];
    all.push(Refusal::Flushes);
    all.extend(kinds.map(Refusal::Kind));
    select(all)
}
