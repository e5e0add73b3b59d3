//! DNS over TCP, with a bound on its connections.
//!
//! hickory's own listener accepts without limit, and spins when the process has no file
//! descriptor left: one container could take the daemon's from everybody. Here a domain has
//! [`CONNECTIONS`] of them; more wait in the kernel's backlog until one falls silent or ends.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::MessageType;
use hickory_proto::rr::Record;
use hickory_proto::serialize::binary::BinEncoder;
use hickory_server::net::NetError;
use hickory_server::net::runtime::TokioTime;
use hickory_server::net::xfer::Protocol;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::handler::Handler;

/// Connections of one domain at once.
const CONNECTIONS: usize = 64;
/// How long a connection may take for its next query, or to take an answer (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(2);
/// After an error of `accept`, which comes back at once while no descriptor is free.
const BREATH: Duration = Duration::from_millis(100);

/// Serves until dropped.
pub(super) async fn serve(listener: TcpListener, handler: Handler) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, asker)) => {
                let handler = handler.clone();
                connections.spawn(async move {
                    if let Err(error) = converse(stream, asker, &handler).await {
                        tracing::debug!(%asker, %error, "DNS connection ended");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::debug!(%error, "DNS connection not accepted");
                #[expect(clippy::disallowed_methods, reason = "the pause before the next try")]
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

/// Answers one query after another, until the asker ends, is silent or says nonsense.
async fn converse(mut stream: TcpStream, asker: SocketAddr, handler: &Handler) -> io::Result<()> {
    loop {
        let query = timeout(IDLE, receive(&mut stream)).await??;
        let request = Request::from_bytes(query, asker, Protocol::Tcp).map_err(io::Error::other)?;
        if request.metadata.message_type == MessageType::Response {
            return Ok(());
        }
        let written = Written::default();
        handler
            .handle_request::<_, TokioTime>(&request, written.clone())
            .await;
        timeout(IDLE, stream.write_all(&written.framed()?)).await??;
    }
}

async fn receive(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut query = vec![0; usize::from(length)];
    stream.read_exact(&mut query).await?;
    Ok(query)
}

/// The encoded answer, for who sends it.
#[derive(Debug, Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    /// Behind its length, as TCP wants it (RFC 1035 §4.2.2).
    fn framed(&self) -> io::Result<Vec<u8>> {
        let answer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        let mut framed = length.to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        Ok(framed)
    }
}

#[async_trait::async_trait]
impl ResponseHandler for Written {
    async fn send_response<'a>(
        &mut self,
        response: MessageResponse<
            '_,
            'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
            impl Iterator<Item = &'a Record> + Send + 'a,
        >,
    ) -> Result<ResponseInfo, NetError> {
        let mut bytes = Vec::with_capacity(512);
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = response.destructive_emit(&mut encoder)?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = bytes;
        Ok(info)
    }
}
