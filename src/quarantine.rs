//! Layer 6: where freed extents wait for the readers that might still read the old data.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::epoch::{Clock, Pin};
use crate::extent::{Extent, Extents};
use crate::moments::Unchanged;
use crate::mutant::{Mutant, mutated};
use crate::sync::{Counter, Queue};

/// One bin per epoch modulo this, so that what is ripe does not stand behind what is not: two that
/// wait, one that is ripe, and one so that a late arrival rarely meets its successors.
const BINS: u64 = 4;

/// Freed together, therefore ripe together.
#[derive(Debug)]
struct Batch {
    stamp: u64,
    extents: Extents,
}

/// Extents whose free is durable, until every guard is gone that was there before.
#[derive(Debug)]
pub struct Quarantine {
    clock: Clock,
    bins: [Queue<Batch>; BINS as usize],
    /// Blocks put in and blocks let out: what waits is the difference.
    arrived: CachePadded<Counter>,
    left: CachePadded<Counter>,
    /// The epoch, while something waits.
    standing: Unchanged,
}

impl Quarantine {
    /// An empty quarantine; see [`Clock::new`] for `lanes`.
    pub fn new(lanes: usize) -> Self {
        Self {
            clock: Clock::new(lanes),
            bins: std::array::from_fn(|_| Queue::new()),
            arrived: CachePadded::default(),
            left: CachePadded::default(),
            standing: Unchanged::default(),
        }
    }

    /// See [`Clock::pin`].
    #[inline]
    pub fn pin(&self, lane: usize) -> Pin {
        self.clock.pin(lane)
    }

    /// See [`Clock::unpin`].
    #[inline]
    pub fn unpin(&self, pin: Pin) {
        self.clock.unpin(pin);
    }

    /// Pins not undone yet.
    pub fn pinned(&self) -> u64 {
        self.clock.pinned()
    }

    /// Blocks that wait. Exact while nothing else runs.
    pub fn blocks(&self) -> u64 {
        // In this order a block may be missed for a moment, but never makes the difference negative
        // by more than what left in between.
        let left = self.left.get();
        self.arrived.get().saturating_sub(left)
    }

    /// For how long blocks have waited without the epoch advancing, as far as calls of this saw;
    /// `None` if none wait. While the epoch advances they get out, so this is what a guard costs that is
    /// never dropped; and no commit has to look at a clock. O(1).
    pub fn age(&self) -> Option<Duration> {
        if self.blocks() == 0 {
            self.standing.forget();
            return None;
        }
        Some(self.standing.ask(self.clock.now()))
    }

    /// Takes in extents that nobody can find any more.
    pub fn retire(&self, extents: Extents) {
        if extents.is_empty() {
            return;
        }
        self.arrived.add(extents.blocks());
        let mut stamp = self.clock.stamp();
        if mutated(Mutant::StampTooOld) {
            stamp -= 1;
        }
        self.bins[(stamp % BINS) as usize].push(Batch { stamp, extents });
    }

    /// Moves the epoch on if the guards allow it, and hands up to `batches` ripe batches to
    /// `release`. Lock-free: nobody waits for a batch that another thread is releasing.
    pub fn collect(&self, batches: usize, release: impl FnMut(Extent)) -> u64 {
        // The other two hold something ripe only if it was not let out in its time.
        self.collect_from(2, batches, release)
    }

    /// Looks into `bins` bins, those first whose time it is.
    fn collect_from(
        &self,
        bins: u64,
        batches: usize,
        mut release: impl FnMut(Extent),
    ) -> u64 {
        self.clock.try_advance();
        let now = self.clock.now();
        let (mut blocks, mut left) = (0, batches);
        for bin in (now + 1..=now + bins).map(|stamp| &self.bins[(stamp % BINS) as usize]) {
            while left > 0 {
                let Some(batch) = bin.pop() else { break };
                if !self.clock.is_ripe(batch.stamp) && !mutated(Mutant::CollectUnripe) {
                    // Of a later round. Back to the end of the queue: it can wait.
                    bin.push(batch);
                    break;
                }
                batch.extents.iter().for_each(|&extent| release(extent));
                blocks += batch.extents.blocks();
                left -= 1;
            }
        }
        self.left.add(blocks);
        blocks
    }

    /// Hands everything to `release` that the guards allow.
    pub fn collect_all(&self, mut release: impl FnMut(Extent)) -> u64 {
        // What was retired in this epoch is ripe after two more.
        (0..3).map(|_| self.collect_from(BINS, usize::MAX, &mut release)).sum()
    }

    /// Bytes beside the batches.
    pub fn bytes(&self) -> usize {
        self.clock.bytes()
    }
}
