//! How the summary follows the leaves, without locks.
//!
//! After a release: *publish*, bottom-up. After a claim: *repair* (clear under a guard, then look
//! again) what the leaf no longer has. Clearing is never needed for soundness, so it is left out
//! wherever it is cheap to see that nothing was lost.

use super::Bitmap;
use crate::geometry::Geometry;
use crate::mutant::{Mutant, mutated};
use crate::sync::Site;
use crate::word::{OrderSet, Word};

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
        let mut orders = 0;
        if mask == G::Word::bit(place) {
            orders = left.order_around(place).map_or(0, |order| (2 << order) - 1);
        } else {
            for order in 0..=G::WORD_ORDER {
                if !completes(left, mask, order) {
                    break;
                }
                orders |= 1 << order;
            }
        }
        if left == G::FULL && !mutated(Mutant::NoSiblingLook) {
            let word = word % G::LEAF_WORDS;
            orders |= self.leaves[leaf].orders_over_words(word, word, Site::Sibling);
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
                for order in 0..=G::WORD_ORDER {
                    if orders >> order & 1 == 0 && completes(left, piece.mask, order) {
                        orders |= 1 << order;
                    }
                }
            }
            if orders >> G::WORD_ORDER & 1 == 1 && !mutated(Mutant::NoSiblingLook) {
                let (first, last) = (first.word % leaf_words, last % leaf_words);
                orders |= self.leaves[leaf].orders_over_words(first, last, Site::Sibling);
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
        let skip = mutated(Mutant::NoEventOnFree)
            || mutated(Mutant::EventBeforeEnsure)
            || mutated(Mutant::WatchReadBeforeLeaf);
        if !skip {
            self.tell_watchers(start, len);
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
            let limit = self.blocks.min(start.saturating_add(len).saturating_add(reach));
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

    /// After a claim of `place`, the lowest free block of a word that held `free`: repairs what the
    /// leaf lost.
    #[inline(always)]
    pub(super) fn claimed_lowest(&self, word: usize, free: G::Word, place: u32) {
        // The blocks below are taken, so the groups that were lost, if any, begin at `place`. While
        // one of the largest order among them is left in the word, nothing was lost; most often it
        // lies right behind.
        let run = (!(free >> place)).trailing_zeros().min(G::WORD_BLOCKS - place);
        let largest = run.ilog2().min(place.trailing_zeros());
        if run >= 2 << largest {
            return;
        }
        let left = free & !G::Word::bit(place);
        if !left.has_order(largest) {
            self.repair_word(word, free, left);
        }
    }

    #[inline(never)]
    fn repair_word(&self, word: usize, free: G::Word, left: G::Word) {
        let lost = free.orders() & !left.orders();
        self.repair_lost(word / G::LEAF_WORDS, lost, free == G::FULL);
    }

    /// After a claim of `mask` in a word that held `free`.
    #[inline]
    pub(super) fn claimed_in_word(&self, word: usize, free: G::Word, mask: G::Word) {
        let lost = free.orders() & !(free & !mask).orders();
        if lost != 0 {
            self.repair_lost(word / G::LEAF_WORDS, lost, free == G::FULL);
        }
    }

    #[inline(never)]
    fn repair_lost(&self, leaf: usize, lost: OrderSet, was_full: bool) {
        let mut rest = lost;
        if was_full {
            rest |= (2 << G::MAX_ORDER) - (2 << G::WORD_ORDER);
        }
        while rest != 0 {
            let order = rest.trailing_zeros();
            rest &= rest - 1;
            if !self.leaves[leaf].has_order(order, Site::LeafLook) {
                self.repair(1, leaf, order);
            }
        }
    }

    /// After a claim of several words: repairs what their leaves no longer have.
    pub(super) fn claimed(&self, start: u64, len: u64) {
        let width = G::LEAF_BLOCKS as u64;
        for leaf in (start / width) as usize..=((start + len - 1) / width) as usize {
            let lost = !self.leaves[leaf].orders(Site::LeafLook) & ((2 << G::MAX_ORDER) - 1);
            let mut rest = lost;
            while rest != 0 {
                self.repair(1, leaf, rest.trailing_zeros());
                rest &= rest - 1;
            }
        }
    }

    /// Clears the bit of `order` that the nodes of `level` hold for `child`, unless the child turns
    /// out to have such a run; goes on upward if the node has nothing left. Safe to call at any
    /// time, by anyone, on any child. O(levels).
    pub fn repair(&self, level: usize, child: usize, order: u32) {
        let (mut level, mut child) = (level, child);
        while level <= self.summary.height() {
            let (node, bit) = self.summary.parent(level, child);
            if node.has(order).load(Site::HasLook) & bit == G::Word::ZERO {
                return;
            }
            // A child that is live needs no repair. Neither does one that only its own guard makes
            // live: the clear would have to be undone and the watch lifted, by everybody who comes
            // by, until the guard's holder moves on. What is left is a stale positive (invariant 3).
            if level > 1 && self.summary.level(level - 1)[child].may_have(order) != G::Word::ZERO {
                return;
            }
            // From here until the guard is released, a searcher that does not see the order bit
            // sees the guard (invariant 2) [mutants: NoGuard, GuardNotExclusive].
            if !mutated(Mutant::NoGuard) {
                let taken = node.guard().fetch_or(bit, Site::GuardChange) & bit != G::Word::ZERO;
                if taken && !mutated(Mutant::GuardNotExclusive) {
                    return; // Somebody else is on it: leave a stale positive (invariant 3).
                }
            }
            let early = mutated(Mutant::RecheckBeforeClear) && self.is_live(level, child, order);
            node.has(order).fetch_and(!bit, Site::HasClear);
            // Pairs with the reads in `Summary::ensure`: a release that missed our clear is seen
            // here [mutants: DropRecheck, RecheckBeforeClear, WeakClearer].
            let live = match () {
                () if mutated(Mutant::RecheckBeforeClear) => early,
                () if mutated(Mutant::DropRecheck) => false,
                () if mutated(Mutant::DropUpRecheck) && level > 1 => false,
                () => self.is_live(level, child, order),
            };
            let release = || {
                if !mutated(Mutant::NoGuard) {
                    node.guard().fetch_and(!bit, Site::GuardChange);
                }
            };
            if live {
                self.restore(level, child, order, release);
                return;
            }
            release();
            (level, child) = (level + 1, child / G::FANOUT);
        }
    }

    /// Lets the summary promise what the leaf may not have, as a model's starting state.
    #[cfg(loom)]
    pub fn promise(&self, level: usize, child: usize, order: u32) {
        let (node, bit) = self.summary.parent(level, child);
        node.has(order).fetch_or(bit, Site::HasSet);
    }

    /// Undoes a clear that turned out wrong; the guard goes last [mutants:
    /// ReleaseGuardBeforeRestore, GuardReleasedBeforeEnsureUp]. Whoever looked for `order` in the
    /// meantime may have passed by and has to look again [mutant: RestoreNoEvent].
    #[cold]
    fn restore(&self, level: usize, child: usize, order: u32, release: impl Fn()) {
        if mutated(Mutant::ReleaseGuardBeforeRestore) {
            release();
        }
        let (node, bit) = self.summary.parent(level, child);
        node.has(order).fetch_or(bit, Site::HasSet);
        let early = mutated(Mutant::GuardReleasedBeforeEnsureUp);
        if early {
            release();
        }
        if !mutated(Mutant::RestoreNoEnsureUp) {
            self.summary.ensure(level + 1, child / G::FANOUT, 1 << order);
        }
        if !mutated(Mutant::RestoreNoEvent) {
            self.watch.lift();
        }
        if !early && !mutated(Mutant::ReleaseGuardBeforeRestore) {
            release();
        }
    }

    /// Whether `child` of `level` has a run of `order`, or may come to have one by a restore.
    fn is_live(&self, level: usize, child: usize, order: u32) -> bool {
        if level == 1 {
            self.leaves[child].has_order(order, Site::LeafLook)
        } else {
            let node = &self.summary.level(level - 1)[child];
            if mutated(Mutant::UpIgnoresGuard) {
                return node.has(order).load(Site::HasLook) != G::Word::ZERO;
            }
            node.may_have(order) != G::Word::ZERO
        }
    }
}

/// Whether `word` holds an aligned run of `order` that meets `mask`.
#[inline(always)]
fn completes<W: Word>(word: W, mask: W, order: u32) -> bool {
    let mut runs = word.aligned_runs(order);
    // Spread each start over its group.
    for step in 0..order {
        runs |= runs << (1 << step);
    }
    runs & mask != W::ZERO
}
