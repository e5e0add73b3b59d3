//! Between hickory and the zone: what is ours is looked up, what isn't is asked elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::TenantName;
use hickory_proto::op::{OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::server::Request;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::counters::Counters;
use super::message::{self, Outcome, Said};
use super::recent::{Key, Recent};
use super::relay::{self, Passed};
use super::upstream::{Begun, Forward, ForwardError, Heard, Upstream};
use super::zone::{self, Answer, Asked, Question};
use node_core::projection::EndpointsView;
use runtime::lock;

/// Queries of one domain that wait; more are told to try again, so that one tenant's flood takes
/// neither memory nor sockets from the others.
const IN_FLIGHT: usize = 256;
/// How long a question waits for what isn't known yet, right after a start.
const PATIENCE: Duration = Duration::from_secs(1);

/// How names are answered, everywhere on this node.
#[derive(Debug)]
pub(super) struct Shared {
    pub view: watch::Receiver<EndpointsView>,
    pub upstream: Upstream,
    pub counters: Counters,
    pub recent: Mutex<Recent>,
    /// How many views all domains together have seen.
    pub views: AtomicU64,
    /// In lower case, without dots around it.
    pub suffix: String,
    /// Seconds.
    pub ttl: u32,
}

/// Answers the queries of one domain, or of the host.
#[derive(Debug)]
pub(super) struct Handler {
    tenant: Option<TenantName>,
    shared: Arc<Shared>,
    seen: Mutex<Seen>,
    in_flight: Arc<Semaphore>,
}

/// The view as this domain saw it last, so that domains don't wait for one another, nor who
/// changes the view for any of them.
#[derive(Debug)]
struct Seen {
    current: watch::Receiver<EndpointsView>,
    view: EndpointsView,
    /// No other view has it, nor any other domain's.
    number: u64,
}

/// What can be said of a query now.
pub(super) enum Now<'a> {
    Told(Outcome),
    /// Another resolver is to be asked.
    Elsewhere(Forward<'a>, OwnedSemaphorePermit),
    Later(&'a Query),
}

/// What is known here of a name.
enum Known {
    Said(Said),
    /// It isn't for us to say.
    Elsewhere,
    /// Not yet.
    Later,
}

impl Seen {
    /// What holds now.
    fn follow(&mut self, views: &AtomicU64) -> &Self {
        // An error says that nobody changes it any more.
        if self.current.has_changed().unwrap_or(true) {
            self.view = self.current.borrow_and_update().clone();
            self.number = views.fetch_add(1, Ordering::Relaxed);
        }
        self
    }
}

impl Handler {
    pub(super) fn new(tenant: Option<TenantName>, shared: Arc<Shared>) -> Self {
        let mut current = shared.view.clone();
        let view = current.borrow_and_update().clone();
        let number = shared.views.fetch_add(1, Ordering::Relaxed);
        Self {
            tenant,
            shared,
            seen: Mutex::new(Seen {
                current,
                view,
                number,
            }),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Under which the answer to this query would be remembered.
    pub(super) fn key(&self, query: &[u8], asker: SocketAddr) -> Option<Key> {
        let view = lock(&self.seen).follow(&self.shared.views).number;
        Key::of(query, asker, view)
    }

    /// What was said to it just now.
    pub(super) fn recall(&self, key: &Key, query: &[u8]) -> Option<Vec<u8>> {
        let reply = lock(&self.shared.recent).get(key, query)?;
        self.counters().answered.fetch_add(1, Ordering::Relaxed);
        Some(reply)
    }

    pub(super) fn remember(&self, key: Key, reply: &[u8]) {
        lock(&self.shared.recent).put(key, reply);
    }

    pub(super) fn now<'a>(&'a self, request: &'a Request) -> Now<'a> {
        let query = match one_of(request) {
            Ok(query) => query,
            Err(code) => return Now::Told(Outcome::Said(Said::only(request, code))),
        };
        match self.known(request, query) {
            Known::Said(said) => Now::Told(Outcome::Said(said)),
            Known::Later => Now::Later(query),
            Known::Elsewhere => match self.elsewhere(request) {
                Ok((forward, permit)) => Now::Elsewhere(forward, permit),
                Err(outcome) => Now::Told(outcome),
            },
        }
    }

    /// Waits for what isn't known yet.
    pub(super) async fn later(&self, request: &Request, query: &Query) -> Outcome {
        let Ok(permit) = self.in_flight.try_acquire() else {
            return self.failed(request);
        };
        let mut view = self.shared.view.clone();
        let complete = view.wait_for(EndpointsView::is_complete);
        if timeout(PATIENCE, complete).await.is_err() {
            return self.failed(request);
        }
        drop(permit);
        match self.known(request, query) {
            Known::Said(said) => Outcome::Said(said),
            Known::Elsewhere | Known::Later => match self.elsewhere(request) {
                Ok((forward, permit)) => self.ask(request, forward, permit).await,
                Err(outcome) => outcome,
            },
        }
    }

    /// Waits for another resolver's answer.
    pub(super) async fn ask(
        &self,
        request: &Request,
        forward: Forward<'_>,
        _permit: OwnedSemaphorePermit,
    ) -> Outcome {
        self.forwarded(request, forward.ask().await)
    }

    /// The same, after one was asked.
    pub(super) async fn go_on(&self, request: &Request, begun: Begun, heard: Heard) -> Outcome {
        let upstream = &self.shared.upstream;
        let said = upstream.go_on(Passed::new(request), begun, heard).await;
        self.forwarded(request, said)
    }

    /// Another resolver answered this question.
    pub(super) fn landed(&self, begun: Begun, question: &[u8], reply: &mut [u8]) {
        self.shared.upstream.note(begun, question, reply);
        self.counters().forwarded.fetch_add(1, Ordering::Relaxed);
    }

    /// What others said of it already, or that it is one too many; else how to ask them.
    fn elsewhere<'a>(
        &'a self,
        request: &'a Request,
    ) -> Result<(Forward<'a>, OwnedSemaphorePermit), Outcome> {
        let forward = self.shared.upstream.forward(Passed::new(request));
        if let Some(reply) = forward.recall() {
            self.counters().cached.fetch_add(1, Ordering::Relaxed);
            return Err(relay::relay(request, reply));
        }
        let permit = self.in_flight.clone().try_acquire_owned();
        let permit = permit.map_err(|_| self.failed(request))?;
        Ok((forward, permit))
    }

    fn forwarded(&self, request: &Request, said: Result<Vec<u8>, ForwardError>) -> Outcome {
        match said {
            Ok(reply) => {
                self.counters().forwarded.fetch_add(1, Ordering::Relaxed);
                relay::relay(request, reply)
            }
            Err(error) => {
                tracing::debug!(%error, "not forwarded");
                self.failed(request)
            }
        }
    }

    fn known(&self, request: &Request, query: &Query) -> Known {
        let in_class = query.query_class() == DNSClass::IN;
        let Some(tenant) = self.tenant.as_ref().filter(|_| in_class) else {
            return Known::Elsewhere;
        };
        let Some(name) = message::text(query.name()) else {
            return Known::Elsewhere;
        };
        let question = match query.query_type() {
            RecordType::A => Question::A,
            RecordType::AAAA => Question::Aaaa,
            RecordType::ANY => Question::Any,
            RecordType::PTR => Question::Ptr,
            _ => Question::Other,
        };
        let Shared { suffix, ttl, .. } = &*self.shared;
        let asked = Asked {
            tenant,
            asker: request.src().ip().to_canonical(),
            name: &name,
            suffix,
        };
        let answer = zone::answer(
            &lock(&self.seen).follow(&self.shared.views).view,
            &asked,
            question,
        );
        let mut said = match answer {
            Answer::Addresses(mut found) => {
                rotate(&mut found.live);
                rotate(&mut found.silent);
                found.live.append(&mut found.silent);
                message::addresses(request, query.name(), *ttl, &found.live)
            }
            Answer::Name(to) => {
                let pointer = message::pointer(query.name(), *ttl, &to);
                let pointer = pointer.into_iter().collect();
                Said::ours(request, ResponseCode::NoError, pointer)
            }
            Answer::Nobody => Said::ours(request, ResponseCode::NXDomain, Vec::new()),
            Answer::Forward => return Known::Elsewhere,
            Answer::Later => return Known::Later,
        };
        if said.answers.is_empty() {
            // A name is a zone of its own, but for those that our own zone's name ends.
            let zone = match zone::without_suffix(&name, suffix) {
                Some(_) => query.name().trim_to(suffix.split('.').count()),
                None => query.name().clone(),
            };
            said.denied.push(message::denial(zone, *ttl));
        }
        self.counters().answered.fetch_add(1, Ordering::Relaxed);
        Known::Said(said)
    }

    fn failed(&self, request: &Request) -> Outcome {
        self.counters().failed.fetch_add(1, Ordering::Relaxed);
        Outcome::Said(Said::only(request, ResponseCode::ServFail))
    }
}

/// The one question; else what is wrong.
fn one_of(request: &Request) -> Result<&Query, ResponseCode> {
    if request.metadata.op_code != OpCode::Query {
        return Err(ResponseCode::NotImp);
    }
    let [query] = request.queries.queries() else {
        return Err(ResponseCode::FormErr);
    };
    match request.version() {
        0 => Ok(query.original()),
        _ => Err(ResponseCode::BADVERS),
    }
}

/// From a random member on, so that who takes the first one takes each equally often, whatever
/// other names are asked for in between.
fn rotate(addresses: &mut [IpAddr]) {
    if addresses.len() > 1 {
        let first = fastrand::usize(..addresses.len());
        addresses.rotate_left(first);
    }
}
