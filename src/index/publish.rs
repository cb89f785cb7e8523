//! What a release has to publish, without locks.
//!
//! A release *publishes* its blocks: it makes sure that all levels show the largest run that it
//! completed. Mostly they do, and one look at one byte of level 1 says so; if not, see `show.rs`. A
//! *repair* (`repair.rs`) clears what a leaf no longer has. Soundness never needs that, so claims
//! leave it to the searches that look there next; only claims of whole leaves repair.

use super::Bitmap;
use crate::base::geometry::Geometry;
use crate::base::mutant::fault;
use crate::base::place::{LeafIndex, WordIndex};
use crate::base::sync::Site;
use crate::base::word::{OrderSet, Word, orders_below};

/// How many words a release looks to either side of its range for the end of the run it completed.
/// A run that reaches this far counts as long enough for every registered search.
const LOOK_AROUND_WORDS: u64 = 64;

impl<G: Geometry> Bitmap<G> {
    /// Publishes what the release of `mask` in one word completed; `left` is the word as that
    /// release left it.
    ///
    /// A release of one block reads only the byte of its leaf: if the blocks around it are not
    /// entirely free as far as the next larger order than the number shows, it has nothing to
    /// publish. The read must not happen before the release in the leaf is visible: it pairs with
    /// the step of `Bitmap::repair_leaf` that lowers the number [mutant: WeakSetterAfterLeaf]. And
    /// it must not lean on a byte with a guard, which the levels above may not follow yet
    /// [mutant: FastIgnoresGuard; scenarios H6, H8].
    #[inline(always)]
    pub(super) fn publish_word(&self, word: WordIndex, mask: G::Word, left: G::Word) {
        debug_assert!(mask != G::Word::ZERO && left.has_all(mask), "it was released just now");
        let leaf = word.leaf::<G>();
        let place = mask.trailing_zeros();
        if left == G::FULL {
            return self.publish_full_word(word, mask);
        }
        let own = mask.count_ones();
        if mask != G::Word::bit(place) {
            return self.publish_in_word(leaf, left, own, left & !mask);
        }
        fault!(SetBeforeLeaf | EnsureOnlyOwnOrder | EnsureOnlyOnTransition: {
            let orders = left.orders_around(place);
            return self.publish_orders(leaf, orders, own, left & !mask);
        });
        let shown = self.summary.shown(leaf, Site::HasEnsure);
        if !shown.settles(0) || !left.lacks_around(place, shown.number()) {
            self.show_around(leaf, left, place);
        }
    }

    /// Publishes what the release of one block completed in a word that is not entirely free.
    #[cold]
    #[inline(never)]
    fn show_around(&self, leaf: LeafIndex, left: G::Word, place: u32) {
        self.show(leaf, left.orders_around(place).count_ones());
    }

    /// Publishes what the release of several blocks completed in a word that is not entirely free:
    /// perhaps more than that, but nothing that is not there. Such a word cannot belong to a run
    /// wider than a word, so the sibling words need no look.
    #[inline]
    fn publish_in_word(&self, leaf: LeafIndex, left: G::Word, own: u32, others: G::Word) {
        if self.summary.shown(leaf, Site::HasEnsure).settles(G::WORD_ORDER) {
            return;
        }
        self.publish_orders(leaf, left.orders(), own, others);
    }

    /// Publishes what the release of `mask` completed by leaving its word entirely free. The sibling
    /// words are read only then: the thread that makes the last of them full sees all the others
    /// [mutant: WeakSibling; scenarios S2, S12].
    #[inline(never)]
    fn publish_full_word(&self, word: WordIndex, mask: G::Word) {
        let (leaf, place) = (word.leaf::<G>(), word.place_in_leaf::<G>());
        let mut wider = true;
        fault!(NoSiblingLook: wider = false);
        let mut orders = orders_below(G::WORD_ORDER + 1);
        if wider {
            orders |= self.leaf(leaf).orders_over_words(place, place, Site::Sibling);
        }
        self.publish_orders(leaf, orders, mask.count_ones(), G::FULL & !mask);
    }

