//! How the summary comes to show more of a leaf: off the usual path of a release.
//!
//! A byte of level 1 with a number above k and no guard promises that the levels above show order
//! k, too, so that a release may stop there. So the thread that raises a number takes the guard in
//! the same step, goes through the levels above, and only then releases the guard. If another thread
//! has the guard, it leaves a *want* there, and goes through the levels above all the same: the
//! holder may be stopped. The holder serves the want before it releases the guard.

use crate::base::geometry::Geometry;
use crate::base::mutant::{fault, step};
use crate::base::place::LeafIndex;
use crate::base::sync::Site;
use crate::base::word::orders_below;
use crate::index::Bitmap;
use crate::index::number::Shown;

impl<G: Geometry> Bitmap<G> {
    /// Makes all levels show the orders of `leaf` below `number`.
    #[cold]
    #[inline(never)]
    pub(super) fn show(&self, leaf: LeafIndex, number: u32) {
        fault!(SetWithoutGuard: {
            let raised = |shown: Shown| Some(Shown::unmarked(shown.number().max(number)));
            let _ = self.summary.change(leaf, Site::HasSet, raised);
            return self.show_above(leaf, number);
        });
        // Who finds the number large enough, under a guard, only has to go through the levels above:
        // the holder owes them to whoever raised it.
        let raise = |shown: Shown| (shown.number() < number).then(|| shown.raised(number));
        let raised = self.summary.change(leaf, Site::HasSet, raise);
        if raised.is_err_and(|found| found.settles(number)) {
            return;
        }
        let is_mine = raised.is_ok_and(|before| !before.is_guarded());
        fault!(SetterReleasesEarly: if is_mine { self.release_guard(leaf) });
        let mut goes_on = true;
        fault!(SetterStopsAtLevelOne: goes_on = !is_mine);
        fault!(WantWithoutWalk: goes_on = is_mine);
        if goes_on {
            self.show_above(leaf, number);
        }
        fault!(SetterReleasesEarly: return);
        if is_mine {
            self.release_guard(leaf);
        }
    }

    /// Makes the levels above level 1 show the orders of `leaf` below `number`.
    fn show_above(&self, leaf: LeafIndex, number: u32) {
        self.summary.ensure(2, leaf.node::<G>().get(), orders_below(number));
    }

    /// Releases the guard of `leaf`, which the caller holds and under which the levels above were
    /// finished; first serves the wants of the threads that raised the number meanwhile. Nobody
    /// lowers it under the guard, so it serves no more wants than there are orders.
    pub(super) fn release_guard(&self, leaf: LeafIndex) {
        let release =
            || self.summary.change(leaf, Site::GuardChange, |shown| Some(shown.released()));
        while let Ok(before) = release()
            && before.is_wanted()
        {
            fault!(WantForgotten: return);
            step!(ServeWithoutWalk: self.show_above(leaf, before.number()));
        }
    }
}
