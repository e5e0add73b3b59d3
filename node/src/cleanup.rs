//! `netctl node cleanup`: what an earlier life left over is found and returned now, not at the next
//! look: endpoints whose namespace is gone, endpoints and addresses that the engine doesn't know, and
//! whatever in the kernel bears our marks and belongs to nothing.

use std::time::Duration;

use bus_schema::healing::Cleanup;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::endpoint::{EndpointsHandle, vanished};

/// Each part may take so long; who asked waits ten seconds.
const LIMIT: Duration = Duration::from_secs(4);

/// Who looks answers here.
pub type Asked = oneshot::Sender<Cleanup>;

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cleaner {
    pub endpoints: EndpointsHandle,
    /// Absent: no engine is served.
    pub engine: Option<mpsc::Sender<Asked>>,
    pub core: mpsc::Sender<Asked>,
}

impl Cleaner {
    /// The kernel last: what belonged to an endpoint goes with it.
    pub async fn clean(&self) -> Cleanup {
        let mut all = vanished::sweep(&self.endpoints).await;
        if let Some(engine) = &self.engine {
            add(&mut all, ask(engine, "the engine").await);
        }
        add(&mut all, ask(&self.core, "the kernel").await);
        all
    }
}

fn add(all: &mut Cleanup, part: Cleanup) {
    all.done.extend(part.done);
    all.failed.extend(part.failed);
}

async fn ask(who: &mpsc::Sender<Asked>, what: &str) -> Cleanup {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        who.send(answer).await.ok()?;
        answered.await.ok()
    };
    match timeout(LIMIT, asked).await {
        Ok(Some(cleanup)) => cleanup,
        Ok(None) | Err(_) => Cleanup {
            done: Vec::new(),
            failed: vec![format!("{what} couldn't be looked at: try again")],
        },
    }
}
