//! hickory at one socket or connection: its streams, its reading and writing of messages, and each
//! message's way to its answer.
//!
//! The loop around them is ours, as hickory's own (`Server`) answers FORMERR to what it can't read,
//! tells nobody, and makes a task of each query. Here what is no question is dropped and counted,
//! and what can be answered at once is answered where it was read.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use hickory_proto::op::{Edns, Header, HeaderCounts, MessageType, SerialMessage};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use hickory_server::net::runtime::{Time, TokioTime};
use hickory_server::net::xfer::Protocol;
use hickory_server::net::{BufDnsStreamHandle, DnsStreamHandle, NetError};
use hickory_server::server::{
    Request, RequestHandler, ResponseHandle, ResponseHandler, ResponseInfo,
};
use hickory_server::zone_handler::MessageResponseBuilder;

use super::handler::Handler;
use super::message::{Outcome, Said, UDP_MAX};

/// What comes by one socket or connection, and where its answers go.
pub(super) struct Front {
    handler: Arc<Handler>,
    out: BufDnsStreamHandle,
    by: Protocol,
}

impl Front {
    pub(super) fn new(handler: Arc<Handler>, out: BufDnsStreamHandle, by: Protocol) -> Self {
        Self { handler, out, by }
    }

    /// Nothing is said to what is no question, so that nobody can be made to answer answers.
    pub(super) fn read(&self, message: SerialMessage) -> Option<Request> {
        let (bytes, asker) = message.into_parts();
        let request = Request::from_bytes(bytes, asker, self.by).ok();
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
        let asker = request.src();
        let out = self.out.with_remote_addr(asker);
        let responder = ResponseHandle::new(asker, out, self.by);
        self.handle_request::<_, TokioTime>(request, responder)
            .await;
    }

    /// As another resolver said it.
    fn pass(&self, request: &Request, reply: Vec<u8>) -> Result<ResponseInfo, NetError> {
        let header = Header::read(&mut BinDecoder::new(&reply)).map_err(NetError::from)?;
        let asker = request.src();
        let mut out = self.out.with_remote_addr(asker);
        out.send(SerialMessage::new(reply, asker))?;
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
