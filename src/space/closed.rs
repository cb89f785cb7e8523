//! Blocks that are set aside, neither free nor in use, and the leaves that are closed.
//!
//! While a leaf is closed, no caller gets a block of it: a claim that took one sets it aside, and
//! so does a free. Neither waits for another thread. The claim looks *after* it took the block, so
//! it either began before the leaf was closed or sees that it is closed. A second bitmap of the
//! same kind holds the blocks that are set aside. So each block is free in one of the two bitmaps,
//! or in neither and then has an owner.
//!
//! 1. *Closed means closed.* A claim that begins after `close` returned keeps no block of the leaf.
//! 2. *Nothing is lost.* A thread first sets a block aside, and then looks whether the leaf is
//!    still closed. Opening first clears the mark, and then takes out what is set aside. One of the
//!    two sees the other, and the bit of the block decides which of them takes it.
//! 3. *Taken is taken.* A caller that takes a closed range gets every block of it out of what is
//!    set aside, or puts back what it got. Looking is not enough: a thread that began to let blocks
//!    out when the leaf was open, or closed by another caller, may still do so.

use std::ops::Range;

use crate::base::geometry::Geometry;
use crate::base::heap::OutOfMemory;
use crate::base::mutant::{fault, step};
use crate::base::place::{LeafIndex, WordIndex};
use crate::base::sync::{AtomicWord, Counter, Site};
use crate::base::word::Word;
use crate::index::{Bitmap, ReleaseError, Verification};
use crate::space::marks::{Marks, Part};

/// The direction in which blocks moved between the free space and what is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// They are free now.
    Freed,
    /// They are no longer free.
    Taken,
}

/// The closed leaves and the set-aside blocks of one index.
#[derive(Debug)]
pub(crate) struct Closed<G: Geometry> {
    /// Number of closed ranges, and of other users that need claims and frees to look closer.
    ranges: AtomicWord<u64>,
    marks: Marks<G>,
    /// A set bit is a block that is set aside.
    held: Bitmap<G>,
    /// Number of such blocks, wrapping: a statistic.
    count: Counter,
}

/// Some of the leaves to close are closed already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// The first of them.
    pub leaf: LeafIndex,
}

impl<G: Geometry> Closed<G> {
    /// For a device of `blocks` blocks, with nothing closed. Takes no memory until something is.
    pub(crate) fn new(blocks: u64) -> Result<Self, OutOfMemory> {
        Ok(Self {
            ranges: AtomicWord::new(0),
            marks: Marks::new(blocks)?,
            held: Bitmap::none_free(blocks, 1)?,
            count: Counter::new(0),
        })
    }

    /// Extends the tables for a device of `blocks` blocks. For one caller at a time.
    pub(crate) fn lengthen(&self, blocks: u64) -> Result<(), OutOfMemory> {
        self.marks.lengthen(blocks)?;
        self.held.lengthen(blocks)
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.marks.bytes() + self.held.bytes()
    }

    /// Whether anything may be closed: claims and frees ask this before they look closer. One read
    /// of a line that is hardly ever written.
    #[inline(always)]
    pub(crate) fn is_active(&self) -> bool {
        self.ranges.load(Site::Closed) != 0
    }

    /// Whether a claim of `start..start + len` may be kept. If some of it lies in closed leaves,
    /// sets those blocks aside, with whatever else is free there, and gives back the others.
    #[cold]
    pub(crate) fn keeps(
        &self,
        index: &Bitmap<G>,
        start: u64,
        len: u64,
        moved: &mut impl FnMut(Moved, u64, u64),
    ) -> bool {
        debug_assert!(len > 0);
        fault!(ClaimWithoutLook: return true);
        if !self.marks.parts(start, len).any(|part| part.closed) {
            return true;
        }
        for Part { start, len, closed } in self.marks.parts(start, len) {
            if closed {
                moved(Moved::Taken, start, len);
                let aside = self.set_aside(index, start, len, moved);
                debug_assert_eq!(aside, Ok(()), "blocks we own cannot be set aside");
                self.sweep(index, LeafIndex::of_blocks::<G>(start..start + len), moved);
            } else {
                let released = index.release(start, len);
                debug_assert_eq!(released, Ok(()), "blocks we own cannot be free");
            }
        }
        false
    }

    /// Makes claims and frees look closer, until [`deactivate`](Self::deactivate).
    pub(crate) fn activate(&self) {
        self.ranges.fetch_add(1, Site::Closed);
    }

    /// Undoes one [`activate`](Self::activate).
    pub(crate) fn deactivate(&self) {
        let before = self.ranges.fetch_add(u64::MAX, Site::Closed);
        debug_assert!(before > 0, "each call undoes one");
    }

