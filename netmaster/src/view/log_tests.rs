use bus_schema::event::LogAccepted;

use bus_schema::node::LogState;

use super::tests::{node, status, view};
use super::*;

fn foreign(name: &str, applied: u64) -> NodeStatus {
    NodeStatus {
        log: LogState::Foreign {
            reason: "another event".to_owned(),
        },
        ..status(name, applied)
    }
}

fn is_damaged(view: &View, now: u64) -> bool {
    view.damage(now).is_some()
}

#[test]
fn nodes_that_were_accepted_stay_accepted_when_others_are() {
    let mut view = view();
    for (revision, names) in [(7, ["n1"]), (8, ["n2"])] {
        let ahead = names.map(|name| (node(name), Revision(40)));
        view.apply(
            Revision(revision),
            Some(&Event::LogAccepted(LogAccepted {
                end: Revision(revision - 1),
                ahead: ahead.into(),
            })),
        );
    }
    for name in ["n1", "n2"] {
        view.hear(foreign(name, 40), 1_000);
    }
    assert!(!is_damaged(&view, 1_000));
    for name in ["n1", "n2"] {
        view.hear(foreign(name, 41), 2_000);
    }
    assert!(is_damaged(&view, 2_000), "they applied more since");
}

#[test]
fn nodes_that_call_a_log_foreign_which_holds_what_they_applied_are_believed_after_five_seconds() {
    let mut view = view();
    for at in [1_000, 4_000, 5_999] {
        for name in ["n1", "n2"] {
            view.hear(foreign(name, 6), at);
        }
        assert!(!is_damaged(&view, at), "{at}");
    }
    assert!(is_damaged(&view, 6_000));
    // They had asked a server that led no more.
    for name in ["n1", "n2"] {
        view.hear(status(name, 6), 6_500);
    }
    assert!(!is_damaged(&view, 6_500));
}

#[test]
fn a_node_that_follows_another_log_is_waited_for() {
    let mut view = view();
    view.hear(foreign("n1", 40), 1_000);
    view.hear(status("n2", 6), 1_000);
    let (waited, over) = view.waiting(Revision(6), false, 1_000);
    assert!(!over);
    let lagging: Vec<_> = waited.lagging.keys().cloned().collect();
    assert_eq!(lagging, [node("n1")]);
}
