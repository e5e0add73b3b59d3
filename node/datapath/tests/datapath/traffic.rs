//! Sockets inside namespaces, without a program for each packet.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

/// Longer than a first packet that got lost is sent again, for a busy machine's sake.
const RECEIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// An allowed packet is answered in less than a millisecond.
pub(crate) const SILENCE_TIMEOUT: Duration = Duration::from_millis(400);

/// Runs something on a thread inside a namespace; sockets stay there.
pub(crate) fn within<T: Send>(netns: impl AsRef<Path>, work: impl FnOnce() -> T + Send) -> T {
    let path = Path::new("/run/netns").join(netns);
    let run = || {
        let file = File::open(path).expect("the namespace");
        setns(file, CloneFlags::CLONE_NEWNET).expect("entered");
        work()
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("no panic"))
}

/// Listens on a port; the kernel accepts.
pub(crate) fn listen(netns: &str, port: u16) -> TcpListener {
    within(netns, || {
        TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port")
    })
}

fn connect(netns: &str, to: (&str, u16), patience: Duration) -> std::io::Result<TcpStream> {
    let address = SocketAddr::new(to.0.parse().expect("an address"), to.1);
    within(netns, || TcpStream::connect_timeout(&address, patience))
}

/// The connection, when it opens.
pub(crate) fn opens(netns: &str, to: &str, port: u16) -> Option<TcpStream> {
    let until = Instant::now() + RECEIVE_TIMEOUT;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match connect(netns, (to, port), left.max(SILENCE_TIMEOUT)) {
            Ok(stream) => return Some(stream),
            // A neighbour that isn't there yet.
            Err(error) if error.kind() == ErrorKind::HostUnreachable && !left.is_zero() => {}
            Err(_) => return None,
        }
    }
}

/// Whether nothing at all comes back.
pub(crate) fn is_dropped(netns: &str, to: &str, port: u16) -> bool {
    let error = connect(netns, (to, port), SILENCE_TIMEOUT).err();
    error.is_some_and(|it| matches!(it.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock))
}

/// Whether no connection opens, whoever says so.
pub(crate) fn is_closed(netns: &str, to: &str, port: u16) -> bool {
    connect(netns, (to, port), SILENCE_TIMEOUT).is_err()
}

/// Answers each datagram on a port with itself, until it is dropped.
pub(crate) struct Echo {
    address: IpAddr,
    port: u16,
    netns: String,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn start(netns: &str, port: u16) -> Self {
        let socket = within(netns, || {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port")
        });
        let answer = move || {
            let mut bytes = [0; 8192];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                if bytes[..length] == *b"end" {
                    return;
                }
                // A sender that is gone is no error of ours.
                let _ = socket.send_to(&bytes[..length], from);
            }
        };
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            port,
            netns: netns.to_owned(),
            thread: Some(std::thread::spawn(answer)),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let to = (self.address, self.port);
        within(&self.netns, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
            let _ = socket.send_to(b"end", to);
        });
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A UDP socket inside a namespace.
pub(crate) fn bind(netns: &str, port: u16) -> UdpSocket {
    within(netns, || {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port")
    })
}

/// Sends so many datagrams from two CPUs at once; from the one, where there are no two.
pub(crate) fn send_on_all_cpus(socket: &UdpSocket, each: usize) {
    std::thread::scope(|scope| {
        for cpu in 0..2 {
            scope.spawn(move || {
                let mut only = CpuSet::new();
                only.set(cpu).expect("a CPU's number");
                // One that isn't there makes the test weaker and no less true.
                let _ = sched_setaffinity(Pid::from_raw(0), &only);
                for _ in 0..each {
                    // A full queue loses packets, too; no rule dropped those.
                    let _ = socket.send(b"x");
                }
            });
        }
    });
}

/// Whether a datagram is answered.
pub(crate) fn echoes(netns: &str, to: &str, port: u16) -> bool {
    echoes_all(netns, 0, to, port, b"hello")
}

/// The same from a port of one's own.
pub(crate) fn echoes_from(netns: &str, from: u16, to: &str, port: u16) -> bool {
    echoes_all(netns, from, to, port, b"hello")
}

/// The same for a datagram of these bytes, which may take several packets.
pub(crate) fn echoes_all(netns: &str, from: u16, to: &str, port: u16, bytes: &[u8]) -> bool {
    within(netns, || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, from)).expect("a socket");
        socket
            .set_read_timeout(Some(SILENCE_TIMEOUT))
            .expect("a time-out");
        // A network that isn't there yet shows as no answer.
        let _ = socket.send_to(bytes, (to, port));
        socket.recv_from(&mut [0; 8192]).is_ok()
    })
}

/// A thread in a namespace that goes on until it is dropped.
pub(crate) struct Going {
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Going {
    fn start(netns: &str, step: impl Fn() + Send + Sync + 'static) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let (stop, netns) = (Arc::clone(&done), netns.to_owned());
        let go = move || {
            within(&netns, || {
                while !stop.load(Ordering::Relaxed) {
                    step();
                }
            });
        };
        Self {
            done,
            thread: Some(std::thread::spawn(go)),
        }
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends a datagram and opens a connection to each address and port, again and again.
pub(crate) struct Hammer;

impl Hammer {
    pub(crate) fn start(netns: &str, addresses: &[String], ports: &[u16]) -> Going {
        /// Timeout of one attempt to connect.
        const CONNECT_TIMEOUT: Duration = Duration::from_millis(2);
        let all = addresses.iter().flat_map(|address| {
            let address: IpAddr = address.parse().expect("an address");
            ports
                .iter()
                .map(move |port| SocketAddr::new(address, *port))
        });
        let all: Vec<_> = all.collect();
        Going::start(netns, move || {
            for address in &all {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a socket");
                // Not being let through is what is tried here.
                let _ = socket.send_to(b"hello", address);
                let _ = TcpStream::connect_timeout(address, CONNECT_TIMEOUT);
            }
        })
    }
}

/// Accepts connections and drops them.
pub(crate) struct Accepting;

impl Accepting {
    pub(crate) fn start(netns: &str, port: u16) -> Going {
        let listener = listen(netns, port);
        let socket = socket2::SockRef::from(&listener);
        socket.set_read_timeout(Some(SILENCE_TIMEOUT)).expect("set");
        // Nobody came: look whether to go on.
        Going::start(netns, move || drop(listener.accept()))
    }
}
