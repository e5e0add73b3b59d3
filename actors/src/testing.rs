//! Given events, when a command, then events: tests of aggregates that read as their rules.
//!
//! `then` folds the decided events in, so that steps chain. Only the tests of `aggregate` use it.

use bus_schema::{Event, Rejection};

use crate::aggregate::Aggregate;

/// An aggregate with these events folded in.
pub fn given<A: Aggregate>(events: impl IntoIterator<Item = Event>) -> Given<A> {
    let mut state = A::default();
    for event in events {
        state.evolve(&event);
    }
    Given { state }
}

/// An aggregate's state, before a command.
#[derive(Debug)]
pub struct Given<A> {
    pub state: A,
}

impl<A: Aggregate> Given<A> {
    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests read better without borrows"
    )]
    pub fn when(self, command: A::Command, facts: A::Facts) -> When<A> {
        let decided = self.state.decide(&command, &facts);
        When {
            state: self.state,
            decided,
        }
    }
}

/// The decision about a command.
#[derive(Debug)]
pub struct When<A> {
    state: A,
    decided: Result<Vec<Event>, Rejection>,
}

impl<A: Aggregate> When<A> {
    /// Checks that exactly these events were decided, and folds them in.
    #[track_caller]
    pub fn then(self, expected: impl IntoIterator<Item = Event>) -> Given<A> {
        let expected: Vec<Event> = expected.into_iter().collect();
        assert_eq!(self.decided.as_ref(), Ok(&expected));
        self.accepted()
    }

    /// Checks that events were decided, and folds them in.
    #[track_caller]
    pub fn accepted(self) -> Given<A> {
        let mut state = self.state;
        match self.decided {
            Ok(events) => events.iter().for_each(|event| state.evolve(event)),
            Err(rejection) => panic!("rejected: {rejection}"),
        }
        Given { state }
    }

    #[track_caller]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "tests read better without borrows"
    )]
    pub fn rejected(self, expected: Rejection) {
        assert_eq!(self.rejection(), expected);
    }

    #[track_caller]
    pub fn rejection(self) -> Rejection {
        match self.decided {
            Err(rejection) => rejection,
            Ok(events) => panic!("accepted: {events:?}"),
        }
    }
}
