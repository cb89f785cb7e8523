//! The blocks of the device: free, closed, promised, waiting to be discarded, committed; and their
//! counters.
//!
//! Promises: callers get blocks here and give them back here, and both are counted once. A block is
//! free, or kept in one of these places, or owned by a caller. Uses: `base`, `values`, `index`,
//! `quarantine`.

pub(crate) mod class_reserve;
pub(crate) mod closed;
pub(crate) mod committed;
pub(crate) mod discard_runs;
pub(crate) mod discards;
pub(crate) mod escrow;
mod joined;
pub(crate) mod keep;
pub(crate) mod lanes;
pub(crate) mod ledger;
pub(crate) mod let_out;
mod marks;
pub(crate) mod release;
pub(crate) mod shard_counts;
pub(crate) mod shards;
pub(crate) mod survey_records;
pub(crate) mod units;
mod verify;

use std::fmt::{Debug, Formatter};
use std::ops::Range;

use crossbeam_utils::CachePadded;

use crate::base::geometry::{Native, NativeWord};
use crate::base::heap::OutOfMemory;
use crate::base::place::{LeafIndex, ShardIndex, WordIndex};
use crate::base::sync::{Counter, Turnstile};
use crate::index::Bitmap;
use crate::index::events::Event;
use crate::quarantine::Quarantine;
use crate::space::class_reserve::Reserves;
use crate::space::closed::{Closed, Moved};
use crate::space::discards::Discards;
use crate::space::escrow::Escrow;
use crate::space::lanes::{LaneId, Lanes};
use crate::space::ledger::Committed;
use crate::space::shard_counts::ShardCounts;
use crate::space::shards::Shards;
use crate::values::error::{RangeError, on_device};
use crate::values::extent::{Extent, runs_in_word};

/// The blocks of the device, and who owns them.
pub(crate) struct Space {
    pub(crate) bitmap: Bitmap<Native>,
    /// Blocks that are neither free nor in use, and the closed regions.
    pub(crate) closed: Closed<Native>,
    /// Blocks kept for promises.
    pub(crate) escrow: Escrow<Native>,
    /// Freed blocks that wait to be discarded.
    pub(crate) discards: Discards<Native>,
    /// Held by the discarder, if there is one.
    pub(crate) discarder: Turnstile,
    /// Blocks in the batches that the device is discarding.
    pub(crate) discarding_blocks: Counter,
    /// Counts of blocks that the device was told to discard, and of those that waited and became free
    /// without. A block that waited is counted once when it leaves.
    pub(crate) discarded_blocks: Counter,
    pub(crate) skipped_discards: Counter,
    /// Held while regions are closed or the device changes its length: one caller at a time.
    pub(crate) administration: Turnstile,
    /// The reserve of each class.
    pub(crate) class_reserves: Reserves,
    pub(crate) shards: Shards,
    pub(crate) lanes: Lanes,
    pub(crate) shard_counts: ShardCounts,
    pub(crate) quarantine: Quarantine,
    /// Blocks that transactions whose commit has begun will free.
    pub(crate) committing: CachePadded<Counter>,
    /// The committed state of the store, if there is one.
    pub(crate) committed: Option<Committed>,
    /// Blocks of durable frees that wait for the engine's report, together or one by one.
    pub(crate) held_blocks: Counter,
    /// Blocks that were already free when the quarantine let them out, and committed blocks that a
    /// transaction had allocated, which stay allocated.
    pub(crate) conflicts: Counter,
}

/// Short: the bitmap of a TiB would take hundreds of megabytes.
impl Debug for Space {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space")
            .field("blocks", &self.bitmap.blocks())
            .field("free_blocks", &self.free_blocks())
            .field("quarantined_blocks", &self.quarantine.blocks())
            .finish_non_exhaustive()
    }
}

impl Space {
    /// The space of `bitmap`, with `at_start` free blocks in each of `shards`, for `threads`
    /// threads.
    pub(crate) fn new(
        bitmap: Bitmap<Native>,
        shards: Shards,
        at_start: Vec<u64>,
        threads: usize,
    ) -> Result<Self, OutOfMemory> {
        let blocks = bitmap.blocks();
        let shard_order = shards.shard_blocks::<Native>().ilog2();
        Ok(Self {
            closed: Closed::new(blocks)?,
            escrow: Escrow::new(blocks)?,
            discards: Discards::new(blocks)?,
            discarder: Turnstile::default(),
            discarding_blocks: Counter::new(0),
            discarded_blocks: Counter::new(0),
            skipped_discards: Counter::new(0),
            administration: Turnstile::default(),
            class_reserves: Reserves::new(),
            lanes: Lanes::new(),
            shard_counts: ShardCounts::new(shard_order, at_start)?,
            quarantine: Quarantine::new(2 * threads.min(32), blocks)?,
            committing: CachePadded::new(Counter::new(0)),
            committed: None,
            held_blocks: Counter::new(0),
            conflicts: Counter::new(0),
            bitmap,
            shards,
        })
    }

    /// Number of shards.
    pub(crate) fn shard_count(&self) -> usize {
        self.shards_of(self.bitmap.blocks())
    }

