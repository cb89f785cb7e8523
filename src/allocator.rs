//! The public face: an allocator for one device, usable from any thread.

use std::sync::Arc;

use crate::base::geometry::{Geometry, LEAF_BLOCKS, Native};
use crate::base::heap::reserved;
use crate::base::sync::Counter;
use crate::base::word::Word;
use crate::core::Core;
use crate::handle::Handle;
use crate::held::discarder::{DiscardLimits, Discarder};
use crate::held::read_guard::ReadGuard;
use crate::held::region::Region;
use crate::held::reservation::Reservation;
use crate::held::shrink::{self, Shrink};
use crate::held::stream::Stream;
use crate::index::{Bitmap, OutOfMemory, Verification};
use crate::insight::evacuation::{EvacuationPlanner, EvacuationRequest};
use crate::insight::free_extents::FreeExtents;
use crate::insight::memory::Memory;
use crate::insight::stats::{ShardStats, Stats};
use crate::insight::survey::Survey;
use crate::placement::Placer;
use crate::request::{allocate, batch, free, reserve, thread_cursor};
use crate::space::Space;
use crate::space::gate::Gate;
use crate::space::ledger::{Committed, Keeper, Ledger};
use crate::space::shards::Shards;
use crate::space::survey_records::SurveyRecords;
use crate::transaction::Transaction;
use crate::values::class::{Class, Placement, Tuning, Zones};
use crate::values::error::{
    AllocError, CloseError, ConfigError, FreeError, FreeManyError, MarkError, RangeError,
    ResizeError,
};
use crate::values::extent::{Extent, Extents, MAX_BLOCKS};
use crate::values::plain_bitmap::{expect_count, on_device, zeroed};
use crate::values::request::{Effort, Request};

/// Shards per hardware thread that a device is cut into if it is large enough.
const SHARDS_PER_THREAD: usize = 4;

static ALLOCATORS: Counter = Counter::new(0);

/// Says which blocks of a device are free, hands out extents to many threads at once, and takes
/// them back.
///
/// A clone is another name for the same allocator. All operations take `&self`, hold no lock, and
/// may be called from any thread; [`Allocator::handle`] gives a thread or reactor core a faster way
/// to the same blocks.
///
/// # What other threads see
///
/// - *Ownership.* A block belongs to at most one caller at any time.
/// - *A finished free is there for everybody*: an allocation that begins after it returned does not
///   fail for want of those blocks, unless somebody else took them.
/// - *"No" is true*: there was a moment during the call at which no fitting run existed. Blocks that
///   another thread is claiming at that moment, for a longer run which it then fails to get, count
///   as allocated; so do those that it is just taking out of the quarantine, of a reservation given up, or
///   of what waits to be discarded.
/// - *Lock-freedom*: a thread that stops anywhere, even for ever, delays nobody. At worst the block
///   it was about to hand out stays allocated.
///
/// # Memory
///
/// One bit per block, and one byte of summary per 256 blocks beside it: 32 MiB and 1 MiB for 1 TiB
/// of 4 KiB blocks; see [`Allocator::memory`]. Three times as much address space is reserved for closed
/// regions, promises and discards, and one bit per block for what transactions free; of that, memory
/// is taken as it is used.
///
/// ```
/// use freemap::{Allocator, Extent};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let allocator = Allocator::new(1_000_000)?;
/// let extent = allocator.allocate(100)?;
/// assert_eq!(allocator.free_blocks(), 999_900);
/// allocator.free(extent)?;
/// assert_eq!(
///     allocator.free(extent),
///     Err(freemap::FreeError::DoubleFree { block: extent.start })
/// );
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Allocator {
    core: Arc<Core>,
}

/// Settings of a new [`Allocator`].
///
/// ```
/// # fn main() -> Result<(), freemap::ConfigError> {
/// let allocator = freemap::Allocator::builder(1 << 24).block_size(8192).shards(32).build()?;
/// assert!(allocator.shards() >= 32);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Builder {
    blocks: u64,
    block_size: u32,
    tuning: Tuning,
}

