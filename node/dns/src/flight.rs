//! Forwards a UDP query without a task: the task that reads the resolver's reply sends it on to the
//! client. A query becomes a task only if the first resolver doesn't answer at once.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;

use super::datagrams::Outbox;
use super::front::{Front, Out};
use super::handler::Handler;
use super::message::{HEADER_BYTES, room};
use super::pool::QueryEvent;
use super::relay::{self, ForwardedQuery};
use super::shares::Share;
use super::upstream::{FirstAttempt, FirstResult, Forward, is_helpful};

/// A forwarded UDP query in flight.
struct Flight {
    handler: Arc<Handler>,
    /// Weak, so that it ends with its server: an open socket would keep the namespace.
    out: Weak<Outbox>,
    client: SocketAddr,
    query: Vec<u8>,
    /// Position after the question.
    question_end: usize,
    room: u16,
    first: FirstAttempt,
    share: Share,
}

/// Forwards a query; its reply goes to `out`. Returns both arguments if all resolvers are to be
/// asked at once, or there is none.
pub(super) fn start<'a>(
    (handler, out): (&Arc<Handler>, &Arc<Outbox>),
    request: &Request,
    mut forward: Forward<'a>,
    share: Share,
) -> Option<(Forward<'a>, Share)> {
    let Some(first) = forward.begin() else {
        return Some((forward, share));
    };
    let query = ForwardedQuery::new(request);
    first.launch(query, |first| {
        let flight = Flight {
            handler: handler.clone(),
            out: Arc::downgrade(out),
            client: request.src(),
            query: query.bytes.to_vec(),
            question_end: HEADER_BYTES + query.question.len(),
            room: room(request),
            first,
            share,
        };
        Box::new(move |event| flight.on_event(event))
    });
    None
}

impl Flight {
    fn on_event(self, event: QueryEvent<'_>) -> Option<Arc<Outbox>> {
        match event {
            QueryEvent::Reply(reply) if is_helpful(reply) && reply.len() <= self.room.into() => {
                self.deliver(reply)
            }
            QueryEvent::Reply(reply) => {
                self.continue_forward(FirstResult::Done(Ok(reply.to_vec())))
            }
            QueryEvent::Failed(error) => self.continue_forward(FirstResult::Done(Err(error))),
            QueryEvent::Late(reply_rx) => self.continue_forward(FirstResult::Pending(reply_rx)),
        }
    }

    fn deliver(self, reply: &mut [u8]) -> Option<Arc<Outbox>> {
        let question = self.query.get(HEADER_BYTES..self.question_end)?;
        self.handler.record_forwarded(self.first, question, reply);
        let outbox = self.out.upgrade()?;
        let mut reply = reply.to_vec();
        relay::copy_id(&self.query, &mut reply);
        outbox.put(reply, self.client);
        Some(outbox)
    }

    /// Asks other resolvers, or this one again, from a task.
    fn continue_forward(self, result: FirstResult) -> Option<Arc<Outbox>> {
        self.out.upgrade()?;
        // It was parsed once when it arrived.
        let request = Request::from_bytes(self.query, self.client, Protocol::Udp).ok()?;
        let (handler, out, first, share) = (self.handler, self.out, self.first, self.share);
        tokio::spawn(async move {
            let reply = handler.continue_forward(&request, first, result).await;
            drop(share);
            if let Some(outbox) = out.upgrade() {
                let front = Front::new(handler, Out::Socket(outbox.clone()));
                front.send_reply(&request, reply).await;
                outbox.send();
            }
        });
        None
    }
}
