//! Asks Docker's own resolver from inside a container's namespace, as the container does.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bus_schema::lookup::{EngineAnswer, Lookup, RecordKind};
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use nix::sched::{CloneFlags, setns};

use super::datagrams::MAX_DATAGRAM_BYTES;

/// The address of the resolver in each of an engine's containers.
const ENGINE_RESOLVER: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// It forwards a query for up to three seconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Asks the resolver in this namespace. Blocks; the caller's thread stays where it is.
pub fn ask_engine(netns: &Path, lookup: &Lookup) -> io::Result<EngineAnswer> {
    let query = query(lookup)?;
    let netns: PathBuf = netns.to_owned();
    let asking = std::thread::Builder::new().name("dns-engine".to_owned());
    let answer = asking.spawn(move || exchange(&netns, &query))?;
    let gone = |_| io::Error::other("the asking thread ended early");
    answered(&answer.join().map_err(gone)??)
}

fn query(lookup: &Lookup) -> io::Result<Message> {
    let name = format!("{}.", lookup.name.trim_end_matches('.'));
    let name = Name::from_ascii(name).map_err(io::Error::other)?;
    let kind = match lookup.record {
        RecordKind::A => RecordType::A,
        RecordKind::Aaaa => RecordType::AAAA,
        RecordKind::Ptr => RecordType::PTR,
    };
    let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(name, kind));
    Ok(query)
}

/// Leaves the thread in the namespace.
fn exchange(netns: &Path, query: &Message) -> io::Result<Message> {
    setns(File::open(netns)?, CloneFlags::CLONE_NEWNET)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(ENGINE_RESOLVER)?;
    socket.send(&query.to_vec().map_err(io::Error::other)?)?;
    let deadline = Instant::now() + ANSWER_TIMEOUT;
    let mut reply = [0; MAX_DATAGRAM_BYTES];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // A timeout of zero would mean none.
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let length = socket.recv(&mut reply)?;
        if let Ok(reply) = Message::from_vec(&reply[..length])
            && reply.metadata.id == query.metadata.id
        {
            return Ok(reply);
        }
    }
}

fn answered(reply: &Message) -> io::Result<EngineAnswer> {
    let kinds = [RecordType::A, RecordType::AAAA, RecordType::PTR];
    let records = reply.answers.iter();
    let records = records.filter(|it| kinds.contains(&it.record_type()));
    let records: Vec<_> = records.collect();
    let text =
        |it: &hickory_proto::rr::Record| it.data.to_string().trim_end_matches('.').to_owned();
    Ok(EngineAnswer {
        code: code_name(reply.metadata.response_code),
        ttl: records.iter().map(|it| it.ttl).min().unwrap_or_default(),
        // The domain's server sets AA about the cluster's names, and Docker relays its reply unchanged.
        first: !records.is_empty() && !reply.metadata.authoritative,
        records: records.into_iter().map(text).collect(),
    })
}

fn code_name(code: ResponseCode) -> String {
    match code {
        ResponseCode::NoError => "NOERROR".to_owned(),
        ResponseCode::NXDomain => "NXDOMAIN".to_owned(),
        ResponseCode::ServFail => "SERVFAIL".to_owned(),
        ResponseCode::Refused => "REFUSED".to_owned(),
        other => other.to_string(),
    }
}
