//! The free-space index: leaves and summary together.
//!
//! Promises the invariants below, to all threads at once. Uses `base` and `values`.
//!
//! - this file: the structure, its length and its parts;
//! - `leaf`: the bits of 512 blocks; `summary`: the tree above them; `number`, `numbers`: its level
//!   over the leaves; `node`: the levels above that; `tops`: what the top level shows; `watch`:
//!   whether anything was freed that matters to a search;
//! - `claim`: claiming given blocks; `claim_in_word`, `claim_many`: within a word, and many in one
//!   pass; `claimed`: the result of a claim;
//! - `search`: finding a run to claim; `visit`: going through the leaves that may have one;
//! - `release`: giving blocks back; `publish`: what the summary has to learn of that; `show`: how it
//!   learns it; `repair`, `repair_up`: clearing stale positives, of leaves and above;
//! - `measure`: measuring runs to choose from; `read`: reading runs;
//! - `build`: construction in parallel; `verify`: comparing every level with the one below;
//! - `events`: counting what happens off the usual path.
//!
//! Invariants, cited by number everywhere (`docs/protocol.md` has the proofs in outline):
//! 1. *Ownership.* A bit goes 1 -> 0 only by a read-modify-write that saw it 1, and 0 -> 1 only by
//!    its owner.
//! 2. *No hidden space.* A free run whose releases have all returned is visible on every level, as
//!    a number or an order bit, or as a guard.
//! 3. *Stale positives* are legal; the search that meets one repairs it.
//! 4. *Truthful failure.* "Nothing" is answered only if at some moment of the call there was no
//!    fitting run; a claim that is rolled back counts as an allocation and a release.
//! 5. *Lock-freedom.* A loop repeats only because another operation succeeded.

pub(crate) mod events;
pub(crate) mod leaf;
pub(crate) mod node;
pub(crate) mod number;
pub(crate) mod numbers;
pub(crate) mod summary;
pub(crate) mod tops;
pub(crate) mod watch;

mod build;
mod claim;
mod claim_bounded;
mod claim_in_word;
mod claim_many;
mod claimed;
mod measure;
mod publish;
mod read;
mod release;
mod repair;
mod repair_up;
mod search;
mod show;
#[cfg(all(test, not(loom)))]
mod tests;
mod verify;
mod visit;

pub(crate) use crate::base::heap::OutOfMemory;
pub(crate) use claim_bounded::Unplanned;
pub(crate) use claim_in_word::Lost;
pub(crate) use claim_many::{Refused, Taken, Wanted};
pub(crate) use claimed::{Claimed, ClaimedRuns};
pub(crate) use release::ReleaseError;
pub(crate) use search::Search;
pub use verify::{Difference, Verification};
pub(crate) use visit::Pack;

use std::ops::Range;

use crate::base::geometry::Geometry;
use crate::base::mutant::fault;
use crate::base::place::{LeafIndex, NodeIndex, WordIndex, place_in_word};
use crate::base::segmented::Segmented;
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::Word;
use crate::index::events::Events;
use crate::index::leaf::{Leaf, Leaves};
use crate::index::summary::Summary;
use crate::index::watch::Watch;

/// The free-space index of one device.
#[derive(Debug)]
pub(crate) struct Bitmap<G: Geometry> {
    leaves: Segmented<Leaves<G>>,
    summary: Summary<G>,
    watch: Watch,
    events: Events,
    blocks: AtomicWord<u64>,
    free_at_start: u64,
}

/// The part of a range that lies in one word.
#[derive(Clone, Copy)]
struct Piece<W> {
    word: WordIndex,
    mask: W,
}

