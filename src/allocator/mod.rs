//! The public face: an allocator for one device, usable from any thread.

mod state;

use std::sync::Arc;

use crate::builder::Builder;
use crate::core::Core;
use crate::handle::Handle;
use crate::held::discarder::{DiscardLimits, Discarder};
use crate::held::read_guard::ReadGuard;
use crate::held::region::Region;
use crate::held::reservation::Reservation;
use crate::held::shrink::{self, Shrink};
use crate::held::stream::Stream;
use crate::request::{allocate, batch, by_name, free, thread_cursor};
use crate::transaction::Transaction;
use crate::values::class::Class;
use crate::values::error::{
    AllocError, CloseError, ConfigError, FreeError, FreeManyError, MarkError, ResizeError,
};
use crate::values::extent::{Extent, Extents};
use crate::values::request::{Effort, Request};
use crate::values::settings::Settings;

/// Tracks which blocks of a device are free, hands out extents to many threads at once, and takes
/// them back.
///
/// A clone is another reference to the same allocator. All operations take `&self`, hold no lock,
/// and may be called from any thread. [`Allocator::handle`] gives a thread or reactor core faster
/// access to the same blocks.
///
/// # What other threads see
///
/// - *Ownership.* A block belongs to at most one caller at any time.
/// - *A finished free is visible to all threads*: an allocation that begins after the free returned
///   does not fail for want of those blocks, unless another caller took them.
/// - *A refusal is true*: there was a moment during the call at which no fitting run existed. Some
///   blocks count as allocated at that moment: those that another thread has gathered for a longer
///   run, a request in pieces or a reservation that it then fails to get; those of a reservation
///   that it is using, which are there twice until the call returns; and those that it is just
///   taking out of the quarantine, of a reservation given up, or of what waits to be discarded. So
///   requests and reservations for all of which there is room do not refuse each other.
/// - *Lock-freedom*: a thread that stops anywhere, even for ever, delays no other. At worst the
///   block that it was about to hand out stays allocated.
///
/// # Memory
///
/// One bit per block, and one byte of summary per 256 blocks: 32 MiB and 1 MiB for 1 TiB of 4 KiB
/// blocks; see [`Allocator::memory`]. Four times as much address space is reserved for closed
/// regions, promises and discards, and one bit per block for what transactions free. That memory is
/// taken only as it is used.
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
    pub(super) core: Arc<Core>,
}

