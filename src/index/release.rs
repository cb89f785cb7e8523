//! Giving blocks back.

use crate::base::geometry::Geometry;
use crate::base::mutant::{fault, step};
use crate::base::place::{LeafIndex, WordIndex, place_in_word};
use crate::base::sync::Site;
use crate::base::word::Word;
use crate::index::{Bitmap, Piece};

/// Why a range could not be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReleaseError {
    /// This block is already free; nothing was changed.
    Free {
        /// The first such block of the range.
        block: u64,
    },
    /// Another thread released a block of the range at the same moment. We released what lies
    /// before `block`, and did not touch the rest. `block` itself may still be ours: it is the
    /// first block of the word in conflict, and the other thread may have released any block of
    /// that word. A second release of the rest tells which, by `Free`.
    Torn {
        /// The first block that we did not release.
        block: u64,
    },
}

impl ReleaseError {
    /// How many blocks from `start`, the start of the range, were released all the same.
    pub(crate) fn released(self, start: u64) -> u64 {
        match self {
            Self::Free { .. } => 0,
            Self::Torn { block } => block - start,
        }
    }
}

impl<G: Geometry> Bitmap<G> {
    /// Frees those blocks of `mask` in `word` that are not free, and returns which. For blocks that
    /// go from one bitmap to another: a block that another caller wrongly frees meanwhile does not
    /// hold up the rest.
    pub(crate) fn add_in_word(&self, word: WordIndex, mask: G::Word) -> G::Word {
        let before = self.word(word).fetch_or(mask, Site::LeafReleaseFull);
        let added = mask & !before;
        if added != G::Word::ZERO {
            self.publish_word(word, added, before | mask);
            self.tell_watchers_of_word(word, added, before | mask);
        }
        added
    }

    /// The same for `start..start + len`; returns the number of blocks.
    pub(crate) fn add(&self, start: u64, len: u64) -> u64 {
        let added = |(word, mask)| u64::from(self.add_in_word(word, mask).count_ones());
        Self::words_of(start, len).map(added).sum()
    }

    /// Gives back `start..start + len`, which must lie on the device: all of it, or nothing if one
    /// of its blocks is already free (or, in the one race that cannot be undone, a part: `Torn`).
    ///
    /// O(len / word width) compare-exchanges, then the publication of each leaf.
    #[inline(always)]
    pub(crate) fn release(&self, start: u64, len: u64) -> Result<(), ReleaseError> {
        debug_assert!(len > 0);
        fault!(SetBeforeLeaf: {
            self.show(LeafIndex::of_block::<G>(start), G::MAX_ORDER + 1);
        });
        fault!(WatchReadBeforeLeaf | EventBeforeEnsure: self.tell_watchers(start, len));
        let place = place_in_word::<G>(start);
        if u64::from(place) + len <= u64::from(G::WORD_BLOCKS) {
            let mask = G::Word::span(place, len as u32);
            return self.release_in_word(WordIndex::of_block::<G>(start), mask);
        }
        self.release_words(start, len)?;
        self.tell_watchers_of_release(start, len);
        Ok(())
    }

    /// Gives back the blocks of `mask`, neighbours or not, in `word`: all of them, or nothing if
    /// one of them is already free. One compare-exchange, then the publication.
    #[inline(always)]
    pub(crate) fn release_in_word(
        &self,
        word: WordIndex,
        mask: G::Word,
    ) -> Result<(), ReleaseError> {
        debug_assert!(mask != G::Word::ZERO);
        let piece = Piece { word, mask };
        let free = self
            .release_piece(piece)
            .map_err(|free| ReleaseError::Free { block: Self::first_block(piece, free) })?;
        self.publish_word(word, mask, free);
        self.tell_watchers_of_word(word, mask, free);
        Ok(())
    }

    #[inline(never)]
    pub(super) fn release_words(&self, start: u64, len: u64) -> Result<(), ReleaseError> {
        step!(FreeNoVerifyPass: {
            for piece in Self::pieces(start, len) {
                let free = self.word(piece.word).load(Site::LeafLook);
                if free & piece.mask != G::Word::ZERO {
                    return Err(ReleaseError::Free { block: Self::first_block(piece, free) });
                }
            }
        });
        for piece in Self::pieces(start, len) {
            if let Err(free) = self.release_piece(piece) {
                let block = Self::first_block(piece, free);
                let word_start = piece.word.first_block::<G>();
                if word_start <= start {
                    return Err(ReleaseError::Free { block });
                }
                // The blocks of this word before the one in conflict are still ours, but not
                // released either: report where we stopped [scenario: S4t].
                let released = word_start - start;
                self.publish(start, released);
                self.tell_watchers_of_release(start, released);
                return Err(ReleaseError::Torn { block: word_start });
            }
        }
        self.publish(start, len);
        Ok(())
    }

    /// Sets the bits of `piece`. Returns the word as we left it, or the word found if one of the
    /// bits was already set.
    #[inline(always)]
    pub(super) fn release_piece(&self, piece: Piece<G::Word>) -> Result<G::Word, G::Word> {
        let word = self.word(piece.word);
        fault!(FreeFetchOr: {
            let free = word.fetch_or(piece.mask, Site::LeafRelease);
            return if free & piece.mask == G::Word::ZERO {
                Ok(free | piece.mask)
            } else {
                Err(free)
            };
        });
        let mut free = word.load(Site::LeafLook);
        loop {
            let mut free_already = free & piece.mask != G::Word::ZERO;
            fault!(FreeNoCheckInCas: free_already = false);
            if free_already {
                return Err(free);
            }
            let left = free | piece.mask;
            let site = if left == G::FULL { Site::LeafReleaseFull } else { Site::LeafRelease };
            match word.compare_exchange(free, left, site) {
                Ok(_) => {
                    fault!(SetFromOldWord: return Ok(free));
                    return Ok(left);
                }
                Err(now) => free = now,
            }
        }
    }
}
