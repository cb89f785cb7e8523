//! Telling the device which blocks hold no data any more.

mod batch;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use batch::Batch;

use crate::core::Core;
use crate::request::thread_cursor;
use crate::values::extent::{Extent, Extents};

const NANOS: u128 = 1_000_000_000;

/// Extents too short to discard that one call skips, at most.
const SHORT_ONES: usize = 4096;

/// How much may wait for a [`Discarder`], and how fast it discards.
///
/// ```
/// let limits = freemap::DiscardLimits::new()
///     .waiting(1 << 20) // 4 GiB of 4 KiB blocks
///     .batch(1 << 14, 64)
///     .blocks_per_second(1 << 18);
/// # let _ = limits;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscardLimits {
    waiting: u64,
    batch_blocks: u64,
    batch_extents: usize,
    shortest: u64,
    per_second: u64,
}

impl Default for DiscardLimits {
    fn default() -> Self {
        Self::new()
    }
}

impl DiscardLimits {
    /// Defaults: at most 2^18 blocks wait (1 GiB of 4 KiB blocks), batches of up to 2^14 blocks in
    /// 64 extents, no minimum length, unlimited speed.
    pub const fn new() -> Self {
        Self {
            waiting: 1 << 18,
            batch_blocks: 1 << 14,
            batch_extents: 64,
            shortest: 1,
            per_second: u64::MAX,
        }
    }

    /// At most `blocks` blocks wait, at least 1. Blocks freed beyond that are free at once and
    /// never discarded.
    #[must_use]
    pub const fn waiting(mut self, blocks: u64) -> Self {
        self.waiting = if blocks == 0 { 1 } else { blocks };
        self
    }

    /// The most blocks and extents of a batch, each at least 1. While the device is busy with a
    /// batch, its blocks can be neither allocated nor taken back.
    #[must_use]
    pub const fn batch(mut self, blocks: u64, extents: usize) -> Self {
        self.batch_blocks = if blocks == 0 { 1 } else { blocks };
        self.batch_extents = if extents == 0 { 1 } else { extents };
        self
    }

    /// Extents shorter than `blocks` are not discarded but free at once: many devices ignore
    /// extents smaller than their own unit. The rest of a longer extent that did not fit a batch
    /// counts as an extent.
    #[must_use]
    pub const fn shortest(mut self, blocks: u64) -> Self {
        self.shortest = blocks;
        self
    }

    /// On average at most `blocks` blocks a second, at least 1, in bursts of up to a batch.
    #[must_use]
    pub const fn blocks_per_second(mut self, blocks: u64) -> Self {
        self.per_second = if blocks == 0 { 1 } else { blocks };
        self
    }
}

/// Has freed blocks discarded before they can be reused, from
/// [`Allocator::discarder`](crate::Allocator::discarder). One at a time.
///
/// While it exists, freed extents wait for it, joined with their neighbours. (Extents that a
/// transaction frees do so when they leave the quarantine.) A thread of the engine calls
/// [`next`](Self::next) again and again and tells the device about each [`Batch`]; when the batch
/// is dropped, its blocks are free.
///
/// - *Never a lack of space.* An allocation that finds nothing takes the waiting blocks,
///   undiscarded. It cannot have only the batches that the device is busy with. Together they hold
///   at most a quarter of what is free or with the device when the last of them begins.
/// - *Never a pile.* Beyond [`DiscardLimits::waiting`], freed blocks do not wait.
/// - Waiting blocks are neither free nor allocated: see [`Region`](crate::Region) for what that
///   means.
/// - Dropping the discarder frees the waiting blocks. So does a crash: no record is kept of blocks
///   not discarded yet.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use freemap::{Allocator, Discarding, DiscardLimits};
///
/// let allocator = Allocator::new(1 << 20)?;
/// let mut discarder = allocator.discarder(DiscardLimits::new()).expect("it is the first");
/// let object = allocator.allocate(300)?;
/// allocator.free(object)?;
/// assert_eq!(discarder.waiting_blocks(), 300);
///
/// # fn discard(_: freemap::Extent) -> std::io::Result<()> { Ok(()) }
/// match discarder.next(std::time::Instant::now()) {
///     Discarding::Batch(batch) => {
///         for &extent in batch.extents() {
///             discard(extent)?; // fallocate(PUNCH_HOLE), BLKDISCARD, NVMe deallocate, ...
///         }
///     } // free from here on
///     Discarding::Later(pause) => std::thread::sleep(pause),
///     Discarding::Nothing => {} // wait for frees
/// }
/// assert_eq!(allocator.free_blocks(), 1 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it ends the discarding"]
pub struct Discarder {
    core: Arc<Core>,
    limits: DiscardLimits,
    /// Where the last extent ended: the discarder goes round the device.
    position: u64,
    /// Blocks that may be discarded at `refilled`.
    allowance: u64,
    refilled: Option<Instant>,
}

