//! Between hickory and the zone: what is ours is looked up, what isn't is asked elsewhere.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::TenantName;
use hickory_proto::op::{OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::server::Request;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::counters::Counters;
use super::message::{self, Outcome, Said};
use super::relay::{self, Passed};
use super::upstream::Upstream;
use super::zone::{self, Answer, Asked, Question};
use crate::lock::lock;
use crate::projection::EndpointsView;

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
    in_flight: Semaphore,
}

/// The view as this domain saw it last, so that domains don't wait for one another, nor who
/// changes the view for any of them.
#[derive(Debug)]
struct Seen {
    current: watch::Receiver<EndpointsView>,
    view: EndpointsView,
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
    fn current(&mut self) -> &EndpointsView {
        // An error says that nobody changes it any more.
        if self.current.has_changed().unwrap_or(true) {
            self.view = self.current.borrow_and_update().clone();
        }
        &self.view
    }
}

impl Handler {
    pub(super) fn new(tenant: Option<TenantName>, shared: Arc<Shared>) -> Self {
        let mut current = shared.view.clone();
        let view = current.borrow_and_update().clone();
        Self {
            tenant,
            shared,
            seen: Mutex::new(Seen { current, view }),
            in_flight: Semaphore::new(IN_FLIGHT),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Answers at once, when first polled, what can be answered at once.
    pub(super) async fn answer(&self, request: &Request) -> Outcome {
        let query = match one_of(request) {
            Ok(query) => query,
            Err(code) => return Outcome::Said(Said::only(request, code)),
        };
        match self.known(request, query) {
            Known::Said(said) => Outcome::Said(said),
            Known::Elsewhere => self.elsewhere(request).await,
            Known::Later => self.later(request, query).await,
        }
    }

    async fn later(&self, request: &Request, query: &Query) -> Outcome {
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
            Known::Elsewhere | Known::Later => self.elsewhere(request).await,
        }
    }

    async fn elsewhere(&self, request: &Request) -> Outcome {
        let Shared {
            upstream, counters, ..
        } = &*self.shared;
        let forward = upstream.forward(Passed::new(request));
        if let Some(reply) = forward.recall() {
            counters.cached.fetch_add(1, Ordering::Relaxed);
            return relay::relay(request, reply);
        }
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return self.failed(request);
        };
        match forward.ask().await {
            Ok(reply) => {
                counters.forwarded.fetch_add(1, Ordering::Relaxed);
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
        let answer = zone::answer(lock(&self.seen).current(), &asked, question);
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
