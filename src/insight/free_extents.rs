//! Walking over the free space.

use std::iter::FusedIterator;

use crate::base::geometry::Native;
use crate::index::Bitmap;
use crate::values::extent::Extent;

/// Free extents in ascending order, from
/// [`Allocator::free_extents`](crate::Allocator::free_extents).
///
/// The walk blocks no other thread, so it shows no single moment. A block that is free from before
/// the walk reaches it until after the walk has passed is always shown; one that is allocated that
/// long never; one that changes meanwhile may be shown or not. While nothing else runs, the extents
/// are exactly the maximal free runs. No block is shown twice.
#[derive(Clone, Debug)]
pub struct FreeExtents<'a> {
    bitmap: &'a Bitmap<Native>,
    position: u64,
}

impl<'a> FreeExtents<'a> {
    pub(crate) fn new(bitmap: &'a Bitmap<Native>, position: u64) -> Self {
        Self { bitmap, position }
    }

    /// The block at which the walk continues. No block before it will be shown.
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl Iterator for FreeExtents<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let Some(start) = self.bitmap.next_free(self.position) else {
            self.position = self.position.max(self.bitmap.blocks());
            return None;
        };
        // Another thread may have taken the block at `start` since; it was free when found.
        let end = self.bitmap.run_end(start + 1, self.bitmap.blocks());
        self.position = end;
        Some(Extent { start, len: end - start })
    }
}

impl FusedIterator for FreeExtents<'_> {}