    /// Gives back `start..start + len`: sets aside what lies in closed leaves, and passes the rest
    /// to `release`, with the same promise as [`Bitmap::release`] makes for each call.
    pub(crate) fn release(
        &self,
        index: &Bitmap<G>,
        start: u64,
        len: u64,
        moved: &mut impl FnMut(Moved, u64, u64),
        mut release: impl FnMut(u64, u64) -> Result<(), ReleaseError>,
    ) -> Result<(), ReleaseError> {
        for part in self.marks.parts(start, len) {
            let released = if part.closed {
                self.set_aside(index, part.start, part.len, moved)
            } else {
                release(part.start, part.len)
            };
            match released {
                // Another thread freed the same blocks meanwhile.
                Err(ReleaseError::Free { .. }) if part.start > start => {
                    return Err(ReleaseError::Torn { block: part.start });
                }
                released => released?,
            }
        }
        Ok(())
    }

    /// Sets aside blocks that the caller owns.
    fn set_aside(
        &self,
        index: &Bitmap<G>,
        start: u64,
        len: u64,
        moved: &mut impl FnMut(Moved, u64, u64),
    ) -> Result<(), ReleaseError> {
        // Count first: no reader may see fewer than there are.
        self.count.add(len);
        let released = self.held.release(start, len);
        let put = released.map_or_else(|error| error.released(start), |()| len);
        self.count.add((len - put).wrapping_neg());
        // Pairs with `open`, which clears the marks and then looks for blocks [mutants:
        // AsideWithoutLook, OpenAfterLook, WeakClosed].
        step!(AsideWithoutLook: {
            for part in self.marks.parts(start, put).filter(|part| !part.closed) {
                for (word, mask) in Bitmap::<G>::words_of(part.start, part.len) {
                    self.let_out_word(index, word, mask, moved);
                }
            }
        });
        released
    }

    /// Closes `leaves`, unless one is closed already, and sets aside what is free there. O(leaves).
    /// For one caller at a time.
    pub(crate) fn close(
        &self,
        index: &Bitmap<G>,
        leaves: Range<LeafIndex>,
        moved: &mut impl FnMut(Moved, u64, u64),
    ) -> Result<(), Overlap> {
        debug_assert!(!leaves.is_empty());
        self.marks.first_of(&leaves).map_or(Ok(()), |leaf| Err(Overlap { leaf }))?;
        self.activate();
        self.marks.set(&leaves);
        self.sweep(index, leaves, moved);
        Ok(())
    }

    /// Opens `leaves`, which one call of [`close`](Self::close) has closed: what is set aside there
    /// becomes free. O(leaves).
    pub(crate) fn open(
        &self,
        index: &Bitmap<G>,
        leaves: Range<LeafIndex>,
        moved: &mut impl FnMut(Moved, u64, u64),
    ) {
        fault!(OpenAfterLook: self.let_out_leaves(index, leaves.clone(), moved));
        self.marks.clear(&leaves);
        step!(OpenAfterLook: self.let_out_leaves(index, leaves, moved));
        // Last, so that a double free of what is still set aside is noticed.
        self.deactivate();
    }

    /// Sets aside what became free in closed `leaves` by frees that began before they were closed.
    pub(crate) fn sweep(
        &self,
        index: &Bitmap<G>,
        leaves: Range<LeafIndex>,
        moved: &mut impl FnMut(Moved, u64, u64),
    ) {
        let words = leaves.start.first_word::<G>()..leaves.end.first_word::<G>();
        for word in WordIndex::each(words) {
            // Claims sweep leaves that other threads may open.
            if !self.marks.is_closed(word.leaf::<G>()) {
                continue;
            }
            let taken = index.take_in_word(word, G::FULL);
            if taken != G::Word::ZERO {
                moved(Moved::Taken, word.first_block::<G>(), u64::from(taken.count_ones()));
                self.add(word, taken);
                // As in `set_aside` [mutant: SweepWithoutLook].
                let mut opened = !self.marks.is_closed(word.leaf::<G>());
                fault!(SweepWithoutLook: opened = false);
                if opened {
                    self.let_out_word(index, word, taken, moved);
                }
            }
        }
    }

    /// Whether no block of `blocks`, which lie in closed leaves, has an owner: all are set aside.
    /// O(blocks / 64).
    pub(crate) fn is_empty(&self, blocks: Range<u64>) -> bool {
        self.held.run_end(blocks.start, blocks.end) == blocks.end
    }

    /// Start and end of the first extent at or after `from` and below `to` that is in use: neither
    /// free nor set aside. Blocks that move between the two count as in use. O(blocks / 64).
    pub(crate) fn next_live(&self, index: &Bitmap<G>, from: u64, to: u64) -> Option<(u64, u64)> {
        let unused = |word: WordIndex| index.look(word) | self.held_in_word(word);
        let mut start = None;
        for (word, mask) in Bitmap::<G>::words_of(from, to.saturating_sub(from)) {
            let (unused, mut mask) = (unused(word), mask);
            if start.is_none() {
                let live = !unused & mask;
                if live == G::Word::ZERO {
                    continue;
                }
                start = Some(word.block::<G>(live.trailing_zeros()));
                mask &= G::Word::MAX << live.trailing_zeros();
            }
            if let (Some(start), true) = (start, unused & mask != G::Word::ZERO) {
                return Some((start, word.block::<G>((unused & mask).trailing_zeros())));
            }
        }
        start.map(|start| (start, to))
    }

