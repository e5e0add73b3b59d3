//! Starts an actor, and starts it again when it panics.
//!
//! A panic ends one actor, not the process: its mailbox closes, callers get [`Away`], and the factory
//! builds a new one after a pause that doubles. An actor that keeps panicking is given up, and callers
//! get [`Away`] from then on. It must run inside an actix `System`. The registry supervises the deciders
//! with it.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Context, Handler, Message};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The first pause before a new start; it doubles with each panic in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// After so many panics within [`PANIC_WINDOW`] the actor is given up.
const MAX_PANICS: u32 = 6;
const PANIC_WINDOW: Duration = Duration::from_secs(60);

/// The actor doesn't run: it panicked and starts again, or it was given up or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("actor {0} is away")]
pub(super) struct Away(&'static str);

/// The state of a supervised actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Health {
    /// Running; started again this many times.
    Running { restarts: u32 },
    /// It stopped itself.
    Stopped,
    /// It panicked too often and isn't started again.
    GivenUp { restarts: u32 },
}

/// A supervised actor; dropping the last handle stops it.
pub(super) struct Supervised<A: Actor<Context = Context<A>>> {
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
    /// The address of the actor that runs now; it changes after a panic.
    fn address(&self) -> Addr<A> {
        self.address.borrow().clone()
    }

    /// Waits for a place in the mailbox and for the answer.
    pub(super) async fn ask<M>(&self, message: M) -> Result<M::Result, Away>
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let address = self.address();
        address.send(message).await.map_err(|_| Away(self.name))
    }

    /// Watches the actor's state.
    #[cfg(test)]
    fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }
}

/// Starts the actor that `factory` builds, with a mailbox of `bound` messages, and builds it
/// again after a panic. `factory` gets the number of restarts so far.
pub(super) fn supervise<A, F>(name: &'static str, bound: usize, mut factory: F) -> Supervised<A>
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
            recent.retain(|panic| panic.elapsed() < PANIC_WINDOW);
            recent.push(Instant::now());
            let in_a_row = u32::try_from(recent.len()).unwrap_or(u32::MAX);
            if in_a_row >= MAX_PANICS {
                tracing::error!(actor = name, restarts, "panicked too often, given up");
                break drop(states.send(Health::GivenUp { restarts }));
            }
            tracing::error!(actor = name, restarts, "panicked, starting again");
            pause(FIRST_PAUSE * 2_u32.pow(in_a_row - 1)).await;
            let (again, address) = start(bound, factory(restarts));
            running = again;
            // Without a receiver the handle is gone, and this task ends with it.
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
    reason = "an actor that panics is restarted after a pause"
)]
async fn pause(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// Runs the context as a task, whose end distinguishes a panic from a stop: actix's own supervisor
/// doesn't survive the panic.
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
    enum Request {
        Restarts,
        Panic,
    }

    impl Handler<Request> for Fragile {
        type Result = u32;

        fn handle(&mut self, message: Request, _: &mut Context<Self>) -> u32 {
            match message {
                Request::Restarts => self.restarts,
                Request::Panic => panic!("on demand"),
            }
        }
    }

    #[actix::test]
    async fn an_actor_that_panics_is_started_again() {
        let actor = supervise("fragile", 4, |restarts| Fragile { restarts });
        assert_eq!(actor.ask(Request::Restarts).await, Ok(0));
        assert_eq!(actor.ask(Request::Panic).await, Err(Away("fragile")));
        let mut health = actor.health();
        let again = health.wait_for(|h| *h == Health::Running { restarts: 1 });
        drop(again.await.expect("supervised"));
        assert_eq!(actor.ask(Request::Restarts).await, Ok(1));
    }

    #[actix::test]
    async fn an_actor_that_keeps_panicking_is_given_up() {
        let actor = supervise("fragile", 4, |restarts| Fragile { restarts });
        let mut health = actor.health();
        for panics in 1..=MAX_PANICS {
            let _ = actor.ask(Request::Panic).await;
            let seen = health.wait_for(|h| match h {
                Health::Running { restarts } | Health::GivenUp { restarts } => *restarts == panics,
                Health::Stopped => false,
            });
            drop(seen.await.expect("supervised"));
        }
        assert!(matches!(*health.borrow(), Health::GivenUp { .. }));
    }

    #[actix::test]
    async fn an_actor_stops_with_its_last_handle() {
        let actor = supervise("fragile", 4, |restarts| Fragile { restarts });
        let address = actor.address();
        drop(actor);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        assert!(address.send(Request::Restarts).await.is_err());
    }
}
