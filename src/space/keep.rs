//! The only way from a claim to an extent.

use crate::base::geometry::NativeWord;
use crate::index::{Claimed, ClaimedRuns};
use crate::space::Space;
use crate::space::lanes::LaneId;
use crate::values::extent::{Extent, MAX_BLOCKS};

impl Space {
    /// Turns a claim into an extent, and counts it; `None` if some of it is closed. It looks after
    /// the claim, so the claim either began before the region was closed, or sees that it is. A
    /// claim that is not kept leaves nothing free in the closed leaves that it met, so a retry
    /// makes progress.
    #[inline(always)]
    pub(crate) fn keep(&self, lane: LaneId, claimed: Claimed) -> Option<Extent> {
        let (start, len) = claimed.into_run();
        let extent = Extent { start, len };
        debug_assert!(start < MAX_BLOCKS && len <= MAX_BLOCKS - start, "{extent} is on no device");
        if self.closed.is_active() && !self.may_keep(lane, extent) {
            return None;
        }
        self.count_allocated(lane, extent);
        Some(extent)
    }

    /// As [`Self::keep`], for claimed runs of one word. Fills `extents` as far as there are runs;
    /// returns the number filled.
    #[inline]
    pub(crate) fn keep_runs(
        &self,
        lane: LaneId,
        claimed: ClaimedRuns<NativeWord>,
        extents: &mut [Extent],
    ) -> usize {
        if self.closed.is_active() {
            let kept = claimed.into_each().filter_map(|claimed| self.keep(lane, claimed));
            return extents.iter_mut().zip(kept).map(|(place, kept)| *place = kept).count();
        }
        let filled = extents.len().min(claimed.count() as usize);
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
        let Extent { start, len } = extent;
        let kept = self.closed.keeps(&self.bitmap, start, len, &mut self.moved(lane));
        // Whoever saw the blocks taken that are given back looks again.
        if !kept {
            self.discards.forget_runs();
        }
        kept
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::base::place::WordIndex;
    use crate::values::extent::Extent;
    use crate::{Allocator, Region};

    /// An allocator of two leaves; the first was closed after something was claimed there.
    fn closed_after<T>(claim: impl Fn(&Allocator) -> T) -> (Allocator, T, Region) {
        let allocator = Allocator::new(1024).expect("memory");
        let claimed = claim(&allocator);
        let region = allocator.close(Extent::new(0, 512)).expect("nothing is closed");
        (allocator, claimed, region)
    }

    #[test]
    fn what_was_claimed_before_its_leaf_was_closed_is_set_aside() {
        let claim = |allocator: &Allocator| allocator.core().space.bitmap.claim(10, 5);
        let (allocator, claimed, region) = closed_after(claim);
        let space = &allocator.core().space;
        assert_eq!(space.keep(space.lanes.shared(0), claimed.expect("all is free")), None);
        assert!(region.is_empty());
        drop(region);
        assert_eq!((allocator.free_blocks(), allocator.verify().free_blocks), (1024, 1024));
    }

    #[test]
    fn the_same_goes_for_many_in_one_word() {
        for word in [0, 8] {
            let claim = |allocator: &Allocator| {
                let word = WordIndex::new(word);
                allocator.core().space.bitmap.claim_many_in_word(word, 2, 3, 5)
            };
            let (allocator, claimed, region) = closed_after(claim);
            let space = &allocator.core().space;
            let mut extents = [Extent::new(0, 0); 5];
            let claimed = claimed.expect("all is free");
            let kept = space.keep_runs(space.lanes.shared(0), claimed, &mut extents);
            let starts = [512, 516, 520, 524, 528].map(|start| Extent::new(start, 3));
            match word {
                0 => assert_eq!(kept, 0),
                _ => assert_eq!((kept, extents), (5, starts)),
            }
            let used = 3 * kept as u64;
            assert!(region.is_empty());
            drop(region);
            let counted = (allocator.free_blocks(), allocator.verify().free_blocks);
            assert_eq!(counted, (1024 - used, 1024 - used));
        }
    }

    /// A run is completed by what a claim that may not be kept gives back, while another request
    /// looks for that run among what waits to be discarded.
    #[test]
    fn what_a_claim_that_is_not_kept_gives_back_is_found() {
        let allocator = Allocator::builder(1024).build_allocated().expect("memory");
        let mut handle = allocator.handle();
        allocator.free(Extent::new(508, 8)).expect("in use");
        let _discarder = allocator.discarder(crate::DiscardLimits::new()).expect("the first");
        allocator.free(Extent::new(500, 8)).expect("in use");
        let space = &allocator.core().space;
        let claimed = space.bitmap.claim(508, 8).expect("free");
        let _region = allocator.close(Extent::new(512, 1)).expect("nothing is closed");
        assert!(handle.allocate(12).is_err(), "it is claimed");
        assert_eq!(space.keep(space.lanes.shared(0), claimed), None);
        assert_eq!(handle.allocate(12), Ok(Extent::new(500, 12)));
    }
}
