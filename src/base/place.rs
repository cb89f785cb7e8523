//! Indexes of words, leaves, nodes and shards. Each kind has a type of its own, so that none is
//! taken for another. All conversions between them, and from and to blocks, are here.
//!
//! These stay plain numbers:
//! - blocks (`u64`), since callers name them, and lengths are added to them everywhere;
//! - places within a word, a leaf or a node, and counts;
//! - nodes of any level, and their children: code that climbs the summary has one variable for all
//!   levels, which begins with a leaf.

use std::ops::Range;

use crate::base::geometry::Geometry;

/// Declares a type for the indexes of each kind.
macro_rules! indexes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) struct $name(usize);

        impl $name {
            /// The first.
            pub(crate) const FIRST: Self = Self(0);

            /// The one with this number, counted from [`Self::FIRST`].
            #[inline(always)]
            pub(crate) const fn new(number: usize) -> Self {
                Self(number)
            }

            /// Its number.
            #[inline(always)]
            pub(crate) const fn get(self) -> usize {
                self.0
            }

            /// The next one.
            #[inline(always)]
            pub(crate) const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }
    )*};
}

/// Declares how to go through the indexes of a kind.
macro_rules! ranges {
    ($($name:ident;)*) => {$(
        impl $name {
            /// Each of `range`, ascending.
            #[inline(always)]
            pub(crate) fn each(
                range: Range<Self>,
            ) -> impl DoubleEndedIterator<Item = Self> + Clone {
                (range.start.0..range.end.0).map(Self)
            }
        }
    )*};
}

indexes! {
    /// A word of the bitmap.
    WordIndex;
    /// A leaf of the bitmap.
    LeafIndex;
    /// A node of level 1 of the summary.
    NodeIndex;
    /// A shard. All shards have the same size, which depends on the device.
    ShardIndex;
}

ranges! {
    WordIndex;
    LeafIndex;
    ShardIndex;
}

impl WordIndex {
    /// The word of `block`.
    #[inline(always)]
    pub(crate) fn of_block<G: Geometry>(block: u64) -> Self {
        Self((block / u64::from(G::WORD_BLOCKS)) as usize)
    }

    /// The end of the words of a device of `blocks` blocks.
    #[inline(always)]
    pub(crate) fn end_of_blocks<G: Geometry>(blocks: u64) -> Self {
        Self(blocks.div_ceil(u64::from(G::WORD_BLOCKS)) as usize)
    }

    /// Its first block.
    #[inline(always)]
    pub(crate) fn first_block<G: Geometry>(self) -> u64 {
        self.0 as u64 * u64::from(G::WORD_BLOCKS)
    }

    /// Its block at `place`.
    #[inline(always)]
    pub(crate) fn block<G: Geometry>(self, place: u32) -> u64 {
        self.first_block::<G>() + u64::from(place)
    }

    /// Its leaf.
    #[inline(always)]
    pub(crate) fn leaf<G: Geometry>(self) -> LeafIndex {
        LeafIndex(self.0 / G::LEAF_WORDS)
    }

    /// Its place in its leaf.
    #[inline(always)]
    pub(crate) fn place_in_leaf<G: Geometry>(self) -> usize {
        self.0 % G::LEAF_WORDS
    }

    /// The one before it, of a word that is not the first.
    #[inline(always)]
    pub(crate) fn previous(self) -> Self {
        Self(self.0 - 1)
    }

    /// The word `words` words behind it.
    #[inline(always)]
    pub(crate) fn plus(self, words: usize) -> Self {
        Self(self.0 + words)
    }
}

impl LeafIndex {
    /// The end of a range that grows with the device.
    pub(crate) const END: Self = Self(usize::MAX);
    /// No leaf: in place of an `Option`, which would take twice the memory.
    pub(crate) const NONE: Self = Self(usize::MAX);

    /// The leaf of `block`.
    #[inline(always)]
    pub(crate) fn of_block<G: Geometry>(block: u64) -> Self {
        Self((block / G::LEAF_BLOCKS as u64) as usize)
    }

    /// The end of the leaves of a device of `blocks` blocks, the last of which may be a part.
    #[inline(always)]
    pub(crate) fn end_of_blocks<G: Geometry>(blocks: u64) -> Self {
        Self(blocks.div_ceil(G::LEAF_BLOCKS as u64) as usize)
    }

    /// The leaves that `blocks` touch.
    #[inline(always)]
    pub(crate) fn of_blocks<G: Geometry>(blocks: Range<u64>) -> Range<Self> {
        Self::of_block::<G>(blocks.start)..Self::end_of_blocks::<G>(blocks.end)
    }

    /// Its first block.
    #[inline(always)]
    pub(crate) fn first_block<G: Geometry>(self) -> u64 {
        self.0 as u64 * G::LEAF_BLOCKS as u64
    }

