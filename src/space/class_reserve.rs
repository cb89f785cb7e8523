//! What is kept for each class.
//!
//! A reserve has tokens of the escrow. What was used of it is owed, and what is freed next goes into escrow
//! in its stead. While anything is owed, frees look closer: that is said before it is owed, and taken back
//! after it was paid by whoever paid the last of it.

use crate::base::geometry::Geometry;
use crate::base::mutant::fault;
use crate::base::sync::{AtomicWord, Site};
use crate::space::closed::Closed;
use crate::space::escrow::Escrow;
use crate::values::class::CLASSES;

/// The tokens of one class.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// Those it has.
    tokens: AtomicWord<u64>,
    /// Those it should have besides.
    owed: AtomicWord<u64>,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { tokens: AtomicWord::new(0), owed: AtomicWord::new(0) }
    }
}

impl Reserve {
    /// Tokens that it has.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens.load(Site::Spare)
    }

    /// Gives it tokens for blocks that are in escrow.
    pub(crate) fn add(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Site::Spare);
    }

    /// Takes `tokens` tokens, or, if `some`, as many as there are; how many.
    pub(crate) fn take(&self, tokens: u64, some: bool) -> u64 {
        let left = |there: u64| match there.checked_sub(tokens) {
            None if some && there > 0 => Some(0),
            left => left,
        };
        self.tokens.update(Site::Spare, left).map_or(0, |there| there.min(tokens))
    }

    /// Has `blocks` more be owed. Frees are told to look first: between owing and telling them, somebody
    /// could pay and have them look away from what others want seen [mutant: OweBeforeLook].
    pub(crate) fn owe<G: Geometry>(&self, aside: &Closed<G>, blocks: u64) {
        if blocks == 0 {
            return;
        }
        fault!(OweBeforeLook: {
            if self.owed.fetch_add(blocks, Site::Spare) == 0 {
                aside.activate();
            }
            return;
        });
        aside.activate();
        if self.owed.fetch_add(blocks, Site::Spare) > 0 {
            aside.deactivate();
        }
    }

    /// Keeps the first blocks of `start..start + len`, which the caller owns and frees, as far as they are
    /// owed; how many.
    pub(crate) fn refill<G: Geometry>(
        &self,
        aside: &Closed<G>,
        escrow: &Escrow<G>,
        start: u64,
        len: u64,
    ) -> u64 {
        let (part, all) = self.take_owed(len);
        if part > 0 {
            let put = escrow.put_blocks(start, part);
            // The token last, as ever.
            self.add(put);
            // Less than `part` came to be there if somebody frees the same blocks wrongly.
            self.owe(aside, part - put);
        }
        if all {
            aside.deactivate();
        }
        part
    }

    /// Takes up to `most` of what is owed: how much, and whether that was all.
    fn take_owed(&self, most: u64) -> (u64, bool) {
        let left = |owed: u64| (owed > 0 && most > 0).then(|| owed.saturating_sub(most));
        self.owed
            .update(Site::Spare, left)
            .map_or((0, false), |owed| (owed.min(most), owed <= most))
    }
}

/// The reserves of all classes.
#[derive(Debug)]
pub(crate) struct Reserves(pub [Reserve; CLASSES]);

impl Reserves {
    /// Reserves of nothing.
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Reserve::default()))
    }
}
