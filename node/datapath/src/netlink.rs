//! One rtnetlink socket in one namespace, and the messages that we send on it.
//!
//! A second dump at once on a socket is answered with `EBUSY`, so a dump holds the socket's lock. A
//! change that is already done is no error.

use std::io;

use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::netns::Namespace;

/// A socket; its task ends with it.
#[derive(Debug)]
pub(crate) struct Socket {
    handle: Handle,
    /// The socket's port, by which a notification names the author of a change.
    port: u32,
    dumping: Mutex<()>,
    _task: AbortOnDropHandle<()>,
}

/// How a change treats an object that is there.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mode {
    Create,
    Replace,
    Set,
}

impl Mode {
    fn flags(self) -> u16 {
        match self {
            Self::Create => NLM_F_CREATE | NLM_F_EXCL,
            Self::Replace => NLM_F_CREATE | NLM_F_REPLACE,
            Self::Set => 0,
        }
    }
}

impl Socket {
    pub(crate) async fn open(namespace: &Namespace) -> io::Result<Self> {
        let runtime = tokio::runtime::Handle::current();
        namespace.run(move || Self::on_this_thread(&runtime)).await
    }

    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn on_this_thread(runtime: &tokio::runtime::Handle) -> io::Result<Self> {
        let _guard = runtime.enter();
        let (mut connection, handle, _) = rtnetlink::new_connection()?;
        let port = connection
            .socket_mut()
            .socket_mut()
            .bind_auto()?
            .port_number();
        Ok(Self {
            handle,
            port,
            dumping: Mutex::new(()),
            _task: AbortOnDropHandle::new(runtime.spawn(connection)),
        })
    }

    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends a change and waits for the kernel's answer.
    pub(crate) async fn change(&self, message: RouteNetlinkMessage, mode: Mode) -> io::Result<()> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | mode.flags();
        let mut handle = self.handle.clone();
        let mut answers = handle.request(request).map_err(io::Error::other)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.raw_code() != 0
            {
                return Err(error.to_io());
            }
        }
        Ok(())
    }

    pub(crate) async fn links(&self) -> io::Result<Vec<LinkMessage>> {
        let _turn = self.dumping.lock().await;
        collected(self.handle.link().get().execute().try_collect().await)
    }

    /// A device's index; `None` when there is no such device.
    pub(crate) async fn index(&self, device: &str) -> io::Result<Option<u32>> {
        Ok(self.link(device).await?.map(|link| link.header.index))
    }

    pub(crate) async fn link(&self, device: &str) -> io::Result<Option<LinkMessage>> {
        let request = self.handle.link().get().match_name(device.to_owned());
        match collected(request.execute().try_next().await) {
            Ok(link) => Ok(link),
            Err(error) if is_absence(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn has(&self, index: u32) -> io::Result<bool> {
        let request = self.handle.link().get().match_index(index);
        match collected(request.execute().try_next().await) {
            Ok(link) => Ok(link.is_some()),
            Err(error) if is_absence(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn addresses(&self) -> io::Result<Vec<AddressMessage>> {
        let _turn = self.dumping.lock().await;
        collected(self.handle.address().get().execute().try_collect().await)
    }

    /// All IPv4 routes, of every table.
    pub(crate) async fn routes(&self) -> io::Result<Vec<RouteMessage>> {
        let _turn = self.dumping.lock().await;
        let which = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
        collected(self.handle.route().get(which).execute().try_collect().await)
    }

    pub(crate) async fn rules(&self, version: IpVersion) -> io::Result<Vec<RuleMessage>> {
        let _turn = self.dumping.lock().await;
        let request = self.handle.rule().get(version);
        collected(request.execute().try_collect().await)
    }

    /// Neighbors (`Inet`) or FDB entries (`Bridge`).
    pub(crate) async fn neighbors(
        &self,
        family: AddressFamily,
    ) -> io::Result<Vec<NeighbourMessage>> {
        let _turn = self.dumping.lock().await;
        let request = self.handle.neighbours().get().set_address_family(family);
        collected(request.execute().try_collect().await)
    }
}

/// Works with a socket of its own in a namespace, on a thread that ends with the work: a wait of the
/// kernel delays nobody else, and no answer is passed from one thread to another.
pub(crate) async fn apart<T, W>(namespace: &Namespace, work: W) -> io::Result<T>
where
    T: Send + 'static,
    W: AsyncFnOnce(Socket) -> io::Result<T> + Send + 'static,
{
    namespace
        .run(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build()?;
            let socket = Socket::on_this_thread(runtime.handle())?;
            runtime.block_on(work(socket))
        })
        .await
}

fn collected<T>(result: Result<T, rtnetlink::Error>) -> io::Result<T> {
    result.map_err(|error| match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    })
}

/// Whether the error means that a link, address, route, neighbor or process isn't there.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    use nix::errno::Errno::{EADDRNOTAVAIL, ENODEV, ENOENT, ESRCH};
    [ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL]
        .iter()
        .any(|code| error.raw_os_error() == Some(*code as i32))
}

/// The kernel says that it is there already.
pub(crate) fn is_presence(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::Error::EEXIST as i32)
}
