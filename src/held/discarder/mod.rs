//! Telling the device which blocks hold no data any more.
//!
//! - this file: what to do next; `limits`: what the engine asks for; `batch`: what is with the
//!   device;
//! - `pace`: how fast; `crumbs`: when blocks leave that belong to no whole unit.

mod batch;
mod crumbs;
mod limits;
mod pace;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use batch::Batch;
pub use limits::DiscardLimits;

use crate::core::Core;
use crate::held::discarder::crumbs::{Crumbs, RUNS};
use crate::held::discarder::pace::Pace;
use crate::request::thread_cursor;
use crate::space::units::Units;
use crate::values::extent::{Extent, Extents};

/// Has freed blocks discarded before they can be reused, from
/// [`Allocator::discarder`](crate::Allocator::discarder). One at a time.
///
/// While it exists, freed extents wait for it, joined with their neighbours. (Extents that a
/// transaction frees do so when they leave the quarantine, unless an allocation that finds nothing
/// takes them out of it.) A thread of the engine calls
/// [`next`](Self::next) again and again and tells the device about each [`Batch`]; when the batch
/// is dropped, its blocks are free. Several batches may be under way.
///
/// - *Whole units.* Each extent begins and ends at the borders of the device's units
///   ([`DiscardLimits::granularity`]) and has at least [`DiscardLimits::shortest`] blocks, whatever
///   cuts it. A run that one batch cuts is continued by the next, at the same border.
/// - *Crumbs*, blocks that belong to no whole unit that waits, wait for their neighbours. They
///   leave the queue undiscarded after [`DiscardLimits::linger`], when a free finds the queue full,
///   or when they are needed.
/// - *Never a lack of space.* An allocation that finds nothing takes the waiting blocks,
///   undiscarded. It cannot have only the batches that the device is busy with. Together they hold
///   at most a quarter of what is free or with the device when the last of them begins.
/// - *Never a pile.* Beyond [`DiscardLimits::waiting`], freed blocks do not wait.
/// - *Nothing is lost.* Dropping the discarder frees the waiting blocks, also those that other
///   threads are about to queue. Batches that are under way keep theirs until they are dropped,
///   also beside the next discarder.
/// - *Nothing waits.* A free that queues its blocks, an allocation that takes them back, and a
///   batch that ends delay no other thread and do not call the heap.
///
/// Waiting blocks are neither free nor allocated: see [`Region`](crate::Region) for what that
/// means.
///
/// Every block that has waited is counted once when it leaves: in
/// [`Counters::discarded_blocks`](crate::Counters::discarded_blocks) when it is handed out, or in
/// [`Counters::skipped_discard_blocks`](crate::Counters::skipped_discard_blocks).
///
/// # After a crash
///
/// No record is kept of blocks that wait or are being discarded: after a restart they are free, and
/// no discarder learns of them again. An engine that wants them discarded tells its device of all
/// free space once more, before its first allocation, as `fstrim` does:
/// [`free_extents`](crate::Allocator::free_extents) names it.
///
/// # Example
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::{Duration, Instant};
/// use freemap::{Allocator, Discarding, DiscardLimits};
///
/// let allocator = Allocator::new(1 << 20)?;
/// let limits = DiscardLimits::new().granularity(64);
/// let mut discarder = allocator.discarder(limits).expect("it is the first");
/// allocator.mark_allocated(freemap::Extent::new(1000, 300))?;
/// allocator.free(freemap::Extent::new(1000, 300))?;
/// assert_eq!(discarder.waiting_blocks(), 300);
///
/// # fn submit(_: freemap::Extent) {}
/// let mut under_way = Vec::new(); // the requests of an io_uring, for example
/// for _ in 0..16 {
///     match discarder.next(Instant::now()) {
///         Discarding::Batch(batch) => {
///             for &extent in batch.extents() {
///                 submit(extent); // fallocate(PUNCH_HOLE), BLKDISCARD, NVMe deallocate, ...
///             }
///             under_way.push(batch);
///         }
///         // Frees may bring more before the pause is over.
///         Discarding::Later(pause) => std::thread::sleep(pause.min(Duration::from_millis(5))),
///         Discarding::Nothing => break, // until blocks are freed, or a batch is done
///     }
/// }
/// assert_eq!(under_way[0].extents(), [freemap::Extent::new(1024, 256)]);
/// assert_eq!(discarder.waiting_blocks(), 24 + 20); // the crumbs on both sides
/// drop(discarder); // the crumbs are free
/// under_way.clear(); // and so is what the device has done
/// assert_eq!(allocator.free_blocks(), 1 << 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it ends the discarding"]
pub struct Discarder {
    core: Arc<Core>,
    limits: DiscardLimits,
    units: Units,
    pace: Pace,
    crumbs: Crumbs,
    /// Where the last extent ended: the discarder goes round the device.
    position: u64,
}

/// What a [`Discarder`] should do next.
#[derive(Debug)]
#[must_use = "a batch that is dropped is done"]
pub enum Discarding {
    /// Tell the device about these extents, then drop the batch.
    Batch(Batch),
    /// Call again after this time, at least a millisecond: the speed limit allows nothing before,
    /// or only crumbs wait, which leave then. If blocks are freed or batches are dropped before,
    /// another call may have a batch earlier.
    Later(Duration),
    /// Call again when blocks were freed or a batch was dropped: no blocks wait, or space is so
    /// short that none should, or the device has as many as it may have.
    Nothing,
}

