//! Measuring free runs, for callers that choose among them.

use std::cell::Cell;
use std::ops::Range;

use super::Bitmap;
use crate::base::geometry::Geometry;
use crate::base::place::{LeafIndex, NodeIndex, WordIndex, place_in_word};
use crate::base::sync::Site;
use crate::base::word::Word;
use crate::index::node::Look;

/// How many groups of entirely free leaves one pass over a node handles.
const GROUPS: usize = 8;

/// The pass over a node stops after this many runs, at the end of a leaf.
const RUNS: usize = 64;

impl<G: Geometry> Bitmap<G> {
    /// Calls `see` with the start and length of free runs that begin under `node`.
    ///
    /// Of the runs that begin in leaves that are not entirely free, from the `from`-th leaf of the
    /// node on, it shows all with two blocks or more (and single blocks at the end of a word),
    /// until it has shown plenty. It measures them up to `most`. If `from` is 0, it also shows some
    /// of the runs that begin in entirely free leaves. It measures those by whole leaves, up to the
    /// end of the next node, and repairs what the summary turns out to show wrongly of those
    /// leaves.
    ///
    /// Returns where to go on, if the node has more. O(leaves under the node).
    pub(crate) fn runs_under(
        &self,
        node: NodeIndex,
        from: u32,
        most: u64,
        mut see: impl FnMut(u64, u64),
    ) -> Option<u32> {
        let numbers = self.summary.over_leaves(node);
        let (mut partial, mut whole) = numbers.children_with(0, G::MAX_ORDER);
        partial &= !whole;
        let mut stale = G::Word::ZERO;
        for _ in 0..GROUPS {
            if whole == G::Word::ZERO || from > 0 {
                break;
            }
            let place = whole.trailing_zeros();
            if !self.leaf(node.leaf::<G>(place)).has_order(G::MAX_ORDER, Site::LeafLook) {
                whole = whole.without_lowest();
                stale |= G::Word::bit(place);
                continue;
            }
            let count = leading_ones(whole >> place);
            whole &= !G::Word::span(place, count);
            self.see_whole(node.leaf::<G>(place), count as usize, &mut see);
        }
        if stale != G::Word::ZERO {
            self.repair(node, stale, G::MAX_ORDER);
        }
        partial = (partial | stale) & (G::Word::MAX << from);
        let runs = Cell::new(0);
        let mut see = |start, len| {
            runs.set(runs.get() + 1);
            see(start, len);
        };
        while partial != G::Word::ZERO {
            let place = partial.trailing_zeros();
            partial = partial.without_lowest();
            self.see_in_leaf(node.leaf::<G>(place), most, &mut see);
            if runs.get() >= RUNS && partial != G::Word::ZERO {
                return Some(partial.trailing_zeros());
            }
        }
        None
    }

    /// Shows the run of `count` leaves from `leaf` on, unless it begins a leaf or more before:
    /// then it was shown where it begins.
    fn see_whole(&self, leaf: LeafIndex, count: usize, see: &mut impl FnMut(u64, u64)) {
        let leaf_blocks = G::LEAF_BLOCKS as u64;
        let first_block = leaf.first_block::<G>();
        let lowest = first_block.saturating_sub(leaf_blocks);
        let start = self.run_start(first_block, lowest);
        if start == lowest && start > 0 {
            return;
        }
        let mut count = count as u64;
        let behind = leaf.plus(count as usize);
        let (at_the_end, behind) = (behind.place_in_node::<G>() == 0, behind.node::<G>());
        if at_the_end && behind < self.node_end() {
            count += u64::from(leading_ones(self.shown_whole(behind)));
        }
        see(start, self.blocks().min(first_block + count * leaf_blocks).saturating_sub(start));
    }

    fn see_in_leaf(&self, leaf: LeafIndex, most: u64, see: &mut impl FnMut(u64, u64)) {
        let last_place = G::Word::bit(G::WORD_BLOCKS - 1);
        let mut before = self.look_before(leaf.first_word::<G>());
        for word in WordIndex::each(leaf.words::<G>()) {
            let free = self.word(word).load(Site::LeafLook);
            let starts = begins::<G>(before, free) & (free >> 1 | last_place);
            before = free;
            for place in starts.places() {
                let (start, len) = self.measure(word, free, place, most);
                see(start, len);
            }
        }
    }