    /// Its first word.
    #[inline(always)]
    pub(crate) fn first_word<G: Geometry>(self) -> WordIndex {
        WordIndex(self.0 * G::LEAF_WORDS)
    }

    /// Its word at `place`.
    #[inline(always)]
    pub(crate) fn word<G: Geometry>(self, place: usize) -> WordIndex {
        self.first_word::<G>().plus(place)
    }

    /// Its words.
    #[inline(always)]
    pub(crate) fn words<G: Geometry>(self) -> Range<WordIndex> {
        self.first_word::<G>()..self.word::<G>(G::LEAF_WORDS)
    }

    /// Its node.
    #[inline(always)]
    pub(crate) fn node<G: Geometry>(self) -> NodeIndex {
        NodeIndex(parent_of::<G>(self.0))
    }

    /// Its place in its node.
    #[inline(always)]
    pub(crate) fn place_in_node<G: Geometry>(self) -> u32 {
        place_in_parent::<G>(self.0)
    }

    /// The leaf `leaves` leaves behind it.
    #[inline(always)]
    pub(crate) fn plus(self, leaves: usize) -> Self {
        Self(self.0 + leaves)
    }

    /// The leaf `leaves` leaves before it.
    #[inline(always)]
    pub(crate) fn minus(self, leaves: usize) -> Self {
        Self(self.0 - leaves)
    }

    /// The number of leaves from `start`, which is not behind it, up to it.
    #[inline(always)]
    pub(crate) fn since(self, start: Self) -> usize {
        self.0 - start.0
    }
}

impl NodeIndex {
    /// The end of the nodes over the leaves before `leaf`.
    #[inline(always)]
    pub(crate) fn end_of_leaves<G: Geometry>(leaf: LeafIndex) -> Self {
        Self(leaf.0.div_ceil(G::FANOUT))
    }

    /// Its first leaf.
    #[inline(always)]
    pub(crate) fn first_leaf<G: Geometry>(self) -> LeafIndex {
        LeafIndex(self.0 * G::FANOUT)
    }

    /// Its leaf at `place`.
    #[inline(always)]
    pub(crate) fn leaf<G: Geometry>(self, place: u32) -> LeafIndex {
        LeafIndex(child_of::<G>(self.0, place))
    }
}

impl ShardIndex {
    /// The shard of `block`, if shards have `2^order` blocks.
    #[inline(always)]
    pub(crate) fn of_block(block: u64, order: u32) -> Self {
        Self((block >> order) as usize)
    }

    /// Its first block, if shards have `2^order` blocks.
    #[inline(always)]
    pub(crate) fn first_block(self, order: u32) -> u64 {
        (self.0 as u64) << order
    }

    /// The shard of `leaf`, if shards have `shard_leaves` leaves.
    #[inline(always)]
    pub(crate) fn of_leaf(leaf: LeafIndex, shard_leaves: usize) -> Self {
        Self(leaf.0 / shard_leaves)
    }

    /// Its first leaf, if shards have `shard_leaves` leaves.
    #[inline(always)]
    pub(crate) fn first_leaf(self, shard_leaves: usize) -> LeafIndex {
        LeafIndex(self.0 * shard_leaves)
    }
}

/// A word of the bitmap, or none, in 32 bits, for tables of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShortWord(u32);

impl ShortWord {
    /// No word; behind all others.
    pub(crate) const NONE: Self = Self(u32::MAX);
    /// Words that have such an index, counted from the start of the device.
    pub(crate) const WORDS: u64 = u32::MAX as u64;

    /// `word`, one of the first [`ShortWord::WORDS`].
    #[inline(always)]
    pub(crate) fn of(word: WordIndex) -> Self {
        debug_assert!((word.0 as u64) < Self::WORDS);
        Self(word.0 as u32)
    }

    /// The word, of one that is not [`ShortWord::NONE`].
    #[inline(always)]
    pub(crate) fn get(self) -> WordIndex {
        WordIndex::new(self.0 as usize)
    }
}

/// The place of `block` in its word.
#[inline(always)]
pub(crate) fn place_in_word<G: Geometry>(block: u64) -> u32 {
    (block % u64::from(G::WORD_BLOCKS)) as u32
}

/// The node over `child`, a leaf or a node of any level.
#[inline(always)]
pub(crate) fn parent_of<G: Geometry>(child: usize) -> usize {
    child / G::FANOUT
}

/// The place of `child`, a leaf or a node of any level, in the node over it.
#[inline(always)]
pub(crate) fn place_in_parent<G: Geometry>(child: usize) -> u32 {
    (child % G::FANOUT) as u32
}

