//! The sizes of the index as a type, so that the model checker runs the same code on tiny words.

use std::fmt::Debug;

use crate::base::sync::{Atom, AtomicWord};
use crate::base::word::{OrderSet, Word};

/// Room for one element per order and one more, in all geometries. A number of orders has four bits
/// (`index/number.rs`).
pub(crate) const MOST_ORDERS: usize = 16;

/// A fixed array of atomic words.
pub(crate) trait WordArray<W: Atom>: Send + Sync + Debug + 'static {
    /// Number of words.
    const LEN: usize;
    /// The first words of `words`, if there are enough.
    fn first_of(words: &[AtomicWord<W>]) -> Option<&Self>;
    /// The words.
    fn words(&self) -> &[AtomicWord<W>];
}

impl<W: Atom, const N: usize> WordArray<W> for [AtomicWord<W>; N] {
    const LEN: usize = N;

    #[inline(always)]
    fn first_of(words: &[AtomicWord<W>]) -> Option<&Self> {
        words.first_chunk()
    }

    #[inline(always)]
    fn words(&self) -> &[AtomicWord<W>] {
        self
    }
}

/// Word width, words per leaf and fan-out of an index. All sizes are powers of two.
pub(crate) trait Geometry: Send + Sync + Debug + 'static {
    /// The integer type of a bitmap or summary word.
    type Word: Atom;
    /// The words of one leaf: a cache line.
    type LeafWords: WordArray<Self::Word>;
    /// The words of one node over the leaves: a byte per leaf, in one cache line.
    type NumberWords: WordArray<Self::Word>;
    /// The words of one node above those: the guard, one word per order, and padding to two cache
    /// lines, which are fetched together.
    type NodeWords: WordArray<Self::Word>;
    /// Blocks per word: the width of the word, or less in models.
    const WORD_BLOCKS: u32;
    /// Children per summary node, at most the width of the word.
    const FANOUT: usize;
    /// A word with every block free.
    const FULL: Self::Word;

    /// Words per leaf.
    const LEAF_WORDS: usize = <Self::LeafWords as WordArray<Self::Word>>::LEN;
    /// Words per node over the leaves.
    const NUMBER_WORDS: usize = <Self::NumberWords as WordArray<Self::Word>>::LEN;
    /// Words per node above those.
    const NODE_WORDS: usize = <Self::NodeWords as WordArray<Self::Word>>::LEN;
    /// Blocks per leaf.
    const LEAF_BLOCKS: usize = Self::WORD_BLOCKS as usize * Self::LEAF_WORDS;
    /// The order of an entirely free word; larger orders span words.
    const WORD_ORDER: u32 = Self::WORD_BLOCKS.ilog2();
    /// The order of an entirely free leaf: the largest order in the summary.
    const MAX_ORDER: u32 = Self::LEAF_BLOCKS.ilog2();
    /// All orders of the summary.
    const ORDERS: OrderSet = (2 << Self::MAX_ORDER) - 1;
    /// Asserts that the sizes fit each other; evaluated wherever an index is built.
    const CONSISTENT: () = {
        assert!(Self::WORD_BLOCKS.is_power_of_two() && Self::LEAF_WORDS.is_power_of_two());
        assert!(Self::WORD_BLOCKS <= <Self::Word as Word>::BITS);
        assert!(Self::FANOUT >= 1 && Self::FANOUT <= <Self::Word as Word>::BITS as usize);
        assert!(
            Self::NODE_WORDS >= Self::MAX_ORDER as usize + 2,
            "a node has one word per order and the guard"
        );
        assert!(
            Self::NUMBER_WORDS * (<Self::Word as Word>::BITS as usize / 8) >= Self::FANOUT,
            "a node over leaves has one byte per leaf"
        );
        assert!(Self::NUMBER_WORDS <= 8, "see Numbers::gather");
        assert!(Self::MAX_ORDER + 2 <= MOST_ORDERS as u32, "see MOST_ORDERS");
        assert!(Self::LEAF_WORDS <= 32, "leaf::orders keeps one bit per word in a u32");
    };
}

/// 64-bit words, eight to a leaf, 64 children to a node: the geometry of a 64-bit machine.
#[derive(Debug)]
pub(crate) struct Wide;

impl Geometry for Wide {
    type Word = u64;
    type LeafWords = [AtomicWord<u64>; 8];
    type NumberWords = [AtomicWord<u64>; 8];
    type NodeWords = [AtomicWord<u64>; 16];
    const WORD_BLOCKS: u32 = 64;
    const FANOUT: usize = 64;
    const FULL: u64 = u64::MAX;
}

/// 32-bit words, sixteen to a leaf, 32 children to a node: for machines without single-instruction
/// 64-bit atomics, and a second width that keeps the code honest.
#[derive(Debug)]
#[cfg_attr(
    all(target_has_atomic = "64", not(test)),
    expect(dead_code, reason = "used where it is the native one, and tested everywhere")
)]
pub(crate) struct Narrow;

impl Geometry for Narrow {
    type Word = u32;
    type LeafWords = [AtomicWord<u32>; 16];
    type NumberWords = [AtomicWord<u32>; 8];
    type NodeWords = [AtomicWord<u32>; 32];
    const WORD_BLOCKS: u32 = 32;
    const FANOUT: usize = 32;
    const FULL: u32 = u32::MAX;
}

/// The geometry of this machine.
#[cfg(target_has_atomic = "64")]
pub(crate) type Native = Wide;
/// The geometry of this machine.
#[cfg(not(target_has_atomic = "64"))]
pub type Native = Narrow;

/// Blocks per word of the bitmap.
pub(crate) const WORD_BLOCKS: u64 = Native::WORD_BLOCKS as u64;
/// Blocks per leaf.
pub(crate) const LEAF_BLOCKS: u64 = Native::LEAF_BLOCKS as u64;

/// A word of the bitmap.
pub(crate) type NativeWord = <Native as Geometry>::Word;
