//! Construction, in parallel and by plain writes: one pass over the leaves, node by node. Allocated
//! leaves are not written: their memory stays untouched.

use rayon::prelude::*;

use super::Bitmap;
use crate::base::geometry::Geometry;
use crate::base::heap::{OutOfMemory, reserved};
use crate::base::place::{LeafIndex, NodeIndex, WordIndex};
use crate::base::segmented::Segmented;
use crate::base::sync::AtomicWord;
use crate::base::word::Word;
use crate::index::events::Events;
use crate::index::leaf::Leaves;
use crate::index::numbers::{ManyNumbers, write_numbers};
use crate::index::summary::Summary;
use crate::index::watch::Watch;

impl<G: Geometry> Bitmap<G> {
    /// See [`Bitmap::counted_from_words`].
    #[cfg(any(test, loom))]
    pub(crate) fn from_words(
        blocks: u64,
        height: usize,
        free: impl Fn(WordIndex) -> G::Word + Sync,
    ) -> Result<Self, OutOfMemory> {
        Self::counted_from_words(blocks, height, G::FANOUT, free).map(|(index, _)| index)
    }

    /// An index of `blocks` blocks whose word `i` is `free(i)`, 1 = free; bits beyond the device
    /// are ignored. `height` is the number of summary levels, at least 1. Also returns how many
    /// blocks are free in each group of `shard_leaves` leaves, a multiple of the leaves of a node.
    ///
    /// Writes the bitmap once, and only leaves with a free block. Memory beside the bitmap is about
    /// 1/64 of it.
    pub(crate) fn counted_from_words(
        blocks: u64,
        height: usize,
        shard_leaves: usize,
        free: impl Fn(WordIndex) -> G::Word + Sync,
    ) -> Result<(Self, Vec<u64>), OutOfMemory> {
        let () = G::CONSISTENT;
        debug_assert!(shard_leaves > 0 && shard_leaves.is_multiple_of(G::FANOUT));
        let leaf_end = LeafIndex::end_of_blocks::<G>(blocks);
        let leaf_count = leaf_end.get();
        let node_count = NodeIndex::end_of_leaves::<G>(leaf_end).get();
        let mut leaves = Leaves::<G>::zeroed(leaf_count)?;
        let mut nodes = ManyNumbers::<G>::zeroed(node_count)?;
        let mut free_under = reserved::<u32>(node_count)?;
        let node_leaf_words = G::FANOUT * G::LEAF_WORDS;
        let partial = WordIndex::of_block::<G>(blocks);
        let build = |(index, (leaves, node)): (usize, (&mut [_], &mut [_]))| {
            let first = NodeIndex::new(index).first_leaf::<G>().first_word::<G>();
            if first.plus(node_leaf_words) <= partial {
                return build_node::<G>(leaves, node, |nth| free(first.plus(nth)));
            }
            build_node::<G>(leaves, node, |nth| {
                free(first.plus(nth)) & on_device::<G>(blocks, first.plus(nth))
            })
        };
        let (leaf_words, node_words) = (leaves.words_mut(), nodes.words_mut());
        if leaf_count <= SMALL {
            let leaves = leaf_words.chunks_mut(node_leaf_words);
            let all = leaves.zip(node_words.chunks_mut(G::NUMBER_WORDS)).enumerate();
            free_under.extend(all.map(build));
        } else {
            let leaves = leaf_words.par_chunks_mut(node_leaf_words);
            let all = leaves.zip(node_words.par_chunks_mut(G::NUMBER_WORDS)).enumerate();
            all.with_min_len(8).map(build).collect_into_vec(&mut free_under);
        }
        debug_assert_eq!(free_under.len(), node_count);
        let sum = |nodes: &[u32]| nodes.iter().map(|&free| u64::from(free)).sum::<u64>();
        let mut counts = reserved::<u64>(leaf_count.div_ceil(shard_leaves))?;
        counts.extend(free_under.chunks(shard_leaves / G::FANOUT).map(sum));
        let summary = Summary::new(nodes, &free_under, height)?;
        Ok((Self::of(blocks, leaves, summary, counts.iter().sum()), counts))
    }

