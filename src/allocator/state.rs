//! What an allocator reports about its state.

use crate::allocator::Allocator;
use crate::base::geometry::Native;
use crate::base::word::Word;
use crate::index::{Bitmap, Verification};
use crate::insight::evacuation::{EvacuationPlanner, EvacuationRequest};
use crate::insight::free_extents::FreeExtents;
use crate::insight::memory::Memory;
use crate::insight::stats::{ShardStats, Stats};
use crate::insight::survey::Survey;
use crate::request::thread_cursor;
use crate::space::Space;
use crate::space::ledger::Committed;
use crate::values::error::{ConfigError, RangeError};
use crate::values::extent::Extent;
use crate::values::plain_bitmap::zeroed;

impl Allocator {
    /// Blocks whose free is durable and which wait in the quarantine: for older
    /// [`ReadGuard`](crate::ReadGuard)s, or, when those are gone, for the next call that lets some
    /// out. Lets nothing out itself. Exact while nothing else runs. O(1).
    pub fn quarantined_blocks(&self) -> u64 {
        self.core.space.quarantine.blocks()
    }

    /// Whether every block of `extent` is free. O(len / 64). Reads word by word, so the answer
    /// mixes moments while others allocate and free.
    ///
    /// # Errors
    /// [`RangeError`] if the extent is empty or not on the device.
    pub fn is_free(&self, extent: Extent) -> Result<bool, RangeError> {
        self.settled().is_free(extent)
    }

    /// Whether every block of `extent` is allocated. O(len / 64). Reads word by word, so the answer
    /// mixes moments while others allocate and free.
    ///
    /// # Errors
    /// [`RangeError`] if the extent is empty or not on the device.
    pub fn is_allocated(&self, extent: Extent) -> Result<bool, RangeError> {
        self.settled().is_allocated(extent)
    }

    /// The first free block at or after `from`; `None` if there is none, or if `from` is not on the
    /// device. Skips allocated stretches by the summary. Never misses a block that is free during
    /// the whole call.
    pub fn next_free(&self, from: u64) -> Option<u64> {
        self.settled().bitmap.next_free(from)
    }

