//! The memory that a log occupies.

/// Bytes of memory that a log has asked for, from
/// [`SpaceMapLog::memory`](crate::SpaceMapLog::memory). Its allocator's are in
/// [`Memory`](crate::Memory).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogMemory {
    /// The committed state: one bit per block that the log has room for. This is address space:
    /// where no block was ever committed, the memory is untouched. The allocator reads the same
    /// bits, and [`Memory::committed`](crate::Memory::committed) is the same figure, so it is no
    /// part of [`total`](Self::total).
    pub committed: usize,
    /// Bookkeeping of the images of each range (32768 blocks) and of the directory pages: about 100
    /// bytes for a range, and 5 KiB for each page that is on its way to its second copy.
    pub ranges: usize,
    /// Bookkeeping of the live log: 48 bytes for a frame, 16 for a range that changed since its
    /// image, and under [`Authority::Engine`](crate::Authority::Engine) the records of transactions
    /// that the engine's log is not known to have yet.
    pub live: usize,
    /// Queued transactions, and under [`Authority::Piggyback`](crate::Authority::Piggyback) parts
    /// that wait for an earlier one. Approximate.
    pub queued: usize,
    /// The frames of the largest window, kept for the next one.
    pub buffer: usize,
}

impl LogMemory {
    /// All that the log has beside its allocator: everything but `committed`.
    pub fn total(&self) -> usize {
        let Self { committed: _, ranges, live, queued, buffer } = *self;
        ranges + live + queued + buffer
    }
}
