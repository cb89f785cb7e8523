//! Making the device longer and shorter while it is in use.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::Arc;

use crate::base::heap::OutOfMemory;
use crate::base::place::ShardIndex;
use crate::core::Core;
use crate::held::region::Region;
use crate::request::thread_cursor;
use crate::values::error::{CloseError, ResizeError};
use crate::values::extent::{Extent, MAX_BLOCKS};

/// Implements [`Allocator::grow`](crate::Allocator::grow). `durable` has a store write the new
/// length; it runs when no other step can fail any more.
pub(crate) fn grow<E: From<ResizeError>>(
    core: &Core,
    blocks: u64,
    durable: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let grown = core.space.administration.with(|| grow_alone(core, blocks, durable));
    grown.unwrap_or_else(|| Err(ResizeError::from(CloseError::Busy).into()))
}

fn grow_alone<E: From<ResizeError>>(
    core: &Core,
    wanted: u64,
    durable: impl FnOnce() -> Result<(), E>,
) -> Result<(), E> {
    let blocks = core.space.bitmap.blocks();
    if wanted > MAX_BLOCKS {
        return Err(ResizeError::TooManyBlocks { wanted, max: MAX_BLOCKS }.into());
    }
    if wanted < blocks {
        return Err(ResizeError::Length { blocks, wanted }.into());
    }
    let make_room = || -> Result<(), OutOfMemory> {
        if let Some(committed) = &core.space.committed {
            committed.ledger.grow(wanted)?;
        }
        core.space.closed.lengthen(wanted)?;
        core.surveyed.lengthen(core.space.shards_of(wanted))?;
        core.space.escrow.lengthen(wanted)?;
        core.space.discards.lengthen(wanted)?;
        core.space.quarantine.lengthen(wanted)?;
        core.space.shard_counts.lengthen(core.space.shards_of(wanted))?;
        core.space.bitmap.make_room(wanted)
    };
    make_room().map_err(|memory| ResizeError::OutOfMemory { bytes: memory.bytes as u64 })?;
    durable()?;
    core.space.bitmap.set_length(wanted);
    if wanted > blocks {
        let added = Extent { start: blocks, len: wanted - blocks };
        thread_cursor::with_lane(core, |lane| core.space.let_out_undiscarded(lane, added));
    }
    Ok(())
}

/// A device that is being made shorter, from [`Allocator::shrink`](crate::Allocator::shrink).
///
/// Everything behind the new end is closed: no caller gets a block there, and blocks freed there
/// stay set aside. The engine moves what [`live_extents`](Self::live_extents) shows by ordinary
/// transactions. When the tail is empty, [`finish`](Self::finish) makes the device shorter.
/// Dropping the shrink gives up and opens the tail again.
///
/// With a store, finish through it, so that it knows the new length before a restart does.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let allocator = freemap::Allocator::new(10_000)?;
/// allocator.mark_allocated(freemap::Extent::new(9_000, 10))?;
///
/// let shrink = allocator.shrink(5_000)?;
/// assert_eq!(shrink.live_blocks(), 10);
/// let shrink = shrink.finish().expect_err("somebody lives there").shrink;
/// for extent in shrink.live_extents() {
///     allocator.free(extent)?; // in truth: moves it first
/// }
/// shrink.finish()?;
/// assert_eq!((allocator.blocks(), allocator.free_blocks()), (5_000, 5_000));
///
/// allocator.grow(20_000)?;
/// assert_eq!(allocator.free_blocks(), 20_000);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it gives up"]
pub struct Shrink {
    /// Whole leaves, so it may begin before the new end.
    region: Region,
    tail: Range<u64>,
}

/// The device could not be made shorter yet.
#[derive(Debug)]
pub struct ShrinkFailed<E = ResizeError> {
    /// The shrink, unchanged: to be finished later, or dropped.
    pub shrink: Shrink,
    /// Why it failed.
    pub error: E,
}

impl<E> ShrinkFailed<E> {
    /// The error alone; the tail is opened again.
    pub fn into_error(self) -> E {
        self.error
    }
}

impl<E: Display> Display for ShrinkFailed<E> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "the device is as long as it was: {}", self.error)
    }
}

