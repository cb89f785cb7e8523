//! Reading runs of free blocks: word by word nearby, by the summary over distances.
//!
//! Nothing here stops other threads, so an answer that spans words may mix several moments. Blocks
//! that were free (or allocated) throughout the call are always reported as such.

use super::Bitmap;
use crate::base::geometry::Geometry;
use crate::base::place::{LeafIndex, NodeIndex, WordIndex, place_in_word};
use crate::base::sync::Site;
use crate::base::word::Word;
use crate::index::node::Look;
use crate::index::summary::Found;

impl<G: Geometry> Bitmap<G> {
    /// As [`Bitmap::largest_order_under`], from `order` upwards, for as long as each next order is
    /// shown: one read on a device with little free space.
    #[inline]
    pub(crate) fn largest_order_from(&self, level: usize, index: usize, order: u32) -> Option<u32> {
        if level == 1 {
            let number = self.summary.over_leaves(NodeIndex::new(index)).largest();
            return (number > order).then(|| number - 1);
        }
        let node = self.summary.node(level, index);
        let shown = |order: &u32| node.has(*order).load(Site::HasLook) != G::Word::ZERO;
        (order..=G::MAX_ORDER).take_while(shown).last()
    }

    /// The largest order of which an aligned run may be under node `index` of `level`.
    pub(crate) fn largest_order_under(&self, level: usize, index: usize) -> Option<u32> {
        if level == 1 {
            let live = self.summary.over_leaves(NodeIndex::new(index)).largest_live();
            return live.min(G::MAX_ORDER + 1).checked_sub(1);
        }
        let node = self.summary.node(level, index);
        (0..=G::MAX_ORDER).rev().find(|&order| node.may_have(order) != G::Word::ZERO)
    }

    /// Whether all of `start..start + len` is free.
    pub(crate) fn is_free(&self, start: u64, len: u64) -> bool {
        self.run_end(start, start + len) == start + len
    }

    /// The first allocated block of `from..to`, or `to` (or `from`, if that lies behind it).
    #[inline]
    pub(crate) fn run_end(&self, from: u64, to: u64) -> u64 {
        if from >= to {
            return from;
        }
        let mut word = WordIndex::of_block::<G>(from);
        // Blocks before `from` count as free.
        let mut free = self.look(word) | !(G::Word::MAX << place_in_word::<G>(from));
        while free & G::FULL == G::FULL {
            word = word.next();
            if word.first_block::<G>() >= to {
                return to;
            }
            free = self.look(word);
        }
        to.min(word.block::<G>((!free).trailing_zeros()))
    }

    /// The start of the run of free blocks that ends before `to`, looking no lower than `floor`;
    /// `to` itself if the block before it is allocated.
    #[inline]
    pub(crate) fn run_start(&self, to: u64, floor: u64) -> u64 {
        if to <= floor {
            return floor;
        }
        let mut word = WordIndex::of_block::<G>(to - 1);
        let below = G::Word::span(0, place_in_word::<G>(to - 1) + 1);
        let mut taken = !self.look(word) & below;
        while taken == G::Word::ZERO {
            if word.first_block::<G>() <= floor {
                return floor;
            }
            word = word.previous();
            taken = !self.look(word) & G::FULL;
        }
        floor.max(word.block::<G>(G::Word::BITS - taken.leading_zeros()))
    }

    /// The free blocks of `word`.
    #[inline]
    pub(crate) fn look(&self, word: WordIndex) -> G::Word {
        self.word(word).load(Site::LeafLook)
    }

    /// Number of free blocks in `from..to`. O(blocks / 64); may mix several moments.
    pub(crate) fn free_blocks_in(&self, from: u64, to: u64) -> u64 {
        let words = Self::words_of(from, to.saturating_sub(from));
        words.map(|(word, mask)| u64::from((self.look(word) & mask).count_ones())).sum()
    }

    /// The first free block of `from..to`, or `to`. Reads only the words.
    #[inline]
    pub(crate) fn free_in(&self, from: u64, to: u64) -> u64 {
        for piece in Self::pieces(from, to.saturating_sub(from)) {
            let free = self.word(piece.word).load(Site::LeafLook) & piece.mask;
            if free != G::Word::ZERO {
                return Self::first_block(piece, free);
            }
        }
        to
    }

    /// The first block of `from..to` at which a run of `len` may begin, as far as its word alone
    /// can tell, or `to`.
    #[inline]
    pub(super) fn run_start_in(&self, from: u64, to: u64, len: u64) -> u64 {
        for piece in Self::pieces(from, to.saturating_sub(from)) {
            let free = self.word(piece.word).load(Site::LeafLook);
            let starts = free.run_starts(len, G::WORD_BLOCKS) & piece.mask;
            if starts != G::Word::ZERO {
                return Self::first_block(piece, starts);
            }
        }
        to
    }

    /// The first free block at or after `from`. Skips allocated stretches by the summary: O(levels)
    /// for each leaf read.
    pub(crate) fn next_free(&self, from: u64) -> Option<u64> {
        if from >= self.blocks() {
            return None;
        }
        let mut from = from;
        loop {
            let behind = LeafIndex::of_block::<G>(from).next();
            let end = behind.first_block::<G>().min(self.blocks());
            let free = self.free_in(from, end);
            if free < end {
                return Some(free);
            }
            from = self.next_leaf(0, behind)?.first_block::<G>();
        }
    }

    /// The first leaf at or after `from` that may have a run of `order`.
    pub(crate) fn next_leaf(&self, order: u32, from: LeafIndex) -> Option<LeafIndex> {
        let mut from = from;
        let end = self.leaf_end();
        let node_end = NodeIndex::end_of_leaves::<G>(end);
        while from < end {
            let node = from.node::<G>();
            let word = self.summary.over_leaves(node).children(order, Look::Thorough);
            let right = word & (G::Word::MAX << from.place_in_node::<G>());
            if right != G::Word::ZERO {
                return Some(node.leaf::<G>(right.trailing_zeros()));
            }
            from = match self.summary.find_behind(order, node, node_end, Look::Thorough) {
                Found::Nothing => return None,
                Found::Stale { level, child } => {
                    self.summary.after_subtree(level, child).first_leaf::<G>()
                }
                Found::Node(node) => node.first_leaf::<G>(),
            };
        }
        None
    }

    /// Whether `leaf` may have a free block. A block that was free all the time is not missed.
    #[inline]
    pub(crate) fn may_have_free(&self, leaf: LeafIndex) -> bool {
        let shown = self.summary.shown(leaf, Site::HasLook);
        shown.number() > 0 || shown.is_guarded()
    }

    /// The words of `leaf` in ascending order, 1 = free, each read when the caller asks for it.
    #[inline]
    pub(crate) fn leaf_words(&self, leaf: LeafIndex) -> impl Iterator<Item = G::Word> + '_ {
        self.leaf(leaf).words().iter().map(|word| word.load(Site::LeafLook))
    }
}
