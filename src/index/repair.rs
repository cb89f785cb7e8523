//! Clearing stale positives in the summary.

use crate::base::geometry::{Geometry, MOST_ORDERS};
use crate::base::mutant::{fault, step};
use crate::base::place::{LeafIndex, NodeIndex, child_of, parent_of, place_in_parent};
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::{OrderSet, Word, each, order_above, order_within};
use crate::index::Bitmap;
use crate::index::events::Event;

/// For each of `orders`, the children of one node that seem to have lost it.
pub(super) struct Stale<W> {
    orders: OrderSet,
    children: [W; MOST_ORDERS],
    /// An order known to be shown. From it upwards, the repair stops at the first order not shown.
    sought: u32,
}

impl<W: Word> Stale<W> {
    /// The same children for all of `orders`.
    #[inline(always)]
    fn all(children: W, orders: OrderSet) -> Self {
        debug_assert!(children != W::ZERO);
        Self { orders, children: [children; MOST_ORDERS], sought: orders.trailing_zeros() }
    }
}

/// The guards of some children of one node, held until they are released.
pub(super) struct Guard<'a, G: Geometry> {
    held: Option<(&'a AtomicWord<G::Word>, G::Word)>,
}

impl<G: Geometry> Guard<'_, G> {
    fn release(&mut self) {
        if let Some((guard, children)) = self.held.take() {
            step!(NoGuard: guard.fetch_and(!children, Site::GuardChange););
        }
    }
}

impl<G: Geometry> Bitmap<G> {
    /// Clears the bits of `orders` that `node` has for the leaves `children`, unless a leaf turns
    /// out to have such a run. Goes on upward with the orders of which the node has no bit left.
    /// Any thread may call it at any time. O(children + orders x levels).
    pub(crate) fn repair(&self, node: NodeIndex, children: G::Word, orders: OrderSet) {
        self.repair_from(node, Stale::all(children, orders));
    }

    /// The same for leaves that lack `order`: clears for each leaf all orders that it lacks.
    pub(super) fn repair_leaves(&self, node: NodeIndex, children: G::Word, order: u32) {
        if order == 0 {
            // Without a free block, the leaf lacks all orders.
            return self.repair(node, children, G::ORDERS);
        }
        // A leaf has all orders up to some order, so it lacks all orders from the next one on.
        let mut lacking = [G::Word::ZERO; MOST_ORDERS];
        for place in children.places() {
            let leaf = self.leaf(node.leaf::<G>(place));
            let from = leaf.orders(Site::LeafLook).trailing_ones();
            lacking[from as usize] |= G::Word::bit(place);
        }
        for order in 1..MOST_ORDERS {
            let from_below = lacking[order - 1];
            lacking[order] |= from_below;
        }
        self.repair_from(node, Stale { orders: G::ORDERS, children: lacking, sought: order });
    }

    /// Repairs `node`, and on upward.
    #[inline(always)]
    fn repair_from(&self, node: NodeIndex, stale: Stale<G::Word>) {
        let node = node.get();
        self.repair_up(2, node, self.repair_node(1, node, stale));
    }

    /// The same for `child` of a node of `level`, above level 1, and on upward.
    pub(crate) fn repair_up(&self, level: usize, child: usize, orders: OrderSet) {
        let (mut child, mut orders) = (child, orders);
        for level in level..=self.summary.height() {
            if orders == 0 {
                return;
            }
            // A live child needs no repair. Nor does one that only its own guard makes live: every
            // search that comes by would have to undo the clear and lift the watch, until the
            // holder of the guard moves on. What is left is a stale positive (invariant 3).
            orders &= !self.live_orders(level, child, orders);
            let place = G::Word::bit(place_in_parent::<G>(child));
            child = parent_of::<G>(child);
            orders = self.repair_node(level, child, Stale::all(place, orders));
        }
    }

    /// Repairs node `index` of `level`. Some bits in `stale` may not be shown; returns the orders
    /// that were.
    pub(super) fn repair_node(
        &self,
        level: usize,
        index: usize,
        mut stale: Stale<G::Word>,
    ) -> OrderSet {
        let node = self.summary.node(level, index);
        let mut shown = G::Word::ZERO;
        for order in each(stale.orders) {
            let children = &mut stale.children[order as usize];
            *children &= node.has(order).load(Site::HasLook);
            shown |= *children;
            if *children == G::Word::ZERO {
                stale.orders &= !(1 << order);
                if order >= stale.sought {
                    // There is hardly ever an order shown above this one.
                    stale.orders &= (1 << order) - 1;
                    break;
                }
            }
        }
        if shown == G::Word::ZERO {
            return 0;
        }
        // From here until the guard is released, a search that does not see the order bit sees the
        // guard (invariant 2) [mutants: NoGuard, GuardNotExclusive]. Children whose guard another
        // thread holds are left to that thread: stale positives, for us (invariant 3).
        let mut taken = G::Word::ZERO;
        step!(NoGuard: taken = node.guard().fetch_or(shown, Site::GuardChange));
        fault!(GuardNotExclusive: taken = G::Word::ZERO);
        let mine = shown & !taken;
        if mine == G::Word::ZERO {
            return 0;
        }
        self.events.count_roughly(Event::Repair, index);
        let mut held = mine;
        fault!(ReleaseOthersGuards: held = shown);
        let mut guard = Guard { held: Some((node.guard(), held)) };
        self.clear(level, index, mine, &mut stale, &mut guard);
        guard.release();
        stale.orders
    }

