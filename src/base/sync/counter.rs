//! Statistics.

use crate::base::heap::OutOfMemory;

/// A statistic: never part of the protocol, so relaxed and invisible to the model checker.
#[derive(Debug, Default)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
pub(crate) struct Counter(std::sync::atomic::AtomicU64);

impl Counter {
    /// A counter that starts at `value`.
    pub(crate) const fn new(value: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(value))
    }

    /// `count` counters that start at 0, in untouched memory.
    pub(crate) fn zeros(count: usize) -> Result<Vec<Self>, OutOfMemory> {
        #[cfg(not(loom))]
        return crate::base::heap::zeroed(count);
        #[cfg(loom)]
        Ok((0..count).map(|_| Self::default()).collect())
    }

    /// Adds `value`, wrapping, and returns the value before.
    #[inline(always)]
    pub(crate) fn fetch_add(&self, value: u64) -> u64 {
        self.0.fetch_add(value, std::sync::atomic::Ordering::Relaxed)
    }

    /// Adds `value`, wrapping. Any thread may add.
    #[inline(always)]
    pub(crate) fn add(&self, value: u64) {
        self.fetch_add(value);
    }

    /// Adds `value`, wrapping, as the only writer (otherwise another thread's addition may be
    /// lost): two plain moves instead of a locked one.
    #[inline(always)]
    pub(crate) fn add_as_owner(&self, value: u64) {
        self.0.store(self.get().wrapping_add(value), std::sync::atomic::Ordering::Relaxed);
    }

    /// Raises the value to `value` if that is more.
    pub(crate) fn raise(&self, value: u64) {
        self.0.fetch_max(value, std::sync::atomic::Ordering::Relaxed);
    }

    /// Replaces the value.
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, std::sync::atomic::Ordering::Relaxed);
    }

    /// Replaces the value and returns the value before.
    pub(crate) fn swap(&self, value: u64) -> u64 {
        self.0.swap(value, std::sync::atomic::Ordering::Relaxed)
    }

    /// The value.
    #[inline(always)]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}
