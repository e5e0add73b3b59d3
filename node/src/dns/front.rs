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
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, SerialMessage};
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder, BinEncoder};
use hickory_server::net::runtime::{Time, TokioTime};
use hickory_server::net::xfer::Protocol;
use hickory_server::net::{BufDnsStreamHandle, DnsStreamHandle, NetError};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::{MessageResponse, MessageResponseBuilder};
use tokio::net::UdpSocket;

use super::handler::Handler;
use super::message::{Outcome, Said, UDP_MAX, room};

/// What comes by one socket or connection, and where its answers go.
pub(super) struct Front {
    handler: Arc<Handler>,
    out: Out,
}

/// Whence a query came, and where its answer goes.
#[derive(Clone)]
pub(super) enum Out {
    Socket(Arc<UdpSocket>),
    Connection(BufDnsStreamHandle),
}

impl Out {
    fn protocol(&self) -> Protocol {
        match self {
            Self::Socket(_) => Protocol::Udp,
            Self::Connection(_) => Protocol::Tcp,
        }
    }

    /// A socket that takes no more loses it, as any network may: nothing waits here.
    fn send(&mut self, bytes: Vec<u8>, asker: SocketAddr) -> Result<(), NetError> {
        match self {
            Self::Socket(socket) => Ok(socket.try_send_to(&bytes, asker).map(drop)?),
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

    pub(super) async fn answer(&self, request: &Request) {
        let responder = Responder {
            out: self.out.clone(),
            asker: request.src(),
            room: room(request),
        };
        self.handle_request::<_, TokioTime>(request, responder)
            .await;
    }

    /// As another resolver said it.
    fn pass(&self, request: &Request, reply: Vec<u8>) -> Result<ResponseInfo, NetError> {
        let header = Header::read(&mut BinDecoder::new(&reply)).map_err(NetError::from)?;
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
        let sent = match self.handler.answer(request).await {
            Outcome::Said(said) => say(request, said, responder).await,
            Outcome::Passed(reply) => self.pass(request, reply),
        };
        sent.unwrap_or_else(|error| {
            // Who asked is gone, or asks faster than it reads; a client asks again.
            tracing::debug!(%error, "answer not sent");
            let header = Header {
                metadata: request.metadata,
                counts: HeaderCounts::default(),
            };
            header.into()
        })
    }
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
