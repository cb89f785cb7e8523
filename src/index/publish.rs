//! How the summary follows the leaves, without locks.
//!
//! After a release: *publish*, bottom-up. *Repair* (clear under a guard, then look again) what a leaf
//! no longer has: clearing is never needed for soundness, so claims leave it to those who search
//! there next, but for claims of whole leaves.

use super::Bitmap;
use crate::base::geometry::{Geometry, MOST_ORDERS};
use crate::base::mutant::{Mutant, mutated};
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::{OrderSet, Word, each, order_above, order_within};
use crate::index::events::Event;

/// A release that was told to look further than this many words on either side of its range for
/// the end of the run it completed counts as completing any run that somebody waits for.
const LOOK_AROUND_WORDS: u64 = 64;

impl<G: Geometry> Bitmap<G> {
    /// Publishes what the release of `mask` in one word completed; `left` is the word as that
    /// release left it. A word that is not entirely free cannot belong to a run wider than a word,
    /// so the sibling words are read only if it is: whoever makes the last of them full sees all
    /// the others [mutant: WeakSibling; scenarios S2, S12].
    #[inline(always)]
    pub(super) fn publish_word(&self, word: usize, mask: G::Word, left: G::Word) {
        let leaf = word / G::LEAF_WORDS;
        let place = mask.trailing_zeros();
        let mut orders = if mask == G::Word::bit(place) {
            left.orders_around(place)
        } else {
            // More than the release completed, perhaps, but nothing that is not there.
            left.orders()
        };
        if left == G::FULL && !mutated(Mutant::NoSiblingLook) {
            let word = word % G::LEAF_WORDS;
            orders |= self.leaf(leaf).orders_over_words(word, word, Site::Sibling);
        }
        self.publish_orders(leaf, orders, mask.count_ones().ilog2(), left & !mask);
    }

    /// Publishes what a release (or rollback) of several words completed, leaf by leaf. Reads the
    /// leaves after all of its words were changed.
    pub(super) fn publish(&self, start: u64, len: u64) {
        let leaf_words = G::LEAF_WORDS;
        let mut pieces = Self::pieces(start, len).peekable();
        while let Some(first) = pieces.peek().copied() {
            let leaf = first.word / leaf_words;
            let (mut orders, mut last, mut released) = (0, first.word, 0);
            while let Some(piece) = pieces.next_if(|piece| piece.word / leaf_words == leaf) {
                let left = self.word(piece.word).load(Site::Sibling);
                last = piece.word;
                released += piece.mask.count_ones();
                orders |= left.orders();
            }
            if orders >> G::WORD_ORDER & 1 == 1 && !mutated(Mutant::NoSiblingLook) {
                let (first, last) = (first.word % leaf_words, last % leaf_words);
                orders |= self.leaf(leaf).orders_over_words(first, last, Site::Sibling);
            }
            self.publish_orders(leaf, orders, released.ilog2(), G::Word::ZERO);
        }
    }

    #[inline(always)]
    fn publish_orders(&self, leaf: usize, orders: OrderSet, own: u32, others: G::Word) {
        let mut orders = orders;
        if mutated(Mutant::SetBeforeLeaf) {
            return;
        }
        if mutated(Mutant::EnsureOnlyOwnOrder) {
            orders &= 1 << own;
        }
        if mutated(Mutant::EnsureOnlyOnTransition) {
            orders &= !others.orders();
        }
        self.summary.ensure(1, leaf, orders);
    }

    #[inline(always)]
    pub(super) fn tell_watchers_of_release(&self, start: u64, len: u64) {
        if !told_at_the_wrong_time() {
            self.tell_watchers(start, len);
        }
    }

    /// The same for blocks of one word that need not be neighbours; `left` is the word as their release left it.
    #[inline(always)]
    pub(super) fn tell_watchers_of_word(&self, word: usize, mask: G::Word, left: G::Word) {
        if !told_at_the_wrong_time()
            && let Some(awaited) = self.watch.awaited()
            && !Self::is_short_inside(mask, left, awaited)
        {
            self.lift_for_word(word, mask, awaited);
        }
    }

