//! Answers a parsed query: our own names from the zone, other names from the host's resolvers.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bus_schema::{TenantName, policy};
use hickory_proto::op::{OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, RecordType};
use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use tokio::sync::watch;
use tokio::time::timeout;

use super::counters::Counters;
use super::leaving::Asker;
use super::message::{self, Reply, Response};
use super::recent::{RecentKey, RecentReplies};
use super::relay::{self, ForwardedQuery};
use super::shared_questions::{Followed, Lead};
use super::shares::{Share, Shares};
use super::upstream::{FirstAttempt, FirstResult, Forward, ForwardError, Upstream};
use super::zone::{self, Answer, NameQuery, Question};
use node_core::policy::Cache;
use node_core::projection::EndpointsView;
use runtime::lock;

/// Limits a query's wait for a complete view, right after a start.
const VIEW_TIMEOUT: Duration = Duration::from_secs(1);

/// State shared by all of a node's servers.
#[derive(Debug)]
pub(super) struct Shared {
    pub view: watch::Receiver<EndpointsView>,
    pub upstream: Upstream,
    pub counters: Counters,
    pub recent: Mutex<RecentReplies>,
    /// Number for the next view; each domain numbers each view that it reads.
    pub views: AtomicU64,
    /// In lower case, without dots around it.
    pub suffix: String,
    /// Seconds; see [`super::Config`].
    pub ttl: u32,
}

/// Answers the queries of one domain, or of the host.
#[derive(Debug)]
pub(super) struct Handler {
    tenant: Option<TenantName>,
    shared: Arc<Shared>,
    cached_view: Mutex<CachedView>,
    shares: Arc<Shares>,
    /// The compiled `out` rules of askers' groups, and the view of their last use.
    programs: Mutex<(u64, Cache)>,
}

/// A domain's own copy of the view, so that domains don't wait for one another, and the view's
/// writer doesn't wait for any of them.
#[derive(Debug)]
struct CachedView {
    current: watch::Receiver<EndpointsView>,
    view: EndpointsView,
    /// Unique among all views of all domains.
    number: u64,
}

