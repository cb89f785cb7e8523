//! What an allocator and its handles occupy.

use crate::core::Core;
use crate::space::Space;
use crate::space::gate::Gate;

/// Bytes that an allocator has asked the process's memory for, from
/// [`Allocator::memory`](crate::Allocator::memory).
///
/// Of `bitmap`, `search`, `counters`, `aside` and `committed`, which depend on the size of the device alone, this
/// is address space: where blocks were never free (in `committed`: never allocated) it is memory that nobody has
/// touched, of which the system gives a page (mostly 4 KiB) with the first write. No page is given back before the
/// allocator is dropped. Everything else is in use.
///
/// Not counted is what belongs to the engine: transactions with their extents, guards, reservations, regions,
/// surveys and planners, batches of a discarder; nor what the process's memory adds of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Memory {
    /// The bitmap: one bit per block, rounded up to whole cache lines.
    pub bitmap: usize,
    /// What belongs to it: the summary, and the structure itself.
    pub search: usize,
    /// Counters of free blocks: 8 KiB for 64 lanes, and for each shard a row of them.
    pub counters: usize,
    /// Three more bitmaps with summaries, for closed regions, for promises and reserves, and for what waits to
    /// be discarded, and one without for what transactions free: nothing is touched there before
    /// something is closed, promised, waits or is freed so.
    pub aside: usize,
    /// With a store, the committed state: one bit per block. Of a space-map log it is the log's own, which
    /// counts it too ([`LogMemory::committed`](crate::LogMemory::committed)).
    pub committed: usize,
    /// Handles, streams and the places that threads remember, as many as are alive: each with the structure itself,
    /// wherever it lies, and up to 25 KiB of memories, from its first free or request for several blocks on.
    /// The place of a thread is alive until the thread ends or has used four other allocators.
    pub handles: usize,
    /// Guards' counters; room for the extents that wait for guards, 24 bytes for each (or each 4096 blocks of it),
    /// kept for others when they have left and up to half of it never used; and durable frees that wait for the
    /// engine's own log.
    pub quarantine: usize,
    /// What surveys have left: about 900 bytes for each shard that was surveyed.
    pub surveys: usize,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> usize {
        let Self { bitmap, search, counters, aside, committed, handles, quarantine, surveys } =
            *self;
        bitmap + search + counters + aside + committed + handles + quarantine + surveys
    }

    pub(crate) fn of(core: &Core) -> Self {
        let Space { bitmap, closed, escrow, discards, quarantine, gate, .. } = &core.space;
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
            quarantine: quarantine.bytes() + gate.as_ref().map_or(0, Gate::bytes),
            surveys: core.surveyed.bytes(),
        }
    }
}
