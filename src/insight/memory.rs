//! The memory of an allocator and its handles.

use crate::core::Core;
use crate::gate::Gate;
use crate::space::Space;

/// Bytes that an allocator has requested from the process's memory, from
/// [`Allocator::memory`](crate::Allocator::memory).
///
/// `bitmap`, `search`, `counters`, `aside` and `committed` depend on the size of the device alone.
/// They are address space: where blocks were never free (in `committed`: never allocated) the
/// memory is untouched, and the system provides a page (mostly 4 KiB) with the first write. No page
/// is given back before the allocator is dropped. All other figures are memory in use.
///
/// Not counted is what belongs to the engine: transactions with their extents, guards,
/// reservations, regions, surveys and planners, batches of a discarder; nor the overhead of the
/// process's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// The bitmap: one bit per block, rounded up to whole cache lines.
    pub bitmap: usize,
    /// The search structures over the bitmap: the summary, and the structure itself.
    pub search: usize,
    /// Counters of free blocks: 8 KiB for 64 lanes, and for each shard a row of them.
    pub counters: usize,
    /// Four more bitmaps with summaries: for closed regions, for promises and reserves, for blocks
    /// that wait to be discarded, and for those that are being discarded. And one without a
    /// summary, for blocks that transactions free. Their memory is untouched until a block is
    /// closed, promised, waits, or is freed by a transaction.
    pub aside: usize,
    /// With a store, the committed state: one bit per block. For a space-map log it is the log's
    /// own, and the log counts it too ([`LogMemory::committed`](crate::LogMemory::committed)).
    pub committed: usize,
    /// Handles, streams and the cursors that threads keep, as many as are alive: each with the
    /// structure itself, wherever it lies, and up to 25 KiB of remembered runs and frees, from its
    /// first free or request for several blocks on. A thread's cursor lives until the thread ends
    /// or has used four other allocators.
    pub handles: usize,
    /// Counters of guards; room for the extents that wait for guards; and durable frees that wait
    /// for the engine's own log. The room takes 24 bytes per extent (or per 4096 blocks of it). It
    /// is kept for others when the extents have left, and up to half of it is never used.
    pub quarantine: usize,
    /// Results of surveys: about 900 bytes for each surveyed shard.
    pub surveys: usize,
}

impl Memory {
    /// The sum of all figures.
    pub fn total(&self) -> usize {
        let Self { bitmap, search, counters, aside, committed, handles, quarantine, surveys } =
            *self;
        bitmap + search + counters + aside + committed + handles + quarantine + surveys
    }

    pub(crate) fn of(core: &Core) -> Self {
        let Space { bitmap, closed, escrow, discards, quarantine, .. } = &core.space;
        Self {
            bitmap: bitmap.leaf_bytes(),
            search: bitmap.summary_bytes() + size_of::<Core>(),
            counters: core.space.lanes.bytes() + core.space.shard_counts.bytes(),
            aside: closed.bytes() + escrow.bytes() + discards.bytes() + quarantine.mark_bytes(),
            committed: core
                .space
                .committed
                .as_ref()
                .map_or(0, |committed| committed.ledger.bytes()),
            handles: core.placer.handles_memory.bytes(),
            quarantine: quarantine.bytes() + core.gate.as_ref().map_or(0, Gate::bytes),
            surveys: core.surveyed.bytes(),
        }
    }
}