    /// Clears the bits in `stale` of those `children` whose guards the caller holds.
    pub(super) fn clear(
        &self,
        level: usize,
        index: usize,
        children: G::Word,
        stale: &mut Stale<G::Word>,
        guard: &mut Guard<'_, G>,
    ) {
        let orders = stale.orders;
        let live = |place| self.live_orders(level, child_of::<G>(index, place), orders);
        let mut early: Vec<OrderSet> = Vec::new();
        fault!(RecheckBeforeClear: early = children.places().map(live).collect());
        for order in each(orders) {
            let stale = &mut stale.children[order as usize];
            *stale &= children;
            if *stale != G::Word::ZERO {
                *stale &= self.summary.clear(level, index, *stale, order);
            }
        }
        let cleared = &stale.children;
        for (nth, place) in children.places().enumerate() {
            // Pairs with the reads in `Summary::ensure`: a release that missed our clear is seen
            // here [mutants: DropRecheck, RecheckBeforeClear, WeakClearer].
            let mut live = live(place);
            fault!(RecheckBeforeClear: live = early[nth]);
            fault!(DropRecheck: live = 0);
            fault!(DropUpRecheck: if level > 1 { live = 0 });
            let child = G::Word::bit(place);
            let ours = |order: &u32| cleared[*order as usize] & child != G::Word::ZERO;
            let wrong = each(live).filter(ours).fold(0, |set, order| set | 1 << order);
            if wrong != 0 {
                self.restore(level, index, place, wrong, guard);
                fault!(RestoreFirstOnly: return);
            }
        }
    }

    /// Undoes wrong clears; releases the guard last [mutants: ReleaseGuardBeforeRestore,
    /// GuardReleasedBeforeEnsureUp]. A search for one of `orders` may have skipped the child
    /// meanwhile and must search again [mutant: RestoreNoEvent].
    #[cold]
    pub(super) fn restore(
        &self,
        level: usize,
        index: usize,
        place: u32,
        orders: OrderSet,
        guard: &mut Guard<'_, G>,
    ) {
        fault!(ReleaseGuardBeforeRestore: guard.release());
        self.summary.set(level, child_of::<G>(index, place), orders);
        fault!(GuardReleasedBeforeEnsureUp: guard.release());
        step!(RestoreNoEnsureUp: self.summary.ensure(level + 1, index, orders));
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

    /// Repairs what the summary shows of one leaf, as a search that comes by would.
    pub(crate) fn refresh(&self, leaf: LeafIndex) {
        let lost = !self.leaf(leaf).orders(Site::LeafLook) & G::ORDERS;
        if lost != 0 {
            self.repair(leaf.node::<G>(), G::Word::bit(leaf.place_in_node::<G>()), lost);
        }
    }

    /// Restores `orders` of a leaf, as if they had just been cleared.
    #[cfg(test)]
    pub(super) fn restore_for_test(&self, leaf: LeafIndex, orders: OrderSet) {
        let (node, place) = (leaf.node::<G>().get(), leaf.place_in_node::<G>());
        self.restore(1, node, place, orders, &mut Guard { held: None });
    }

    /// Makes the summary show what the leaf may not have, as a model's starting state.
    #[cfg(loom)]
    pub fn promise(&self, level: usize, child: usize, order: u32) {
        self.summary.set(level, child, 1 << order);
    }

    /// Those of `orders` of which `child`, a child of a node of `level`, has a run, or may come to
    /// have one by a restore.
    pub(super) fn live_orders(&self, level: usize, child: usize, orders: OrderSet) -> OrderSet {
        if level == 1 {
            // A leaf without the lowest order has none of the others.
            let leaf = self.leaf(LeafIndex::new(child));
            let none = !leaf.has_order(orders.trailing_zeros(), Site::LeafLook);
            return if none { 0 } else { leaf.orders(Site::LeafLook) & orders };
        }
        let node = self.summary.node(level - 1, child);
        let live = |order: &u32| {
            fault!(UpIgnoresGuard: return node.has(*order).load(Site::HasLook) != G::Word::ZERO);
            node.may_have(*order) != G::Word::ZERO
        };
        each(orders).filter(live).fold(0, |set, order| set | 1 << order)
    }
}
