//! Who asks for names, from inside a workload, and what it is told.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use lab::{Error, Lab};

/// How long an answer is waited for, if nothing else is said.
const PATIENCE: Duration = Duration::from_millis(500);

/// Asks the resolver that workloads have.
#[derive(Debug)]
pub struct Asker {
    socket: UdpSocket,
    next: std::cell::Cell<u16>,
    patience: Duration,
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// In the order of the answer; empty: the name has no such record.
    Addresses(Vec<IpAddr>),
    NotThere,
    /// Refused, failed, or no answer in time: ask again.
    Nothing,
}

impl Asker {
    pub fn new(lab: &Lab, workload: &str) -> Result<Self, Error> {
        lab.udp_in(workload).map(Self::of)
    }

    /// Of a container, by its process on the node.
    pub fn in_process(lab: &Lab, node: &str, pid: &str) -> Result<Self, Error> {
        let netns = format!("/proc/{}/ns/net", pid.trim());
        lab.udp_at(node, &netns).map(Self::of)
    }

    fn of(socket: UdpSocket) -> Self {
        let next = std::cell::Cell::new(1);
        let patience = PATIENCE;
        Self {
            socket,
            next,
            patience,
        }
    }

    /// Who asks again after this time: what isn't answered is noticed no finer.
    pub fn patient_for(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    pub fn ask(&self, name: &str) -> Told {
        self.ask_for(name, RecordType::A)
    }

    pub fn ask_for(&self, name: &str, kind: RecordType) -> Told {
        self.asked(name, kind).unwrap_or(Told::Nothing)
    }

    /// The addresses; none also where nothing was told.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        match self.ask(name) {
            Told::Addresses(found) => found.iter().map(ToString::to_string).collect(),
            Told::NotThere | Told::Nothing => Vec::new(),
        }
    }

    fn asked(&self, name: &str, kind: RecordType) -> Option<Told> {
        let resolver = SocketAddr::from(([169, 254, 53, 53], 53));
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let mut query = Message::new(id, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(
            Name::from_ascii(format!("{name}.")).ok()?,
            kind,
        ));
        self.socket.set_read_timeout(Some(self.patience)).ok()?;
        self.socket.send_to(&query.to_vec().ok()?, resolver).ok()?;
        let mut buffer = [0; 4096];
        let since = Instant::now();
        while since.elapsed() < self.patience {
            let (length, _) = self.socket.recv_from(&mut buffer).ok()?;
            let reply = Message::from_vec(&buffer[..length]).ok()?;
            if reply.metadata.id == id {
                return Some(told(&reply));
            }
        }
        None
    }
}

fn told(reply: &Message) -> Told {
    match reply.metadata.response_code {
        ResponseCode::NoError => {
            let address = |data: &RData| match data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            };
            let found = reply.answers.iter();
            Told::Addresses(found.filter_map(|it| address(&it.data)).collect())
        }
        ResponseCode::NXDomain => Told::NotThere,
        _ => Told::Nothing,
    }
}
