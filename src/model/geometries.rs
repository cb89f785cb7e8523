//! Tiny geometries: the same code on words of one to eight blocks.

use crate::base::geometry::Geometry;
use crate::base::sync::AtomicWord;

macro_rules! tiny {
    ($($(#[$doc:meta])* $name:ident: $blocks:literal blocks/word, $words:literal words/leaf,
       $orders:literal orders, fan-out $fanout:literal, $numbers:literal words of numbers;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl Geometry for $name {
            type Word = u64;
            type LeafWords = [AtomicWord<u64>; $words];
            type NumberWords = [AtomicWord<u64>; $numbers];
            type NodeWords = [AtomicWord<u64>; $orders + 1];
            const WORD_BLOCKS: u32 = $blocks;
            const FANOUT: usize = $fanout;
            const FULL: u64 = (1 << $blocks) - 1;
        }
    )*};
}

tiny! {
    /// One block to a leaf.
    Bit: 1 blocks/word, 1 words/leaf, 1 orders, fan-out 2, 1 words of numbers;
    /// One block to a leaf, the numbers of two neighbours in different words.
    Apart: 1 blocks/word, 1 words/leaf, 1 orders, fan-out 2, 2 words of numbers;
    /// One leaf of two blocks in one word.
    Pair: 2 blocks/word, 1 words/leaf, 2 orders, fan-out 2, 1 words of numbers;
    /// Two blocks in two words: order 1 spans them.
    Split: 1 blocks/word, 2 words/leaf, 2 orders, fan-out 2, 1 words of numbers;
    /// Four blocks in one word.
    Whole: 4 blocks/word, 1 words/leaf, 3 orders, fan-out 2, 1 words of numbers;
    /// Eight blocks in one word.
    Eight: 8 blocks/word, 1 words/leaf, 4 orders, fan-out 2, 1 words of numbers;
    /// Four blocks in four words: orders 1 and 2 span them.
    Four: 1 blocks/word, 4 words/leaf, 3 orders, fan-out 2, 1 words of numbers;
}