impl Allocator {
    /// An allocator for `blocks` blocks of 4 KiB, all free. O(blocks): the bitmap is written once.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn new(blocks: u64) -> Result<Self, ConfigError> {
        Self::builder(blocks).build()
    }

    /// Settings for an allocator of `blocks` blocks, from 1 to [`MAX_BLOCKS`](crate::MAX_BLOCKS).
    pub fn builder(blocks: u64) -> Builder {
        Builder { blocks, block_size: 4096, settings: Settings::default() }
    }

    /// An allocator whose state is `allocated`: bit i % 64 of word i / 64 is block i, 1 =
    /// allocated. See [`Builder::build_from_bitmap`].
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

    /// A handle: faster access for one thread or reactor core than the allocator itself. Handles
    /// start in different shards.
    pub fn handle(&self) -> Handle {
        Handle::new(self.core.clone())
    }

    /// A sequence of allocations of `class` that are laid out one after the other: see [`Stream`].
    /// Takes less than 2 KiB of memory; any number may be alive.
    pub fn stream(&self, class: Class) -> Stream {
        Stream::new(self.core.clone(), class)
    }

    /// A transaction: allocations and frees that become durable together. O(1).
    pub fn begin(&self) -> Transaction<'static> {
        Transaction::new(self.core.clone(), None)
    }

    /// Until the guard is dropped, no extent that a transaction frees from now on is reused. See
    /// [`ReadGuard`].
    #[inline]
    pub fn pin(&self) -> ReadGuard<'_> {
        ReadGuard::borrowed(&self.core)
    }

    /// As [`pin`](Self::pin), without borrowing the allocator: for tasks that outlive the caller.
    /// Costs two more locked instructions, on a counter that all threads share.
    pub fn pin_owned(&self) -> ReadGuard<'static> {
        ReadGuard::shared(self.core.clone())
    }

    /// Lets out of the quarantine whatever the guards allow, and returns the number of blocks.
    /// Commits do this bit by bit. Allocations do it as far as they need before they report that
    /// nothing fits. An engine that stops committing may call it to see all of its free space.
    /// O(blocks let out).
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

    /// Allocates what `request` asks for: exactly as many blocks as it says, unless it is
    /// [`partial`](Request::partial). Up to four extents are returned without touching the heap.
    ///
    /// O(levels of the summary) where an aligned run of the rounded-up order is free. Otherwise it
    /// searches leaves until it finds a run. The handle (or thread) remembers a search that found
    /// nothing: until a run that could matter is freed, it refuses the same request and longer ones
    /// at once.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then.
    pub fn allocate_with(&self, request: &Request) -> Result<Extents, AllocError> {
        self.allocate_reported(request).map(|(extents, _)| extents)
    }

    /// As [`Allocator::allocate_with`], but appends the extents to the caller's buffer.
    ///
    /// # Errors
    /// See [`AllocError`]; nothing is allocated then, and the buffer is unchanged.
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

    /// As [`Allocator::allocate_with`], and reports how far it looked: see
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

    /// Frees all of `extents`, and sorts them: see [`Handle::free_many`](crate::Handle::free_many).
    ///
    /// # Errors
    /// See [`FreeManyError`]; nothing is changed then, unless another thread frees some of the same
    /// blocks at the same moment.
    pub fn free_many(&self, extents: &mut [Extent]) -> Result<(), FreeManyError> {
        thread_cursor::with_cursor(&self.core, |cursor| {
            batch::free_many(&self.core, cursor, extents)
        })
    }

    /// Frees `extent`: part of an allocation, or several adjacent ones at once.
    ///
    /// Other threads see the blocks of one bitmap word (64 blocks) become free together, words in
    /// ascending order. O(len / 64), and the summary's levels for each leaf of 512 blocks.
    ///
    /// For blocks that no transaction has committed. A block that the allocator's store knows to be
    /// committed gives [`FreeError::Committed`]; a [`Transaction`] frees it.
    ///
    /// # Errors
    /// See [`FreeError`]: nothing is changed then, except in the race that [`FreeError::Torn`]
    /// names.
    #[inline]
    pub fn free(&self, extent: Extent) -> Result<(), FreeError> {
        thread_cursor::with_cursor(&self.core, |cursor| free::free(&self.core, cursor, extent))
    }

    /// Takes exactly `extent` out of the free space: to load a state, or for ranges that the engine
    /// keeps to itself. Safe while others allocate.
    ///
    /// Gets every block that no caller owns: also those that wait to be discarded (they are not
    /// discarded), that no [`ReadGuard`] holds any more, and that are kept for a reservation or a
    /// reserve, which then get others. If there are no others, a reserve gets the next blocks that
    /// are freed.
    ///
    /// A block that another thread takes from one place to another at this moment (out of the
    /// quarantine, or of a reservation given up) counts as allocated. A crash leaves nothing of the
    /// call: without a transaction, a restart finds the blocks as the store knows them.
    ///
    /// O(len / 64); for blocks that wait or are kept, also O(what is let out or exchanged).
    ///
    /// # Errors
    /// See [`MarkError`]; nothing is allocated then.
    pub fn mark_allocated(&self, extent: Extent) -> Result<(), MarkError> {
        thread_cursor::with_cursor(&self.core, |cursor| {
            by_name::mark_allocated(&self.core, cursor, extent)
        })
    }

    /// Puts `extent` into the free space. The same as [`Allocator::free`], under the name that
    /// pairs with [`Allocator::mark_allocated`] at load time.
    ///
    /// # Errors
    /// See [`FreeError`].
    pub fn mark_free(&self, extent: Extent) -> Result<(), FreeError> {
        self.free(extent)
    }

    /// From now on, freed blocks wait until the device has been told to discard them: see
    /// [`Discarder`], also for an example. Any limits will do: see [`DiscardLimits`]. `None`, and
    /// nothing is changed, if there already is a discarder. When it has been dropped, the next may
    /// begin; batches may still be under way. O(1).
    pub fn discarder(&self, limits: DiscardLimits) -> Option<Discarder> {
        Discarder::new(self.core.clone(), limits)
    }

    /// Promises that `blocks` blocks can be allocated later, without choosing them: see
    /// [`Reservation`]. Costs a compare-exchange if that many blocks are in escrow already;
    /// otherwise an allocation of that many.
    ///
    /// # Errors
    /// [`AllocError::NoSpace`] if fewer blocks are free (and not promised to others);
    /// [`AllocError::InvalidRequest`] for zero blocks, or for more than the device has. Nothing is
    /// changed then.
    pub fn reserve(&self, blocks: u64) -> Result<Reservation, AllocError> {
        Reservation::new(self.core.clone(), blocks)
    }

    /// Closes a region. From when this returns until the region is opened, no call that begins gets
    /// a block of it. Blocks freed there meanwhile are set aside, so the region becomes empty as
    /// its extents are moved elsewhere. See [`Region`].
    ///
    /// The region is `extent` widened to whole leaves, multiples of 512 blocks. O(extent / 64);
    /// blocks no other thread. Takes one bit of memory per block of the region.
    ///
    /// # Errors
    /// See [`CloseError`]; nothing is changed then.
    pub fn close(&self, extent: Extent) -> Result<Region, CloseError> {
        Region::close(self.core.clone(), extent)
    }

    /// Makes the device longer: `blocks` blocks in all, the new ones free. Handles, guards and
    /// transactions continue meanwhile; nothing is copied, nothing stops. O(new blocks / 64).
    ///
    /// The first growth takes memory for a device twice as long, or for `blocks` if that is more:
    /// one bit per block, and a thirty-second of that. Growing, shrinking and closing exclude each
    /// other: while a thread is stopped in the middle of one, the others answer `Busy`, and nothing
    /// else is delayed.
    ///
    /// With a store, grow through it, so that the store knows of the blocks before a transaction
    /// does.
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

    /// Distinguishes the allocators of one process.
    pub(crate) fn id(&self) -> u64 {
        self.core.id
    }
}
