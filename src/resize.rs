//! Making the device longer and shorter while it is in use.

use std::fmt::{Display, Formatter};
use std::ops::Range;
use std::sync::Arc;

use crate::allocator::MAX_BLOCKS;
use crate::core::{Core, LEAF_BLOCKS};
use crate::error::{CloseError, ResizeError};
use crate::extent::Extent;
use crate::local;
use crate::region::Region;
use crate::segmented::OutOfMemory;

/// See [`Allocator::grow`](crate::Allocator::grow).
pub fn grow(core: &Core, blocks: u64) -> Result<(), ResizeError> {
    core.administration.with(|| grow_alone(core, blocks)).unwrap_or(Err(CloseError::Busy.into()))
}

fn grow_alone(core: &Core, wanted: u64) -> Result<(), ResizeError> {
    let blocks = core.bitmap.blocks();
    if wanted > MAX_BLOCKS {
        return Err(ResizeError::TooManyBlocks { wanted, max: MAX_BLOCKS });
    }
    if wanted < blocks {
        return Err(ResizeError::Length { blocks, wanted });
    }
    let lengthen = || -> Result<(), OutOfMemory> {
        if let Some(ledger) = &core.ledger {
            ledger.grow(wanted)?;
        }
        core.aside.lengthen(wanted)?;
        core.escrow.lengthen(wanted)?;
        let leaves = wanted.div_ceil(LEAF_BLOCKS) as usize;
        core.shard_counts.lengthen(core.shards.count(leaves))?;
        core.bitmap.lengthen(wanted)
    };
    lengthen().map_err(|memory| ResizeError::OutOfMemory { bytes: memory.bytes as u64 })?;
    if wanted > blocks {
        let added = Extent { start: blocks, len: wanted - blocks };
        local::with_lane(core, |lane| core.let_out(lane, added));
    }
    Ok(())
}

/// The device on its way to becoming shorter, from [`Allocator::shrink`](crate::Allocator::shrink).
///
/// Everything behind the new end is closed: nobody gets a block there, and what is freed there stays off.
/// The engine moves away what [`live_extents`](Self::live_extents) shows, by ordinary transactions; when
/// the tail is empty, [`finish`](Self::finish) makes the device shorter. Dropping it gives up: the tail is
/// open again.
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
pub struct ShrinkFailed {
    /// As it was: to be finished later, or dropped.
    pub shrink: Shrink,
    /// Why not.
    pub error: ResizeError,
}

impl Display for ShrinkFailed {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "the device is as long as it was: {}", self.error)
    }
}

impl std::error::Error for ShrinkFailed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl Shrink {
    pub(crate) fn begin(core: Arc<Core>, wanted: u64) -> Result<Self, ResizeError> {
        let close = || {
            let blocks = core.bitmap.blocks();
            if wanted == 0 || wanted >= blocks {
                return Err(ResizeError::Length { blocks, wanted });
            }
            Ok(Region::close_alone(&core, Extent { start: wanted, len: blocks - wanted })?)
        };
        let closed = core.administration.with(close).unwrap_or(Err(CloseError::Busy.into()));
        let (blocks, leaves) = closed?;
        let tail = wanted..blocks.end;
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

    /// Blocks behind the new end that somebody owns: see [`Region::live_blocks`].
    pub fn live_blocks(&self) -> u64 {
        let core = self.region.core();
        core.aside.live_blocks(&core.bitmap, self.tail.clone())
    }

    /// The extents behind the new end that are in use, ascending: see [`Region::live_extents`]. The first
    /// may be the rest of one that begins before the new end.
    pub fn live_extents(&self) -> impl Iterator<Item = Extent> + '_ {
        self.region.live_in(self.tail.clone())
    }

    /// Whether nobody owns a block behind the new end, and so nobody will: see [`Region::is_empty`].
    pub fn is_empty(&self) -> bool {
        self.region.is_empty_in(self.tail.clone())
    }

    /// Makes the device shorter. O(blocks given up / 64).
    ///
    /// # Errors
    /// See [`ShrinkFailed`]: blocks behind the new end are in use; the device has grown meanwhile; or
    /// another region is being closed at this moment. Nothing is changed then.
    pub fn finish(self) -> Result<(), ShrinkFailed> {
        let core = self.region.core().clone();
        let busy = CloseError::Busy.into();
        if !core.administration.acquire() {
            return Err(ShrinkFailed { shrink: self, error: busy });
        }
        let finished = self.finish_alone();
        core.administration.release();
        finished
    }

    fn finish_alone(self) -> Result<(), ShrinkFailed> {
        let blocks = self.core().bitmap.blocks();
        let error = if blocks != self.tail.end {
            ResizeError::Length { blocks, wanted: self.tail.start }
        } else if !self.is_empty() {
            ResizeError::InUse { live: self.live_blocks() }
        } else {
            self.core().bitmap.shorten(self.tail.start);
            self.region.end(self.tail);
            return Ok(());
        };
        Err(ShrinkFailed { shrink: self, error })
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        self.region.core()
    }
}
