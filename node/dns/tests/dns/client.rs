//! A client that sends and receives single messages, encoded with hickory.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, setns};
use node_dns as dns;
use socket2::{Domain, Socket, Type};

use crate::world::{Namespace, World};

pub(crate) const CLIENT_ADDRESS: &str = "20.1.1.1";
/// Limits the wait for an answer, and for none.
pub(crate) const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
pub(crate) const SILENCE_TIMEOUT: Duration = Duration::from_millis(300);

/// A client inside a namespace.
pub(crate) struct Client {
    pub(crate) udp: UdpSocket,
    tcp: TcpStream,
}

impl Client {
    pub(crate) fn new(namespace: &Namespace) -> Self {
        Self::at(CLIENT_ADDRESS, namespace)
    }

    /// A client with this source address.
    pub(crate) fn at(asker: &str, namespace: &Namespace) -> Self {
        let asker: Ipv4Addr = asker.parse().unwrap();
        let path = format!("/run/netns/{}", namespace.0);
        let open = move || {
            let file = std::fs::File::open(path).unwrap();
            setns(file, CloneFlags::CLONE_NEWNET).unwrap();
            let socket = |kind| {
                let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
                socket.bind(&SocketAddr::from((asker, 0)).into()).unwrap();
                let server = SocketAddr::from(([169, 254, 53, 53], 53));
                socket.connect(&server.into()).unwrap();
                socket.set_read_timeout(Some(REPLY_TIMEOUT)).unwrap();
                socket
            };
            Self {
                udp: socket(Type::DGRAM).into(),
                tcp: socket(Type::STREAM).into(),
            }
        };
        std::thread::spawn(open).join().unwrap()
    }

    pub(crate) fn by_udp(&self, query: &[u8]) -> Vec<u8> {
        self.udp.send(query).unwrap();
        self.receive().expect("an answer")
    }

    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        let mut reply = vec![0; 65_535];
        let length = self.udp.recv(&mut reply).ok()?;
        reply.truncate(length);
        Some(reply)
    }

    pub(crate) fn by_tcp(&self, query: &[u8]) -> Vec<u8> {
        let mut tcp = &self.tcp;
        let length = u16::try_from(query.len()).unwrap();
        tcp.write_all(&[&length.to_be_bytes(), query].concat())
            .unwrap();
        let mut length = [0; 2];
        tcp.read_exact(&mut length).unwrap();
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        tcp.read_exact(&mut reply).unwrap();
        reply
    }

    pub(crate) fn ask(&self, query: &[u8]) -> Message {
        Message::from_vec(&self.by_udp(query)).unwrap()
    }
}

pub(crate) fn question(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
    let mut message = Message::new(0xABCD, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        edns.set_dnssec_ok(true);
        message.edns = Some(edns);
    }
    message.to_vec().unwrap()
}

pub(crate) async fn world(resolvers: &[Ipv4Addr]) -> World {
    let config = dns::Config {
        ttl: 7,
        ..dns::Config::default()
    };
    World::with(resolvers, config).await
}
