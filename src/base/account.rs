//! How many bytes the handles of one allocator hold.

use std::sync::Arc;

use crate::base::sync::Counter;

/// Bytes that the handles of one allocator hold. Each handle adds and takes away its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account(Arc<Counter>);

impl Account {
    /// Adds `bytes`.
    pub(crate) fn add(&self, bytes: usize) {
        self.0.add(bytes as u64);
    }

    /// Takes `bytes` away.
    pub(crate) fn take(&self, bytes: usize) {
        self.0.add((bytes as u64).wrapping_neg());
    }

    /// The sum. Exact while nothing else runs.
    pub(crate) fn bytes(&self) -> usize {
        self.0.get() as usize
    }
}