impl Builder {
    /// Bytes per block, a power of two from 512 to 1 MiB; 4096 by default. The allocator counts in
    /// blocks and only remembers this.
    #[must_use]
    pub fn block_size(mut self, bytes: u32) -> Self {
        self.block_size = bytes;
        self
    }

    /// At least this many shards, where the device is large enough (a shard has 32768 blocks or
    /// more). By default four per hardware thread. More shards mean that more handles can work
    /// without meeting, and that a search in vain takes longer.
    #[must_use]
    pub fn shards(mut self, count: usize) -> Self {
        self.tuning.shards = Some(count);
        self
    }

    /// Where requests of `class` are placed. By default, all go where their handle is.
    #[must_use]
    pub fn placement(mut self, class: Class, placement: Placement) -> Self {
        self.tuning.placements[class.index()] = Some(placement);
        self
    }

    /// Lets [`Allocator::free`], `free_many`, `mark_free` and their like free what the store knows to be
    /// committed, as if there were no store ([`FreeError::Committed`] otherwise). For engines that free so
    /// and tell the store in some other way. What it risks: the blocks are reused at once, under readers
    /// and before any free of them is durable; the store still takes them for allocated, so that a
    /// transaction that gets them cannot be committed, and a restart finds them allocated. Of allocators
    /// without a store this changes nothing.
    #[must_use]
    pub fn allow_plain_frees(mut self) -> Self {
        self.tuning.plain_frees = true;
        self
    }

    pub(crate) fn tuned(self, tuning: Tuning) -> Self {
        Self { tuning, ..self }
    }