    /// The maximal free extents in ascending order. Blocks no other thread: see [`FreeExtents`].
    pub fn free_extents(&self) -> FreeExtents<'_> {
        self.free_extents_from(0)
    }

    /// The maximal free extents at or after `block`, in ascending order. An extent that begins
    /// before `block` is cut there. To continue later, begin at [`FreeExtents::position`].
    pub fn free_extents_from(&self, block: u64) -> FreeExtents<'_> {
        FreeExtents::new(&self.settled().bitmap, block)
    }

    /// The committed state, as [`Allocator::from_bitmap`] takes it; `None` if the allocator has no
    /// store. If [`Builder::build_with_ledger`](crate::Builder::build_with_ledger) made the
    /// allocator, the state includes all frozen transactions. O(blocks). Reads word by word, so the
    /// result mixes moments while others commit.
    ///
    /// # Errors
    /// [`ConfigError::OutOfMemory`] if the process has no memory for it.
    pub fn committed_bitmap(&self) -> Result<Option<Vec<u64>>, ConfigError> {
        let Some(Committed { ledger, .. }) = &self.core.space.committed else { return Ok(None) };
        let mut committed = zeroed(self.blocks().div_ceil(64) as usize)?;
        for (index, word) in committed.iter_mut().enumerate() {
            // Write only nonzero words, so that untouched memory costs nothing.
            let allocated = ledger.word(index);
            if allocated != 0 {
                *word = allocated;
            }
        }
        Ok(Some(committed))
    }

    /// The state, as [`Allocator::from_bitmap`] takes it: bit i % 64 of word i / 64 is block i, 1 =
    /// allocated; bits beyond the last block are 0. O(blocks). Reads word by word, so the result
    /// mixes moments while others allocate and free.
    ///
    /// # Errors
    /// [`ConfigError::OutOfMemory`] if the process has no memory for it.
    pub fn to_bitmap(&self) -> Result<Vec<u64>, ConfigError> {
        let blocks = self.blocks();
        let space = self.settled();
        let mut allocated = zeroed(blocks.div_ceil(64) as usize)?;
        for (word, on_device) in Bitmap::<Native>::words_of(0, blocks) {
            let unowned = space.bitmap.look(word) | space.unowned_in_word(word);
            let block = word.first_block::<Native>();
            let taken = (!unowned & on_device).to_u64();
            if taken != 0 {
                allocated[(block / 64) as usize] |= taken << (block % 64);
            }
        }
        Ok(allocated)
    }

    /// A search for the regions that are cheapest to empty for a free run of a wanted length. The
    /// caller runs it step by step. See [`EvacuationPlanner`]. O(1). The planner holds no blocks
    /// and may be dropped at any point.
    pub fn plan_evacuation(&self, request: &EvacuationRequest) -> EvacuationPlanner {
        self.settled();
        EvacuationPlanner::new(self.core.clone(), request)
    }

    /// Blocks of the device.
    pub fn blocks(&self) -> u64 {
        self.core.space.bitmap.blocks()
    }

    /// Bytes per block.
    pub fn block_size(&self) -> u32 {
        self.core.block_size
    }

    /// Free blocks, summed from the counters of the handles. Exact while nothing else runs, and
    /// close otherwise.
    ///
    /// A block is free if the next request can have it: no caller owns it, no guard holds it, no
    /// promise or reserve keeps it, no region that is closed has it, and it need not be discarded
    /// first. All figures and lists of free blocks mean the same. To make that so, each of them first
    /// lets out what waited for guards that are gone, and what promises have left behind: O(blocks
    /// let out), and otherwise O(1).
    pub fn free_blocks(&self) -> u64 {
        self.settled().free_blocks()
    }

    /// The space, after letting out what nobody holds: see [`Space::settle`].
    fn settled(&self) -> &Space {
        let space = &self.core.space;
        if space.quarantine.blocks() > 0 || space.escrow.spare() > 0 {
            thread_cursor::with_lane(&self.core, |lane| space.settle(lane));
        }
        space
    }

    /// Figures of this moment, counters, and the free runs that [surveys](Allocator::survey) found.
    /// Does not read the bitmap. O(shards).
    pub fn stats(&self) -> Stats {
        self.settled();
        Stats::of(&self.core)
    }

    /// The statistics of shard `index`, counted from 0; `None` if there is no such shard. O(1).
    pub fn shard_stats(&self, index: usize) -> Option<ShardStats> {
        ShardStats::of(&self.core, index)
    }

    /// A survey of the free runs of the whole device. The caller runs it step by step. See
    /// [`Survey`]. O(1). A survey holds no blocks and may be dropped at any point.
    pub fn survey(&self) -> Survey {
        self.settled();
        Survey::new(self.core.clone(), self.core.space.all_shards())
    }

    /// A survey of shard `index` alone, counted from 0; `None` if there is no such shard. For
    /// engines that survey the busiest shards again, or several at once. A run that began before
    /// the shard is not counted; one that begins in it is followed to its end.
    pub fn survey_shard(&self, index: usize) -> Option<Survey> {
        let shard = self.core.space.shard(index)?;
        self.settled();
        Some(Survey::new(self.core.clone(), shard..shard.next()))
    }

    /// Compares every level of the index with the one below, the places where blocks are kept with
    /// each other, and the figures with the blocks. Meaningful while nothing else runs; harmless at
    /// any time. O(blocks).
    pub fn verify(&self) -> Verification {
        self.core.space.verify()
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.core.space.shard_count()
    }

    /// Blocks in each shard except the last.
    pub fn shard_blocks(&self) -> u64 {
        self.core.space.shards.shard_blocks::<Native>()
    }

    /// Free blocks of shard `index`, counted from 0; `None` if there is no such shard. From
    /// counters of the handles: O(64), exact while nothing else runs.
    pub fn shard_free_blocks(&self, index: usize) -> Option<u64> {
        let space = self.settled();
        space.shard(index).map(|shard| space.shard_free(shard))
    }

    /// Bytes that the allocator and its handles occupy: see [`Memory`]. O(shards).
    pub fn memory(&self) -> Memory {
        Memory::of(&self.core)
    }
}
