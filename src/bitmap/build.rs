//! Construction, in parallel and by plain writes: each level-1 node with its 64 leaves is one piece
//! of work.

use rayon::prelude::*;

use super::Bitmap;
use crate::geometry::Geometry;
use crate::leaf::Leaf;
use crate::summary::{Node, Summary};
use crate::sync::Site;
use crate::watch::Watch;
use crate::word::Word;

/// The process could not have this much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

impl<G: Geometry> Bitmap<G> {
    /// An index of `blocks` blocks whose word `i` is `free(i)`, 1 = free; bits beyond the device
    /// are ignored. `height` is the number of summary levels, at least 1.
    ///
    /// Writes the bitmap once and reads it once; memory beside it is 1/32 of it.
    pub fn from_words(
        blocks: u64,
        height: usize,
        free: impl Fn(usize) -> G::Word + Sync,
    ) -> Result<Self, OutOfMemory> {
        let () = G::CONSISTENT;
        let width = u64::from(G::WORD_BLOCKS);
        let leaf_count = blocks.div_ceil(G::LEAF_BLOCKS as u64) as usize;
        let mut leaves = reserved::<Leaf<G>>(leaf_count)?;
        each(leaf_count, &mut leaves, |leaf| {
            Leaf::from_fn(|word| {
                let index = leaf * G::LEAF_WORDS + word;
                let on_device = blocks.saturating_sub(index as u64 * width).min(width);
                free(index) & G::Word::span(0, on_device as u32)
            })
        });
        let node_count = leaf_count.div_ceil(G::FANOUT);
        let mut nodes = reserved::<Node<G>>(node_count)?;
        each(node_count, &mut nodes, |node| level_one(&leaves[node * G::FANOUT..]));
        let summary =
            Summary::new(nodes, height).map_err(|_| OutOfMemory { bytes: node_count / 2 })?;
        Ok(Self { leaves, summary, watch: Watch::default(), blocks })
    }
}

/// The node over the first leaves of `leaves`.
fn level_one<G: Geometry>(leaves: &[Leaf<G>]) -> Node<G> {
    let mut has = [G::Word::ZERO; 32];
    for (child, leaf) in leaves.iter().take(G::FANOUT).enumerate() {
        let mut orders = leaf.orders(Site::LeafLook);
        while orders != 0 {
            has[orders.trailing_zeros() as usize] |= G::Word::bit(child as u32);
            orders &= orders - 1;
        }
    }
    Node::from_fn(|order| has[order as usize])
}

fn reserved<T>(len: usize) -> Result<Vec<T>, OutOfMemory> {
    let mut vec = Vec::new();
    vec.try_reserve_exact(len)
        .map_err(|_| OutOfMemory { bytes: len.saturating_mul(size_of::<T>()) })?;
    Ok(vec)
}

/// Fills `out`, which has the room, with `make(0..count)`. Small jobs, and models, stay on this
/// thread.
fn each<T: Send>(count: usize, out: &mut Vec<T>, make: impl Fn(usize) -> T + Sync) {
    const SMALL: usize = 4096;
    if count <= SMALL {
        out.extend((0..count).map(make));
    } else {
        (0..count).into_par_iter().with_min_len(512).map(&make).collect_into_vec(out);
    }
}
