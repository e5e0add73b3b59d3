use tokio::sync::watch;

/// Sends a value to those who watch, if it differs from the one that they have.
pub fn send_if_changed<T: PartialEq>(to: &watch::Sender<T>, value: T) {
    to.send_if_modified(|known| {
        let changed = *known != value;
        *known = value;
        changed
    });
}