    /// An allocator with all blocks free. O(blocks): the bitmap is written once.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn build(self) -> Result<Allocator, ConfigError> {
        Ok(Allocator { core: Arc::new(self.core_from_words(|_| <Native as Geometry>::FULL)?) })
    }

    /// An allocator with all blocks allocated, for those who go on with
    /// [`mark_free`](Allocator::mark_free). O(shards): takes no memory for blocks before they become free.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn build_allocated(self) -> Result<Allocator, ConfigError> {
        let core = self.core_of(|blocks, shards| {
            let index = Bitmap::none_free(blocks, shards.height())?;
            let count = shards.count(index.leaf_count());
            let mut counts = reserved(count)?;
            counts.resize(count, 0);
            Ok((index, counts))
        });
        Ok(Allocator { core: Arc::new(core?) })
    }

    /// An allocator whose state is `allocated`: bit i % 64 of word i / 64 is block i, 1 = allocated.
    /// Bits beyond the last block are ignored. O(blocks), on all threads of the rayon pool that the
    /// caller is in. Where nothing is free no memory is written.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn build_from_bitmap(self, allocated: &[u64]) -> Result<Allocator, ConfigError> {
        Ok(Allocator { core: Arc::new(self.core_from_bitmap(allocated)?) })
    }

    /// As [`Builder::build_from_bitmap`], and keeps beside the index what is committed, in the memory
    /// of `allocated`: for stores that cannot see by themselves whether a transaction contradicts
    /// the durable state. [`Transaction::freeze`](crate::Transaction::freeze) and
    /// [`commit`](crate::Transaction::commit) compare, O(blocks of the transaction / 64), and
    /// [`Delta::conflict`](crate::Delta::conflict) has the answer, before anything is written. What is
    /// committed is freed by transactions only ([`FreeError::Committed`]).
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn build_with_ledger(self, mut allocated: Vec<u64>) -> Result<Allocator, ConfigError> {
        let (blocks, plain_frees) = (self.blocks, self.tuning.plain_frees);
        let mut core = self.core_from_bitmap(&allocated)?;
        let last = allocated.len() - 1; // there is a block
        allocated[last] &= on_device(blocks, last);
        let ledger = Arc::new(Ledger::new(allocated));
        let keeper = Keeper::Transactions;
        core.space.committed = Some(Committed { ledger, keeper, plain_frees });
        Ok(Allocator { core: Arc::new(core) })
    }

    /// An allocator whose state is that of `ledger`, which a store keeps. `gate` is where durable frees
    /// wait, if they do.
    pub(crate) fn build_of_store(
        self,
        ledger: Arc<Ledger>,
        gate: Option<Gate>,
    ) -> Result<Allocator, ConfigError> {
        let plain_frees = self.tuning.plain_frees;
        let mut core = self.core_from_ledger(&ledger)?;
        let committed = Some(Committed { ledger, keeper: Keeper::Store, plain_frees });
        (core.space.committed, core.space.gate) = (committed, gate);
        Ok(Allocator { core: Arc::new(core) })
    }

    /// An allocator without a store whose state is that of `ledger`.
    pub(crate) fn build_from_ledger(self, ledger: &Ledger) -> Result<Allocator, ConfigError> {
        Ok(Allocator { core: Arc::new(self.core_from_ledger(ledger)?) })
    }

    fn core_from_ledger(self, ledger: &Ledger) -> Result<Core, ConfigError> {
        let words = self.blocks.div_ceil(64);
        self.core_from(|word| if word < words { ledger.word(word as usize) } else { u64::MAX })
    }

    /// The zones of an allocator of these sizes, or an error if there can be none.
    pub(crate) fn validate(&self) -> Result<Zones, ConfigError> {
        let Self { blocks, block_size, .. } = *self;
        if blocks == 0 {
            return Err(ConfigError::NoBlocks);
        }
        if blocks > MAX_BLOCKS {
            return Err(ConfigError::TooManyBlocks { blocks, max: MAX_BLOCKS });
        }
        if !block_size.is_power_of_two() || !(512..=1 << 20).contains(&block_size) {
            return Err(ConfigError::BlockSize { bytes: block_size });
        }
        Zones::new(&self.tuning.placements, blocks, LEAF_BLOCKS)
    }

    fn core_from_bitmap(self, allocated: &[u64]) -> Result<Core, ConfigError> {
        expect_count(self.blocks, allocated)?;
        self.core_from(|word| allocated.get(word as usize).copied().unwrap_or(u64::MAX))
    }

    /// `allocated` has the words of the bitmap, and ones behind the last.
    fn core_from(self, allocated: impl Fn(u64) -> u64 + Sync) -> Result<Core, ConfigError> {
        let width = <Native as Geometry>::WORD_BLOCKS;
        self.core_from_words(|index| {
            let bit = index as u64 * u64::from(width);
            <Native as Geometry>::Word::from_u64(!(allocated(bit / 64) >> (bit % 64)))
        })
    }

    fn core_from_words(
        self,
        free: impl Fn(usize) -> <Native as Geometry>::Word + Sync,
    ) -> Result<Core, ConfigError> {
        self.core_of(|blocks, shards| {
            Bitmap::counted_from_words(blocks, shards.height(), shards.shard_leaves(), free)
        })
    }

    /// A core around what `index` makes: the index, and the number of free blocks of each shard.
    fn core_of(
        self,
        index: impl FnOnce(u64, &Shards) -> Result<(Bitmap<Native>, Vec<u64>), OutOfMemory>,
    ) -> Result<Core, ConfigError> {
        let zones = self.validate()?;
        let Self { blocks, block_size, tuning } = self;
        let Tuning { shards, placements, .. } = tuning;
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let wanted = shards.unwrap_or(threads * SHARDS_PER_THREAD);
        let shards = Shards::new::<Native>(blocks, wanted);
        let memory = |OutOfMemory { bytes }| ConfigError::OutOfMemory { bytes: bytes as u64 };
        let (bitmap, at_start) = index(blocks, &shards).map_err(memory)?;
        let surveyed = SurveyRecords::new(shards.count(bitmap.leaf_count())).map_err(memory)?;
        let space = Space::new(bitmap, shards, at_start, threads).map_err(memory)?;
        let id = ALLOCATORS.fetch_add(1);
        let core = Core { space, placer: Placer::new(zones), surveyed, block_size, id };
        for (class, placement) in placements.iter().enumerate() {
            if let Some(Placement { reserve: blocks @ 1.., .. }) = *placement {
                let mut cursor =
                    core.placer.new_cursor(&core.space, |_| core.space.lanes.shared(0));
                reserve::make_reserve(&core, &mut cursor, class, blocks);
            }
        }
        Ok(core)
    }
}