    /// Publishes what a release (or rollback) of several words completed, leaf by leaf. Reads the
    /// leaves after all of its words were changed.
    pub(super) fn publish(&self, start: u64, len: u64) {
        let mut pieces = Self::pieces(start, len).peekable();
        while let Some(first) = pieces.peek().copied() {
            let leaf = first.word.leaf::<G>();
            let (mut orders, mut last, mut released) = (0, first.word, 0);
            while let Some(piece) = pieces.next_if(|piece| piece.word.leaf::<G>() == leaf) {
                let left = self.word(piece.word).load(Site::Sibling);
                last = piece.word;
                released += piece.mask.count_ones();
                orders |= left.orders();
            }
            let mut full = orders >> G::WORD_ORDER & 1 == 1;
            fault!(NoSiblingLook: full = false);
            if full {
                let (first, last) = (first.word.place_in_leaf::<G>(), last.place_in_leaf::<G>());
                orders |= self.leaf(leaf).orders_over_words(first, last, Site::Sibling);
            }
            self.publish_orders(leaf, orders, released, G::Word::ZERO);
        }
    }

    /// Publishes `orders` of a leaf, all from 0 up to the largest that the release of `own` blocks
    /// beside those of `others` completed.
    #[inline]
    fn publish_orders(&self, leaf: LeafIndex, orders: OrderSet, own: u32, others: G::Word) {
        let mut number = orders.count_ones();
        fault!(SetBeforeLeaf: return);
        fault!(EnsureOnlyOwnOrder: number = own.ilog2() + 1);
        fault!(EnsureOnlyOnTransition: if number <= others.orders().count_ones() { return });
        if !self.summary.shown(leaf, Site::HasEnsure).settles(number) {
            self.show(leaf, number);
        }
    }

    #[inline(always)]
    pub(super) fn tell_watchers_of_release(&self, start: u64, len: u64) {
        if !told_at_the_wrong_time() {
            self.tell_watchers(start, len);
        }
    }

    /// The same for blocks of one word, neighbours or not; `left` is the word as their release left
    /// it.
    #[inline(always)]
    pub(super) fn tell_watchers_of_word(&self, word: WordIndex, mask: G::Word, left: G::Word) {
        if !told_at_the_wrong_time()
            && let Some(awaited) = self.watch.awaited()
            && !Self::is_short_inside(mask, left, awaited)
        {
            self.lift_for_word(word, mask, awaited);
        }
    }

    /// Whether the word alone says that the released run is too short, as it mostly does: the run
    /// ends there on both sides. The thread that released the last block of a run inside one word
    /// has left all of the run there [scenario: m4; mutant: ShortByOwnBlocks].
    #[inline(always)]
    fn is_short_inside(mask: G::Word, left: G::Word, awaited: u64) -> bool {
        let mut free = left;
        fault!(ShortByOwnBlocks: free = mask);
        let run = free.run_around(mask.trailing_zeros());
        let len = run.end - run.start;
        let ends_inside = run.start > 0 && run.end < G::WORD_BLOCKS;
        ends_inside && u64::from(len) < awaited && G::Word::span(run.start, len).has_all(mask)
    }

    #[cold]
    fn lift_for_word(&self, word: WordIndex, mask: G::Word, awaited: u64) {
        for (place, len) in mask.runs() {
            self.lift_if_awaited(word.block::<G>(place), u64::from(len), awaited);
        }
    }

    /// The last step of a release or rollback: lifts the watch if the run that now surrounds
    /// `start..start + len` is as long as a search is registered for. Pairs with `Watch::register`:
    /// either we see the registration, or the search that follows it sees our publication
    /// [mutants: EventBeforeEnsure, WeakWatch; scenarios S5, S5b].
    #[inline(always)]
    pub(super) fn tell_watchers(&self, start: u64, len: u64) {
        if let Some(awaited) = self.watch.awaited() {
            self.lift_if_awaited(start, len, awaited);
        }
    }

    #[cold]
    fn lift_if_awaited(&self, start: u64, len: u64, awaited: u64) {
        let mut run = len;
        let mut short = run < awaited;
        fault!(EventWrongOrder: short = false);
        if short {
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

    /// After a claim of `start..start + len`: repairs what the summary shows of the whole leaves in
    /// it. For less than a leaf it does not pay: the next search for space finds out.
    pub(super) fn claimed(&self, start: u64, len: u64) {
        let mut leaf = LeafIndex::end_of_blocks::<G>(start);
        let end = LeafIndex::of_block::<G>(start + len);
        while leaf < end {
            let (node, place) = (leaf.node::<G>(), leaf.place_in_node::<G>());
            let count = end.since(leaf).min(G::FANOUT - place as usize);
            self.repair(node, G::Word::span(place, count as u32), 0);
            leaf = leaf.plus(count);
        }
    }
}

/// Whether a mutant makes a release tell the watchers too early, or never.
#[inline(always)]
fn told_at_the_wrong_time() -> bool {
    fault!(NoEventOnFree | EventBeforeEnsure | WatchReadBeforeLeaf: return true);
    false
}
