//! The sizes of the index as a type, so that the model checker runs the same code on tiny words.

use std::fmt::Debug;
use std::marker::PhantomData;

use crate::sync::{AtomicWord, Zeroable};
use crate::word::{OrderSet, Word};

/// Room for one element per order, and one more, in all geometries.
pub const MOST_ORDERS: usize = 16;

/// A fixed array of atomic words.
pub trait WordArray<W: Word>: Zeroable + Send + Sync + Debug + 'static {
    /// Number of words.
    const LEN: usize;
    /// An array whose word `i` holds `value(i)`.
    fn from_fn(value: impl FnMut(usize) -> W) -> Self;
    /// The words.
    fn words(&self) -> &[AtomicWord<W>];
}

impl<W: Word, const N: usize> WordArray<W> for [AtomicWord<W>; N] {
    const LEN: usize = N;

    #[inline(always)]
    fn from_fn(mut value: impl FnMut(usize) -> W) -> Self {
        std::array::from_fn(|index| AtomicWord::new(value(index)))
    }

    #[inline(always)]
    fn words(&self) -> &[AtomicWord<W>] {
        self
    }
}

/// Word width, words per leaf and fan-out of an index. All sizes are powers of two.
pub trait Geometry: Send + Sync + Debug + 'static {
    /// The integer that a bitmap or summary word is.
    type Word: Word;
    /// The words of one leaf.
    type LeafWords: WordArray<Self::Word>;
    /// The words of one summary node, one per order.
    type NodeWords: WordArray<Self::Word>;
    /// What leaves are aligned to.
    type LeafAlign: Zeroable + Send + Sync + Debug + 'static;
    /// What nodes are aligned to.
    type NodeAlign: Zeroable + Send + Sync + Debug + 'static;
    /// Blocks per word: the width of the word, less only in models.
    const WORD_BLOCKS: u32;
    /// Children per summary node, at most the width of the word.
    const FANOUT: usize;
    /// A release looks at this many of the lowest orders whether it needs to or not, in place of a
    /// branch on how many it needs.
    const LOW_ORDERS: u32;

    /// A word with every block free.
    const FULL: Self::Word;

    /// Words per leaf.
    const LEAF_WORDS: usize = <Self::LeafWords as WordArray<Self::Word>>::LEN;
    /// Blocks per leaf.
    const LEAF_BLOCKS: usize = Self::WORD_BLOCKS as usize * Self::LEAF_WORDS;
    /// The order of an entirely free word; larger ones span words.
    const WORD_ORDER: u32 = Self::WORD_BLOCKS.ilog2();
    /// The order of an entirely free leaf: the largest one in the summary.
    const MAX_ORDER: u32 = Self::LEAF_BLOCKS.ilog2();
    /// All orders of the summary.
    const ORDERS: OrderSet = (2 << Self::MAX_ORDER) - 1;
    /// Holds if the sizes fit each other; evaluated wherever an index is built.
    const CONSISTENT: () = {
        assert!(Self::WORD_BLOCKS.is_power_of_two() && Self::LEAF_WORDS.is_power_of_two());
        assert!(Self::WORD_BLOCKS <= <Self::Word as Word>::BITS);
        assert!(Self::FANOUT >= 1 && Self::FANOUT <= <Self::Word as Word>::BITS as usize);
        assert!(
            <Self::NodeWords as WordArray<Self::Word>>::LEN == Self::MAX_ORDER as usize + 1,
            "a node has one word per order"
        );
        assert!(Self::LOW_ORDERS <= Self::MAX_ORDER + 1);
        assert!(Self::MAX_ORDER + 2 <= MOST_ORDERS as u32, "see MOST_ORDERS");
        assert!(Self::LEAF_WORDS <= 32, "leaf::orders keeps one bit per word in a u32");
    };
}

/// 64-bit words, eight to a leaf, 64 children to a node: the geometry of a 64-bit machine.
#[derive(Debug)]
pub struct Wide;

impl Geometry for Wide {
    type Word = u64;
    type LeafWords = [AtomicWord<u64>; 8];
    type NodeWords = [AtomicWord<u64>; 10];
    type LeafAlign = Align64;
    type NodeAlign = Align128;
    const WORD_BLOCKS: u32 = 64;
    const FANOUT: usize = 64;
    const LOW_ORDERS: u32 = 2;
    const FULL: u64 = u64::MAX;
}

/// 32-bit words, sixteen to a leaf, 32 children to a node: for machines without 64-bit atomics in
/// one instruction, and a second width that keeps the code honest.
#[derive(Debug)]
#[cfg_attr(
    all(target_has_atomic = "64", not(test), not(loom)),
    expect(dead_code, reason = "used where it is the native one, and tested everywhere")
)]
pub struct Narrow;

impl Geometry for Narrow {
    type Word = u32;
    type LeafWords = [AtomicWord<u32>; 16];
    type NodeWords = [AtomicWord<u32>; 10];
    type LeafAlign = Align64;
    type NodeAlign = Align128;
    const WORD_BLOCKS: u32 = 32;
    const FANOUT: usize = 32;
    const LOW_ORDERS: u32 = 2;
    const FULL: u32 = u32::MAX;
}

/// The sizes of `G` for a bitmap of which hardly anything is ever touched: aligned to words alone. Zeroed
/// memory comes from the system untouched only if it need not be aligned to more than the system does by
/// itself; otherwise it is written to.
#[derive(Debug)]
pub struct Sparse<G>(PhantomData<G>);

impl<G: Geometry> Geometry for Sparse<G> {
    type Word = G::Word;
    type LeafWords = G::LeafWords;
    type NodeWords = G::NodeWords;
    type LeafAlign = ();
    type NodeAlign = ();
    const WORD_BLOCKS: u32 = G::WORD_BLOCKS;
    const FANOUT: usize = G::FANOUT;
    const LOW_ORDERS: u32 = G::LOW_ORDERS;
    const FULL: G::Word = G::FULL;
}

/// A cache line.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[repr(align(64))]
pub struct Align64;

/// Two cache lines, which are fetched together.
#[derive(Debug)]
#[cfg_attr(not(loom), derive(zerocopy::FromZeros))]
#[repr(align(128))]
pub struct Align128;
