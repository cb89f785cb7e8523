//! The reserves of the classes.
//!
//! A reserve has tokens of the escrow. Used tokens are owed: the next freed blocks go into escrow
//! in their stead. While anything is owed, frees look closer. This is switched on before the debt
//! exists, and switched off, after the last of it was paid, by the thread that paid it.

use crate::base::geometry::Geometry;
use crate::base::mutant::fault;
use crate::base::sync::{AtomicWord, Site};
use crate::space::closed::Closed;
use crate::space::escrow::Escrow;
use crate::values::class::CLASSES;

/// The tokens of one class.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// The tokens that it has.
    tokens: AtomicWord<u64>,
    /// The tokens that it should have besides.
    owed: AtomicWord<u64>,
}

impl Default for Reserve {
    fn default() -> Self {
        Self { tokens: AtomicWord::new(0), owed: AtomicWord::new(0) }
    }
}

impl Reserve {
    /// Number of tokens that it has.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens.load(Site::Spare)
    }

    /// Gives it tokens for blocks that are in escrow.
    pub(crate) fn add(&self, tokens: u64) {
        self.tokens.fetch_add(tokens, Site::Spare);
    }

    /// Takes `tokens` tokens, or, if `some`, as many as there are. Returns the number.
    pub(crate) fn take(&self, tokens: u64, some: bool) -> u64 {
        let left = |there: u64| match there.checked_sub(tokens) {
            None if some && there > 0 => Some(0),
            left => left,
        };
        self.tokens.update(Site::Spare, left).map_or(0, |there| there.min(tokens))
    }

    /// Adds `blocks` to the debt. Frees are told to look first. Otherwise another thread could pay
    /// in between and switch off the look that other users need [mutant: OweBeforeLook].
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

    /// Keeps the first blocks of `start..start + len`, which the caller owns and frees, as far as
    /// they are owed. Returns their number.
    pub(crate) fn refill<G: Geometry>(
        &self,
        aside: &Closed<G>,
        escrow: &Escrow<G>,
        start: u64,
        len: u64,
    ) -> u64 {
        self.pay(aside, len, |part| escrow.put_blocks(start, part))
    }

    /// Gets up to `most` tokens, as far as they are owed, for blocks that are in escrow. Returns
    /// their number.
    pub(crate) fn refill_by_tokens<G: Geometry>(&self, aside: &Closed<G>, most: u64) -> u64 {
        self.pay(aside, most, |part| part)
    }

    /// Pays up to `most` of the debt, for which `put` has blocks put into escrow. Returns how much.
    fn pay<G: Geometry>(&self, aside: &Closed<G>, most: u64, put: impl FnOnce(u64) -> u64) -> u64 {
        let (part, all) = self.take_owed(most);
        debug_assert!(part <= most);
        if part > 0 {
            let put = put(part);
            debug_assert!(put <= part);
            // The token comes last, as always.
            self.add(put);
            // Fewer than `part` arrive if another thread wrongly frees the same blocks.
            self.owe(aside, part - put);
        }
        if all {
            aside.deactivate();
        }
        part
    }

    /// Takes up to `most` of the debt. Returns how much, and whether that was all.
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
    /// Empty reserves.
    pub(crate) fn new() -> Self {
        Self(std::array::from_fn(|_| Reserve::default()))
    }
}