    /// All shards.
    pub(crate) fn all_shards(&self) -> Range<ShardIndex> {
        ShardIndex::FIRST..ShardIndex::new(self.shard_count())
    }

    /// The shard that callers know as number `index`, if there is one.
    pub(crate) fn shard(&self, index: usize) -> Option<ShardIndex> {
        Some(ShardIndex::new(index)).filter(|shard| self.all_shards().contains(shard))
    }

    /// Number of shards of `blocks` blocks.
    pub(crate) fn shards_of(&self, blocks: u64) -> usize {
        self.shards.count(LeafIndex::end_of_blocks::<Native>(blocks).get())
    }

    /// Free blocks of `shard`, which must exist, exact while nothing else runs. O(lanes).
    pub(crate) fn shard_free(&self, shard: ShardIndex) -> u64 {
        self.shard_counts.free(shard)
    }

    /// The largest order of which `shard`, which must exist, may have an aligned run; `None` if it
    /// has no free block. May be too large, never too small. O(orders).
    pub(crate) fn shard_largest_order(&self, shard: ShardIndex) -> Option<u32> {
        self.bitmap.largest_order_under(self.shards.level(), shard.get())
    }

    /// Free blocks. Exact while nothing else runs, and never more than the device has.
    pub(crate) fn free_blocks(&self) -> u64 {
        let free = self.bitmap.free_at_start().wrapping_add(self.lanes.sum());
        // Lanes are read one after another: a block freed through a lane read late, and allocated
        // through one read early, counts as two.
        let free = if free > u64::MAX / 2 { 0 } else { free };
        (free + self.escrow.spare()).min(self.bitmap.blocks())
    }

    /// Counts what moves between the free space and what is set aside.
    pub(crate) fn moved(&self, lane: LaneId) -> impl FnMut(Moved, u64, u64) {
        move |moved, start, len| match moved {
            Moved::Freed => {
                self.count_freed(lane, Extent { start, len });
                self.discards.forget_runs();
            }
            Moved::Taken => self.count_allocated(lane, Extent { start, len }),
        }
    }

    /// Counts an extent as allocated; [`Space::count_freed`] counts what is given back or freed.
    #[inline(always)]
    pub(crate) fn count_allocated(&self, lane: LaneId, extent: Extent) {
        self.lanes.allocated(lane, extent.len);
        self.shard_counts.allocated(lane, extent);
    }

    #[inline(always)]
    pub(crate) fn count_freed(&self, lane: LaneId, extent: Extent) {
        self.lanes.freed(lane, extent.len);
        self.shard_counts.freed(lane, extent);
    }

    /// Counts an event off the usual path; see
    /// [`Events::count`](crate::index::events::Events::count).
    pub(crate) fn count(&self, event: Event, place: usize) {
        self.bitmap.events().count(event, place);
    }

    /// Whether all blocks of `extent` are free; an error if it is not on the device.
    pub(crate) fn is_free(&self, extent: Extent) -> Result<bool, RangeError> {
        let (start, len) = on_device(extent, self.bitmap.blocks())?;
        Ok(self.bitmap.is_free(start, len))
    }

    pub(crate) fn is_allocated(&self, extent: Extent) -> Result<bool, RangeError> {
        let (start, len) = on_device(extent, self.bitmap.blocks())?;
        Ok(self.first_unowned(start, start + len) == start + len)
    }

    /// The first block of `start..end` without an owner, or `end`: free, set aside, in escrow, or
    /// waiting to be discarded.
    pub(crate) fn first_unowned(&self, start: u64, end: u64) -> u64 {
        let free = self.bitmap.free_in(start, end);
        if !self.has_unowned() {
            return free;
        }
        let kept = self.closed.held_in(start, end).min(self.escrow.first_in(start, end));
        free.min(self.discards.first_in(start, end)).min(kept)
    }

    /// The first block of `start..end` with an owner, or `end`: neither free nor kept anywhere, nor
    /// freed by a transaction.
    pub(crate) fn first_owned(&self, start: u64, end: u64) -> u64 {
        let owned = Bitmap::<Native>::words_of(start, end - start).find_map(|(word, mask)| {
            let owned = mask & !(self.bitmap.look(word) | self.unowned_in_word(word));
            runs_in_word(word, owned).find_map(|run| {
                let end = run.start + run.len;
                // The first block that is not marked.
                (run.start..end).find(|&block| self.quarantine.first_marked(block, end) != block)
            })
        });
        owned.unwrap_or(end)
    }

    /// The first block of `start..end` in a closed leaf, if there is one.
    pub(crate) fn first_closed(&self, start: u64, end: u64) -> Option<u64> {
        if self.closed.is_active() { self.closed.first_closed(start, end) } else { None }
    }

    /// Whether there may be blocks that have no owner and are not free either.
    #[inline]
    pub(crate) fn has_unowned(&self) -> bool {
        self.closed.is_active() || !self.escrow.is_empty()
    }

    /// Blocks of `word` that have no owner and are not free either.
    pub(crate) fn unowned_in_word(&self, word: WordIndex) -> NativeWord {
        self.closed.held_in_word(word) | self.escrow.look(word) | self.discards.look(word)
    }
}
