//! Clearing stale positives of leaves. A repair lowers the number of a leaf and takes its guard in
//! one step, looks at the leaf again, and raises the number to what it finds, but not above what it
//! was. From the first step to the last, a search that does not see the number sees the guard.
//!
//! A repair that raises the number again does not go through the levels above, nor does it lift the
//! watch: the byte was a sign of the leaf's runs all the time, to searches and to repairs of the
//! levels above, which read it in one load.

use crate::base::geometry::Geometry;
use crate::base::mutant::fault;
use crate::base::place::{LeafIndex, NodeIndex};
use crate::base::sync::Site;
use crate::base::word::{OrderSet, Word};
use crate::index::Bitmap;
use crate::index::events::Event;
use crate::index::number::Shown;

impl<G: Geometry> Bitmap<G> {
    /// Corrects what `node` shows of its leaves `children`, which seemed to lack `order` and so all
    /// orders above. Goes on upward with the orders that one of them has lost. Any thread may call
    /// it at any time. O(children + orders x levels).
    pub(crate) fn repair(&self, node: NodeIndex, children: G::Word, order: u32) {
        let mut lost = 0;
        for place in children.places() {
            let leaf = node.leaf::<G>(place);
            // Without a free block, the leaf has no order at all.
            let has = if order == 0 { 0 } else { self.leaf(leaf).number(Site::LeafLook) };
            lost |= self.repair_leaf(leaf, has);
        }
        if lost != 0 {
            self.events.count_roughly(Event::Repair, node.get());
        }
        self.repair_up(2, node.get(), lost);
    }

    /// Corrects what level 1 shows of `leaf`, whose number seemed to be `has` a moment ago. Returns
    /// the orders that it showed and does not show any more.
    ///
    /// If the guard is taken, another thread corrects it, or has just found more: what is left is a
    /// stale positive, for us (invariant 3).
    fn repair_leaf(&self, leaf: LeafIndex, has: u32) -> OrderSet {
        let mut early = 0;
        fault!(RecheckBeforeClear: early = self.leaf(leaf).number(Site::LeafLook));
        let lowered = self.summary.change(leaf, Site::HasClear, |shown| shown.lowered(has));
        let Ok(before) = lowered else { return 0 };
        // Pairs with the read in `Bitmap::publish_word`: a release that missed the step above is
        // seen here [mutants: DropRecheck, RecheckBeforeClear, WeakClearer].
        let mut again = self.leaf(leaf).number(Site::LeafLook);
        fault!(RecheckBeforeClear: again = early);
        fault!(DropRecheck: again = has);
        // What it never showed, the levels above may not show either: the release that completed
        // it raises the number itself [mutant: RestoreUncapped].
        let mut kept = again.min(before.number());
        fault!(RestoreUncapped: kept = again);
        fault!(ReleaseGuardBeforeRestore: self.release_guard(leaf));
        let restore = |shown: Shown| Some(shown.restored(kept));
        let restored = self.summary.change(leaf, Site::GuardChange, restore);
        if restored.is_ok_and(Shown::is_wanted) {
            self.release_guard(leaf);
        }
        before.orders_from(kept)
    }

    /// Repairs what the summary shows of one leaf, as a search that comes by would.
    pub(crate) fn refresh(&self, leaf: LeafIndex) {
        let lacks = self.leaf(leaf).number(Site::LeafLook);
        if lacks <= G::MAX_ORDER {
            self.repair(leaf.node::<G>(), G::Word::bit(leaf.place_in_node::<G>()), lacks);
        }
    }

    /// Makes the summary show what the leaf, or the node below `level`, may not have, as a model's
    /// starting state. What level 1 shows, the levels above show, too.
    #[cfg(loom)]
    pub fn promise(&self, level: usize, child: usize, order: u32) {
        if level > 1 {
            return self.summary.set(level, child, 1 << order);
        }
        self.show(LeafIndex::new(child), order + 1);
    }
}
