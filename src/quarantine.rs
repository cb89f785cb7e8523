//! Layer 6: where freed extents wait for the readers that might still read the old data.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::epoch::{Clock, Pin};
use crate::extent::{Extent, Extents};
use crate::moments::{Moments, NEVER, Oldest};
use crate::mutant::{Mutant, mutated};
use crate::sync::{Counter, Queue};

/// One bin per epoch modulo this, so that what is ripe does not stand behind what is not: two that
/// wait, one that is ripe, and one so that a late arrival rarely meets its successors.
const BINS: u64 = 4;

/// Freed together, therefore ripe together.
#[derive(Debug)]
struct Batch {
    stamp: u64,
    /// When it came, by the quarantine's own [`Moments`].
    came: u64,
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
    moments: Moments,
    /// When the oldest batch came, bin by bin.
    oldest: CachePadded<[Oldest; BINS as usize]>,
}

impl Quarantine {
    /// An empty quarantine; see [`Clock::new`] for `lanes`.
    pub fn new(lanes: usize) -> Self {
        Self {
            clock: Clock::new(lanes),
            bins: std::array::from_fn(|_| Queue::new()),
            arrived: CachePadded::default(),
            left: CachePadded::default(),
            moments: Moments::begin(),
            oldest: CachePadded::new([const { Oldest::new() }; BINS as usize]),
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

    /// How long the oldest batch has waited, to the millisecond; `None` if none waits. Up to a look at
    /// the bins ([`Quarantine::collect`]) it may be off by the age of batches that came or left at the
    /// same moment. O(1).
    pub fn age(&self) -> Option<Duration> {
        if self.blocks() == 0 {
            return None;
        }
        let came = self.oldest.iter().map(Oldest::moment).filter(|&moment| moment != NEVER).min();
        self.moments.age(came?)
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
        let (bin, came) = ((stamp % BINS) as usize, self.moments.now());
        self.bins[bin].push(Batch { stamp, came, extents });
        self.oldest[bin].came(came);
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
        for index in (now + 1..=now + bins).map(|stamp| (stamp % BINS) as usize) {
            let (bin, oldest) = (&self.bins[index], &self.oldest[index]);
            while left > 0 {
                let Some(batch) = bin.pop() else {
                    oldest.left(NEVER);
                    break;
                };
                oldest.left(batch.came);
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
