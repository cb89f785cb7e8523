//! The latest results of surveys, for callers that want them at once: shard by shard, and the sum,
//! which each record updates by the change.

use std::ops::Range;
use std::time::Duration;

use crate::base::heap::{OutOfMemory, reserved};
use crate::base::moments::{Moments, NEVER};
use crate::base::place::ShardIndex;
use crate::base::segmented::Segmented;
use crate::base::sync::{Counter, Slot};
use crate::values::runs::{RUN_ORDERS, Runs, RunsOfOrder};

/// Free space as surveys found it, not as it is now: see [`Stats`](crate::Stats).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Surveyed {
    /// Surveyed shards. The figures leave out the others, of which nothing is known.
    pub shards: usize,
    /// The age of the oldest shard survey; `None` if there was no survey.
    pub age: Option<Duration>,
    /// Free blocks of the shards, never more than the device has; without those kept for future
    /// reservations.
    pub free_blocks: u64,
    /// The maximal free runs that begin in the shards. Since shards are surveyed one after another,
    /// a run that came or went meanwhile may be counted twice, or not at all.
    pub runs: Runs,
}

/// What a survey found in one shard.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Runs that begin in the shard, including what lies beyond its end.
    pub runs: Runs,
    /// Free blocks of the shard, including those of runs that began before it.
    pub free: u64,
    /// The end of the last run, or of the last free block of the shard.
    pub end: u64,
}

/// The last survey of each shard. Lock-free: no survey waits for another to end. Surveys that
/// record the same shard at the same moment leave a mixture of both.
#[derive(Debug)]
pub(crate) struct SurveyRecords {
    shards: Segmented<Vec<Shard>>,
    orders: Orders,
    free: Counter,
    moments: Moments,
}

#[derive(Debug)]
struct Shard {
    at: Counter,
    free: Counter,
    largest: Counter,
    /// See [`Found::end`].
    end: Counter,
    /// Made by the first survey: about 900 bytes.
    orders: Slot<Orders>,
}

#[derive(Debug, Default)]
struct OrderCounters {
    runs: Counter,
    aligned: Counter,
    blocks: Counter,
}

#[derive(Debug)]
struct Orders([OrderCounters; RUN_ORDERS]);

impl Shard {
    /// Shards without a survey.
    fn several(count: usize) -> Result<Vec<Self>, OutOfMemory> {
        let shard = |_| Self {
            at: Counter::new(NEVER),
            free: Counter::new(0),
            largest: Counter::new(0),
            end: Counter::new(0),
            orders: Slot::default(),
        };
        let mut shards = reserved(count)?;
        shards.extend((0..count).map(shard));
        Ok(shards)
    }
}

impl Orders {
    fn new() -> Self {
        Self(std::array::from_fn(|_| OrderCounters::default()))
    }

    fn get(&self) -> [RunsOfOrder; RUN_ORDERS] {
        std::array::from_fn(|order| {
            let OrderCounters { runs, aligned, blocks } = &self.0[order];
            RunsOfOrder {
                runs: not_negative(runs.get()),
                aligned: not_negative(aligned.get()),
                blocks: not_negative(blocks.get()),
            }
        })
    }
}

/// The value, or 0 if it is negative: two surveys of one shard may add to the sum in reverse order,
/// so it can be negative for a moment.
fn not_negative(value: u64) -> u64 {
    if value > u64::MAX / 2 { 0 } else { value }
}

/// Replaces the figure of one shard, and corrects the sum.
fn replace(known: &Counter, sum: &Counter, value: u64) {
    let before = known.swap(value);
    if before != value {
        sum.add(value.wrapping_sub(before));
    }
}

impl SurveyRecords {
    /// For `shards` shards without a survey.
    pub(crate) fn new(shards: usize) -> Result<Self, OutOfMemory> {
        Ok(Self {
            shards: Segmented::new(Shard::several(shards)?),
            orders: Orders::new(),
            free: Counter::new(0),
            moments: Moments::begin(),
        })
    }

    /// Makes room for at least `shards` shards. For one caller at a time.
    pub(crate) fn lengthen(&self, shards: usize) -> Result<(), OutOfMemory> {
        self.shards.grow(shards, |range| Shard::several(range.len()))
    }

    /// Takes `shards` out of the sum: as if they were never surveyed.
    pub(crate) fn forget(&self, shards: Range<ShardIndex>) {
        for shard in ShardIndex::each(shards) {
            self.record(shard, &Found::default());
            self.shards[shard.get()].at.set(NEVER);
        }
    }

    /// The same for those of `shards` whose records reach beyond block `blocks`, where the device
    /// ends now. O(shards, and orders for each that is taken out).
    pub(crate) fn forget_beyond(&self, blocks: u64, shards: Range<ShardIndex>) {
        ShardIndex::each(shards)
            .filter(|shard| self.shards[shard.get()].end.get() > blocks)
            .for_each(|shard| self.forget(shard..shard.next()));
    }

    /// Records what a survey has found in `shard`, which exists or did. O(orders).
    pub(crate) fn record(&self, shard: ShardIndex, found: &Found) {
        let shard = &self.shards[shard.get()];
        let orders = shard.orders.get_or_set(Orders::new);
        for ((known, sum), found) in orders.0.iter().zip(&self.orders.0).zip(found.runs.by_order())
        {
            replace(&known.runs, &sum.runs, found.runs);
            replace(&known.aligned, &sum.aligned, found.aligned);
            replace(&known.blocks, &sum.blocks, found.blocks);
        }
        replace(&shard.free, &self.free, found.free);
        shard.largest.set(found.runs.largest());
        shard.end.set(found.end);
        shard.at.set(self.moments.now());
    }

    /// The last survey of `shard`, which exists; `None` if it was never surveyed. O(orders).
    pub(crate) fn shard(&self, shard: ShardIndex) -> Option<Surveyed> {
        let shard = &self.shards[shard.get()];
        let age = self.moments.age(shard.at.get())?;
        let orders = shard.orders.get()?.get();
        Some(Surveyed {
            shards: 1,
            age: Some(age),
            free_blocks: shard.free.get(),
            runs: Runs::from_parts(orders, shard.largest.get()),
        })
    }

    /// The sum over the first `shards` shards, which are all. O(orders + shards), with a few words
    /// read for each shard.
    pub(crate) fn all(&self, shards: usize) -> Surveyed {
        let (mut surveyed, mut largest, mut oldest) = (0, 0, NEVER);
        for shard in (0..shards).map(|shard| &self.shards[shard]) {
            let at = shard.at.get();
            if at != NEVER {
                surveyed += 1;
                largest = shard.largest.get().max(largest);
                oldest = if oldest == NEVER { at } else { at.min(oldest) };
            }
        }
        Surveyed {
            shards: surveyed,
            age: self.moments.age(oldest),
            free_blocks: not_negative(self.free.get()),
            runs: Runs::from_parts(self.orders.get(), largest),
        }
    }

    /// Bytes that the records take.
    pub(crate) fn bytes(&self) -> usize {
        let shards = (0..self.shards.room()).map(|shard| &self.shards[shard]);
        let made = shards.filter(|shard| shard.orders.get().is_some()).count();
        self.shards.bytes() + made * size_of::<Orders>()
    }
}
