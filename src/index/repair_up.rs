//! Clearing stale positives above level 1, where a node has a word for each order: under a guard
//! bit, with a double-check.

use crate::base::geometry::Geometry;
use crate::base::mutant::{fault, step};
use crate::base::place::{NodeIndex, parent_of};
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::{OrderSet, Word, each, order_above, order_within};
use crate::index::Bitmap;
use crate::index::events::Event;

/// The guard of a child, held until it is released.
struct Guard<'a, G: Geometry> {
    held: Option<(&'a AtomicWord<G::Word>, G::Word)>,
}

impl<G: Geometry> Guard<'_, G> {
    fn release(&mut self) {
        if let Some((guard, child)) = self.held.take() {
            step!(UpNoGuard: guard.fetch_and(!child, Site::GuardChange););
        }
    }
}

impl<G: Geometry> Bitmap<G> {
    /// Clears the bits of `orders` that the node of `level`, above level 1, has for `child`, unless
    /// the child turns out to have such a run. Goes on upward. Any thread may call it at any time.
    pub(crate) fn repair_up(&self, level: usize, child: usize, orders: OrderSet) {
        let (mut child, mut orders) = (child, orders);
        for level in level..=self.summary.height() {
            if orders == 0 {
                return;
            }
            // A live child needs no repair. Nor does one that only a guard makes live: every
            // search that comes by would have to undo the clear and lift the watch, until the
            // holder of the guard moves on. What is left is a stale positive (invariant 3).
            orders &= !self.live_orders(level, child, orders);
            orders = self.repair_child(level, child, orders);
            child = parent_of::<G>(child);
        }
    }

    /// Repairs what the node of `level` shows of `child`, which lacked `orders` a moment ago. Some of
    /// these may not be shown; returns those that were.
    pub(crate) fn repair_child(&self, level: usize, child: usize, orders: OrderSet) -> OrderSet {
        let (node, bit) = self.summary.parent(level, child);
        let is_shown = |&order: &u32| node.has(order).load(Site::HasLook) & bit != G::Word::ZERO;
        let shown = each(orders).filter(is_shown).fold(0, |set, order| set | 1 << order);
        if shown == 0 {
            return 0;
        }
        // From here until the guard is released, a search that does not see the order bit sees the
        // guard (invariant 2) [mutants: UpNoGuard, UpGuardNotExclusive]. A child whose guard another
        // thread holds is left to that thread: a stale positive, for us (invariant 3).
        let mut taken = G::Word::ZERO;
        step!(UpNoGuard: taken = node.guard().fetch_or(bit, Site::GuardChange));
        fault!(UpGuardNotExclusive: taken = G::Word::ZERO);
        if taken & bit != G::Word::ZERO {
            return 0;
        }
        let mut guard = Guard { held: Some((node.guard(), bit)) };
        self.events.count_roughly(Event::Repair, parent_of::<G>(child));
        let index = parent_of::<G>(child);
        let clear =
            |&order: &u32| self.summary.clear(level, index, bit, order) & bit != G::Word::ZERO;
        let cleared = each(shown).filter(clear).fold(0, |set, order| set | 1 << order);
        // Pairs with the reads in `Node::lacks`: a release that missed our clear is seen here
        // [mutants: DropUpRecheck, WeakClearer].
        let mut live = self.live_orders(level, child, cleared);
        fault!(DropUpRecheck: live = 0);
        if live != 0 {
            self.restore(level, child, live, &mut guard);
        }
        guard.release();
        shown
    }

    /// Undoes wrong clears; releases the guard last [mutants: UpReleaseGuardBeforeRestore,
    /// GuardReleasedBeforeEnsureUp]. A search for one of `orders` may have read the order word before
    /// and the guard after this, and so have skipped the child: it must search again
    /// [mutant: RestoreNoEvent]. A repair one level above may have done the same
    /// [mutant: RestoreNoEnsureUp].
    #[cold]
    fn restore(&self, level: usize, child: usize, orders: OrderSet, guard: &mut Guard<'_, G>) {
        fault!(UpReleaseGuardBeforeRestore: guard.release());
        self.summary.set(level, child, orders);
        fault!(GuardReleasedBeforeEnsureUp: guard.release());
        step!(RestoreNoEnsureUp: self.summary.ensure(level + 1, parent_of::<G>(child), orders));
        // A search that looks for its runs by a higher order has not skipped it.
        if let Some(len) = self.watch.awaited() {
            let mut order = order_within(len).min(G::MAX_ORDER);
            fault!(RestoreWrongOrder: order = order_above(len));
            fault!(RestoreNoEvent: return);
            if order <= orders.ilog2() {
                self.watch.lift();
            }
        }
    }

    /// Restores `orders` of a node of level 1, as if they had just been cleared.
    #[cfg(test)]
    pub(super) fn restore_for_test(&self, node: NodeIndex, orders: OrderSet) {
        self.restore(2, node.get(), orders, &mut Guard { held: None });
    }

    /// Those of `orders` of which `child`, a node below `level`, shows a run, or may come to show
    /// one again. Reads each child of a node of level 1 in one load.
    fn live_orders(&self, level: usize, child: usize, orders: OrderSet) -> OrderSet {
        if level == 2 {
            return self.summary.over_leaves(NodeIndex::new(child)).live_orders(orders);
        }
        let node = self.summary.node(level - 1, child);
        let live = |order: &u32| {
            fault!(UpIgnoresGuard: return node.has(*order).load(Site::HasLook) != G::Word::ZERO);
            node.may_have(*order) != G::Word::ZERO
        };
        each(orders).filter(live).fold(0, |set, order| set | 1 << order)
    }
}
