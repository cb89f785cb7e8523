//! The free-space index: leaves and summary together.
//!
//! Promises the invariants below, to all threads at once. Uses `base` and `values`.
//!
//! - this file: the structure, claims and releases of given ranges;
//! - `leaf`: the bits of 512 blocks; `summary`: the tree above them; `tops`: what its top level has; `watch`:
//!   whether anything was freed that matters to a search;
//! - `publish`: how the summary follows the leaves;
//! - `search`: finding a run to claim; `claim_many`: claiming many in one pass;
//! - `measure`: measuring runs to choose from; `read`: reading runs;
//! - `build`: construction in parallel; `verify`: comparing every level with the one below;
//! - `events`: counting what happens off the usual path.
//!
//! Invariants, cited by number everywhere (ARCHITECTURE.md has the proofs in outline):
//! 1. *Ownership.* A bit goes 1 -> 0 only by a read-modify-write that saw it 1, and 0 -> 1 only by
//!    its owner.
//! 2. *No hidden space.* A free run whose releases have all returned is visible on every level, as
//!    an order bit or as a guard bit.
//! 3. *Stale positives* are legal; whoever meets one repairs it.
//! 4. *Truthful failure.* "Nothing" is answered only if at some moment of the call there was no
//!    fitting run; a claim that is rolled back counts as an allocation and a release.
//! 5. *Lock-freedom.* A loop repeats only because another operation succeeded.

pub(crate) mod events;
pub(crate) mod leaf;
pub(crate) mod summary;
pub(crate) mod tops;
pub(crate) mod watch;

mod build;
mod claim_many;
mod claimed;
mod measure;
mod publish;
mod read;
mod search;
#[cfg(all(test, not(loom)))]
mod tests;
mod verify;

pub(crate) use crate::base::heap::OutOfMemory;
pub(crate) use claim_many::{Refused, Taken, Wanted};
pub(crate) use claimed::{Claimed, ClaimedRuns};
pub(crate) use search::{Lost, Pack, Search};
pub use verify::{Difference, Verification};

use crate::base::geometry::Geometry;
use crate::base::mutant::{Mutant, mutated};
use crate::base::segmented::Segmented;
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::Word;
use crate::index::events::{Event, Events};
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

/// Why a range could not be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseError {
    /// This block is free already; nothing was changed.
    Free {
        /// The first such block of the range.
        block: u64,
    },
    /// Another thread released a block of the range while we were at it. What lies before `block` was
    /// released by us, the rest not touched. `block` itself may still be ours: it is where the word
    /// in conflict begins, and the block released by the other is any of that word. A second release
    /// of the rest tells which, by `Free`.
    Torn {
        /// The first block not released by us.
        block: u64,
    },
}

impl ReleaseError {
    /// How many blocks from `start` on, where the range begins, are released all the same.
    pub(crate) fn released(self, start: u64) -> u64 {
        match self {
            Self::Free { .. } => 0,
            Self::Torn { block } => block - start,
        }
    }
}

/// A range was not entirely free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The first block found allocated.
    pub block: u64,
}

/// Part of a range within one word.
#[derive(Clone, Copy)]
struct Piece<W> {
    /// Index of the word in the whole bitmap.
    word: usize,
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

    /// What happens off the usual path, counted.
    pub(crate) fn events(&self) -> &Events {
        &self.events
    }

    /// Bytes of the leaves: the bitmap itself.
    pub(crate) fn leaf_bytes(&self) -> usize {
        self.leaves.room() * size_of::<G::LeafWords>()
    }

