//! Starts an actor, and starts it again when it panics.
//!
//! A panic ends one actor, not the process: its mailbox closes, callers get [`Away`], and a new
//! one is built by the factory after a pause that doubles. One that keeps panicking is given up:
//! the handle says so, and its owner ends the process. Must run inside an actix `System`.
//! Used by this shell for deciders, and by the node for its own actors.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Context, Handler, Message};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The first pause before a new start; it doubles with each panic in a row.
const PAUSE: Duration = Duration::from_millis(50);
/// This many panics within [`WINDOW`] and the actor is given up.
const PANICS: u32 = 6;
const WINDOW: Duration = Duration::from_secs(60);

/// The actor isn't there: it panicked and starts again, or it was given up or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("actor {0} is away")]
pub struct Away(pub &'static str);

/// Its mailbox is full; the message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("actor {0} is busy")]
pub struct Busy(pub &'static str);

/// What becomes of a supervised actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Running; started again this many times.
    Running { restarts: u32 },
    /// It stopped itself.
    Stopped,
    /// It panicked too often and isn't started again: end the process.
    GivenUp { restarts: u32 },
}

/// A supervised actor; dropping the last handle stops it.
pub struct Supervised<A: Actor<Context = Context<A>>> {
    name: &'static str,
    address: watch::Receiver<Addr<A>>,
    health: watch::Receiver<Health>,
    _task: Rc<Task>,
}

impl<A: Actor<Context = Context<A>>> Clone for Supervised<A> {
    fn clone(&self) -> Self {
        Self {
            name: self.name,
            address: self.address.clone(),
            health: self.health.clone(),
            _task: Rc::clone(&self._task),
        }
    }
}

impl<A: Actor<Context = Context<A>>> fmt::Debug for Supervised<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervised")
            .field("name", &self.name)
            .field("health", &*self.health.borrow())
            .finish_non_exhaustive()
    }
}

struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<A: Actor<Context = Context<A>>> Supervised<A> {
    /// The address of the actor that runs now; after a panic another one holds.
    pub fn address(&self) -> Addr<A> {
        self.address.borrow().clone()
    }

    /// Waits for a place in the mailbox and for the answer.
    pub async fn ask<M>(&self, message: M) -> Result<M::Result, Away>
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let address = self.address();
        address.send(message).await.map_err(|_| Away(self.name))
    }

    /// Puts a message into the mailbox if it has a place.
    pub fn tell<M>(&self, message: M) -> Result<(), Busy>
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        self.address()
            .try_send(message)
            .map_err(|_| Busy(self.name))
    }

    /// Watches what becomes of it.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

/// Starts the actor that `factory` builds, with a mailbox of `bound` messages, and builds it
/// again after a panic. `factory` gets the number of restarts so far.
pub fn supervise<A, F>(name: &'static str, bound: usize, mut factory: F) -> Supervised<A>
where
    A: Actor<Context = Context<A>>,
    F: FnMut(u32) -> A + 'static,
{
    let (running, first) = start(bound, factory(0));
    let (addresses, address) = watch::channel(first);
    let (states, health) = watch::channel(Health::Running { restarts: 0 });
    let task = actix::spawn(async move {
        let mut running = running;
        let mut restarts = 0;
        let mut recent: Vec<Instant> = Vec::new();
        loop {
            match (&mut running.0).await {
                Ok(()) => break drop(states.send(Health::Stopped)),
                Err(e) if e.is_cancelled() => break drop(states.send(Health::Stopped)),
                Err(_) => {}
            }
            restarts += 1;
            recent.retain(|panic| panic.elapsed() < WINDOW);
            recent.push(Instant::now());
            let in_a_row = u32::try_from(recent.len()).unwrap_or(u32::MAX);
            if in_a_row >= PANICS {
                tracing::error!(actor = name, restarts, "panicked too often, given up");
                break drop(states.send(Health::GivenUp { restarts }));
            }
            tracing::error!(actor = name, restarts, "panicked, starting again");
            pause(PAUSE * 2_u32.pow(in_a_row - 1)).await;
            let (again, address) = start(bound, factory(restarts));
            running = again;
            // Nobody listening is no trouble: the handle is gone, and this task with it.
            let _ = addresses.send(address);
            let _ = states.send(Health::Running { restarts });
        }
    });
    Supervised {
        name,
        address,
        health,
        _task: Rc::new(Task(task)),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the pause before a restart is the point"
)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The context runs as a task of our own, whose end tells a panic from a stop: actix's own
/// supervisor is gone with the panic.
fn start<A: Actor<Context = Context<A>>>(bound: usize, actor: A) -> (Task, Addr<A>) {
    let mut context = Context::new();
    context.set_mailbox_capacity(bound);
    let address = actix::AsyncContext::address(&context);
    (Task(actix::spawn(context.into_future(actor))), address)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fragile {
        restarts: u32,
    }

    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "u32")]
    enum Say {
        Restarts,
        Panic,
    }

    impl Handler<Say> for Fragile {
        type Result = u32;

        fn handle(&mut self, message: Say, _: &mut Context<Self>) -> u32 {
            match message {
                Say::Restarts => self.restarts,
                Say::Panic => panic!("on demand"),
            }
        }
    }

    #[actix::test]
    async fn a_panic_starts_it_again() {
        let actor = supervise("fragile", 4, |restarts| Fragile { restarts });
        assert_eq!(actor.ask(Say::Restarts).await, Ok(0));
        assert_eq!(actor.ask(Say::Panic).await, Err(Away("fragile")));
        let mut health = actor.health();
        let again = health.wait_for(|h| *h == Health::Running { restarts: 1 });
        drop(again.await.expect("supervised"));
        assert_eq!(actor.ask(Say::Restarts).await, Ok(1));
    }

    #[actix::test]
    async fn one_that_keeps_panicking_is_given_up() {
        let actor = supervise("fragile", 4, |restarts| Fragile { restarts });
        let mut health = actor.health();
        for panics in 1..=PANICS {
            let _ = actor.ask(Say::Panic).await;
            let seen = health.wait_for(|h| match h {
                Health::Running { restarts } | Health::GivenUp { restarts } => *restarts == panics,
                Health::Stopped => false,
            });
            drop(seen.await.expect("supervised"));
        }
        assert!(matches!(*health.borrow(), Health::GivenUp { .. }));
    }

    #[actix::test]
    async fn its_last_handle_stops_it() {
        let actor = supervise("fragile", 4, |restarts| Fragile { restarts });
        let address = actor.address();
        drop(actor);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(address.send(Say::Restarts).await.is_err());
    }
}