impl Allocator {
    /// An allocator for `blocks` blocks of 4 KiB, all free. O(blocks): the bitmap is written once.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(blocks: u64) -> Result<Self, ConfigError> {
        Self::builder(blocks).build()
    }

    /// Settings for an allocator of `blocks` blocks, from 1 to [`MAX_BLOCKS`].
    pub fn builder(blocks: u64) -> Builder {
        Builder { blocks, block_size: 4096, tuning: Tuning::default() }
    }

    /// An allocator whose state is `allocated`: bit i % 64 of word i / 64 is block i, 1 = allocated.
    /// See [`Builder::build_from_bitmap`].
    ///
    /// ```
    /// # fn main() -> Result<(), freemap::ConfigError> {
    /// let allocator = freemap::Allocator::from_bitmap(100, &[u64::MAX, 0b0101])?;
    /// assert_eq!(allocator.next_free(0), Some(65));
    /// assert_eq!(allocator.free_blocks(), 34);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn from_bitmap(blocks: u64, allocated: &[u64]) -> Result<Self, ConfigError> {
        Self::builder(blocks).build_from_bitmap(allocated)
    }

    /// A way to allocate for one thread or reactor core, faster than the allocator itself. Handles
    /// start in different shards.
    pub fn handle(&self) -> Handle {
        Handle::new(self.core.clone())
    }

    /// A sequence of allocations of `class` that are laid out one after the other: see [`Stream`]. Takes
    /// 20 KiB of memory; any number may be alive.
    pub fn stream(&self, class: Class) -> Stream {
        Stream::new(self.core.clone(), class)
    }

    /// A transaction: allocations and frees that become durable together. O(1).
    pub fn begin(&self) -> Transaction<'static> {
        Transaction::new(self.core.clone(), None)
    }

    /// Until the guard is dropped, no extent is reused that was freed by a transaction from now on.
    /// See [`ReadGuard`].
    #[inline]
    pub fn pin(&self) -> ReadGuard<'_> {
        ReadGuard::borrowed(&self.core)
    }

    /// The same without borrowing the allocator: for tasks that outlive the caller. Costs two more
    /// locked instructions, on a counter that all threads share.
    pub fn pin_owned(&self) -> ReadGuard<'static> {
        ReadGuard::shared(self.core.clone())
    }

    /// Blocks whose free is durable and which wait for older [`ReadGuard`]s. Exact while nothing
    /// else runs.
    pub fn quarantined_blocks(&self) -> u64 {
        self.core.space.quarantine.blocks()
    }

    /// Lets out of the quarantine whatever the guards allow, and says how many blocks that was.
    /// Commits do this bit by bit, and allocations as far as they need it before they answer that nothing
    /// fits; an engine that stops committing may call it to see its free space whole. O(blocks let out).
    pub fn collect(&self) -> u64 {
        thread_cursor::with_lane(&self.core, |lane| self.core.space.collect(lane, u64::MAX))
    }

    /// Allocates `len` adjacent blocks. See [`Allocator::allocate_with`].
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    #[inline]
    pub fn allocate(&self, len: u64) -> Result<Extent, AllocError> {
        thread_cursor::with_cursor(&self.core, |cursor| allocate::allocate(&self.core, cursor, len))
    }

    /// Allocates what `request` asks for, exactly as many blocks as it says (unless it is
    /// [`partial`](Request::partial)). Up to four extents are returned without touching the heap.
    ///
    /// O(levels of the summary) where an aligned run of the rounded-up order is free. Otherwise
    /// leaves are searched until a run is found. A search that found nothing is remembered by
    /// the handle (or thread): until a run that could matter is freed, the same request and longer
    /// ones are refused at once.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    pub fn allocate_with(&self, request: &Request) -> Result<Extents, AllocError> {
        self.allocate_reported(request).map(|(extents, _)| extents)
    }

    /// As [`Allocator::allocate_with`], appending the extents to a buffer of the caller's.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated and the buffer is as it was then.
    pub fn allocate_into(
        &self,
        request: &Request,
        extents: &mut Vec<Extent>,
    ) -> Result<(), AllocError> {
        thread_cursor::with_cursor(&self.core, |cursor| {
            allocate::allocate_into(&self.core, cursor, request, extents)
        })?;
        Ok(())
    }

    /// As [`Allocator::allocate_with`], and says what it took: see
    /// [`Handle::allocate_reported`](crate::Handle::allocate_reported).
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    pub fn allocate_reported(&self, request: &Request) -> Result<(Extents, Effort), AllocError> {
        let mut extents = Extents::new();
        let effort = thread_cursor::with_cursor(&self.core, |cursor| {
            allocate::allocate_into(&self.core, cursor, request, &mut extents)
        })?;
        Ok((extents, effort))
    }

    /// Fills `extents` with extents of `len` blocks each: see
    /// [`Handle::allocate_many`](crate::Handle::allocate_many).
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    pub fn allocate_many(&self, len: u64, extents: &mut [Extent]) -> Result<(), AllocError> {
        thread_cursor::with_cursor(&self.core, |cursor| {
            batch::allocate_many(&self.core, cursor, len, extents)
        })
    }

    /// Frees all of `extents`, sorting them: see [`Handle::free_many`](crate::Handle::free_many).
    ///
    /// # Errors
    /// See [`FreeManyError`]; nothing is changed then, unless another thread frees some of the same
    /// blocks at the same moment.
    pub fn free_many(&self, extents: &mut [Extent]) -> Result<(), FreeManyError> {
        thread_cursor::with_cursor(&self.core, |cursor| {
            batch::free_many(&self.core, cursor, extents)
        })
    }

    /// Frees `extent`: part of an allocation, or several neighbouring ones at once.
    ///
    /// Other threads see the blocks of one bitmap word (64 blocks) become free together, words in
    /// ascending order. O(len / 64), and the summary's levels for each leaf of 512 blocks.
    ///
    /// For blocks that no transaction has committed: what the allocator's store knows to be committed is
    /// [`FreeError::Committed`], and freed by a [`Transaction`].
    ///
    /// # Errors
    /// See [`FreeError`]: nothing is changed then, but for the race that [`FreeError::Torn`] names.
    #[inline]
    pub fn free(&self, extent: Extent) -> Result<(), FreeError> {
        thread_cursor::with_cursor(&self.core, |cursor| free::free(&self.core, cursor, extent))
    }

    /// Takes exactly `extent` out of the free space: for loading a state, or for ranges that the
    /// engine keeps to itself. Safe while others allocate.
    ///
    /// # Errors
    /// See [`MarkError`]; nothing is changed then.
    pub fn mark_allocated(&self, extent: Extent) -> Result<(), MarkError> {
        thread_cursor::with_lane(&self.core, |lane| {
            allocate::mark_allocated(&self.core, lane, extent)
        })
    }

    /// Puts `extent` into the free space. The same as [`Allocator::free`], under the name that goes
    /// with [`Allocator::mark_allocated`] at load time.
    ///
    /// # Errors
    /// See [`FreeError`].
    pub fn mark_free(&self, extent: Extent) -> Result<(), FreeError> {
        self.free(extent)
    }

    /// Whether every block of `extent` is free. O(len / 64); read word by word, so a mixture of
    /// moments while others allocate and free.
    ///
    /// # Errors
    /// [`RangeError`] if the extent is empty or not on the device.
    pub fn is_free(&self, extent: Extent) -> Result<bool, RangeError> {
        self.core.space.is_free(extent)
    }

    /// Whether every block of `extent` is allocated. O(len / 64); read word by word, so a mixture
    /// of moments while others allocate and free.
    ///
    /// # Errors
    /// [`RangeError`] if the extent is empty or not on the device.
    pub fn is_allocated(&self, extent: Extent) -> Result<bool, RangeError> {
        self.core.space.is_allocated(extent)
    }

    /// The first free block at or after `from`; `None` if there is none, or `from` is not on the
    /// device. Allocated stretches are skipped by the summary. A block that is free during the
    /// whole call is never missed.
    pub fn next_free(&self, from: u64) -> Option<u64> {
        self.core.space.bitmap.next_free(from)
    }

    /// The maximal free extents in ascending order. Stops nobody: see [`FreeExtents`].
    pub fn free_extents(&self) -> FreeExtents<'_> {
        self.free_extents_from(0)
    }

    /// The maximal free extents at or after `block`, in ascending order; an extent that begins
    /// before `block` is cut there. To go on later, begin at [`FreeExtents::position`].
    pub fn free_extents_from(&self, block: u64) -> FreeExtents<'_> {
        FreeExtents::new(&self.core.space.bitmap, block)
    }

    /// The committed state as [`Allocator::from_bitmap`] takes it, with that of all frozen transactions if
    /// the allocator was made by [`Builder::build_with_ledger`]; `None` if it has no store. O(blocks); word
    /// by word, so a mixture of moments while others commit.
    ///
    /// # Errors
    /// [`ConfigError::OutOfMemory`] if the process has no memory for it.
    pub fn committed_bitmap(&self) -> Result<Option<Vec<u64>>, ConfigError> {
        let Some(Committed { ledger, .. }) = &self.core.space.committed else { return Ok(None) };
        let mut committed = zeroed(self.blocks().div_ceil(64) as usize)?;
        for (index, word) in committed.iter_mut().enumerate() {
            // Only where there is something, so that the rest goes on costing nothing.
            let allocated = ledger.word(index);
            if allocated != 0 {
                *word = allocated;
            }
        }
        Ok(Some(committed))
    }

    /// The state as [`Allocator::from_bitmap`] takes it: bit i % 64 of word i / 64 is block i,
    /// 1 = allocated; bits beyond the last block are 0. O(blocks); word by word, so a mixture of
    /// moments while others allocate and free.
    ///
    /// # Errors
    /// [`ConfigError::OutOfMemory`] if the process has no memory for it.
    pub fn to_bitmap(&self) -> Result<Vec<u64>, ConfigError> {
        let blocks = self.blocks();
        let mut allocated = zeroed(blocks.div_ceil(64) as usize)?;
        for (word, on_device) in Bitmap::<Native>::words_of(0, blocks) {
            let unowned = self.core.space.bitmap.look(word) | self.core.space.unowned_in_word(word);
            let block = word as u64 * u64::from(<Native as Geometry>::WORD_BLOCKS);
            let taken = (!unowned & on_device).to_u64();
            if taken != 0 {
                allocated[(block / 64) as usize] |= taken << (block % 64);
            }
        }
        Ok(allocated)
    }

    /// From now on, has what is freed wait until the device was told that it holds nothing any more: see
    /// [`Discarder`]. `None` if there is one already. O(1).
    pub fn discarder(&self, limits: DiscardLimits) -> Option<Discarder> {
        Discarder::new(self.core.clone(), limits)
    }

    /// Promises that `blocks` blocks can be allocated later, without choosing them: see [`Reservation`].
    /// A compare-exchange if as many are in escrow already; otherwise an allocation of that many.
    ///
    /// # Errors
    /// [`AllocError::NoSpace`] if fewer blocks are free (and not promised to others);
    /// [`AllocError::InvalidRequest`] for none, or more than the device has. Nothing is changed then.
    pub fn reserve(&self, blocks: u64) -> Result<Reservation, AllocError> {
        Reservation::new(self.core.clone(), blocks)
    }

    /// Closes a region: from when this returns until it is opened, no call that begins gets a block of
    /// it. What is freed there meanwhile is set aside, so the region becomes empty as its extents are
    /// moved elsewhere. See [`Region`].
    ///
    /// The region is `extent` widened to whole leaves, multiples of 512 blocks. O(extent / 64); stops
    /// nobody. Takes one bit of memory per block of the region.
    ///
    /// # Errors
    /// See [`CloseError`]; nothing is changed then.
    pub fn close(&self, extent: Extent) -> Result<Region, CloseError> {
        Region::close(self.core.clone(), extent)
    }

    /// A search for the regions that are the cheapest to empty for a free run of a wanted length, which the
    /// caller carries on step by step. See [`EvacuationPlanner`]. O(1); it holds nothing that others would
    /// miss and may be dropped anywhere.
    pub fn plan_evacuation(&self, request: &EvacuationRequest) -> EvacuationPlanner {
        EvacuationPlanner::new(self.core.clone(), request)
    }

    /// Makes the device longer: `blocks` blocks in all, the new ones free. Handles, guards and
    /// transactions go on meanwhile; nothing is copied, nothing stops. O(new blocks / 64).
    ///
    /// The first growth takes memory for a device twice as long, or for `blocks` if that is more: a bit
    /// for a block, and a thirty-second of that. Growing, shrinking and closing exclude each other: a
    /// thread that is stopped in the middle of one has the others answer `Busy`, and delays nobody else.
    ///
    /// With a store, grow through it, so that it knows of the blocks before a transaction does.
    ///
    /// # Errors
    /// See [`ResizeError`]; nothing is changed then.
    pub fn grow(&self, blocks: u64) -> Result<(), ResizeError> {
        shrink::grow(&self.core, blocks, || Ok(()))
    }

    /// Begins to make the device shorter: closes everything from block `blocks` on. See [`Shrink`].
    ///
    /// # Errors
    /// See [`ResizeError`]; nothing is changed then.
    pub fn shrink(&self, blocks: u64) -> Result<Shrink, ResizeError> {
        Shrink::begin(self.core.clone(), blocks)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Tells allocators of one process apart.
    pub(crate) fn id(&self) -> u64 {
        self.core.id
    }

    /// Blocks of the device.
    pub fn blocks(&self) -> u64 {
        self.core.space.bitmap.blocks()
    }

    /// Bytes per block.
    pub fn block_size(&self) -> u32 {
        self.core.block_size
    }

    /// Free blocks. Summed from the counters of the handles: O(1), exact while nothing else runs,
    /// and close to it while something does.
    pub fn free_blocks(&self) -> u64 {
        self.core.space.free_blocks()
    }

    /// What the allocator knows about itself, without a look at the bitmap: figures of this moment,
    /// counters, and the free runs as [surveys](Allocator::survey) have found them. O(shards).
    pub fn stats(&self) -> Stats {
        Stats::of(&self.core)
    }

    /// The same for shard `index`, counted from 0; `None` if there is no such shard. O(1).
    pub fn shard_stats(&self, index: usize) -> Option<ShardStats> {
        ShardStats::of(&self.core, index)
    }

    /// A survey of the free runs of the whole device, which the caller carries on step by step. See
    /// [`Survey`]. O(1); a survey holds nothing that others would miss and may be dropped anywhere.
    pub fn survey(&self) -> Survey {
        Survey::new(self.core.clone(), 0..self.shards())
    }

    /// A survey of shard `index` alone, counted from 0: for engines that survey those shards again in
    /// which most has happened, or several at once; `None` if there is no such shard. A run that began
    /// before the shard is not counted, one that begins in it is followed to its end.
    pub fn survey_shard(&self, index: usize) -> Option<Survey> {
        (index < self.shards()).then(|| Survey::new(self.core.clone(), index..index + 1))
    }

    /// Compares every level of the index with the one below. Meaningful while nothing else runs;
    /// harmless at any time. O(blocks).
    pub fn verify(&self) -> Verification {
        self.core.space.bitmap.verify()
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.core.space.shard_count()
    }

    /// Blocks in each shard but the last.
    pub fn shard_blocks(&self) -> u64 {
        self.core.space.shards.shard_leaves() as u64 * LEAF_BLOCKS
    }

    /// Free blocks of shard `index`, counted from 0; nothing if there is no such shard. From counters of
    /// the handles: O(64), exact while nothing else runs.
    pub fn shard_free_blocks(&self, index: usize) -> Option<u64> {
        (index < self.shards()).then(|| self.core.space.shard_free(index))
    }

    /// Bytes that the allocator and its handles occupy: see [`Memory`]. O(shards).
    pub fn memory(&self) -> Memory {
        Memory::of(&self.core)
    }
}