    /// Whether the word alone says that the released run is too short, as it mostly does: the run ends there
    /// on both sides. Whoever released the last block of a run inside one word has left all of it there
    /// [scenario: m4; mutant: ShortByOwnBlocks].
    #[inline(always)]
    fn is_short_inside(mask: G::Word, left: G::Word, awaited: u64) -> bool {
        let free = if mutated(Mutant::ShortByOwnBlocks) { mask } else { left };
        let run = free.run_around(mask.trailing_zeros());
        let len = run.end - run.start;
        let ends_inside = run.start > 0 && run.end < G::WORD_BLOCKS;
        ends_inside && u64::from(len) < awaited && G::Word::span(run.start, len).has_all(mask)
    }

    #[cold]
    fn lift_for_word(&self, word: usize, mask: G::Word, awaited: u64) {
        for (place, len) in mask.runs() {
            let start = word as u64 * u64::from(G::WORD_BLOCKS) + u64::from(place);
            self.lift_if_awaited(start, u64::from(len), awaited);
        }
    }

    /// The last step of a release or rollback: lifts the watch if the run that now surrounds
    /// `start..start + len` is as long as somebody waits for. Pairs with `Watch::register`: either
    /// we see the registration, or the search that follows it sees our publication [mutants:
    /// EventBeforeEnsure, WeakWatch; scenarios S5, S5b].
    #[inline(always)]
    pub(super) fn tell_watchers(&self, start: u64, len: u64) {
        if let Some(awaited) = self.watch.awaited() {
            self.lift_if_awaited(start, len, awaited);
        }
    }

    #[cold]
    fn lift_if_awaited(&self, start: u64, len: u64, awaited: u64) {
        let mut run = len;
        if run < awaited && !mutated(Mutant::EventWrongOrder) {
            let reach = LOOK_AROUND_WORDS * u64::from(G::WORD_BLOCKS);
            let below = start - self.run_start(start, start.saturating_sub(reach));
            let limit = self.blocks().min(start.saturating_add(len).saturating_add(reach));
            let above = self.run_end(start + len, limit) - (start + len);
            run += below + above;
            if below >= reach || above >= reach {
                run = awaited;
            }
        }
        if run >= awaited {
            self.watch.lift();
        }
    }

    /// After a claim of `start..start + len` that covers whole leaves: repairs what the summary says
    /// of those. For less than a leaf it does not pay: who next looks for space finds out.
    pub(super) fn claimed(&self, start: u64, len: u64) {
        let width = G::LEAF_BLOCKS as u64;
        let (mut leaf, end) = (start.div_ceil(width) as usize, ((start + len) / width) as usize);
        while leaf < end {
            let (node, place) = (leaf / G::FANOUT, leaf % G::FANOUT);
            let count = (end - leaf).min(G::FANOUT - place);
            self.repair(node, G::Word::span(place as u32, count as u32), G::ORDERS);
            leaf += count;
        }
    }

    /// Clears the bits of `orders` that level-1 node `index` holds for the leaves `children`, unless one of
    /// them turns out to have such a run; goes on upward with the orders of which the node has nothing
    /// left. Safe to call at any time, by anyone. O(children + orders x levels).
    pub(crate) fn repair(&self, index: usize, children: G::Word, orders: OrderSet) {
        let stale = Stale::all(children, orders);
        self.repair_up(2, index, self.repair_node(1, index, stale));
    }

    /// The same for leaves that lack `order`, each with all that it lacks.
    pub(super) fn repair_leaves(&self, index: usize, children: G::Word, order: u32) {
        if order == 0 {
            // Without a free block, all of them.
            return self.repair(index, children, G::ORDERS);
        }
        // The orders of a leaf are all up to some, and so those that it lacks are all from some on.
        let mut lacking = [G::Word::ZERO; MOST_ORDERS];
        for place in children.places() {
            let leaf = self.leaf(index * G::FANOUT + place as usize);
            let from = leaf.orders(Site::LeafLook).trailing_ones();
            lacking[from as usize] |= G::Word::bit(place);
        }
        for order in 1..MOST_ORDERS {
            let from_below = lacking[order - 1];
            lacking[order] |= from_below;
        }
        let stale = Stale { orders: G::ORDERS, children: lacking, sought: order };
        self.repair_up(2, index, self.repair_node(1, index, stale));
    }

