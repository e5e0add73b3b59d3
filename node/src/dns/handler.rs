//! Between the sockets and the zone: questions in, answers out.
//!
//! What is ours is answered at once, within the socket's loop; what must wait, for the host's
//! resolvers or for what isn't known yet, becomes a task, of which a domain has [`IN_FLIGHT`].

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bus_schema::TenantName;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::timeout;

use super::counters::Counters;
use super::upstream::Upstream;
use super::wire::{self, Code, Data, Parsed, Query, Said, Transport};
use super::zone::{self, Answer, Asked, Question};
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

/// Answers the queries of one domain, or of the host. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Handler {
    tenant: Option<TenantName>,
    shared: Arc<Shared>,
    in_flight: Arc<Semaphore>,
}

/// What becomes of a message.
#[derive(Debug)]
pub(super) enum Step {
    /// The answer is written.
    Answered,
    /// It gets none.
    Dropped,
    /// It waits in [`Handler::finish`].
    Waits(OwnedSemaphorePermit),
}

impl Handler {
    pub(super) fn new(tenant: Option<TenantName>, shared: Arc<Shared>) -> Self {
        Self {
            tenant,
            shared,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }

    /// Answers over `out` what can be answered now.
    pub(super) fn answer(
        &self,
        bytes: &[u8],
        asker: IpAddr,
        by: Transport,
        out: &mut Vec<u8>,
    ) -> Step {
        let counters = &self.shared.counters;
        let query = match wire::parse(bytes) {
            Parsed::Query(query) => query,
            Parsed::Wrong(query, code) => {
                self.say(&query, code, by, out);
                return Step::Answered;
            }
            Parsed::Garbage => {
                counters.malformed.fetch_add(1, Ordering::Relaxed);
                return Step::Dropped;
            }
        };
        if self.known(&query, asker, by, out) {
            counters.answered.fetch_add(1, Ordering::Relaxed);
            return Step::Answered;
        }
        match self.in_flight.clone().try_acquire_owned() {
            Ok(permit) => Step::Waits(permit),
            Err(_) => {
                counters.failed.fetch_add(1, Ordering::Relaxed);
                self.say(&query, Code::ServFail, by, out);
                Step::Answered
            }
        }
    }

    /// Answers what had to wait: by the host's resolvers, or once everything is known.
    pub(super) async fn finish(
        &self,
        bytes: &[u8],
        asker: IpAddr,
        by: Transport,
        _permit: OwnedSemaphorePermit,
    ) -> Vec<u8> {
        let mut out = Vec::new();
        let Parsed::Query(query) = wire::parse(bytes) else {
            return out;
        };
        let mut view = self.shared.view.clone();
        if self.tenant.is_some() && !view.borrow().is_complete() {
            let complete = timeout(PATIENCE, view.wait_for(EndpointsView::is_complete));
            if complete.await.is_err() {
                self.failed(&query, by, &mut out);
                return out;
            }
            if self.known(&query, asker, by, &mut out) {
                return out;
            }
        }
        match self.shared.upstream.ask(query.bytes(), by).await {
            Ok(mut reply) => {
                self.shared
                    .counters
                    .forwarded
                    .fetch_add(1, Ordering::Relaxed);
                wire::relay(&query, &mut reply, self.shared.ttl, by);
                reply
            }
            Err(error) => {
                tracing::debug!(%error, "not forwarded");
                self.failed(&query, by, &mut out);
                out
            }
        }
    }

    /// False: it isn't for us to say, or not yet.
    fn known(&self, query: &Query<'_>, asker: IpAddr, by: Transport, out: &mut Vec<u8>) -> bool {
        let (Some(tenant), Some(name), wire::IN) = (&self.tenant, query.name(), query.class) else {
            return false;
        };
        let question = match query.kind {
            wire::A => Question::A,
            wire::AAAA => Question::Aaaa,
            wire::ANY => Question::Any,
            wire::PTR => Question::Ptr,
            _ => Question::Other,
        };
        let suffix = self.shared.suffix.as_str();
        let asked = Asked {
            tenant,
            asker,
            name,
            suffix,
        };
        // The lock is held while one name is looked up, no longer.
        let answer = zone::answer(&self.shared.view.borrow(), &asked, question);
        // A name is a zone of its own, but for those that our own zone's name ends.
        let zone = match name.ends_with(suffix) {
            true => suffix.len() + 2,
            false => usize::MAX,
        };
        let said = Said {
            code: Code::NoError,
            authoritative: true,
            ttl: self.shared.ttl,
            zone: Some(zone),
        };
        match answer {
            Answer::Addresses(mut found) => {
                rotate(&mut found.live);
                rotate(&mut found.silent);
                let all = found.live.into_iter().chain(found.silent);
                query.answer(said, all.map(Data::Address), by, out);
            }
            Answer::Name(name) => query.answer(said, [Data::Name(&name)].into_iter(), by, out),
            Answer::Nobody => {
                let code = Code::NxDomain;
                query.answer(Said { code, ..said }, std::iter::empty(), by, out);
            }
            Answer::Forward | Answer::Later => return false,
        }
        true
    }

    fn failed(&self, query: &Query<'_>, by: Transport, out: &mut Vec<u8>) {
        self.shared.counters.failed.fetch_add(1, Ordering::Relaxed);
        self.say(query, Code::ServFail, by, out);
    }

    fn say(&self, query: &Query<'_>, code: Code, by: Transport, out: &mut Vec<u8>) {
        let said = Said {
            code,
            authoritative: false,
            ttl: self.shared.ttl,
            zone: None,
        };
        query.answer(said, std::iter::empty(), by, out);
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
