//! Between hickory and the zone: DNS messages in and out.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bus_schema::TenantName;
use hickory_proto::op::{Edns, Header, HeaderCounts, Message, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::upstream::{Transport, Upstream};
use super::zone::{self, Answer, Found, Question};
use crate::projection::EndpointsView;

/// Seconds that an answer may be remembered: containers come and go.
const TTL: u32 = 5;
/// Bytes of a UDP answer: what passes any path unfragmented (DNS flag day 2020).
const UDP_MAX: u16 = 1232;
/// Queries of one domain that wait for the host's resolvers; more are told to try again, so that
/// one tenant's flood takes neither memory nor sockets from the others.
const IN_FLIGHT: usize = 128;

/// How long a question waits for what isn't known yet, right after a start.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers the queries of one domain, or of the host.
#[derive(Debug, Clone)]
pub(super) struct Handler {
    tenant: Option<TenantName>,
    view: watch::Receiver<EndpointsView>,
    upstream: Arc<Upstream>,
    in_flight: Arc<Semaphore>,
}

/// What goes back, beside the question.
struct Outcome {
    metadata: Metadata,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    edns: Option<Edns>,
}

impl Handler {
    pub(super) fn new(
        tenant: Option<TenantName>,
        view: watch::Receiver<EndpointsView>,
        upstream: Arc<Upstream>,
    ) -> Self {
        Self {
            tenant,
            view,
            upstream,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        }
    }

    async fn answer(&self, request: &Request) -> Outcome {
        if request.metadata.op_code != OpCode::Query {
            return empty(request, ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else {
            return empty(request, ResponseCode::FormErr);
        };
        if request.version() > 0 {
            return empty(request, ResponseCode::BADVERS);
        }
        let query = query.original();
        if query.query_class() == DNSClass::IN
            && let Some(name) = text(query.name())
        {
            let question = match query.query_type() {
                RecordType::A => Question::A,
                RecordType::AAAA => Question::Aaaa,
                RecordType::ANY => Question::Any,
                RecordType::PTR => Question::Ptr,
                _ => Question::Other,
            };
            match self.known(request.src().ip(), &name, question).await {
                Answer::Addresses(Found { live, silent }) => {
                    let all = rotated(live).chain(rotated(silent));
                    return ours(request, query.name(), all.map(data_of));
                }
                Answer::Name(name) => {
                    let pointer = Name::from_ascii(format!("{name}."));
                    let pointer = pointer.map(|name| RData::PTR(PTR(name)));
                    return ours(request, query.name(), pointer.into_iter());
                }
                Answer::Nobody => return empty(request, ResponseCode::NXDomain),
                Answer::Later => return empty(request, ResponseCode::ServFail),
                Answer::Forward => {}
            }
        }
        self.forward(request).await
    }

    /// What is said to a question; while not everything is known it waits for that.
    async fn known(&self, asker: IpAddr, name: &str, question: Question) -> Answer {
        let mut answer = self.look_up(asker, name, question);
        if answer == Answer::Later
            && let Ok(_permit) = self.in_flight.try_acquire()
        {
            let mut view = self.view.clone();
            let complete = view.wait_for(EndpointsView::is_complete);
            if timeout(PATIENCE, complete).await.is_ok() {
                answer = self.look_up(asker, name, question);
            }
        }
        answer
    }

    fn look_up(&self, asker: IpAddr, name: &str, question: Question) -> Answer {
        match &self.tenant {
            Some(tenant) => {
                // A snapshot: the sender must not wait for us.
                let view = self.view.borrow().clone();
                zone::answer(&view, tenant, asker.to_canonical(), name, question)
            }
            None => Answer::Forward,
        }
    }

    async fn forward(&self, request: &Request) -> Outcome {
        let Ok(_permit) = self.in_flight.try_acquire() else {
            return empty(request, ResponseCode::ServFail);
        };
        let transport = match request.protocol() {
            Protocol::Udp => Transport::Udp,
            _ => Transport::Tcp,
        };
        match self.upstream.ask(request.as_slice(), transport).await {
            Ok(reply) => relayed(request, reply),
            Err(error) => {
                tracing::debug!(%error, "not forwarded");
                empty(request, ResponseCode::ServFail)
            }
        }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut responder: R,
    ) -> ResponseInfo {
        let mut outcome = self.answer(request).await;
        outcome.edns = request.edns.as_ref().map(|asked| {
            let mut edns = outcome.edns.take().unwrap_or_default();
            edns.set_max_payload(asked.max_payload().clamp(512, UDP_MAX));
            edns
        });
        let metadata = outcome.metadata;
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &outcome.edns {
            builder.edns(edns);
        }
        let response = builder.build(
            metadata,
            &outcome.answers,
            &outcome.authorities,
            [],
            &outcome.additionals,
        );
        match responder.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                // Who asked is gone; a client asks again.
                tracing::debug!(%error, "answer not sent");
                Header {
                    metadata,
                    counts: HeaderCounts::default(),
                }
                .into()
            }
        }
    }
}

/// A name as people write it, without the last dot; `None`: none that an endpoint could bear.
fn text(name: &Name) -> Option<String> {
    let mut text = String::new();
    for label in name.iter() {
        let label = std::str::from_utf8(label).ok()?;
        if label.contains('.') {
            return None;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text += label;
    }
    Some(text)
}

/// From a random member on, so that who takes the first one takes each equally often, whatever
/// other names are asked for in between.
fn rotated(mut addresses: Vec<IpAddr>) -> impl Iterator<Item = IpAddr> {
    if !addresses.is_empty() {
        let first = fastrand::usize(..addresses.len());
        addresses.rotate_left(first);
    }
    addresses.into_iter()
}

fn empty(request: &Request, code: ResponseCode) -> Outcome {
    let mut metadata = Metadata::response_from_request(&request.metadata);
    metadata.recursion_available = true;
    metadata.response_code = code;
    let mut edns = None;
    if code == ResponseCode::BADVERS {
        // Its upper bits travel in the OPT record (RFC 6891 §6.1.3).
        let mut opt = Edns::new();
        opt.set_rcode_high(code.high());
        edns = Some(opt);
    }
    Outcome {
        metadata,
        answers: Vec::new(),
        authorities: Vec::new(),
        additionals: Vec::new(),
        edns,
    }
}

fn data_of(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(v4) => RData::A(v4.into()),
        IpAddr::V6(v6) => RData::AAAA(v6.into()),
    }
}

fn ours(request: &Request, name: &Name, data: impl Iterator<Item = RData>) -> Outcome {
    let mut outcome = empty(request, ResponseCode::NoError);
    outcome.metadata.authoritative = true;
    outcome.answers = data
        .map(|data| Record::from_rdata(name.clone(), TTL, data))
        .collect();
    outcome
}

fn relayed(request: &Request, reply: Message) -> Outcome {
    let mut metadata = reply.metadata;
    metadata.id = request.metadata.id;
    Outcome {
        metadata,
        answers: reply.answers,
        authorities: reply.authorities,
        additionals: reply.additionals,
        edns: reply.edns,
    }
}
