//! Construction, in parallel and by plain writes: one pass over the leaves, then one over what that
//! has noted of each.

use rayon::prelude::*;

use super::Bitmap;
use crate::events::Events;
use crate::geometry::{Geometry, MOST_ORDERS};
use crate::leaf::Leaf;
use crate::segmented::{OutOfMemory, Segmented, reserved};
use crate::summary::{Node, Summary};
use crate::sync::AtomicWord;
use crate::watch::Watch;
use crate::word::{Word, each};

/// What the summary has to know of a leaf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Contents {
    orders: u16,
    free: u16,
}

impl<G: Geometry> Bitmap<G> {
    /// See [`Bitmap::counted_from_words`].
    #[cfg(any(test, loom))]
    pub fn from_words(
        blocks: u64,
        height: usize,
        free: impl Fn(usize) -> G::Word + Sync,
    ) -> Result<Self, OutOfMemory> {
        Self::counted_from_words(blocks, height, 1, free).map(|(index, _)| index)
    }

    /// An index of `blocks` blocks whose word `i` is `free(i)`, 1 = free; bits beyond the device
    /// are ignored. `height` is the number of summary levels, at least 1.
    /// And how many blocks are free in each `shard_leaves` leaves, at least 1.
    ///
    /// Writes the bitmap once; memory beside it is 1/32 of it, and 1/16 more while it is built.
    pub fn counted_from_words(
        blocks: u64,
        height: usize,
        shard_leaves: usize,
        free: impl Fn(usize) -> G::Word + Sync,
    ) -> Result<(Self, Vec<u64>), OutOfMemory> {
        let () = G::CONSISTENT;
        let leaf_count = blocks.div_ceil(G::LEAF_BLOCKS as u64) as usize;
        let node_count = leaf_count.div_ceil(G::FANOUT);
        let mut leaves = reserved::<Leaf<G>>(leaf_count)?;
        let mut contents = reserved::<Contents>(leaf_count)?;
        let mut nodes = reserved::<Node<G>>(node_count)?;
        let leaf = |leaf: usize| {
            let whole = (leaf + 1) as u64 * G::LEAF_BLOCKS as u64 <= blocks;
            new_leaf::<G>(|word| {
                let index = leaf * G::LEAF_WORDS + word;
                if whole { free(index) } else { free(index) & on_device::<G>(blocks, index) }
            })
        };
        let node = |contents: &[Contents]| new_node::<G>(contents);
        if leaf_count <= SMALL {
            for (leaf, held) in (0..leaf_count).map(leaf) {
                leaves.push(leaf);
                contents.push(held);
            }
            nodes.extend(contents.chunks(G::FANOUT).map(node));
        } else {
            let all = (0..leaf_count).into_par_iter().with_min_len(512);
            all.map(leaf).unzip_into_vecs(&mut leaves, &mut contents);
            contents.par_chunks(G::FANOUT).with_min_len(64).map(node).collect_into_vec(&mut nodes);
        }
        debug_assert_eq!(nodes.len(), node_count);
        let free_in = |leaves: &[Contents]| leaves.iter().map(|leaf| u64::from(leaf.free)).sum::<u64>();
        let mut counts = reserved::<u64>(leaf_count.div_ceil(shard_leaves))?;
        counts.extend(contents.chunks(shard_leaves).map(free_in));
        let index = Self {
            leaves: Segmented::new(leaves),
            summary: Summary::new(nodes, height)?,
            watch: Watch::default(),
            events: Events::default(),
            blocks: AtomicWord::new(blocks),
            free_at_start: counts.iter().sum(),
        };
        Ok((index, counts))
    }
}

impl<G: Geometry> Bitmap<G> {
    /// An index of `blocks` blocks, none of them free, over one level of summary. It takes no memory
    /// before something is released there.
    pub fn none_free(blocks: u64) -> Result<Self, OutOfMemory> {
        let leaf_count = blocks.div_ceil(G::LEAF_BLOCKS as u64) as usize;
        let nodes = Node::without_runs(leaf_count.div_ceil(G::FANOUT))?;
        Ok(Self {
            leaves: Segmented::new(Leaf::none_free(leaf_count)?),
            summary: Summary::without_runs(vec![nodes]),
            watch: Watch::default(),
            events: Events::default(),
            blocks: AtomicWord::new(blocks),
            free_at_start: 0,
        })
    }
}

/// Leaves of a device that is not worth a second thread. Models stay below it too.
const SMALL: usize = 4096;

/// The blocks of word `index` that are on a device of `blocks` blocks.
fn on_device<G: Geometry>(blocks: u64, index: usize) -> G::Word {
    let width = u64::from(G::WORD_BLOCKS);
    let on_device = blocks.saturating_sub(index as u64 * width).min(width);
    G::Word::span(0, on_device as u32)
}

/// A leaf whose word `i` is `word(i)`, and what it holds.
#[inline(always)]
fn new_leaf<G: Geometry>(word: impl Fn(usize) -> G::Word) -> (Leaf<G>, Contents) {
    // As many words as a leaf can have. Loops of one thing each, that run in vector registers.
    let mut words = [G::Word::ZERO; 32];
    let words = &mut words[..G::LEAF_WORDS];
    for (index, place) in words.iter_mut().enumerate() {
        *place = word(index);
    }
    let leaf = Leaf::from_fn(|index| words[index]);
    let free: u32 = words.iter().map(|word| word.count_ones()).sum();
    let full = words
        .iter()
        .enumerate()
        .fold(0u32, |full, (index, &word)| full | u32::from(word == G::FULL) << index);
    let any = |words: &[G::Word], starts| {
        words.iter().fold(G::Word::ZERO, |any, &word| any | word & starts) != G::Word::ZERO
    };
    let mut orders = full.orders() << G::WORD_ORDER | u32::from(any(words, G::Word::MAX));
    for order in 1..=G::WORD_ORDER {
        for word in words.iter_mut() {
            *word &= *word >> (1 << (order - 1));
        }
        if !any(words, G::Word::STARTS[order as usize]) {
            break;
        }
        orders |= 1 << order;
    }
    (leaf, Contents { orders: orders as u16, free: free as u16 })
}

/// The node over leaves that hold `contents`.
fn new_node<G: Geometry>(contents: &[Contents]) -> Node<G> {
    let mut has = [G::Word::ZERO; MOST_ORDERS];
    for (child, leaf) in contents.iter().enumerate() {
        for order in each(leaf.orders.into()) {
            has[order as usize] |= G::Word::bit(child as u32);
        }
    }
    Node::from_fn(|order| has[order as usize])
}
