use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic while it was held left what is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
