//! The one way from a claim to an extent.

use crate::space::Space;
use crate::space::lanes::LaneId;
use crate::values::extent::Extent;

impl Space {
    /// Whether a claim of `extent` may be kept: not if a part of it is closed. Asked after the claim, so
    /// that it either began before the region was closed or sees it. A claim that is not kept has left
    /// nothing free in the closed leaves that it met, so what repeats it gets on.
    #[inline(always)]
    pub(crate) fn keeps(&self, lane: LaneId, extent: Extent) -> bool {
        !self.closed.is_active() || self.keeps_looking(lane, extent)
    }

    #[cold]
    fn keeps_looking(&self, lane: LaneId, extent: Extent) -> bool {
        self.closed.keeps(&self.bitmap, extent.start, extent.len, &mut self.moved(lane))
    }
}