impl<G: Geometry> Bitmap<G> {
    /// Number of blocks.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> u64 {
        self.blocks.load(Site::Blocks)
    }

    /// Number of free blocks when the index was built.
    pub(crate) fn free_at_start(&self) -> u64 {
        self.free_at_start
    }

    /// Counters of what happens off the usual path.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Bytes of the leaves: the bitmap itself.
    pub(crate) fn leaf_bytes(&self) -> usize {
        self.leaves.room() * size_of::<G::LeafWords>()
    }

    /// Heap bytes beside the leaves.
    pub(crate) fn summary_bytes(&self) -> usize {
        let rest = self.leaves.bytes().saturating_sub(self.leaf_bytes());
        self.summary.bytes() + self.events.bytes() + rest
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.leaf_bytes() + self.summary_bytes()
    }

    /// Number of free blocks, counted. O(bitmap).
    pub(crate) fn count_free(&self) -> u64 {
        let leaves = LeafIndex::each(self.all_leaves());
        leaves.map(|leaf| u64::from(self.leaf(leaf).count_free())).sum()
    }

    /// Number of leaves.
    #[inline(always)]
    pub(crate) fn leaf_count(&self) -> usize {
        self.leaf_end().get()
    }

    /// The end of the leaves.
    #[inline(always)]
    pub(crate) fn leaf_end(&self) -> LeafIndex {
        LeafIndex::end_of_blocks::<G>(self.blocks())
    }

    /// All leaves.
    #[inline(always)]
    pub(crate) fn all_leaves(&self) -> Range<LeafIndex> {
        LeafIndex::FIRST..self.leaf_end()
    }

    /// The end of the words of all leaves.
    #[inline(always)]
    pub(crate) fn word_end(&self) -> WordIndex {
        self.leaf_end().first_word::<G>()
    }

    /// The end of the nodes over all leaves.
    #[inline(always)]
    pub(crate) fn node_end(&self) -> NodeIndex {
        NodeIndex::end_of_leaves::<G>(self.leaf_end())
    }

    /// Makes the device `blocks` blocks long, unless it is longer. The added blocks are allocated.
    /// For one caller at a time.
    pub(crate) fn lengthen(&self, blocks: u64) -> Result<(), OutOfMemory> {
        if blocks <= self.blocks() {
            return Ok(());
        }
        self.make_room(blocks)?;
        self.set_length(blocks);
        Ok(())
    }

    /// The first half of [`Bitmap::lengthen`]: makes room, and may fail.
    pub(crate) fn make_room(&self, blocks: u64) -> Result<(), OutOfMemory> {
        fault!(LengthBeforeLeaves: self.blocks.store(blocks, Site::Blocks));
        let leaf_count = LeafIndex::end_of_blocks::<G>(blocks).get();
        self.leaves.grow(leaf_count, |range| Leaves::<G>::zeroed(range.len()))?;
        self.summary.grow(leaf_count)
    }

    /// The second half: sets the length, for which there is room.
    pub(crate) fn set_length(&self, blocks: u64) {
        debug_assert!(blocks >= self.blocks());
        // A thread that reads the new length finds leaves and nodes for it
        // [mutant: LengthBeforeLeaves].
        self.blocks.store(blocks, Site::Blocks);
    }

    /// Makes the device `blocks` blocks long, not longer than it is. None of the blocks cut off may
    /// be free or in use. For one caller at a time. O(blocks cut off).
    pub(crate) fn shorten(&self, blocks: u64) {
        let cut_off = LeafIndex::end_of_blocks::<G>(blocks)..self.leaf_end();
        debug_assert!(0 < blocks && blocks <= self.blocks());
        self.blocks.store(blocks, Site::Blocks);
        // No later search reaches these leaves to repair what is shown of them.
        LeafIndex::each(cut_off).for_each(|leaf| self.refresh(leaf));
    }

    /// Reads what a release in `word` reads first, so that it is in the cache then.
    #[inline(always)]
    pub(crate) fn touch(&self, word: WordIndex) {
        std::hint::black_box(self.word(word).load(Site::LeafLook));
        std::hint::black_box(self.summary.shown(word.leaf::<G>(), Site::HasLook));
    }

    #[inline(always)]
    fn leaf(&self, leaf: LeafIndex) -> Leaf<'_, G> {
        Leaf::new(&self.leaves[leaf.get()])
    }

    #[inline(always)]
    fn word(&self, word: WordIndex) -> &AtomicWord<G::Word> {
        self.leaves.word(word.get())
    }

    /// The words that `start..start + len` touches, in ascending order.
    #[inline]
    fn pieces(start: u64, len: u64) -> impl Iterator<Item = Piece<G::Word>> + Clone {
        let end = start + len;
        let words = WordIndex::of_block::<G>(start)..WordIndex::end_of_blocks::<G>(end);
        WordIndex::each(words).map(move |word| {
            let from = start.max(word.first_block::<G>());
            let to = end.min(word.next().first_block::<G>());
            let mask = G::Word::span(place_in_word::<G>(from), (to - from) as u32);
            Piece { word, mask }
        })
    }

    /// The words that `start..start + len` touches, in ascending order, with its bits in each.
    pub(crate) fn words_of(start: u64, len: u64) -> impl Iterator<Item = (WordIndex, G::Word)> {
        Self::pieces(start, len).map(|piece| (piece.word, piece.mask))
    }

    /// The first block of `piece` whose bit is set in `bits`.
    fn first_block(piece: Piece<G::Word>, bits: G::Word) -> u64 {
        debug_assert!(bits & piece.mask != G::Word::ZERO);
        let place = (bits & piece.mask).trailing_zeros();
        piece.word.block::<G>(place)
    }
}