    /// Bytes beside the leaves on the heap.
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
        self.leaves().map(|leaf| u64::from(leaf.count_free())).sum()
    }

    /// Number of leaves.
    #[inline(always)]
    pub(crate) fn leaf_count(&self) -> usize {
        self.blocks().div_ceil(G::LEAF_BLOCKS as u64) as usize
    }

    /// Makes the device `blocks` blocks long, unless it is longer. The added ones are allocated. For one
    /// caller at a time.
    pub(crate) fn lengthen(&self, blocks: u64) -> Result<(), OutOfMemory> {
        if blocks <= self.blocks() {
            return Ok(());
        }
        self.make_room(blocks)?;
        self.set_length(blocks);
        Ok(())
    }

    /// The first half of [`Bitmap::lengthen`], which may fail.
    pub(crate) fn make_room(&self, blocks: u64) -> Result<(), OutOfMemory> {
        if mutated(Mutant::LengthBeforeLeaves) {
            self.blocks.store(blocks, Site::Blocks);
        }
        let leaf_count = blocks.div_ceil(G::LEAF_BLOCKS as u64) as usize;
        self.leaves.grow(leaf_count, |range| Leaves::<G>::zeroed(range.len()))?;
        self.summary.grow(leaf_count)
    }

    /// The second half, for which there is room.
    pub(crate) fn set_length(&self, blocks: u64) {
        debug_assert!(blocks >= self.blocks());
        // Whoever reads the new length finds leaves and nodes for it [mutant: LengthBeforeLeaves].
        self.blocks.store(blocks, Site::Blocks);
    }

    /// Makes the device `blocks` blocks long, not longer than it is. None of the others may be free, and
    /// none in use. For one caller at a time. O(blocks cut off).
    pub(crate) fn shorten(&self, blocks: u64) {
        let leaf = |block: u64| block.div_ceil(G::LEAF_BLOCKS as u64) as usize;
        let cut_off = leaf(blocks)..leaf(self.blocks());
        debug_assert!(0 < blocks && blocks <= self.blocks());
        self.blocks.store(blocks, Site::Blocks);
        // No search comes by there any more that would repair what is shown of them.
        cut_off.for_each(|leaf| self.refresh(leaf));
    }

    fn leaves(&self) -> impl Iterator<Item = Leaf<'_, G>> {
        (0..self.leaf_count()).map(|leaf| self.leaf(leaf))
    }

    #[inline(always)]
    fn leaf(&self, index: usize) -> Leaf<'_, G> {
        Leaf::new(&self.leaves[index])
    }

    #[inline(always)]
    fn word(&self, index: usize) -> &AtomicWord<G::Word> {
        self.leaves.word(index)
    }

    /// The words that `start..start + len` meets, in ascending order.
    #[inline]
    fn pieces(start: u64, len: u64) -> impl Iterator<Item = Piece<G::Word>> + Clone {
        let width = u64::from(G::WORD_BLOCKS);
        let end = start + len;
        let words = start / width..end.div_ceil(width);
        words.map(move |word| {
            let from = start.max(word * width);
            let to = end.min((word + 1) * width);
            let mask = G::Word::span((from % width) as u32, (to - from) as u32);
            Piece { word: word as usize, mask }
        })
    }

    /// The words that `start..start + len` meets, in ascending order, with its bits in each.
    pub(crate) fn words_of(start: u64, len: u64) -> impl Iterator<Item = (usize, G::Word)> {
        Self::pieces(start, len).map(|piece| (piece.word, piece.mask))
    }

    /// The first block of `piece` that `bits` holds.
    fn first_block(piece: Piece<G::Word>, bits: G::Word) -> u64 {
        debug_assert!(bits & piece.mask != G::Word::ZERO);
        let place = (bits & piece.mask).trailing_zeros();
        piece.word as u64 * u64::from(G::WORD_BLOCKS) + u64::from(place)
    }

    /// Claims exactly `start..start + len`, or nothing. The range lies on the device, or did
    /// so a moment ago: what was given up since is not free.
    ///
    /// Words are claimed in ascending order, so of all who hold part of something the one who got
    /// furthest is stopped only by a finished allocation or by one still further (invariant 5).
    /// O(len / word width) compare-exchanges.
    pub(crate) fn claim(&self, start: u64, len: u64) -> Result<Claimed, Conflict> {
        debug_assert!(len > 0);
        let pieces = Self::pieces(start, len);
        if !mutated(Mutant::NoPrecheckRollbackAll) {
            for piece in pieces.clone() {
                let free = self.word(piece.word).load(Site::LeafLook);
                if !free.has_all(piece.mask) {
                    return Err(Conflict { block: Self::first_block(piece, !free) });
                }
            }
        }
        for piece in pieces {
            if let Err(free) = self.claim_piece(piece) {
                let conflict = Conflict { block: Self::first_block(piece, !free) };
                let rolled_back = self.roll_back(start, len, piece, conflict);
                return rolled_back.map(|()| Claimed::new(start, len));
            }
        }
        self.claimed(start, len);
        Ok(Claimed::new(start, len))
    }

    /// Takes the blocks of `piece`, or answers with the word that lacks some.
    #[inline]
    fn claim_piece(&self, piece: Piece<G::Word>) -> Result<(), G::Word> {
        let word = self.word(piece.word);
        let mut free = word.load(Site::LeafLook);
        loop {
            if !free.has_all(piece.mask) {
                return Err(free);
            }
            match self.take(word, free, free & !piece.mask) {
                Ok(_) => return Ok(()),
                Err(now) => {
                    self.events.count(Event::LostClaim, piece.word);
                    free = now;
                }
            }
        }
    }

    /// Takes those blocks of `mask` in word `word` that are free, and says which.
    pub(crate) fn take_in_word(&self, word: usize, mask: G::Word) -> G::Word {
        let atomic = self.word(word);
        if atomic.load(Site::LeafLook) & mask == G::Word::ZERO {
            return G::Word::ZERO;
        }
        atomic.fetch_and(!mask, Site::LeafClaim) & mask
    }

    /// Has those blocks of `mask` in word `word` become free that are not, and says which. For blocks that
    /// go from one bitmap to another: one that somebody wrongly frees meanwhile does not hold up the rest.
    pub(crate) fn add_in_word(&self, word: usize, mask: G::Word) -> G::Word {
        let before = self.word(word).fetch_or(mask, Site::LeafReleaseFull);
        let added = mask & !before;
        if added != G::Word::ZERO {
            self.publish_word(word, added, before | mask);
            self.tell_watchers_of_word(word, added, before | mask);
        }
        added
    }

    /// The same for `start..start + len`; the number of blocks.
    pub(crate) fn add(&self, start: u64, len: u64) -> u64 {
        let added = |(word, mask)| u64::from(self.add_in_word(word, mask).count_ones());
        Self::words_of(start, len).map(added).sum()
    }

    /// Where free blocks become somebody's, but for [`Bitmap::take_in_word`] (invariant 1).
    #[inline(always)]
    fn take(
        &self,
        word: &AtomicWord<G::Word>,
        free: G::Word,
        left: G::Word,
    ) -> Result<G::Word, G::Word> {
        if mutated(Mutant::NonAtomicClaim) {
            word.store(left, Site::LeafClaim);
            return Ok(free);
        }
        word.compare_exchange(free, left, Site::LeafClaim)
    }

    /// Gives back the words of `start..` below `failed`, which this thread had claimed.
    #[cold]
    fn roll_back(
        &self,
        start: u64,
        len: u64,
        failed: Piece<G::Word>,
        conflict: Conflict,
    ) -> Result<(), Conflict> {
        if mutated(Mutant::OkAfterFailedClaim) {
            return Ok(());
        }
        let held = (failed.word as u64 * u64::from(G::WORD_BLOCKS)).saturating_sub(start);
        let event = if held == 0 { Event::LostClaim } else { Event::RolledBackClaim };
        self.events.count(event, failed.word);
        if held == 0 || mutated(Mutant::NoRollback) {
            return Err(conflict);
        }
        let several_leaves =
            start / G::LEAF_BLOCKS as u64 != (start + len - 1) / G::LEAF_BLOCKS as u64;
        let forget = usize::from(several_leaves && mutated(Mutant::RunRollbackPartial));
        for piece in Self::pieces(start, held).skip(forget) {
            self.word(piece.word).fetch_or(piece.mask, Site::LeafReleaseFull);
        }
        if !(mutated(Mutant::RollbackNoEnsure)
            || (several_leaves && mutated(Mutant::RunRollbackNoEnsure)))
        {
            self.publish(start, held);
        }
        if !mutated(Mutant::RollbackNoEvent) {
            self.tell_watchers(start, held);
        }
        Err(conflict)
    }

    /// Gives back `start..start + len`, which must lie on the device: all of it, or nothing if one
    /// of its blocks is free already (or, in the one race that cannot be undone, a part: `Torn`).
    ///
    /// O(len / word width) compare-exchanges, then the publication of each leaf.
    #[inline(always)]
    pub(crate) fn release(&self, start: u64, len: u64) -> Result<(), ReleaseError> {
        debug_assert!(len > 0);
        let width = u64::from(G::WORD_BLOCKS);
        if mutated(Mutant::SetBeforeLeaf) {
            let leaf = (start / G::LEAF_BLOCKS as u64) as usize;
            self.summary.ensure(1, leaf, G::ORDERS);
        }
        if mutated(Mutant::WatchReadBeforeLeaf) || mutated(Mutant::EventBeforeEnsure) {
            self.tell_watchers(start, len);
        }
        if start % width + len <= width {
            let mask = G::Word::span((start % width) as u32, len as u32);
            return self.release_in_word((start / width) as usize, mask);
        }
        self.release_words(start, len)?;
        self.tell_watchers_of_release(start, len);
        Ok(())
    }

    /// Gives back the blocks of `mask`, neighbours or not, in word `word`: all of them, or nothing if
    /// one of them is free already. One compare-exchange, then the publication.
    #[inline(always)]
    pub(crate) fn release_in_word(&self, word: usize, mask: G::Word) -> Result<(), ReleaseError> {
        let piece = Piece { word, mask };
        let free = self
            .release_piece(piece)
            .map_err(|free| ReleaseError::Free { block: Self::first_block(piece, free) })?;
        self.publish_word(word, mask, free);
        self.tell_watchers_of_word(word, mask, free);
        Ok(())
    }

    #[inline(never)]
    fn release_words(&self, start: u64, len: u64) -> Result<(), ReleaseError> {
        if !mutated(Mutant::FreeNoVerifyPass) {
            for piece in Self::pieces(start, len) {
                let free = self.word(piece.word).load(Site::LeafLook);
                if free & piece.mask != G::Word::ZERO {
                    return Err(ReleaseError::Free { block: Self::first_block(piece, free) });
                }
            }
        }
        for piece in Self::pieces(start, len) {
            if let Err(free) = self.release_piece(piece) {
                let block = Self::first_block(piece, free);
                let word_start = piece.word as u64 * u64::from(G::WORD_BLOCKS);
                if word_start <= start {
                    return Err(ReleaseError::Free { block });
                }
                // Blocks of this word that come before the one in conflict are still ours, but
                // they are not released either: report where we stopped [scenario: S4t].
                let released = word_start - start;
                self.publish(start, released);
                self.tell_watchers_of_release(start, released);
                return Err(ReleaseError::Torn { block: word_start });
            }
        }
        self.publish(start, len);
        Ok(())
    }

    /// Sets the bits of `piece`; answers with the word as we left it, or with what was there if
    /// one of the bits was set already.
    #[inline(always)]
    fn release_piece(&self, piece: Piece<G::Word>) -> Result<G::Word, G::Word> {
        let word = self.word(piece.word);
        if mutated(Mutant::FreeFetchOr) {
            let free = word.fetch_or(piece.mask, Site::LeafRelease);
            return if free & piece.mask == G::Word::ZERO {
                Ok(free | piece.mask)
            } else {
                Err(free)
            };
        }
        let mut free = word.load(Site::LeafLook);
        loop {
            if free & piece.mask != G::Word::ZERO && !mutated(Mutant::FreeNoCheckInCas) {
                return Err(free);
            }
            let left = free | piece.mask;
            let site = if left == G::FULL { Site::LeafReleaseFull } else { Site::LeafRelease };
            match word.compare_exchange(free, left, site) {
                Ok(_) if mutated(Mutant::SetFromOldWord) => return Ok(free),
                Ok(_) => return Ok(left),
                Err(now) => free = now,
            }
        }
    }
}