    /// Blocks of `blocks` that are in use. O(blocks / 64); mixes moments.
    pub(crate) fn live_blocks(&self, index: &Bitmap<G>, blocks: Range<u64>) -> u64 {
        let held = self.held.free_blocks_in(blocks.start, blocks.end);
        let free = index.free_blocks_in(blocks.start, blocks.end);
        (blocks.end - blocks.start).saturating_sub(held + free)
    }

    /// The first block of `from..to` that is set aside, or `to`.
    pub(crate) fn held_in(&self, from: u64, to: u64) -> u64 {
        self.held.free_in(from, to)
    }

    /// Takes the blocks of `at..end` from `at` on that are set aside, for the caller, if `at` is.
    /// They lie in leaves that are open again, and whose opener has not let them out yet.
    pub(crate) fn take_from(&self, at: u64, end: u64) -> Option<(u64, u64)> {
        let claimed = self.held.claim_from(at, end)?;
        self.count.add(claimed.len().wrapping_neg());
        Some(claimed.into_run())
    }

    /// Blocks that are set aside. Exact while nothing else runs.
    pub(crate) fn held(&self) -> u64 {
        self.count.get()
    }

    /// Whether `leaf`, which is on the device, is closed.
    pub(crate) fn is_closed(&self, leaf: LeafIndex) -> bool {
        self.marks.is_closed(leaf)
    }

    /// The first block of `start..end` in a closed leaf, if there is one.
    pub(crate) fn first_closed(&self, start: u64, end: u64) -> Option<u64> {
        let mut parts = self.marks.parts(start, end - start);
        parts.find(|part| part.closed).map(|part| part.start)
    }

    /// Verifies the bitmap of these blocks.
    pub(crate) fn verify(&self) -> Verification {
        self.held.verify()
    }

    /// The blocks of `word` that are set aside.
    pub(crate) fn held_in_word(&self, word: WordIndex) -> G::Word {
        self.held.look(word)
    }

    /// Takes `blocks`, which lie in leaves that the caller has closed, for the caller, if all of
    /// them are set aside. O(blocks / 64).
    pub(crate) fn take(&self, blocks: Range<u64>) -> bool {
        for (word, mask) in Bitmap::<G>::words_of(blocks.start, blocks.end - blocks.start) {
            let taken = self.remove(word, mask);
            let mut all = taken == mask;
            fault!(TakeWithoutAll: all = true);
            if !all {
                fault!(TakeWithoutPutBack: return false);
                self.add(word, taken);
                let word_start = word.first_block::<G>().max(blocks.start);
                self.put_back(blocks.start..word_start);
                return false;
            }
        }
        true
    }

    /// Undoes [`take`](Self::take).
    pub(crate) fn put_back(&self, blocks: Range<u64>) {
        let len = blocks.end - blocks.start;
        self.count.add(len);
        self.count.add((len - self.held.add(blocks.start, len)).wrapping_neg());
    }

    /// Removes `blocks`, which are behind the end of the device, from both bitmaps. A double free
    /// that did not know the new end yet may have put some there.
    pub(crate) fn forget(&self, index: &Bitmap<G>, blocks: Range<u64>) {
        for (word, mask) in Bitmap::<G>::words_of(blocks.start, blocks.end - blocks.start) {
            index.take_in_word(word, mask);
            self.remove(word, mask);
        }
    }

    /// Sets aside blocks of `mask` in `word`.
    fn add(&self, word: WordIndex, mask: G::Word) {
        let blocks = mask.count_ones();
        self.count.add(blocks.into());
        let added = self.held.add_in_word(word, mask).count_ones();
        self.count.add(u64::from(blocks - added).wrapping_neg());
    }

    /// Takes out those blocks of `mask` in `word` that are set aside, and returns which.
    fn remove(&self, word: WordIndex, mask: G::Word) -> G::Word {
        let taken = self.held.take_in_word(word, mask);
        self.count.add(u64::from(taken.count_ones()).wrapping_neg());
        taken
    }

    fn let_out_leaves(
        &self,
        index: &Bitmap<G>,
        leaves: Range<LeafIndex>,
        moved: &mut impl FnMut(Moved, u64, u64),
    ) {
        // Leaves that another caller closed, meanwhile or before, belong to that caller.
        for leaf in LeafIndex::each(leaves) {
            let mut closed = self.marks.is_closed(leaf);
            fault!(OpenAfterLook: closed = false);
            if closed {
                continue;
            }
            WordIndex::each(leaf.words::<G>())
                .for_each(|word| self.let_out_word(index, word, G::FULL, moved));
        }
    }

    fn let_out_word(
        &self,
        index: &Bitmap<G>,
        word: WordIndex,
        mask: G::Word,
        moved: &mut impl FnMut(Moved, u64, u64),
    ) {
        let taken = self.remove(word, mask);
        if taken != G::Word::ZERO {
            let freed = index.add_in_word(word, taken);
            moved(Moved::Freed, word.first_block::<G>(), u64::from(freed.count_ones()));
        }
    }
}
