//! Measures the path MTU to another node with ICMP echoes (RFC 792) that have the don't-fragment flag.
//! Each has an IP header of our own, so that the kernel's cached path MTU makes no difference.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, Socket, Type};

/// Limits the wait for a reply, and the number of requests of one size.
const ECHO_TIMEOUT: Duration = Duration::from_millis(400);
const MAX_ECHO_ATTEMPTS: usize = 2;
/// Common MTUs of tunnels and providers.
const COMMON_MTUS: [u32; 10] = [
    8_951, 1_500, 1_492, 1_480, 1_450, 1_420, 1_400, 1_380, 1_280, 576,
];
const MIN_PACKET_BYTES: u32 = 84;

const IP_HEADER_BYTES: usize = 20;
const DONT_FRAGMENT_FLAG: u16 = 0x4000;
const ECHO_REPLY_TYPE: u8 = 0;
const ECHO_TYPE: u8 = 8;

/// The largest packet size with a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PathMtu {
    Full,
    /// One of the common sizes; larger ones had no reply.
    UpTo(u32),
    NoReply,
    NotMeasured(String),
}

/// Pings `to` with packets of `mtu` bytes, and with smaller ones if there is no reply. It blocks for
/// some seconds at most; `number` distinguishes simultaneous measurements.
pub(super) fn measure(from: IpAddr, to: IpAddr, mtu: u32, number: u16) -> PathMtu {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (from, to) else {
        return PathMtu::NotMeasured("an IPv6 underlay isn't measured yet".to_owned());
    };
    let answered = |size| Echo { from, to, number }.is_answered(size);
    let measured = || -> io::Result<PathMtu> {
        if answered(mtu)? {
            return Ok(PathMtu::Full);
        }
        if !answered(MIN_PACKET_BYTES)? {
            return Ok(PathMtu::NoReply);
        }
        for size in COMMON_MTUS.into_iter().filter(|size| *size < mtu) {
            if answered(size)? {
                return Ok(PathMtu::UpTo(size));
            }
        }
        Ok(PathMtu::UpTo(MIN_PACKET_BYTES))
    };
    measured().unwrap_or_else(|error| PathMtu::NotMeasured(error.to_string()))
}

#[derive(Debug, Clone, Copy)]
struct Echo {
    from: Ipv4Addr,
    to: Ipv4Addr,
    number: u16,
}

impl Echo {
    /// Whether a packet of `size` bytes, with its header, has a reply.
    fn is_answered(self, size: u32) -> io::Result<bool> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4))?;
        socket.set_header_included_v4(true)?;
        socket.bind(&SocketAddrV4::new(self.from, 0).into())?;
        let target = SocketAddrV4::new(self.to, 0).into();
        for sequence in 0..MAX_ECHO_ATTEMPTS as u16 {
            match socket.send_to(&self.packet(size, sequence), &target) {
                // The packet exceeds the interface's own MTU.
                Err(error) if error.raw_os_error() == Some(nix::Error::EMSGSIZE as i32) => {
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::HostUnreachable => return Ok(false),
                sent => sent?,
            };
            if self.receives_reply(&socket, size)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn receives_reply(self, socket: &Socket, size: u32) -> io::Result<bool> {
        let until = Instant::now() + ECHO_TIMEOUT;
        let mut buffer = vec![0; 1 << 16];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            socket.set_read_timeout(Some(left))?;
            let length = match (&*socket).read(&mut buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if self.is_answer(&buffer[..length], size) {
                return Ok(true);
            }
        }
    }

    /// Whether a packet is the reply: a raw socket receives all ICMP messages of the host.
    fn is_answer(self, packet: &[u8], size: u32) -> bool {
        let Some((header, echo)) = packet.split_at_checked(IP_HEADER_BYTES) else {
            return false;
        };
        packet.len() == size as usize
            && header[12..16] == self.to.octets()
            && echo.len() >= 8
            && echo[0] == ECHO_REPLY_TYPE
            && echo[4..6] == self.identifier().to_be_bytes()
    }

    fn packet(self, size: u32, sequence: u16) -> Vec<u8> {
        let mut packet = vec![0; size as usize];
        let (header, echo) = packet.split_at_mut(IP_HEADER_BYTES);
        header[0] = 0x45;
        header[2..4].copy_from_slice(&(size as u16).to_be_bytes());
        header[6..8].copy_from_slice(&DONT_FRAGMENT_FLAG.to_be_bytes());
        header[8] = 64;
        header[9] = 1;
        header[12..16].copy_from_slice(&self.from.octets());
        header[16..20].copy_from_slice(&self.to.octets());
        // The kernel sets the checksum of the IP header, not of the ICMP message.
        echo[0] = ECHO_TYPE;
        echo[4..6].copy_from_slice(&self.identifier().to_be_bytes());
        echo[6..8].copy_from_slice(&sequence.to_be_bytes());
        let sum = checksum(echo);
        echo[2..4].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn identifier(self) -> u16 {
        (std::process::id() as u16).wrapping_add(self.number)
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|word| match word {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        odd => u32::from(odd[0]) << 8,
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn echo_has_a_valid_checksum_and_only_its_reply_is_accepted() {
        let echo = Echo {
            from: Ipv4Addr::new(10, 0, 0, 1),
            to: Ipv4Addr::new(10, 0, 0, 2),
            number: 7,
        };
        let asked = echo.packet(1_399, 1);
        assert_eq!(checksum(&asked[IP_HEADER_BYTES..]), 0);
        assert_eq!(asked[6..8], [0x40, 0], "don't fragment");
        let mut answer = asked;
        assert!(!echo.is_answer(&answer, 1_399), "our own request");
        answer[IP_HEADER_BYTES] = ECHO_REPLY_TYPE;
        answer[12..16].copy_from_slice(&echo.to.octets());
        assert!(echo.is_answer(&answer, 1_399));
        assert!(!echo.is_answer(&answer, 1_400), "another size");
        assert!(!Echo { number: 8, ..echo }.is_answer(&answer, 1_399));
        assert!(!echo.is_answer(&answer[..10], 10));
    }
}
