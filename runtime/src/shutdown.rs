use tokio::signal::unix::{SignalKind, signal};

/// Ends at SIGTERM or SIGINT. It takes the signals from the call on, so it must be called on a tokio
/// runtime.
pub fn shutdown() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