    /// The shortest of the free runs that begin in `word` and have at least `least` blocks:
    /// its start and length. Measures up to `most`.
    #[inline]
    pub(crate) fn run_in_word(&self, word: WordIndex, least: u64, most: u64) -> Option<(u64, u64)> {
        if word >= self.word_end() {
            return None; // the device was made shorter
        }
        let free = self.word(word).load(Site::LeafLook);
        let starts = begins::<G>(self.look_before(word), free);
        let runs = starts.places().map(|place| self.measure(word, free, place, most));
        runs.filter(|&(_, len)| len >= least).min_by_key(|&(_, len)| len)
    }

    /// The free blocks of the word below `word`; none below the first word.
    #[inline]
    pub(super) fn look_before(&self, word: WordIndex) -> G::Word {
        if word == WordIndex::FIRST { G::Word::ZERO } else { self.look(word.previous()) }
    }

    /// Whether the summary shows all leaves under `node` as entirely free.
    #[inline]
    pub(crate) fn is_whole(&self, node: NodeIndex) -> bool {
        leading_ones(self.shown_whole(node)) as usize >= G::FANOUT
    }

    /// The leaves under `node` that the summary shows as entirely free.
    #[inline]
    fn shown_whole(&self, node: NodeIndex) -> G::Word {
        self.summary.over_leaves(node).children(G::MAX_ORDER, Look::Quick)
    }

    /// Where the run that goes on behind `word` begins, or the start of the word if it begins
    /// before. Every run that begins in the word and is longer than a word goes on behind it.
    #[inline]
    pub(crate) fn run_beyond_word(&self, word: WordIndex) -> Option<u64> {
        if word >= self.word_end() {
            return None; // the device was made shorter
        }
        let free = self.look(word) << (G::Word::BITS - G::WORD_BLOCKS);
        let inside = (!free).leading_zeros().min(G::WORD_BLOCKS);
        (inside > 0).then(|| word.next().first_block::<G>() - u64::from(inside))
    }

    /// Start and length of the run from `place` of `word` on, which held `free`.
    #[inline]
    fn measure(&self, word: WordIndex, free: G::Word, place: u32, most: u64) -> (u64, u64) {
        let start = word.block::<G>(place);
        let inside = leading_ones(free >> place);
        if place + inside < G::WORD_BLOCKS {
            return (start, u64::from(inside));
        }
        (start, self.run_end(start, self.blocks().min(start + most)).saturating_sub(start))
    }

    /// The run of free blocks around `start..start + len`, measured at most `reach` blocks to
    /// either side: its start and length.
    #[inline]
    pub(crate) fn run_around(&self, start: u64, len: u64, reach: u64) -> (u64, u64) {
        let (word, place) = (WordIndex::of_block::<G>(start), place_in_word::<G>(start));
        if u64::from(place) + len <= u64::from(G::WORD_BLOCKS) {
            // Mostly the run ends in its word on both sides.
            let free = self.look(word) | G::Word::span(place, len as u32);
            let Range { start: from, end } = free.run_around(place);
            if from > 0 && end < G::WORD_BLOCKS {
                return (word.block::<G>(from), u64::from(end - from));
            }
        }
        let from = self.run_start(start, start.saturating_sub(reach));
        let end = self.run_end(start + len, self.blocks().min(start + len + reach));
        (from, end.saturating_sub(from))
    }
}

/// The places in `free` where runs begin; `before` is the word below.
#[inline(always)]
fn begins<G: Geometry>(before: G::Word, free: G::Word) -> G::Word {
    free & !(free << 1 | before >> (G::WORD_BLOCKS - 1))
}

/// Number of set bits from bit 0 up.
#[inline(always)]
fn leading_ones<W: Word>(word: W) -> u32 {
    (!word).trailing_zeros()
}

#[cfg(all(test, not(loom)))]
mod tests;
