//! Claiming within one word: the shortest paths.

use crate::base::geometry::Geometry;
use crate::base::place::WordIndex;
use crate::base::sync::Site;
use crate::base::word::Word;
use crate::index::events::Event;
use crate::index::{Bitmap, Claimed, ClaimedRuns};

/// Another thread changed the word just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

impl<G: Geometry> Bitmap<G> {
    /// Claims the lowest free block of `word`, if it has one: the shortest path. One attempt; the
    /// caller counts a lost one.
    #[inline(always)]
    pub(crate) fn claim_one_in(&self, word: WordIndex) -> Result<Option<Claimed>, Lost> {
        let atomic = self.word(word);
        let free = atomic.load(Site::LeafLook);
        if free == G::Word::ZERO {
            return Ok(None);
        }
        let place = free.trailing_zeros();
        match self.take(atomic, free, free & !G::Word::bit(place)) {
            Ok(_) => Ok(Some(Claimed::new(word.block::<G>(place), 1))),
            Err(_) => Err(Lost),
        }
    }

    /// Claims the lowest block of `word` that is free between two allocated ones, and says whether
    /// there are others. One attempt, as above.
    #[inline]
    pub(crate) fn claim_hole_in(&self, word: WordIndex) -> Result<Option<(Claimed, bool)>, Lost> {
        let end = self.word_end();
        if word >= end {
            return Ok(None); // the device was made shorter
        }
        let atomic = self.word(word);
        let free = atomic.load(Site::LeafLook);
        let below = self.look_before(word) >> (G::WORD_BLOCKS - 1);
        let above = if word.next() < end { self.look(word.next()) } else { G::Word::ZERO };
        let holes = free & !(free << 1 | below) & !(free >> 1 | above << (G::WORD_BLOCKS - 1));
        if holes == G::Word::ZERO {
            return Ok(None);
        }
        let place = holes.trailing_zeros();
        let block = word.block::<G>(place);
        let others = holes.without_lowest() != G::Word::ZERO;
        match self.take(atomic, free, free & !G::Word::bit(place)) {
            Ok(_) => Ok(Some((Claimed::new(block, 1), others))),
            Err(_) => Err(Lost),
        }
    }

    /// Claims the lowest aligned runs of `order` (no wider than a word) in `word`, `len` blocks
    /// of each, at most `most` of them, all in one step. `None` if there is no such run, or another
    /// thread changed the word just now.
    #[inline]
    pub(crate) fn claim_many_in_word(
        &self,
        word: WordIndex,
        order: u32,
        len: u32,
        most: usize,
    ) -> Option<ClaimedRuns<G::Word>> {
        debug_assert!(order <= G::WORD_ORDER && most > 0);
        debug_assert!(0 < len && len <= 1 << order, "an aligned run of {order} has {len} blocks");
        let atomic = self.word(word);
        let free = atomic.load(Site::LeafLook);
        let places = free.aligned_runs(order).lowest(most);
        let mask = places.times(G::Word::span(0, len));
        if places == G::Word::ZERO {
            return None;
        }
        if self.take(atomic, free, free & !mask).is_err() {
            self.events.count(Event::LostClaim, word.get());
            return None;
        }
        Some(ClaimedRuns::new(word.first_block::<G>(), places, len))
    }

    /// Claims the first `len` blocks of an aligned run of `order` (no wider than a word) in `word`,
    /// at or after place `from`.
    #[inline]
    pub(super) fn claim_in_word(
        &self,
        word: WordIndex,
        order: u32,
        len: u32,
        from: u32,
    ) -> Option<Claimed> {
        debug_assert!(order <= G::WORD_ORDER && from < G::WORD_BLOCKS);
        debug_assert!(0 < len && len <= 1 << order, "an aligned run of {order} has {len} blocks");
        let atomic = self.word(word);
        let mut free = atomic.load(Site::LeafLook);
        loop {
            let place = (free & (G::Word::MAX << from)).first_aligned(order)?;
            let mask = G::Word::span(place, len);
            match self.take(atomic, free, free & !mask) {
                Ok(_) => return Some(Claimed::new(word.block::<G>(place), len.into())),
                Err(now) => {
                    self.events.count(Event::LostClaim, word.get());
                    free = now;
                }
            }
        }
    }
}