    /// An index of `blocks` blocks, none of them free, under `height` levels of summary. It takes
    /// no memory until a block is released. O(1).
    pub(crate) fn none_free(blocks: u64, height: usize) -> Result<Self, OutOfMemory> {
        let leaf_count = LeafIndex::end_of_blocks::<G>(blocks).get();
        let summary = Summary::without_runs(leaf_count, height)?;
        Ok(Self::of(blocks, Leaves::<G>::zeroed(leaf_count)?, summary, 0))
    }

    fn of(blocks: u64, leaves: Leaves<G>, summary: Summary<G>, free_at_start: u64) -> Self {
        Self {
            leaves: Segmented::new(leaves),
            summary,
            watch: Watch::default(),
            events: Events::default(),
            blocks: AtomicWord::new(blocks),
            free_at_start,
        }
    }
}

/// Up to this many leaves, a device is not worth a second thread. Models stay below it too.
const SMALL: usize = 4096;

/// The blocks of `word` that are on a device of `blocks` blocks.
fn on_device<G: Geometry>(blocks: u64, word: WordIndex) -> G::Word {
    let left = blocks.saturating_sub(word.first_block::<G>());
    G::Word::span(0, left.min(u64::from(G::WORD_BLOCKS)) as u32)
}

/// Writes the leaves under one node, whose word `i` is `word(i)`, and the node; returns how many
/// blocks are free. Does not touch leaves without free blocks, nor a node over only such leaves.
fn build_node<G: Geometry>(
    leaves: &mut [AtomicWord<G::Word>],
    node: &mut [AtomicWord<G::Word>],
    word: impl Fn(usize) -> G::Word,
) -> u32 {
    // Room for the most children a node can have.
    let (mut numbers, mut free) = ([0; 64], 0);
    for (child, leaf) in leaves.chunks_exact_mut(G::LEAF_WORDS).enumerate() {
        let (number, of_leaf) = build_leaf::<G>(leaf, |index| word(child * G::LEAF_WORDS + index));
        free += of_leaf;
        numbers[child] = number;
    }
    if free > 0 {
        write_numbers::<G>(node, |child| numbers[child]);
    }
    free
}

/// Writes a leaf whose word `i` is `word(i)`; returns how many orders it has and how many blocks are
/// free.
#[inline(always)]
fn build_leaf<G: Geometry>(
    leaf: &mut [AtomicWord<G::Word>],
    word: impl Fn(usize) -> G::Word,
) -> (u32, u32) {
    // Room for the most words a leaf can have. Each loop does one thing, so that it runs in vector
    // registers.
    let mut words = [G::Word::ZERO; 32];
    let words = &mut words[..G::LEAF_WORDS];
    for (index, place) in words.iter_mut().enumerate() {
        *place = word(index);
    }
    let any = |words: &[G::Word], starts| {
        words.iter().fold(G::Word::ZERO, |any, &word| any | word & starts) != G::Word::ZERO
    };
    if !any(words, G::Word::MAX) {
        return (0, 0);
    }
    for (place, &word) in leaf.iter_mut().zip(&*words) {
        *place = AtomicWord::new(word);
    }
    let free: u32 = words.iter().map(|word| word.count_ones()).sum();
    let full = words
        .iter()
        .enumerate()
        .fold(0u32, |full, (index, &word)| full | u32::from(word == G::FULL) << index);
    let mut orders = full.orders() << G::WORD_ORDER | 1;
    for order in 1..=G::WORD_ORDER {
        for word in words.iter_mut() {
            *word &= *word >> (1 << (order - 1));
        }
        if !any(words, G::Word::STARTS[order as usize]) {
            break;
        }
        orders |= 1 << order;
    }
    (u32::count_ones(orders), free)
}
