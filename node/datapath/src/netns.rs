//! Network namespaces by file descriptor, and work done inside them.
//!
//! `setns` is per thread, so each piece of work gets a thread of its own, which ends with the work: no
//! thread returns to a pool in another namespace. A socket stays in the namespace that it was opened in.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

/// A network namespace, held open.
#[derive(Debug, Clone)]
pub(crate) struct Namespace {
    file: Arc<File>,
}

impl Namespace {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = Arc::new(File::open(path)?);
        Ok(Self { file })
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// The namespace's device and inode, which differ from those of one that got its path later.
    pub(crate) fn id(&self) -> io::Result<(u64, u64)> {
        self.file.metadata().map(|meta| (meta.dev(), meta.ino()))
    }

    /// Runs `work` on a thread in this namespace.
    pub(crate) async fn run<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let file = Arc::clone(&self.file);
        on_thread(move || {
            setns(&*file, CloneFlags::CLONE_NEWNET)?;
            work()
        })
        .await
    }

    /// Runs `work` in a new namespace, which ends with the work unless `work` keeps it.
    pub(crate) async fn run_in_new<T, F>(work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        on_thread(move || {
            unshare(CloneFlags::CLONE_NEWNET)?;
            work()
        })
        .await
    }

    /// Makes a namespace that ends when it isn't used any more.
    pub(crate) async fn unnamed() -> io::Result<Self> {
        Self::run_in_new(|| Self::open(Path::new("/proc/thread-self/ns/net"))).await
    }

    /// Makes a namespace and binds it to `path`, as `ip netns add` does, unless one is there.
    pub(crate) async fn create(path: &Path) -> io::Result<()> {
        if is_namespace(path) {
            return Ok(());
        }
        let path = path.to_owned();
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        File::create(&path)?;
        Self::run_in_new(move || {
            let none = None::<&str>;
            let own = "/proc/thread-self/ns/net";
            mount(Some(own), &path, none, MsFlags::MS_BIND, none)?;
            Ok(())
        })
        .await
    }

    /// Removes the namespace's name, as `ip netns del` does; it is no error if there is none.
    pub(crate) fn remove(path: &Path) -> io::Result<()> {
        match umount2(path, MntFlags::MNT_DETACH) {
            // EINVAL: the file is there, and nothing is mounted on it.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => return Err(error.into()),
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Whether a namespace is bound to the path; a crash may leave a file without one.
pub(crate) fn is_namespace(path: &Path) -> bool {
    let nsfs = nix::sys::statfs::statfs(path).map(|stat| stat.filesystem_type());
    nsfs.is_ok_and(|kind| kind == nix::sys::statfs::NSFS_MAGIC)
}

async fn on_thread<T, F>(work: F) -> io::Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> io::Result<T> + Send + 'static,
{
    let (done, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("netns".to_owned())
        .spawn(move || {
            let _ = done.send(work());
        })?;
    result
        .await
        .unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
}
