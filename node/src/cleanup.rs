//! `netctl node cleanup` finds and removes at once, not at the next resync, what an earlier process left
//! over: endpoints whose namespace is gone, endpoints and addresses that the engine doesn't have, and
//! kernel objects with our marks that belong to nothing.

use std::time::Duration;

use bus_schema::healing::Cleanup;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::endpoint::{EndpointsHandle, vanished};

/// The limit of each part; netctl waits for ten seconds.
const PART_TIMEOUT: Duration = Duration::from_secs(4);

/// Receives the result of one part.
pub type CleanupReply = oneshot::Sender<Cleanup>;

/// Cleans up all parts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cleaner {
    pub endpoints: EndpointsHandle,
    /// Absent: no engine is served.
    pub engine: Option<mpsc::Sender<CleanupReply>>,
    pub core: mpsc::Sender<CleanupReply>,
}

impl Cleaner {
    /// Cleans up the kernel last: the objects of an endpoint are removed with it.
    pub async fn clean(&self) -> Cleanup {
        let mut all = vanished::sweep(&self.endpoints).await;
        if let Some(engine) = &self.engine {
            add(&mut all, request(engine, "the engine").await);
        }
        add(&mut all, request(&self.core, "the kernel").await);
        all
    }
}

fn add(all: &mut Cleanup, part: Cleanup) {
    all.done.extend(part.done);
    all.failed.extend(part.failed);
}

async fn request(part: &mpsc::Sender<CleanupReply>, name: &str) -> Cleanup {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        part.send(answer).await.ok()?;
        answered.await.ok()
    };
    match timeout(PART_TIMEOUT, asked).await {
        Ok(Some(cleanup)) => cleanup,
        Ok(None) | Err(_) => Cleanup {
            done: Vec::new(),
            failed: vec![format!("{name} didn't answer: try again")],
        },
    }
}