impl<E: std::error::Error + 'static> std::error::Error for ShrinkFailed<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Shrink {
    pub(crate) fn begin(core: Arc<Core>, wanted: u64) -> Result<Self, ResizeError> {
        let close = || {
            let blocks = core.space.bitmap.blocks();
            if wanted == 0 || wanted >= blocks {
                return Err(ResizeError::Length { blocks, wanted });
            }
            Ok(Region::close_alone(&core, Extent { start: wanted, len: blocks - wanted })?)
        };
        let closed = core.space.administration.with(close).unwrap_or(Err(CloseError::Busy.into()));
        let (blocks, leaves) = closed?;
        let tail = wanted..blocks.end;
        debug_assert!(blocks.start <= tail.start && tail.start < tail.end);
        Ok(Self { region: Region::of(core, blocks, leaves), tail })
    }

    /// The length that the device will have.
    pub fn blocks(&self) -> u64 {
        self.tail.start
    }

    /// The blocks behind the new end.
    pub fn tail(&self) -> Extent {
        Extent { start: self.tail.start, len: self.tail.end - self.tail.start }
    }

    /// Blocks behind the new end that have an owner: see [`Region::live_blocks`].
    pub fn live_blocks(&self) -> u64 {
        let core = self.region.core();
        core.space.closed.live_blocks(&core.space.bitmap, self.tail.clone())
    }

    /// The extents in use behind the new end, ascending: see [`Region::live_extents`]. The first
    /// may be the rest of one that begins before the new end.
    pub fn live_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.region.live_in(self.tail.clone())
    }

    /// Whether no block behind the new end has an owner: see [`Region::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.region.is_empty_in(self.tail.clone())
    }

    /// Makes the device shorter. O(blocks given up / 64).
    ///
    /// # Errors
    /// See [`ShrinkFailed`]: blocks behind the new end are in use, the device has grown meanwhile,
    /// or another region is being closed at this moment. Nothing is changed then.
    pub fn finish(self) -> Result<(), ShrinkFailed> {
        self.finish_with(|| Ok(()), |_| false)
    }

    /// As [`finish`](Self::finish). `durable` has a store write the new length; it runs when no
    /// other step can fail any more. If `in_doubt` holds for its error, the tail stays taken.
    pub(crate) fn finish_with<E: From<ResizeError>>(
        self,
        durable: impl FnOnce() -> Result<(), E>,
        in_doubt: impl FnOnce(&E) -> bool,
    ) -> Result<(), ShrinkFailed<E>> {
        let core = self.core().clone();
        let finished = match core.space.administration.own() {
            None => Err(ResizeError::from(CloseError::Busy).into()),
            Some(_owner) => self.finish_alone(durable, in_doubt),
        };
        finished.map_err(|error| ShrinkFailed { shrink: self, error })
    }

    fn finish_alone<E: From<ResizeError>>(
        &self,
        durable: impl FnOnce() -> Result<(), E>,
        in_doubt: impl FnOnce(&E) -> bool,
    ) -> Result<(), E> {
        let (core, tail) = (self.core(), || self.tail.clone());
        let blocks = core.space.bitmap.blocks();
        if blocks != self.tail.end {
            return Err(ResizeError::Length { blocks, wanted: self.tail.start }.into());
        }
        if !self.region.take_in(tail()) {
            return Err(ResizeError::InUse { live: self.live_blocks() }.into());
        }
        // The tail is ours now: until we give it back, no caller is told of any of it.
        if let Err(error) = durable() {
            if !in_doubt(&error) {
                core.space.closed.put_back(tail());
            }
            return Err(error);
        }
        core.space.bitmap.shorten(self.tail.start);
        core.space.closed.forget(&core.space.bitmap, tail());
        core.space.discards.let_out(self.tail.start, self.tail.end, u64::MAX, &mut |_, _| {});
        let left = core.space.all_shards();
        core.surveyed.forget(left.end..ShardIndex::new(core.space.shards_of(blocks)));
        core.surveyed.forget_beyond(self.tail.start, left);
        Ok(())
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.region.core()
    }
}
