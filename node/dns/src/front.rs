//! hickory at one socket or connection: its requests, its handler, its answers, and each message's
//! way to what it is told.
//!
//! The loop around them is ours, as hickory's own (`Server`) answers FORMERR to what it can't read,
//! tells nobody, makes a task of each query and queues each answer. Here what is no question is
//! dropped and counted, and what can be answered at once is answered where it was read.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, Metadata, SerialMessage};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder};
use hickory_server::net::runtime::{Time, TokioTime};
use hickory_server::net::xfer::Protocol;
use hickory_server::net::{BufDnsStreamHandle, DnsStreamHandle, NetError};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};

use super::datagrams::Postbox;
use super::flight;
use super::handler::{Handler, Now};
use super::message::{Outcome, Said, UDP_MAX, room};

/// What comes by one socket or connection, and where its answers go.
pub(super) struct Front {
    handler: Arc<Handler>,
    out: Out,
}

/// Whence a query came, and where its answer goes.
#[derive(Clone)]
pub(super) enum Out {
    /// Sent by whoever put it there.
    Socket(Arc<Postbox>),
    Connection(BufDnsStreamHandle),
}

impl Out {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Socket(_) => Protocol::Udp,
            Self::Connection(_) => Protocol::Tcp,
        }
    }

    fn send(&mut self, bytes: Vec<u8>, asker: SocketAddr) -> Result<(), NetError> {
        match self {
            Self::Socket(postbox) => {
                postbox.put(bytes, asker);
                Ok(())
            }
            Self::Connection(stream) => stream.send(SerialMessage::new(bytes, asker)),
        }
    }
}

impl Front {
    pub(super) fn new(handler: Arc<Handler>, out: Out) -> Self {
        Self { handler, out }
    }

    /// Nothing is said to what is no question, so that nobody can be made to answer answers.
    pub(super) fn read(&self, bytes: Vec<u8>, asker: SocketAddr) -> Option<Request> {
        let request = Request::from_bytes(bytes, asker, self.out.protocol()).ok();
        let request = request.filter(|it| {
            let asks = it.metadata.message_type == MessageType::Query;
            // Nobody can be told anything at port 0.
            asks && asker.port() != 0
        });
        if request.is_none() {
            let malformed = &self.handler.counters().malformed;
            malformed.fetch_add(1, Ordering::Relaxed);
        }
        request
    }

    /// Answers at once, when first polled, what can be answered at once.
    pub(super) async fn answer(&self, request: &Request) -> ResponseInfo {
        let responder = self.responder(request);
        self.handle_request::<_, TokioTime>(request, responder)
            .await
    }

    /// Says what came of it.
    pub(super) async fn tell(&self, request: &Request, outcome: Outcome) {
        let responder = self.responder(request);
        self.conclude(request, outcome, responder).await;
    }

    fn responder(&self, request: &Request) -> Responder {
        Responder {
            out: self.out.clone(),
            asker: request.src(),
            room: room(request),
        }
    }

    async fn conclude<R: ResponseHandler>(
        &self,
        request: &Request,
        outcome: Outcome,
        responder: R,
    ) -> ResponseInfo {
        let sent = match outcome {
            Outcome::Said(said) => say(request, said, responder).await,
            Outcome::Passed(reply) => self.pass(request, reply),
        };
        sent.unwrap_or_else(|error| {
            // Who asked is gone; a client asks again.
            tracing::debug!(%error, "answer not sent");
            nothing(request)
        })
    }

    /// As another resolver said it.
    fn pass(&self, request: &Request, reply: Vec<u8>) -> Result<ResponseInfo, NetError> {
        let mut header = Header::read(&mut BinDecoder::new(&reply)).map_err(NetError::from)?;
        // By us it is passed on, whoever knows it.
        header.metadata.authoritative = false;
        self.out.clone().send(reply, request.src())?;
        Ok(header.into())
    }
}

#[async_trait]
impl RequestHandler for Front {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        responder: R,
    ) -> ResponseInfo {
        let outcome = match self.handler.now(request) {
            Now::Told(outcome) => outcome,
            Now::Later(query) => self.handler.later(request, query).await,
            Now::Elsewhere(forward, permit) => {
                let left = match &self.out {
                    Out::Socket(postbox) => {
                        let to = (&self.handler, postbox);
                        flight::start(to, request, forward, permit)
                    }
                    Out::Connection(_) => Err((forward, permit)),
                };
                match left {
                    Ok(()) => return nothing(request),
                    Err((forward, permit)) => self.handler.ask(request, forward, permit).await,
                }
            }
        };
        self.conclude(request, outcome, responder).await
    }
}

/// Nothing was said, or not yet.
fn nothing(request: &Request) -> ResponseInfo {
    let header = Header {
        metadata: Metadata::response_from_request(&request.metadata),
        counts: HeaderCounts::default(),
    };
    header.into()
}

async fn say<R: ResponseHandler>(
    request: &Request,
    said: Said,
    mut responder: R,
) -> Result<ResponseInfo, NetError> {
    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(UDP_MAX);
        // DO as it was asked (RFC 3225 §3).
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &edns {
        builder.edns(edns);
    }
    let response = builder.build(said.metadata, &said.answers, [], &said.denied, []);
    responder.send_response(response).await
}

/// Answers one query.
#[derive(Clone)]
struct Responder {
    out: Out,
    asker: SocketAddr,
    room: u16,
}

#[async_trait]
impl ResponseHandler for Responder {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(self.room);
        let info = response.destructive_emit(&mut encoder)?;
        self.out.send(bytes, self.asker)?;
        Ok(info)
    }
}
