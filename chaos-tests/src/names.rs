//! A DNS client inside a workload.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use lab::{Error, Lab};

/// The default timeout of an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// A client of the name server that workloads have.
#[derive(Debug)]
pub struct DnsClient {
    socket: UdpSocket,
    next: std::cell::Cell<u16>,
    timeout: Duration,
    resolver: IpAddr,
}

/// The result of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsAnswer {
    /// The addresses in the order of the answer; empty: the name has no such record.
    Addresses(Vec<IpAddr>),
    NxDomain,
    /// Refused, failed, or no answer in time: the client asks again.
    NoAnswer,
}

impl DnsClient {
    pub fn new(lab: &Lab, workload: &str) -> Result<Self, Error> {
        lab.udp_in(workload).map(Self::of)
    }

    /// A client in a container, given by its process on the node.
    pub fn in_process(lab: &Lab, node: &str, pid: &str) -> Result<Self, Error> {
        let netns = format!("/proc/{}/ns/net", pid.trim());
        lab.udp_at(node, &netns).map(Self::of)
    }

    fn of(socket: UdpSocket) -> Self {
        let next = std::cell::Cell::new(1);
        let timeout = ANSWER_TIMEOUT;
        Self {
            socket,
            next,
            timeout,
            resolver: [169, 254, 53, 53].into(),
        }
    }

    /// Asks this address instead of the domain's own server.
    pub fn with_resolver(self, resolver: IpAddr) -> Self {
        Self { resolver, ..self }
    }

    /// Sets the timeout of an answer, and so the resolution at which gaps are measured.
    pub fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    pub fn ask(&self, name: &str) -> DnsAnswer {
        self.ask_for(name, RecordType::A)
    }

    pub fn ask_for(&self, name: &str, kind: RecordType) -> DnsAnswer {
        self.query(name, kind).unwrap_or(DnsAnswer::NoAnswer)
    }

    /// The addresses of a name; empty also without an answer.
    pub fn addresses(&self, name: &str) -> Vec<String> {
        match self.ask(name) {
            DnsAnswer::Addresses(found) => found.iter().map(ToString::to_string).collect(),
            DnsAnswer::NxDomain | DnsAnswer::NoAnswer => Vec::new(),
        }
    }

    fn query(&self, name: &str, kind: RecordType) -> Option<DnsAnswer> {
        let resolver = SocketAddr::from((self.resolver, 53));
        let id = self.next.get();
        self.next.set(id.wrapping_add(1));
        let mut query = Message::new(id, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(
            Name::from_ascii(format!("{name}.")).ok()?,
            kind,
        ));
        self.socket.set_read_timeout(Some(self.timeout)).ok()?;
        self.socket.send_to(&query.to_vec().ok()?, resolver).ok()?;
        let mut buffer = [0; 4096];
        let since = Instant::now();
        while since.elapsed() < self.timeout {
            let (length, _) = self.socket.recv_from(&mut buffer).ok()?;
            let reply = Message::from_vec(&buffer[..length]).ok()?;
            if reply.metadata.id == id {
                return Some(answer_of(&reply));
            }
        }
        None
    }
}

fn answer_of(reply: &Message) -> DnsAnswer {
    match reply.metadata.response_code {
        ResponseCode::NoError => {
            let address = |data: &RData| match data {
                RData::A(address) => Some(IpAddr::V4(address.0)),
                RData::AAAA(address) => Some(IpAddr::V6(address.0)),
                _ => None,
            };
            let found = reply.answers.iter();
            DnsAnswer::Addresses(found.filter_map(|it| address(&it.data)).collect())
        }
        ResponseCode::NXDomain => DnsAnswer::NxDomain,
        _ => DnsAnswer::NoAnswer,
    }
}
