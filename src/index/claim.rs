//! Claiming given blocks.

use crate::base::geometry::Geometry;
use crate::base::mutant::{fault, step};
use crate::base::place::{LeafIndex, WordIndex};
use crate::base::sync::{AtomicWord, Site};
use crate::base::word::Word;
use crate::index::events::Event;
use crate::index::{Bitmap, Claimed, Piece};

/// A range was not entirely free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    /// The first block found allocated.
    pub block: u64,
}

impl<G: Geometry> Bitmap<G> {
    /// Claims exactly `start..start + len`, or nothing. The range lies on the device, or did so a
    /// moment ago: blocks that were cut off since are not free.
    ///
    /// Words are claimed in ascending order. So of all threads that hold part of a range, the one
    /// that got furthest is stopped only by a finished allocation or by a thread still further
    /// (invariant 5). O(len / word width) compare-exchanges.
    pub(crate) fn claim(&self, start: u64, len: u64) -> Result<Claimed, Conflict> {
        debug_assert!(len > 0);
        let pieces = Self::pieces(start, len);
        step!(NoPrecheckRollbackAll: {
            for piece in pieces.clone() {
                let free = self.word(piece.word).load(Site::LeafLook);
                if !free.has_all(piece.mask) {
                    return Err(Conflict { block: Self::first_block(piece, !free) });
                }
            }
        });
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

    /// Claims the free blocks of `at..end` from `at` on; `None` if `at` is not free. If another
    /// thread takes some of them meanwhile, what lies before those.
    pub(crate) fn claim_from(&self, at: u64, end: u64) -> Option<Claimed> {
        let mut end = self.run_end(at, end);
        while at < end {
            match self.claim(at, end - at) {
                Ok(claimed) => return Some(claimed),
                Err(conflict) => end = conflict.block,
            }
        }
        None
    }

    /// Takes the blocks of `piece`, or returns the word that lacks some.
    #[inline]
    pub(super) fn claim_piece(&self, piece: Piece<G::Word>) -> Result<(), G::Word> {
        let word = self.word(piece.word);
        let mut free = word.load(Site::LeafLook);
        loop {
            if !free.has_all(piece.mask) {
                return Err(free);
            }
            match self.take(word, free, free & !piece.mask) {
                Ok(_) => return Ok(()),
                Err(now) => {
                    self.events.count(Event::LostClaim, piece.word.get());
                    free = now;
                }
            }
        }
    }

    /// Takes those blocks of `mask` in `word` that are free, and returns which.
    pub(crate) fn take_in_word(&self, word: WordIndex, mask: G::Word) -> G::Word {
        let atomic = self.word(word);
        if atomic.load(Site::LeafLook) & mask == G::Word::ZERO {
            return G::Word::ZERO;
        }
        atomic.fetch_and(!mask, Site::LeafClaim) & mask
    }

    /// Free blocks get an owner only here and in [`Bitmap::take_in_word`] (invariant 1).
    #[inline(always)]
    pub(super) fn take(
        &self,
        word: &AtomicWord<G::Word>,
        free: G::Word,
        left: G::Word,
    ) -> Result<G::Word, G::Word> {
        fault!(NonAtomicClaim: {
            word.store(left, Site::LeafClaim);
            return Ok(free);
        });
        word.compare_exchange(free, left, Site::LeafClaim)
    }

    /// Gives back the words from `start` up to `failed`, exclusive, which this thread had claimed.
    #[cold]
    pub(super) fn roll_back(
        &self,
        start: u64,
        len: u64,
        failed: Piece<G::Word>,
        conflict: Conflict,
    ) -> Result<(), Conflict> {
        fault!(OkAfterFailedClaim: return Ok(()));
        let held = failed.word.first_block::<G>().saturating_sub(start);
        fault!(NoRollback: return Err(conflict));
        if held == 0 {
            self.events.count(Event::LostClaim, failed.word.get());
            return Err(conflict);
        }
        let last = start + len - 1;
        let several_leaves = LeafIndex::of_block::<G>(start) != LeafIndex::of_block::<G>(last);
        let mut forget = 0;
        fault!(RunRollbackPartial: forget = usize::from(several_leaves));
        for piece in Self::pieces(start, held).skip(forget) {
            self.word(piece.word).fetch_or(piece.mask, Site::LeafReleaseFull);
        }
        let mut published = true;
        fault!(RollbackNoEnsure: published = false);
        fault!(RunRollbackNoEnsure: published = !several_leaves);
        if published {
            self.publish(start, held);
        }
        step!(RollbackNoEvent: self.tell_watchers(start, held));
        // Last: whoever saw the blocks taken looks again when this has changed.
        self.events.count(Event::RolledBackClaim, failed.word.get());
        Err(conflict)
    }

    /// How many claims were rolled back.
    pub(crate) fn roll_backs(&self) -> u64 {
        self.events.total(Event::RolledBackClaim)
    }
}