impl Discarder {
    pub(crate) fn new(core: Arc<Core>, limits: DiscardLimits) -> Option<Self> {
        core.space.discarder.acquire().then(|| {
            core.space.closed.activate();
            core.space.discards.set_limit(limits.waiting_blocks(), &mut |_, _| {});
            let pace = Pace::new(limits.per_second, limits.batch_blocks());
            let crumbs = Crumbs::new(limits.linger);
            Self { core, limits, units: limits.units(), pace, crumbs, position: 0 }
        })
    }

    /// Blocks that wait to be discarded. O(1). Exact while nothing else runs; otherwise it may
    /// include blocks that are just being freed.
    pub fn waiting_blocks(&self) -> u64 {
        self.core.space.discards.waiting()
    }

    /// What to do at `now`. Reads no clock: the times of the calls are what the caller says, and
    /// one that goes back counts as standing still.
    ///
    /// Repeated with the times that it asks for, while nothing is freed and every batch is dropped,
    /// it ends with [`Discarding::Nothing`] and an empty queue, unless [`DiscardLimits::linger`] is
    /// for ever.
    ///
    /// O(extents and blocks / 64 of a batch), each O(levels of the summary); stretches of the queue
    /// that the summary shows to be crumbs are passed by. While crumbs leave: up to 4096 runs of
    /// waiting blocks as well. Calls the heap for a batch of more than four extents.
    pub fn next(&mut self, now: Instant) -> Discarding {
        if self.waiting_blocks() == 0 {
            self.crumbs.none_wait();
            return Discarding::Nothing;
        }
        let (discarding, quarter) = self.quarter();
        if quarter < self.units.shortest() {
            thread_cursor::with_lane(&self.core, |lane| {
                self.core.space.skip_discards(lane, u64::MAX)
            });
            return Discarding::Nothing;
        }
        self.let_crumbs_out(now);
        let most = quarter.min(self.limits.batch_blocks());
        let room = Room {
            most,
            now: quarter.saturating_sub(discarding).min(most),
            allowed: self.pace.allowance(now),
        };
        match self.take_batch(&room) {
            Err(Wanted { blocks }) if blocks > room.now => Discarding::Nothing,
            Err(Wanted { blocks }) => Discarding::Later(self.pace.wait_for(blocks)),
            Ok(extents) if extents.is_empty() => self.without_whole_units(now),
            Ok(extents) => {
                self.pace.spend(extents.blocks());
                Discarding::Batch(Batch::new(self.core.clone(), extents))
            }
        }
    }

    /// Blocks that are with the device, and how many may be: a quarter of those and the free ones.
    fn quarter(&self) -> (u64, u64) {
        let discarding = self.core.space.discarding_blocks.get();
        (discarding, self.core.space.free_blocks().saturating_add(discarding) / 4)
    }

    /// Lets crumbs out, if it is time for that.
    fn let_crumbs_out(&mut self, now: Instant) {
        let space = &self.core.space;
        if self.units.are_blocks() {
            return;
        }
        let Some(from) = self.crumbs.sweep_from(now, || space.discards.was_full()) else { return };
        let swept = thread_cursor::with_lane(&self.core, |lane| {
            let mut free = |word, bits| space.skip_word(lane, word, bits);
            space.discards.let_out_crumbs(from, &self.units, RUNS, &mut free)
        });
        self.crumbs.swept_to(swept);
    }

    /// What to do if no whole units wait.
    fn without_whole_units(&self, now: Instant) -> Discarding {
        let crumbs_wait = !self.units.are_blocks() && self.waiting_blocks() > 0;
        let wait = if crumbs_wait { self.crumbs.wait(now) } else { None };
        wait.map_or(Discarding::Nothing, Discarding::Later)
    }

    /// Takes extents of up to `room` blocks. Empty if no whole units wait.
    fn take_batch(&mut self, room: &Room) -> Result<Extents, Wanted> {
        let (discards, units) = (&self.core.space.discards, self.units);
        debug_assert!(room.most >= units.shortest() && room.most >= room.now);
        let mut extents = Extents::new();
        let (mut left, mut wrapped) = (room.now.min(room.allowed), false);
        while extents.len() < self.limits.batch_extents {
            let measure = room.most + units.shortest();
            let Some((start, run)) = discards.find(self.position, &units, measure) else {
                if wrapped {
                    break;
                }
                (self.position, wrapped) = (0, true);
                continue;
            };
            let len = match units.cut(run, left) {
                Some(len) => len,
                // The next batch begins here.
                None if !extents.is_empty() => break,
                None => {
                    let blocks = units.least_cut(run).min(units.whole(room.most));
                    if blocks > left {
                        return Err(Wanted { blocks });
                    }
                    blocks
                }
            };
            // Another thread may have taken some of it.
            let taken = discards.take(start, len);
            self.position = taken.map_or(start + 1, |(start, len)| start + len);
            if let Some((start, len)) = taken {
                extents.push(Extent { start, len });
                left -= len;
            }
        }
        Ok(extents)
    }
}

/// Blocks that the device may have.
struct Room {
    /// If it had none.
    most: u64,
    /// Beside those that it has.
    now: u64,
    /// By the speed limit.
    allowed: u64,
}

/// The next extent needs so many blocks, which the device may not have now.
struct Wanted {
    blocks: u64,
}

/// Ends the discarding: what waits becomes free, undiscarded. O(blocks that wait). Batches that are
/// under way stay with the device.
impl Drop for Discarder {
    fn drop(&mut self) {
        let space = &self.core.space;
        thread_cursor::with_lane(&self.core, |lane| {
            space.discards.set_limit(0, &mut |word, bits| space.skip_word(lane, word, bits));
        });
        space.closed.deactivate();
        space.discarder.release();
    }
}
