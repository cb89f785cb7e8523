//! A part of the device that is closed to allocations.

use std::ops::Range;
use std::sync::Arc;

use crate::base::geometry::Native;
use crate::base::place::LeafIndex;
use crate::core::Core;
use crate::request::{promise, thread_cursor};
use crate::space::closed::Overlap;
use crate::values::error::{CloseError, on_device};
use crate::values::extent::Extent;

/// A closed region, from [`Allocator::close`](crate::Allocator::close). No block of it is
/// allocated, and blocks freed there are set aside, so it becomes empty as its extents are moved
/// away.
///
/// Dropping the region opens it again: what is set aside becomes free. A region does not outlive
/// the process; after a restart everything is open.
///
/// Some blocks may stay in use for ever: those of a transaction in doubt, those behind a guard that
/// is never dropped, and those of a [`Reservation`](crate::Reservation) for which nothing else is
/// free. A promise that was made before can be met with blocks of the region, if nothing else is
/// free.
///
/// Blocks that are set aside count as neither free nor allocated.
/// [`is_free`](crate::Allocator::is_free) and [`is_allocated`](crate::Allocator::is_allocated) are
/// both false for them. [`free_blocks`](crate::Allocator::free_blocks) leaves them out.
/// [`to_bitmap`](crate::Allocator::to_bitmap), which is about ownership, shows them free. To free
/// one of them again is a double free.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use freemap::{Allocator, Extent};
///
/// let allocator = Allocator::new(4096)?;
/// let object = allocator.allocate(700)?;
///
/// let region = allocator.close(object)?; // two leaves
/// assert_eq!(region.extent(), Extent::new(0, 1024));
/// assert_eq!(region.live_extents().collect::<Vec<_>>(), [object]);
///
/// let elsewhere = allocator.allocate(700)?; // move it
/// assert!(elsewhere.start >= 1024);
/// allocator.free(object)?;
/// assert!(region.is_empty());
///
/// let run = region.take().expect("it is empty"); // or drop it, and all of it is free
/// assert_eq!(allocator.free_blocks(), 4096 - 1024 - 700);
/// allocator.free(run)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it opens the region again"]
pub struct Region {
    core: Arc<Core>,
    blocks: Range<u64>,
    leaves: Range<LeafIndex>,
}

impl Region {
    pub(crate) fn close(core: Arc<Core>, extent: Extent) -> Result<Self, CloseError> {
        let closed = core.space.administration.with(|| Self::close_alone(&core, extent));
        let (blocks, leaves) = closed.unwrap_or(Err(CloseError::Busy))?;
        Ok(Self { core, blocks, leaves })
    }

    /// Closes the leaves of `extent`; returns the blocks and leaves of the region. For the holder
    /// of `administration`.
    pub(crate) fn close_alone(
        core: &Core,
        extent: Extent,
    ) -> Result<(Range<u64>, Range<LeafIndex>), CloseError> {
        let blocks = core.space.bitmap.blocks();
        let (start, len) = on_device(extent, blocks)?;
        let leaves = LeafIndex::of_blocks::<Native>(start..start + len);
        let [first, end] = [leaves.start, leaves.end].map(LeafIndex::first_block::<Native>);
        let region = first..blocks.min(end);
        thread_cursor::with_lane(core, |lane| {
            core.space.closed.close(&core.space.bitmap, leaves.clone(), &mut core.space.moved(lane))
        })
        .map_err(|Overlap { leaf }| CloseError::Closed { block: leaf.first_block::<Native>() })?;
        Ok((region, leaves))
    }

    /// Makes a region of what [`Region::close_alone`] closed.
    pub(crate) fn of(core: Arc<Core>, blocks: Range<u64>, leaves: Range<LeafIndex>) -> Self {
        debug_assert!(blocks.start < blocks.end && !leaves.is_empty());
        Self { core, blocks, leaves }
    }

    /// The closed blocks.
    pub fn extent(&self) -> Extent {
        Extent { start: self.blocks.start, len: self.blocks.end - self.blocks.start }
    }

    /// Blocks of the region that have an owner: in use, reserved by a transaction, or waiting in
    /// the quarantine. While other threads free blocks of the region, the count mixes moments and
    /// is never less than the number at its end. O(blocks of the region / 64).
    pub fn live_blocks(&self) -> u64 {
        self.core.space.closed.live_blocks(&self.core.space.bitmap, self.blocks.clone())
    }

    /// The extents in use, ascending: what has to be moved before the region is empty. Adjacent
    /// allocations show as one. Reads the bitmap as it goes. Blocks that wait to be discarded or
    /// are kept for reservations also show, until [`is_empty`](Self::is_empty) is called, and those
    /// that are being discarded, until their [`Batch`](crate::Batch) is dropped.
    pub fn live_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.live_in(self.blocks.clone())
    }

    pub(crate) fn live_in(&self, blocks: Range<u64>) -> impl Iterator<Item = Extent> + '_ {
        let mut from = blocks.start;
        std::iter::from_fn(move || {
            let (start, end) =
                self.core.space.closed.next_live(&self.core.space.bitmap, from, blocks.end)?;
            from = end;
            Some(Extent { start, len: end - start })
        })
    }

    /// Whether no block of the region has an owner. If so, none gets one until the region is
    /// opened, except by [`take`](Self::take).
    ///
    /// Blocks freed by a commit count once they have left the quarantine; this call lets out what
    /// it can. Blocks that are being discarded count as in use until their [`Batch`](crate::Batch)
    /// is dropped. Those that wait to be discarded are set aside undiscarded. The call exchanges
    /// blocks kept for a [`Reservation`](crate::Reservation) for others, as far as others are free.
    /// O(blocks of the region / 64).
    pub fn is_empty(&self) -> bool {
        self.is_empty_in(self.blocks.clone())
    }

    pub(crate) fn is_empty_in(&self, blocks: Range<u64>) -> bool {
        let core = &*self.core;
        thread_cursor::with_cursor(core, |cursor| {
            core.space.collect(cursor.lane, u64::MAX);
            promise::move_escrow(core, cursor, self.blocks.start, self.blocks.end);
            let lane = cursor.lane;
            let mut free = |word, bits| core.space.skip_word(lane, word, bits);
            core.space.discards.let_out(self.blocks.start, self.blocks.end, u64::MAX, &mut free);
            let moved = &mut core.space.moved(lane);
            core.space.closed.sweep(&core.space.bitmap, self.leaves.clone(), moved);
        });
        core.space.closed.is_empty(blocks)
    }

    /// Takes the whole region as one extent that the caller owns, if it is [empty](Self::is_empty).
    /// The caller uses or frees it.
    ///
    /// # Errors
    /// The region, if it is not empty.
    pub fn take(self) -> Result<Extent, Self> {
        if self.take_in(self.blocks.clone()) { Ok(self.extent()) } else { Err(self) }
    }

    pub(crate) fn take_in(&self, blocks: Range<u64>) -> bool {
        self.is_empty_in(blocks.clone()) && self.core.space.closed.take(blocks)
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.core
    }
}

/// Opens the region. Blocks that were taken stay with their owner.
impl Drop for Region {
    fn drop(&mut self) {
        let core = &*self.core;
        thread_cursor::with_lane(core, |lane| {
            core.space.closed.open(
                &core.space.bitmap,
                self.leaves.clone(),
                &mut core.space.moved(lane),
            );
        });
    }
}
