//! A query by UDP on its way to another resolver. No task waits for it: who reads the reply sends it
//! on to the asker. Only what isn't answered at once by the first resolver becomes a task.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use hickory_server::net::xfer::Protocol;
use hickory_server::server::Request;
use tokio::sync::OwnedSemaphorePermit;

use super::datagrams::Postbox;
use super::front::{Front, Out};
use super::handler::Handler;
use super::message::{HEADER, room};
use super::pool::Word;
use super::relay::{self, Passed};
use super::upstream::{Begun, Forward, Heard, helpful};

struct Flight {
    handler: Arc<Handler>,
    /// Gone with its server: a socket keeps its namespace.
    out: Weak<Postbox>,
    asker: SocketAddr,
    query: Vec<u8>,
    /// Where the question ends.
    question: usize,
    room: u16,
    begun: Begun,
    permit: OwnedSemaphorePermit,
}

/// Asks; the asker hears by `out`. Gives both back when no resolver is to be asked before others.
pub(super) fn start<'a>(
    (handler, out): (&Arc<Handler>, &Arc<Postbox>),
    request: &Request,
    mut forward: Forward<'a>,
    permit: OwnedSemaphorePermit,
) -> Result<(), (Forward<'a>, OwnedSemaphorePermit)> {
    let Some(begun) = forward.begin() else {
        return Err((forward, permit));
    };
    let query = Passed::new(request);
    begun.launch(query, |begun| {
        let flight = Flight {
            handler: handler.clone(),
            out: Arc::downgrade(out),
            asker: request.src(),
            query: query.bytes.to_vec(),
            question: HEADER + query.question.len(),
            room: room(request),
            begun,
            permit,
        };
        Box::new(move |word| flight.hear(word))
    });
    Ok(())
}

impl Flight {
    fn hear(self, word: Word<'_>) -> Option<Arc<Postbox>> {
        match word {
            Word::Reply(reply) if helpful(reply) && reply.len() <= self.room.into() => {
                self.land(reply)
            }
            Word::Reply(reply) => self.go_on(Heard::Word(Ok(reply.to_vec()))),
            Word::Failed(error) => self.go_on(Heard::Word(Err(error))),
            Word::Late(replied) => self.go_on(Heard::Nothing(replied)),
        }
    }

    fn land(self, reply: &mut [u8]) -> Option<Arc<Postbox>> {
        let question = self.query.get(HEADER..self.question)?;
        self.handler.landed(self.begun, question, reply);
        let postbox = self.out.upgrade()?;
        let mut reply = reply.to_vec();
        relay::give_id_of(&self.query, &mut reply);
        postbox.put(reply, self.asker);
        Some(postbox)
    }

    /// Other resolvers are asked, or this one again.
    fn go_on(self, heard: Heard) -> Option<Arc<Postbox>> {
        self.out.upgrade()?;
        // It could be read when it came.
        let request = Request::from_bytes(self.query, self.asker, Protocol::Udp).ok()?;
        let (handler, out, begun, permit) = (self.handler, self.out, self.begun, self.permit);
        tokio::spawn(async move {
            let outcome = handler.go_on(&request, begun, heard).await;
            drop(permit);
            if let Some(postbox) = out.upgrade() {
                let front = Front::new(handler, Out::Socket(postbox.clone()));
                front.tell(&request, outcome).await;
                postbox.send();
            }
        });
        None
    }
}
