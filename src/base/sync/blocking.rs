//! Locks for commits, which wait anyway. Never on the path of allocations and frees.

#[cfg(loom)]
pub use loom::sync::{Condvar, Mutex, MutexGuard as Guard};
#[cfg(loom)]
pub use loom::thread::{ThreadId, current};
#[cfg(not(loom))]
pub(crate) use std::sync::{Condvar, Mutex, MutexGuard as Guard};
#[cfg(not(loom))]
pub(crate) use std::thread::{ThreadId, current};

/// The calling thread.
pub(crate) fn this_thread() -> ThreadId {
    current().id()
}

/// Locks `mutex`, even if a holder panicked: the data it protects is changed in single steps.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> Guard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for `condvar`.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: Guard<'a, T>) -> Guard<'a, T> {
    condvar.wait(guard).unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for `condvar`, at most for `patience`; returns whether that time has passed. Under loom it
/// never does.
pub(crate) fn wait_for<'a, T>(
    condvar: &Condvar,
    guard: Guard<'a, T>,
    patience: std::time::Duration,
) -> (Guard<'a, T>, bool) {
    let waited = condvar.wait_timeout(guard, patience);
    let (guard, timeout) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
    (guard, timeout.timed_out())
}
