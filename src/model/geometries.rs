//! Tiny geometries: the same code on words of one to four blocks.

use crate::base::geometry::Geometry;
use crate::base::sync::AtomicWord;

macro_rules! tiny {
    ($($(#[$doc:meta])* $name:ident: $blocks:literal blocks/word, $words:literal words/leaf,
       $orders:literal orders, fan-out $fanout:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name;

        impl Geometry for $name {
            type Word = u64;
            type LeafWords = [AtomicWord<u64>; $words];
            type NodeWords = [AtomicWord<u64>; $orders + 1];
            const WORD_BLOCKS: u32 = $blocks;
            const FANOUT: usize = $fanout;
            const LOW_ORDERS: u32 = 1;
            const FULL: u64 = (1 << $blocks) - 1;
        }
    )*};
}

tiny! {
    /// One block to a leaf.
    Bit: 1 blocks/word, 1 words/leaf, 1 orders, fan-out 2;
    /// One leaf of two blocks in one word.
    Pair: 2 blocks/word, 1 words/leaf, 2 orders, fan-out 2;
    /// Two blocks in two words: order 1 spans them.
    Split: 1 blocks/word, 2 words/leaf, 2 orders, fan-out 2;
    /// Four blocks in one word.
    Whole: 4 blocks/word, 1 words/leaf, 3 orders, fan-out 2;
    /// Four blocks in four words: orders 1 and 2 span them.
    Four: 1 blocks/word, 4 words/leaf, 3 orders, fan-out 2;
}
