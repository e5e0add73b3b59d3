//! Parses queries from one socket or connection with hickory, and sends their answers.
//!
//! The loop around it is ours: hickory's own (`Server`) answers FORMERR to malformed messages
//! without counting them, starts a task for each query and queues each answer. Here messages that
//! are no query are dropped and counted, and queries are answered in the reading task if possible.

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

use super::datagrams::Outbox;
use super::flight;
use super::handler::{Handler, Immediate};
use super::message::{MAX_UDP_BYTES, Reply, Response, room};

/// The front end of one socket or connection.
pub(super) struct Front {
    handler: Arc<Handler>,
    out: Out,
}

/// The destination of answers.
#[derive(Clone)]
pub(super) enum Out {
    /// A UDP socket's outbox; the caller sends it.
    Socket(Arc<Outbox>),
    Connection(BufDnsStreamHandle),
}

impl Out {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Socket(_) => Protocol::Udp,
            Self::Connection(_) => Protocol::Tcp,
        }
    }

    fn send(&mut self, bytes: Vec<u8>, client: SocketAddr) -> Result<(), NetError> {
        match self {
            Self::Socket(outbox) => {
                outbox.put(bytes, client);
                Ok(())
            }
            Self::Connection(stream) => stream.send(SerialMessage::new(bytes, client)),
        }
    }
}

impl Front {
    pub(super) fn new(handler: Arc<Handler>, out: Out) -> Self {
        Self { handler, out }
    }

    /// Parses a query. Other messages get no answer, so that no two servers answer each other.
    pub(super) fn read(&self, bytes: Vec<u8>, client: SocketAddr) -> Option<Request> {
        let request = Request::from_bytes(bytes, client, self.out.protocol()).ok();
        let request = request.filter(|it| {
            let is_query = it.metadata.message_type == MessageType::Query;
            // No answer can be sent to port 0.
            is_query && client.port() != 0
        });
        if request.is_none() {
            let malformed = &self.handler.counters().malformed;
            malformed.fetch_add(1, Ordering::Relaxed);
        }
        request
    }

    /// Answers a query, at the first poll if the answer is available at once.
    pub(super) async fn answer(&self, request: &Request) -> ResponseInfo {
        let responder = self.responder(request);
        self.handle_request::<_, TokioTime>(request, responder)
            .await
    }

    /// Sends a reply that was made elsewhere.
    pub(super) async fn send_reply(&self, request: &Request, reply: Reply) {
        let responder = self.responder(request);
        self.send(request, reply, responder).await;
    }

    fn responder(&self, request: &Request) -> Responder {
        Responder {
            out: self.out.clone(),
            client: request.src(),
            room: room(request),
        }
    }

    async fn send<R: ResponseHandler>(
        &self,
        request: &Request,
        reply: Reply,
        responder: R,
    ) -> ResponseInfo {
        let sent = match reply {
            Reply::Built(response) => send_response_to(request, response, responder).await,
            Reply::Relayed(reply) => self.send_relayed(request, reply),
        };
        sent.unwrap_or_else(|error| {
            // The client is gone, or asks again.
            tracing::debug!(%error, "answer not sent");
            empty_info(request)
        })
    }

    /// Sends another resolver's reply unchanged.
    fn send_relayed(&self, request: &Request, reply: Vec<u8>) -> Result<ResponseInfo, NetError> {
        let mut header = Header::read(&mut BinDecoder::new(&reply)).map_err(NetError::from)?;
        // We aren't authoritative for a relayed answer.
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
        let reply = match self.handler.try_answer(request) {
            Immediate::Reply(reply) => reply,
            Immediate::Wait(query) => self.handler.answer_when_complete(request, query).await,
            Immediate::Follow(followed, share) => {
                self.handler.follow(request, followed, share).await
            }
            Immediate::Forward(forward, share) => {
                let left = match &self.out {
                    Out::Socket(outbox) => {
                        let to = (&self.handler, outbox);
                        flight::start(to, request, forward, share)
                    }
                    Out::Connection(_) => Some((forward, share)),
                };
                match left {
                    None => return empty_info(request),
                    Some((forward, share)) => {
                        self.handler.forward_query(request, forward, share).await
                    }
                }
            }
        };
        self.send(request, reply, responder).await
    }
}

/// The info of a query that wasn't answered, or not yet.
fn empty_info(request: &Request) -> ResponseInfo {
    let header = Header {
        metadata: Metadata::response_from_request(&request.metadata),
        counts: HeaderCounts::default(),
    };
    header.into()
}

async fn send_response_to<R: ResponseHandler>(
    request: &Request,
    response: Response,
    mut responder: R,
) -> Result<ResponseInfo, NetError> {
    let edns = request.edns.as_ref().map(|asked| {
        let mut edns = Edns::new();
        edns.set_max_payload(MAX_UDP_BYTES);
        // DO as it was asked (RFC 3225 §3).
        edns.set_dnssec_ok(asked.flags().dnssec_ok);
        edns
    });
    let mut builder = MessageResponseBuilder::from_message_request(request);
    if let Some(edns) = &edns {
        builder.edns(edns);
    }
    let response = builder.build(
        response.metadata,
        &response.answers,
        [],
        &response.authorities,
        [],
    );
    responder.send_response(response).await
}

/// Answers one query.
#[derive(Clone)]
struct Responder {
    out: Out,
    client: SocketAddr,
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
        self.out.send(bytes, self.client)?;
        Ok(info)
    }
}
