//! Ctrl-C, a terminal that closes, SIGTERM: the lab that was being brought up goes away with them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use lab::Lab;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::say;

const INTERRUPTED: i32 = 130;

static UNDER_WAY: AtomicBool = AtomicBool::new(false);

/// From now on until the process ends, an interruption removes lab `name`.
pub(crate) fn removes(name: &str) -> anyhow::Result<()> {
    let name = name.to_owned();
    on_signal(move || {
        UNDER_WAY.store(true, Ordering::SeqCst);
        say::complain(&format!("lab: interrupted, removing `{name}`"));
        Lab::refuse_starts();
        if let Err(error) = Lab::remove(&name) {
            say::complain(&format!(
                "lab: {error}; `lab down --lab {name}` tries again"
            ));
        }
        leave();
    })
}

/// What fails while the lab is being removed fails for that: the thread that removes it ends the
/// process.
pub(crate) fn comes_first() {
    while UNDER_WAY.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// An interruption is for the command that runs in the foreground, not for us.
pub(crate) fn ignored() -> anyhow::Result<()> {
    on_signal(|| ())
}

fn on_signal(mut act: impl FnMut() + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime for signals")?;
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("catch SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("catch SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("catch SIGHUP")?;
    drop(guard);
    std::thread::spawn(move || {
        loop {
            runtime.block_on(any([&mut interrupt, &mut terminate, &mut hangup]));
            // The main thread may be about to record what it has just started.
            runtime.block_on(async {
                tokio::time::timeout(Duration::from_millis(100), std::future::pending::<()>())
                    .await
                    .ok()
            });
            act();
        }
    });
    Ok(())
}

async fn any([a, b, c]: [&mut Signal; 3]) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
        _ = c.recv() => {}
    }
}

#[expect(
    clippy::exit,
    reason = "the main thread may wait for a process of the lab that is gone"
)]
fn leave() -> ! {
    std::process::exit(INTERRUPTED)
}