/// The result for a query that is available at once.
pub(super) enum Immediate<'a> {
    Reply(Reply),
    /// Another resolver must be asked.
    Forward(Forward<'a>, Share),
    /// The same question is being asked.
    Follow(Followed, Share),
    /// The view isn't complete yet.
    Wait(&'a Query),
}

/// The zone's reply to a query.
enum ZoneReply {
    Response(Response),
    /// The name isn't ours.
    Forward,
    /// The view isn't complete yet.
    NotYet,
}

impl CachedView {
    /// Reads the view again if it has changed.
    fn refresh(&mut self, views: &AtomicU64) -> &Self {
        // An error means that its sender is gone.
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
            cached_view: Mutex::new(CachedView {
                current,
                view,
                number,
            }),
            shares: Arc::default(),
            programs: Mutex::default(),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The key of this query's reply among the recent replies.
    pub(super) fn recent_key(&self, query: &[u8], client: SocketAddr) -> Option<RecentKey> {
        let view = lock(&self.cached_view).refresh(&self.shared.views).number;
        RecentKey::of(query, client, view)
    }

    /// The recent reply to this query.
    pub(super) fn recall(&self, recent_key: &RecentKey, query: &[u8]) -> Option<Vec<u8>> {
        let reply = lock(&self.shared.recent).get(recent_key, query)?;
        self.counters().answered.fetch_add(1, Ordering::Relaxed);
        Some(reply)
    }

    pub(super) fn remember(&self, recent_key: RecentKey, reply: &[u8]) {
        lock(&self.shared.recent).put(recent_key, reply);
    }

    pub(super) fn try_answer<'a>(&'a self, request: &'a Request) -> Immediate<'a> {
        let query = match single_query(request) {
            Ok(query) => query,
            Err(code) => return Immediate::Reply(Reply::Built(Response::code_only(request, code))),
        };
        match self.zone_reply(request, query) {
            ZoneReply::Response(response) => Immediate::Reply(Reply::Built(response)),
            ZoneReply::NotYet => Immediate::Wait(query),
            ZoneReply::Forward => self.begin_forward(request),
        }
    }

    /// Waits for a complete view, then answers.
    pub(super) async fn answer_when_complete(&self, request: &Request, query: &Query) -> Reply {
        let Some(share) = self.take_share(request) else {
            return self.failed(request);
        };
        let mut view = self.shared.view.clone();
        let complete = view.wait_for(EndpointsView::is_complete);
        if timeout(VIEW_TIMEOUT, complete).await.is_err() {
            return self.failed(request);
        }
        drop(share);
        match self.zone_reply(request, query) {
            ZoneReply::Response(response) => Reply::Built(response),
            ZoneReply::Forward | ZoneReply::NotYet => match self.begin_forward(request) {
                Immediate::Forward(forward, share) => {
                    self.forward_query(request, forward, share).await
                }
                Immediate::Follow(followed, share) => self.follow(request, followed, share).await,
                Immediate::Reply(reply) => reply,
                Immediate::Wait(_) => self.failed(request),
            },
        }
    }

    /// Forwards the query and waits for the answer.
    pub(super) async fn forward_query(
        &self,
        request: &Request,
        forward: Forward<'_>,
        _share: Share,
    ) -> Reply {
        self.finish_forward(request, forward.ask().await)
    }

    /// Waits for the answer to the same question of another asker.
    pub(super) async fn follow(
        &self,
        request: &Request,
        mut followed: Followed,
        _share: Share,
    ) -> Reply {
        loop {
            if let Some(reply) = followed.reply(ForwardedQuery::new(request)).await {
                return self.finish_forward(request, reply);
            }
            // The other asker's server ended meanwhile.
            match self.prepare(request).map(Forward::lead) {
                Ok(Lead::Taken(forward)) => {
                    return self.finish_forward(request, forward.ask().await);
                }
                Ok(Lead::Others(other)) => followed = other,
                Err(reply) => return reply,
            }
        }
    }

    /// Forwards the query after a first attempt, and waits for the answer.
    pub(super) async fn continue_forward(
        &self,
        request: &Request,
        first: FirstAttempt,
        result: FirstResult,
    ) -> Reply {
        let (upstream, query) = (&self.shared.upstream, ForwardedQuery::new(request));
        let reply = upstream.continue_with(query, first, result).await;
        self.finish_forward(request, reply)
    }

    /// Caches and counts another resolver's answer to a first attempt.
    pub(super) fn record_forwarded(&self, first: FirstAttempt, question: &[u8], reply: &mut [u8]) {
        self.shared.upstream.record_reply(first, question, reply);
        self.counters().forwarded.fetch_add(1, Ordering::Relaxed);
    }

    /// Prepares forwarding. It is a reply if that is cached, if the asker's rules deny it, or if the
    /// asker's share is used up.
    fn begin_forward<'a>(&'a self, request: &'a Request) -> Immediate<'a> {
        let forward = match self.prepare(request) {
            Ok(forward) => forward,
            Err(reply) => return Immediate::Reply(reply),
        };
        let Some(share) = self.take_share(request) else {
            return Immediate::Reply(self.failed(request));
        };
        match forward.lead() {
            Lead::Taken(forward) => Immediate::Forward(forward, share),
            Lead::Others(followed) => Immediate::Follow(followed, share),
        }
    }

    /// The query for the resolvers that the asker may ask; the error is a reply: cached, or REFUSED
    /// because there is none.
    fn prepare<'a>(&'a self, request: &'a Request) -> Result<Forward<'a>, Reply> {
        let mut forward = self.shared.upstream.forward(ForwardedQuery::new(request));
        self.drop_denied(request, &mut forward);
        if forward.is_denied() {
            self.counters().refused.fetch_add(1, Ordering::Relaxed);
            let refused = Response::code_only(request, ResponseCode::Refused);
            return Err(Reply::Built(refused));
        }
        match forward.recall() {
            Some(reply) => {
                self.counters().cached.fetch_add(1, Ordering::Relaxed);
                Err(relay::relay(request, reply))
            }
            None => Ok(forward),
        }
    }

    /// Leaves out the resolvers to which the asker's `out` rules allow no connection.
    fn drop_denied(&self, request: &Request, forward: &mut Forward<'_>) {
        let Some(tenant) = &self.tenant else { return };
        let asker = Asker {
            tenant,
            address: request.src().ip().to_canonical(),
            protocol: match request.protocol() {
                Protocol::Udp => policy::Protocol::UDP,
                _ => policy::Protocol::TCP,
            },
        };
        let mut cached = lock(&self.cached_view);
        let CachedView { view, number, .. } = cached.refresh(&self.shared.views);
        let mut programs = lock(&self.programs);
        if std::mem::replace(&mut programs.0, *number) != *number {
            programs.1.sweep(tenant);
        }
        forward.retain(|resolver| asker.may_ask(resolver, view, &mut programs.1));
    }

    fn take_share(&self, request: &Request) -> Option<Share> {
        self.shares.take(request.src().ip().to_canonical())
    }

    fn finish_forward(&self, request: &Request, reply: Result<Vec<u8>, ForwardError>) -> Reply {
        match reply {
            Ok(reply) => {
                self.counters().forwarded.fetch_add(1, Ordering::Relaxed);
                relay::relay(request, reply)
            }
            Err(error) => {
                tracing::debug!(%error, "DNS query not forwarded");
                self.failed(request)
            }
        }
    }

    fn zone_reply(&self, request: &Request, query: &Query) -> ZoneReply {
        let in_class = query.query_class() == DNSClass::IN;
        let Some(tenant) = self.tenant.as_ref().filter(|_| in_class) else {
            return ZoneReply::Forward;
        };
        let Some(name) = message::text(query.name()) else {
            return ZoneReply::Forward;
        };
        let question = match query.query_type() {
            RecordType::A => Question::A,
            RecordType::AAAA => Question::Aaaa,
            RecordType::ANY => Question::Any,
            RecordType::PTR => Question::Ptr,
            _ => Question::Other,
        };
        let Shared { suffix, ttl, .. } = &*self.shared;
        let asked = NameQuery {
            tenant,
            client: request.src().ip().to_canonical(),
            name: &name,
            suffix,
        };
        let answer = zone::answer(
            &lock(&self.cached_view).refresh(&self.shared.views).view,
            &asked,
            question,
        );
        let mut response = match answer {
            Answer::Addresses(mut found) => {
                rotate(&mut found.live);
                rotate(&mut found.silent);
                found.live.append(&mut found.silent);
                message::addresses(request, query.name(), *ttl, &found.live)
            }
            Answer::Name(to) => {
                let pointer = message::pointer(query.name(), *ttl, &to);
                let pointer = pointer.into_iter().collect();
                Response::authoritative(request, ResponseCode::NoError, pointer)
            }
            Answer::NoSuchName => {
                Response::authoritative(request, ResponseCode::NXDomain, Vec::new())
            }
            Answer::Forward => return ZoneReply::Forward,
            Answer::NotYet => return ZoneReply::NotYet,
        };
        if response.answers.is_empty() {
            // The SOA's owner is our suffix for names below it, and else the name itself.
            let zone = match zone::without_suffix(&name, suffix) {
                Some(_) => query.name().trim_to(suffix.split('.').count()),
                None => query.name().clone(),
            };
            response.authorities.push(message::denial(zone, *ttl));
        }
        self.counters().answered.fetch_add(1, Ordering::Relaxed);
        ZoneReply::Response(response)
    }

    fn failed(&self, request: &Request) -> Reply {
        self.counters().failed.fetch_add(1, Ordering::Relaxed);
        Reply::Built(Response::code_only(request, ResponseCode::ServFail))
    }
}

/// The query's only question, or the code to answer.
fn single_query(request: &Request) -> Result<&Query, ResponseCode> {
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

/// Rotates by a random number, so that clients that take the first address take each equally often,
/// whatever other names they ask for in between.
fn rotate(addresses: &mut [IpAddr]) {
    if addresses.len() > 1 {
        let first = fastrand::usize(..addresses.len());
        addresses.rotate_left(first);
    }
}
