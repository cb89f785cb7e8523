//! The one way from a claim to an extent.

use crate::base::geometry::NativeWord;
use crate::index::{Claimed, ClaimedRuns};
use crate::space::Space;
use crate::space::lanes::LaneId;
use crate::values::extent::Extent;

impl Space {
    /// Makes an extent of what was claimed, and counts it; nothing if some of it is closed. Asked after the
    /// claim, so that this either began before the region was closed or sees it. A claim that is not kept has
    /// left nothing free in the closed leaves that it met, so what repeats it gets on.
    #[inline(always)]
    pub(crate) fn keep(&self, lane: LaneId, claimed: Claimed) -> Option<Extent> {
        let (start, len) = claimed.into_run();
        let extent = Extent { start, len };
        if self.closed.is_active() && !self.may_keep(lane, extent) {
            return None;
        }
        self.count_allocated(lane, extent);
        Some(extent)
    }

    /// The same for runs of one word, as many of `extents` as there are; how many.
    #[inline]
    pub(crate) fn keep_runs(
        &self,
        lane: LaneId,
        claimed: ClaimedRuns<NativeWord>,
        extents: &mut [Extent],
    ) -> usize {
        let filled = extents.len().min(claimed.count() as usize);
        if self.closed.is_active() {
            let kept = claimed.into_each().filter_map(|claimed| self.keep(lane, claimed));
            return extents.iter_mut().zip(kept).map(|(place, kept)| *place = kept).count();
        }
        // All in one word: it does not matter which of its blocks are counted.
        let counted = Extent { start: claimed.word_start(), len: claimed.blocks() };
        for (place, claimed) in extents.iter_mut().zip(claimed.into_each()) {
            let (start, len) = claimed.into_run();
            *place = Extent { start, len };
        }
        self.count_allocated(lane, counted);
        filled
    }

    #[cold]
    fn may_keep(&self, lane: LaneId, extent: Extent) -> bool {
        self.closed.keeps(&self.bitmap, extent.start, extent.len, &mut self.moved(lane))
    }
}