    /// The same for `child` of a node of `level`, above level 1, and on upward.
    pub(crate) fn repair_up(&self, level: usize, child: usize, orders: OrderSet) {
        let (mut child, mut orders) = (child, orders);
        for level in level..=self.summary.height() {
            if orders == 0 {
                return;
            }
            // A child that is live needs no repair. Neither does one that only its own guard
            // makes live: the clear would have to be undone and the watch lifted, by everybody
            // who comes by, until the guard's holder moves on. What is left is a stale positive
            // (invariant 3).
            orders &= !self.live_orders(level, child, orders);
            let place = G::Word::bit((child % G::FANOUT) as u32);
            child /= G::FANOUT;
            orders = self.repair_node(level, child, Stale::all(place, orders));
        }
    }

    /// Repairs node `index` of `level`, of which those `stale` are not known to be shown; which orders were.
    fn repair_node(&self, level: usize, index: usize, mut stale: Stale<G::Word>) -> OrderSet {
        let node = self.summary.node(level, index);
        let mut shown = G::Word::ZERO;
        for order in each(stale.orders) {
            let children = &mut stale.children[order as usize];
            *children &= node.has(order).load(Site::HasLook);
            shown |= *children;
            if *children == G::Word::ZERO {
                stale.orders &= !(1 << order);
                if order >= stale.sought {
                    // Hardly ever is there anything above.
                    stale.orders &= (1 << order) - 1;
                    break;
                }
            }
        }
        if shown == G::Word::ZERO {
            return 0;
        }
        // From here until the guard is released, a searcher that does not see the order bit
        // sees the guard (invariant 2) [mutants: NoGuard, GuardNotExclusive]. Children that
        // somebody else has the guard of are his: stale positives, for us (invariant 3).
        let mut mine = shown;
        if !mutated(Mutant::NoGuard) {
            let taken = node.guard().fetch_or(shown, Site::GuardChange);
            if !mutated(Mutant::GuardNotExclusive) {
                mine &= !taken;
            }
        }
        if mine == G::Word::ZERO {
            return 0;
        }
        self.events.count_roughly(Event::Repair, index);
        let held = if mutated(Mutant::ReleaseOthersGuards) { shown } else { mine };
        let mut guard = Guard { held: Some((node.guard(), held)) };
        self.clear(level, index, mine, &mut stale, &mut guard);
        guard.release();
        stale.orders
    }

