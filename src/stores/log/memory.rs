//! What a log occupies.

/// Bytes that a log has asked the process's memory for, from [`SpaceMapLog::memory`](crate::SpaceMapLog::memory). What its allocator has is
/// in [`Memory`](crate::Memory).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogMemory {
    /// The committed state: one bit per block that the log has room for. It is address space: where no block was
    /// ever committed it is memory that nobody has touched. The allocator looks into the same bits, and
    /// [`Memory::committed`](crate::Memory::committed) is the same figure, so it is no part of
    /// [`total`](Self::total).
    pub committed: usize,
    /// What is known of the images of each range (32768 blocks) and of the directory pages: about 100 bytes
    /// for a range, and 5 KiB for each page that is on its way to its second copy.
    pub ranges: usize,
    /// What the live log needs: 48 bytes for a frame, 16 for a range that changed since its image, and under
    /// [`Authority::Engine`](crate::Authority::Engine) the records of transactions that the engine's log is not
    /// known to have yet.
    pub live: usize,
    /// Transactions that are queued, and under [`Authority::Piggyback`](crate::Authority::Piggyback) parts
    /// that wait for one before them: about.
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
