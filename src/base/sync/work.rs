//! Counts what a thread does, for tests that bound the work of a call without a clock.

use std::cell::Cell;

thread_local! {
    static ACCESSES: Cell<u64> = const { Cell::new(0) };
}

/// Counts an access to an atomic of the protocol.
pub(crate) fn count() {
    ACCESSES.with(|accesses| accesses.set(accesses.get() + 1));
}

/// How many such accesses this thread makes in `call`.
pub(crate) fn of<T>(call: impl FnOnce() -> T) -> u64 {
    let before = ACCESSES.get();
    call();
    ACCESSES.get() - before
}