/// What a [`Discarder`] should do next.
#[derive(Debug)]
#[must_use = "a batch that is dropped is done"]
pub enum Discarding {
    /// Tell the device about these extents, then drop the batch.
    Batch(Batch),
    /// Call again after this time: the speed limit is reached.
    Later(Duration),
    /// No blocks wait, or space is so short that none should, or the device has as many as it may:
    /// wait for frees, or for a batch.
    Nothing,
}

impl Discarder {
    pub(crate) fn new(core: Arc<Core>, limits: DiscardLimits) -> Option<Self> {
        core.space.discarder.acquire().then(|| {
            core.space.closed.activate();
            core.space.discards.set_limit(limits.waiting, &mut |_, _| {});
            Self { core, limits, position: 0, allowance: limits.batch_blocks, refilled: None }
        })
    }

    /// Blocks that wait to be discarded. Exact while nothing else runs.
    pub fn waiting_blocks(&self) -> u64 {
        self.core.space.discards.waiting()
    }

    /// What to do at `now`. O(extents of a batch), each O(levels of the summary).
    pub fn next(&mut self, now: Instant) -> Discarding {
        let limits = self.limits;
        if self.waiting_blocks() == 0 {
            return Discarding::Nothing;
        }
        let core = &*self.core;
        let discarding = core.space.discarding_blocks.get();
        let quarter = core.space.free_blocks().saturating_add(discarding) / 4;
        let affordable = quarter.saturating_sub(discarding);
        if quarter == 0 {
            thread_cursor::with_lane(core, |lane| core.space.skip_discards(lane));
            return Discarding::Nothing;
        }
        if affordable == 0 {
            return Discarding::Nothing;
        }
        let since =
            self.refilled.map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let earned = u128::from(limits.per_second).saturating_mul(since.as_nanos());
        self.allowance = u64::try_from(earned / NANOS)
            .unwrap_or(u64::MAX)
            .saturating_add(self.allowance)
            .min(limits.batch_blocks);
        // Keep the earned fraction of a block for the next call.
        let part = earned % NANOS / u128::from(limits.per_second);
        let part = Duration::from_nanos(part as u64);
        self.refilled = now.checked_sub(part).or(Some(now));
        if self.allowance == 0 {
            let pause =
                Duration::from_secs(1) / u32::try_from(limits.per_second).unwrap_or(u32::MAX);
            return Discarding::Later(pause.max(Duration::from_millis(1)));
        }
        let extents = self.take_batch(affordable.min(self.allowance));
        debug_assert!(extents.blocks() <= self.allowance);
        self.allowance -= extents.blocks();
        if extents.is_empty() {
            return Discarding::Nothing;
        }
        Discarding::Batch(Batch::new(self.core.clone(), extents))
    }

    /// Takes up to `most` blocks.
    fn take_batch(&mut self, most: u64) -> Extents {
        let core = &*self.core;
        let mut list: Vec<Extent> = Vec::with_capacity(self.limits.batch_extents.min(1024));
        let (mut left, mut wrapped, mut short) = (most, false, 0);
        while left > 0 && list.len() < self.limits.batch_extents && short < SHORT_ONES {
            let Some((start, len)) = core.space.discards.take(self.position, left) else {
                if wrapped {
                    break;
                }
                (wrapped, self.position) = (true, 0);
                continue;
            };
            self.position = start + len;
            let extent = Extent { start, len };
            if len < self.limits.shortest.min(left) {
                short += 1;
                core.space.skipped_discards.add(len);
                thread_cursor::with_lane(core, |lane| core.space.let_out_undiscarded(lane, extent));
            } else {
                list.push(extent);
                left -= len;
            }
        }
        list.into_iter().collect()
    }
}

impl Drop for Discarder {
    fn drop(&mut self) {
        let core = &*self.core;
        thread_cursor::with_lane(core, |lane| {
            core.space
                .discards
                .set_limit(0, &mut |word, bits| core.space.free_word(lane, word, bits));
        });
        core.space.closed.deactivate();
        core.space.discarder.release();
    }
}