    /// Clears the bits that are `stale` for those `children` whose guards the caller holds.
    fn clear(
        &self,
        level: usize,
        index: usize,
        children: G::Word,
        stale: &mut Stale<G::Word>,
        guard: &mut Guard<'_, G>,
    ) {
        let orders = stale.orders;
        let live = |place| self.live_orders(level, index * G::FANOUT + place as usize, orders);
        let early: Vec<OrderSet> = if mutated(Mutant::RecheckBeforeClear) {
            children.places().map(live).collect()
        } else {
            Vec::new()
        };
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
            let live = match () {
                () if mutated(Mutant::RecheckBeforeClear) => early[nth],
                () if mutated(Mutant::DropRecheck) => 0,
                () if mutated(Mutant::DropUpRecheck) && level > 1 => 0,
                () => live(place),
            };
            let child = G::Word::bit(place);
            let ours = |order: &u32| cleared[*order as usize] & child != G::Word::ZERO;
            let wrong = each(live).filter(ours).fold(0, |set, order| set | 1 << order);
            if wrong != 0 {
                self.restore(level, index, place, wrong, guard);
                if mutated(Mutant::RestoreFirstOnly) {
                    return;
                }
            }
        }
    }

    /// Undoes clears that turned out wrong; the guard goes last [mutants:
    /// ReleaseGuardBeforeRestore, GuardReleasedBeforeEnsureUp]. Whoever looked for one of `orders` in
    /// the meantime may have passed by and has to look again [mutant: RestoreNoEvent].
    #[cold]
    fn restore(
        &self,
        level: usize,
        index: usize,
        place: u32,
        orders: OrderSet,
        guard: &mut Guard<'_, G>,
    ) {
        if mutated(Mutant::ReleaseGuardBeforeRestore) {
            guard.release();
        }
        self.summary.set(level, index * G::FANOUT + place as usize, orders);
        if mutated(Mutant::GuardReleasedBeforeEnsureUp) {
            guard.release();
        }
        if !mutated(Mutant::RestoreNoEnsureUp) {
            self.summary.ensure(level + 1, index, orders);
        }
        // Who waits for runs that are searched for by a higher order, has not.
        let awaited = self.watch.awaited().map(|len| match () {
            () if mutated(Mutant::RestoreWrongOrder) => order_above(len),
            () => order_within(len).min(G::MAX_ORDER),
        });
        if awaited.is_some_and(|order| order <= orders.ilog2()) && !mutated(Mutant::RestoreNoEvent)
        {
            self.watch.lift();
        }
    }

    /// Repairs what the summary says of one leaf, as searchers that come by would.
    pub(crate) fn refresh(&self, leaf: usize) {
        let lost = !self.leaf(leaf).orders(Site::LeafLook) & G::ORDERS;
        if lost != 0 {
            self.repair(leaf / G::FANOUT, G::Word::bit((leaf % G::FANOUT) as u32), lost);
        }
    }

    /// Restores `orders` of a leaf, as if they had just been cleared.
    #[cfg(test)]
    pub(super) fn restore_for_test(&self, leaf: usize, orders: OrderSet) {
        let place = (leaf % G::FANOUT) as u32;
        self.restore(1, leaf / G::FANOUT, place, orders, &mut Guard { held: None });
    }

    /// Lets the summary promise what the leaf may not have, as a model's starting state.
    #[cfg(loom)]
    pub fn promise(&self, level: usize, child: usize, order: u32) {
        self.summary.set(level, child, 1 << order);
    }

    /// Those of `orders` of which a child, one of the children of `level`, has a run or may come to
    /// have one by a restore.
    fn live_orders(&self, level: usize, child: usize, orders: OrderSet) -> OrderSet {
        if level == 1 {
            // Without the lowest there is none of the others.
            let leaf = self.leaf(child);
            let none = !leaf.has_order(orders.trailing_zeros(), Site::LeafLook);
            return if none { 0 } else { leaf.orders(Site::LeafLook) & orders };
        }
        let node = self.summary.node(level - 1, child);
        let live = |order: &u32| {
            let has = if mutated(Mutant::UpIgnoresGuard) {
                node.has(*order).load(Site::HasLook)
            } else {
                node.may_have(*order)
            };
            has != G::Word::ZERO
        };
        each(orders).filter(live).fold(0, |set, order| set | 1 << order)
    }
}

/// Whether a mutant has a release tell the watchers earlier than last, or never.
#[inline(always)]
fn told_at_the_wrong_time() -> bool {
    mutated(Mutant::NoEventOnFree)
        || mutated(Mutant::EventBeforeEnsure)
        || mutated(Mutant::WatchReadBeforeLeaf)
}

/// For each of `orders` the children of one node that seem to have lost it.
struct Stale<W> {
    orders: OrderSet,
    children: [W; MOST_ORDERS],
    /// One that is known to be shown. From there on the repair stops at the first that is not.
    sought: u32,
}

impl<W: Word> Stale<W> {
    /// The same children for all of `orders`.
    #[inline(always)]
    fn all(children: W, orders: OrderSet) -> Self {
        Self { orders, children: [children; MOST_ORDERS], sought: orders.trailing_zeros() }
    }
}

/// The guards of some children of one node, until they are released.
struct Guard<'a, G: Geometry> {
    held: Option<(&'a AtomicWord<G::Word>, G::Word)>,
}

impl<G: Geometry> Guard<'_, G> {
    fn release(&mut self) {
        if let Some((guard, children)) = self.held.take()
            && !mutated(Mutant::NoGuard)
        {
            guard.fetch_and(!children, Site::GuardChange);
        }
    }
}
