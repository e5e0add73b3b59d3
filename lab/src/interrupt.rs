//! Ctrl-C, a closed terminal and SIGTERM remove the lab that is being brought up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use lab::Lab;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::print;

const INTERRUPTED_EXIT_CODE: i32 = 130;

static IS_REMOVING: AtomicBool = AtomicBool::new(false);

/// Makes an interruption remove lab `name`, until the process ends.
pub(crate) fn remove_lab(name: &str) -> anyhow::Result<()> {
    let name = name.to_owned();
    on_signal(move || {
        IS_REMOVING.store(true, Ordering::SeqCst);
        print::error(&format!("lab: interrupted, removing `{name}`"));
        Lab::refuse_starts();
        if let Err(error) = Lab::remove(&name) {
            print::error(&format!(
                "lab: {error}; `lab down --lab {name}` tries again"
            ));
        }
        leave();
    })
}

/// Waits for ever if an interruption is removing the lab: the removal caused the caller's error, and its
/// thread ends the process.
pub(crate) fn await_removal() {
    while IS_REMOVING.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Ignores interruptions: they are for the command in the foreground.
pub(crate) fn ignore() -> anyhow::Result<()> {
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
            // The main thread may be about to record a process that it has just started.
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
    std::process::exit(INTERRUPTED_EXIT_CODE)
}
