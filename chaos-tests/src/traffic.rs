//! Programs inside the workloads: a server, a client that opens connections, and one that streams.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

/// The port on which connections are accepted and closed.
pub const ACCEPT_PORT: u16 = 7001;
/// The port on which a stream is read to its end.
pub const SINK_PORT: u16 = 7002;

/// Runs the program that the arguments name; `None`: they name none.
pub fn run(arguments: &[String]) -> Option<std::io::Result<()>> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["serve"] => Some(serve()),
        ["connect", host, ms] => Some(connect(to(host, ACCEPT_PORT)?, for_ms(ms)?)),
        ["stream", host, ms] => Some(stream(to(host, SINK_PORT)?, for_ms(ms)?)),
        _ => None,
    }
}

fn to(host: &str, port: u16) -> Option<SocketAddr> {
    Some(SocketAddr::new(host.parse().ok()?, port))
}

fn for_ms(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

/// Serves both ports.
fn serve() -> std::io::Result<()> {
    let sink = listener(SINK_PORT)?;
    thread::spawn(move || {
        for mut client in sink.incoming().flatten() {
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 18];
                while client.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
        }
    });
    for client in listener(ACCEPT_PORT)?.incoming() {
        drop(client);
    }
    Ok(())
}

fn listener(port: u16) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from(([0, 0, 0, 0], port)).into())?;
    socket.listen(1024)?;
    Ok(socket.into())
}

/// Opens one connection after another, and prints their number per second. Each ends with a reset, so that
/// no port stays occupied.
fn connect(to: SocketAddr, within: Duration) -> std::io::Result<()> {
    let start = Instant::now();
    let mut done = 0_u32;
    while start.elapsed() < within {
        let client = match TcpStream::connect_timeout(&to, Duration::from_secs(1)) {
            // A lost packet costs one second.
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => continue,
            client => client?,
        };
        SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
        done += 1;
    }
    print(f64::from(done) / start.elapsed().as_secs_f64())
}

/// Timeout of the stream's connection. TCP sends a lost first packet again after one, three and seven
/// seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends one stream, and prints Gbit/s.
fn stream(to: SocketAddr, within: Duration) -> std::io::Result<()> {
    let mut client = TcpStream::connect_timeout(&to, CONNECT_TIMEOUT)?;
    let buffer = vec![0; 1 << 18];
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < within {
        client.write_all(&buffer)?;
        sent += buffer.len();
    }
    print(sent as f64 * 8.0 / 1e9 / start.elapsed().as_secs_f64())
}

fn print(figure: f64) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{figure}")
}