/// The child at `place` of `node`, of any level.
#[inline(always)]
pub(crate) fn child_of<G: Geometry>(node: usize, place: u32) -> usize {
    node * G::FANOUT + place as usize
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::geometry::{Narrow, Wide};

    /// Blocks around the borders of words, leaves and nodes, at both ends of a device.
    fn blocks<G: Geometry>() -> impl Iterator<Item = u64> {
        let sizes = [G::WORD_BLOCKS as usize, G::LEAF_BLOCKS, G::LEAF_BLOCKS * G::FANOUT];
        let borders = sizes.into_iter().flat_map(|size| [1, 2, 7, 1 << 10].map(|n| n * size));
        borders.flat_map(|border| border as u64 - 1..=border as u64 + 1).chain([0, 1])
    }

    fn there_and_back<G: Geometry>() {
        for block in blocks::<G>() {
            let word = WordIndex::of_block::<G>(block);
            assert_eq!(word.block::<G>(place_in_word::<G>(block)), block);
            assert!((word.first_block::<G>()..word.next().first_block::<G>()).contains(&block));

            let leaf = word.leaf::<G>();
            assert_eq!(leaf, LeafIndex::of_block::<G>(block));
            assert_eq!(leaf.word::<G>(word.place_in_leaf::<G>()), word);
            assert!(leaf.words::<G>().contains(&word));
            assert_eq!(leaf.words::<G>().end, leaf.next().first_word::<G>());
            assert_eq!(leaf.first_word::<G>().first_block::<G>(), leaf.first_block::<G>());

            let node = leaf.node::<G>();
            assert_eq!(node.leaf::<G>(leaf.place_in_node::<G>()), leaf);
            assert!((node.first_leaf::<G>()..node.next().first_leaf::<G>()).contains(&leaf));
            assert_eq!(child_of::<G>(node.get(), leaf.place_in_node::<G>()), leaf.get());

            for shard_leaves in [G::FANOUT, G::FANOUT * G::FANOUT] {
                let order = (shard_leaves * G::LEAF_BLOCKS).ilog2();
                let shard = ShardIndex::of_block(block, order);
                assert_eq!(shard, ShardIndex::of_leaf(leaf, shard_leaves));
                let first = [shard, shard.next()].map(|shard| shard.first_leaf(shard_leaves));
                assert!((first[0]..first[1]).contains(&leaf));
                assert_eq!(first[0].first_block::<G>(), shard.first_block(order));
            }
        }
    }

    fn ends_are_rounded_up<G: Geometry>() {
        for blocks in blocks::<G>() {
            let last = blocks.checked_sub(1);
            let word = last.map_or(0, |block| WordIndex::of_block::<G>(block).next().get());
            let leaf = last.map_or(0, |block| LeafIndex::of_block::<G>(block).next().get());
            let node = leaf.checked_sub(1).map_or(0, |leaf| leaf / G::FANOUT + 1);
            assert_eq!(WordIndex::end_of_blocks::<G>(blocks).get(), word, "{blocks}");
            assert_eq!(LeafIndex::end_of_blocks::<G>(blocks).get(), leaf, "{blocks}");
            assert_eq!(NodeIndex::end_of_leaves::<G>(LeafIndex(leaf)).get(), node, "{blocks}");
            assert_eq!(LeafIndex::of_blocks::<G>(0..blocks), LeafIndex::FIRST..LeafIndex(leaf));
        }
    }

    #[test]
    fn conversions_lead_there_and_back() {
        there_and_back::<Wide>();
        there_and_back::<Narrow>();
    }

    #[test]
    fn an_end_is_behind_the_last_that_is_touched() {
        ends_are_rounded_up::<Wide>();
        ends_are_rounded_up::<Narrow>();
    }

    #[test]
    fn a_range_is_gone_through_in_order() {
        let words = WordIndex::each(WordIndex(6)..WordIndex(9));
        assert!(words.eq([6, 7, 8].map(WordIndex)));
        assert!(WordIndex::each(LeafIndex(3).words::<Wide>()).eq((24..32).map(WordIndex)));
        assert!(LeafIndex::each(LeafIndex(2)..LeafIndex(4)).eq([2, 3].map(LeafIndex)));
        assert_eq!(LeafIndex::each(LeafIndex(4)..LeafIndex(2)).count(), 0);
        assert_eq!(LeafIndex(4).since(LeafIndex(1).plus(1)), 2);
        assert_eq!(WordIndex(4).plus(2).previous(), WordIndex(5));
    }

    #[test]
    fn a_short_word_is_the_same_word_and_none_is_behind_all() {
        for word in [0, 1, ShortWord::WORDS as usize - 1].map(WordIndex) {
            assert_eq!(ShortWord::of(word).get(), word);
            assert!(ShortWord::of(word) < ShortWord::NONE);
        }
    }
}
