//! Where freed extents wait for the readers that might still read the old data.
//!
//! Extents that no reader may still see do not wait. Other extents are cut into pieces and go into
//! a [queue](crate::quarantine::queue) in the order in which they were freed. So a look at the
//! first piece is enough to find out whether anything may be let out. A bitmap beside the queue
//! marks the blocks that a transaction has freed, from the moment the transaction is frozen until
//! they are let out.
//!
//! # Invariants
//! 1. *A mark has one owner.* The transaction that sets the mark of a block owns its free, and no
//!    other frees it. The owner is first the transaction, then the piece that it becomes, in the
//!    queue or in the hands of the thread that lets it out. So a block that is freed twice is let
//!    out once.
//! 2. *The mark goes first.* It is cleared before the block is let out; later, the clear could hit
//!    the mark of the block's next life.
//! 3. *Let out in time.* A piece is let out when no pin of an epoch up to its stamp is left
//!    (`epoch.rs`, invariants 3 and 4).
//! 4. *Order.* A stamp taken after a piece was put in is not older than that of the piece. So a
//!    piece that waits behind another with a later stamp was put in at the same moment by another
//!    thread.
//!
//! *Bounded.* A piece has at most [`PIECE`] blocks, and each call lets out a limited number of
//! them. *Lock-free:* a thread that stops holds at most the piece that it was putting in or letting
//! out.
//!
//! Uses `base` and `values`.

pub(crate) mod epoch;
pub(crate) mod queue;

use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::base::heap::OutOfMemory;
use crate::base::moments::Unchanged;
use crate::base::mutant::{Mutant, fault, mutated};
use crate::base::segmented::Segmented;
use crate::base::sync::{AtomicWord, Counter, Site};
use crate::base::word::Word;
use crate::quarantine::epoch::{Clock, Pin, Stamp};
use crate::quarantine::queue::Queue;
use crate::values::extent::Extent;
use crate::values::plain_bitmap::spans;

/// The most blocks of a piece: letting it out changes at most 64 words of the bitmap. A power of
/// two. A piece starts and ends at multiples of it, except where its extent starts and ends.
pub(crate) const PIECE: u64 = 1 << PIECE_BITS;
const PIECE_BITS: u32 = 12;

/// How many pieces a retirement lets out beyond the number that it puts in. More than 0, so that
/// pieces that became ripe together do not wait for as many retirements.
const BESIDE: usize = 4;

/// Blocks per word of marks.
const MARKS: u64 = u64::BITS as u64;

/// Extents whose free is durable, held until every pin that may see them is gone.
#[derive(Debug)]
pub(crate) struct Quarantine {
    clock: Clock,
    queue: Queue,
    /// A set bit is a block whose free has an owner.
    marks: Segmented<Vec<AtomicWord<u64>>>,
    /// Marked blocks, including those just being marked.
    marked: CachePadded<Counter>,
    /// Those of them that wait in the queue, including those just being put in.
    waiting: CachePadded<Counter>,
    /// The position of the first piece, while something waits.
    standing: Unchanged,
}

impl Quarantine {
    /// An empty quarantine for a device of `blocks` blocks; see [`Clock::new`] for `lanes`. The
    /// marks take no memory until a block is marked.
    pub(crate) fn new(lanes: usize, blocks: u64) -> Result<Self, OutOfMemory> {
        Ok(Self {
            clock: Clock::new(lanes),
            queue: Queue::new()?,
            marks: Segmented::new(AtomicWord::zeros(blocks.div_ceil(MARKS) as usize)?),
            marked: CachePadded::default(),
            waiting: CachePadded::default(),
            standing: Unchanged::default(),
        })
    }

    /// Makes room for a device of `blocks` blocks. For one caller at a time.
    pub(crate) fn lengthen(&self, blocks: u64) -> Result<(), OutOfMemory> {
        self.marks.grow(blocks.div_ceil(MARKS) as usize, |range| AtomicWord::zeros(range.len()))
    }

    /// See [`Clock::pin`].
    #[inline]
    pub(crate) fn pin(&self, lane: usize) -> Pin {
        self.clock.pin(lane)
    }

    /// See [`Clock::unpin`].
    #[inline]
    pub(crate) fn unpin(&self, pin: Pin) {
        self.clock.unpin(pin);
    }

    /// Number of pins not undone yet.
    pub(crate) fn pinned(&self) -> u64 {
        self.clock.pinned()
    }

    /// Number of blocks that wait. Exact while nothing else runs.
    #[inline(always)]
    pub(crate) fn blocks(&self) -> u64 {
        self.waiting.get()
    }

    /// How long the first piece that waits has been the first, as far as calls of this saw; `None`
    /// if nothing waits. It shows the cost of a pin that is never undone, without a clock read in
    /// any commit. O(1).
    pub(crate) fn age(&self) -> Option<Duration> {
        if self.blocks() == 0 {
            self.standing.forget();
            return None;
        }
        Some(self.standing.ask(self.queue.position()))
    }

    /// Whether any block is marked.
    #[inline(always)]
    pub(crate) fn has_marks(&self) -> bool {
        self.marked.get() != 0
    }

    /// Number of marked blocks, as counted with each mark. Exact while nothing else runs.
    pub(crate) fn marked(&self) -> u64 {
        self.marked.get()
    }

    /// Number of marks of the first `blocks` blocks. O(blocks / 64).
    pub(crate) fn count_marked(&self, blocks: u64) -> u64 {
        let words = spans(Extent { start: 0, len: blocks });
        let count =
            |(index, mask): (usize, u64)| (self.marks[index].load(Site::Mark) & mask).count_ones();
        words.map(|word| u64::from(count(word))).sum()
    }

    /// The first marked block of `start..end`, or `end`. O((end - start) / 64), O(1) while no block
    /// is marked.
    pub(crate) fn first_marked(&self, start: u64, end: u64) -> u64 {
        if !self.has_marks() {
            return end;
        }
        let mut words = spans(Extent { start, len: end - start });
        let marked = words.find_map(|(index, mask)| {
            let bits = self.marks[index].load(Site::Mark) & mask;
            (bits != 0).then(|| MARKS * index as u64 + u64::from(bits.trailing_zeros()))
        });
        marked.unwrap_or(end)
    }

    /// Marks the blocks of `extent`, and passes to `own` those that were not marked before: the
    /// caller owns their free from here on. O(len / 64).
    pub(crate) fn mark(&self, extent: Extent, mut own: impl FnMut(Extent)) {
        debug_assert!(extent.len > 0, "no caller frees nothing");
        // Counted first, so that no more blocks are marked than counted.
        self.marked.add(extent.len);
        let (mut from, mut others) = (extent.start, 0);
        for (index, mask) in spans(extent) {
            let before = if mutated(Mutant::MarkByLook) {
                let before = self.marks[index].load(Site::Mark) & mask;
                self.marks[index].fetch_or(mask, Site::Mark);
                before
            } else {
                self.marks[index].fetch_or(mask, Site::Mark) & mask
            };
            if before == 0 {
                continue;
            }
            others += u64::from(before.count_ones());
            let first = MARKS * index as u64;
            let start = extent.start.max(first);
            if from < start {
                own(Extent { start: from, len: start - from });
            }
            for (place, len) in (mask & !before).runs() {
                own(Extent { start: first + u64::from(place), len: u64::from(len) });
            }
            from = first + MARKS;
        }
        let end = extent.start + extent.len;
        if from < end {
            own(Extent { start: from, len: end - from });
        }
        self.marked.add(others.wrapping_neg());
    }

    /// Clears the marks of `extent`, whose free the caller owns. O(len / 64).
    pub(crate) fn unmark(&self, extent: Extent) {
        let mut marked = 0;
        for (index, mask) in spans(extent) {
            let before = self.marks[index].fetch_and(!mask, Site::Mark) & mask;
            marked += u64::from(before.count_ones());
        }
        debug_assert_eq!(marked, extent.len, "invariant 1: {extent} has one owner");
        self.marked.add(marked.wrapping_neg());
    }

    /// Takes in extents that have become unreachable and whose free the caller owns. Passes to
    /// `release` those that no pin holds, in pieces or as they are, and of the pieces that became
    /// ripe meanwhile a few more than it took in. Their marks are cleared before that.
    ///
    /// O(pieces, blocks / 64, generations).
    pub(crate) fn retire(&self, extents: &[Extent], mut release: impl FnMut(Extent)) {
        debug_assert!(extents.iter().all(|extent| extent.len > 0));
        let stamp = self.clock.stamp();
        debug_assert!(stamp.floor <= stamp.epoch + 1, "no pin is younger than its epoch");
        let mut pieces = 0;
        for &extent in extents {
            if !stamp.held {
                self.let_go(extent, &mut release);
                continue;
            }
            let (mut from, end) = (extent.start, extent.start + extent.len);
            self.waiting.add(extent.len);
            while from < end {
                let to = end.min((from / PIECE + 1) * PIECE);
                self.push(from, to, stamp);
                (from, pieces) = (to, pieces + 1);
            }
        }
        if self.blocks() > 0 {
            self.let_out(stamp.floor, pieces + BESIDE, &mut |piece| {
                release(piece);
                true
            });
        }
    }

    /// Passes `extent` to `release`, after clearing its marks: they must be gone before a block
    /// gets an owner.
    fn let_go(&self, extent: Extent, release: &mut impl FnMut(Extent)) {
        fault!(LetOutBeforeUnmark: {
            release(extent);
            return self.unmark(extent);
        });
        self.unmark(extent);
        release(extent);
    }

    /// Puts `start..end` into the queue. Without memory for it, the blocks wait until a restart.
    fn push(&self, start: u64, end: u64, stamp: Stamp) {
        let _ = self.queue.push(packed(start, end - start), stamp.epoch);
    }

    /// Passes pieces that no pin holds to `release`, until that returns `false`; returns how many
    /// blocks they have. 0 only if pins hold everything, or other threads are letting it out.
    /// O(blocks, generations).
    pub(crate) fn collect(&self, mut release: impl FnMut(Extent) -> bool) -> u64 {
        self.let_out(self.clock.floor(), usize::MAX, &mut release)
    }

    fn let_out(&self, floor: u64, pieces: usize, release: &mut impl FnMut(Extent) -> bool) -> u64 {
        let mut blocks = 0;
        for _ in 0..pieces {
            let Some(piece) = self.queue.pop_below(floor).map(unpacked) else { break };
            self.waiting.add(piece.len.wrapping_neg());
            let mut more = true;
            self.let_go(piece, &mut |piece| more = release(piece));
            blocks += piece.len;
            if !more {
                break;
            }
        }
        blocks
    }

    /// Bytes of the pins' counters and of the queue on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.clock.bytes() + self.queue.bytes()
    }

    /// Bytes of the marks, one bit per block. Memory is taken as marks are used.
    pub(crate) fn mark_bytes(&self) -> usize {
        self.marks.bytes()
    }
}

/// A piece as one word: its start, and its length less one.
fn packed(start: u64, len: u64) -> u64 {
    debug_assert!((1..=PIECE).contains(&len));
    start << PIECE_BITS | (len - 1)
}

fn unpacked(piece: u64) -> Extent {
    Extent { start: piece >> PIECE_BITS, len: (piece & (PIECE - 1)) + 1 }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const BLOCKS: u64 = 1000;

    /// Commits the free of `block`, and returns how many pieces came out.
    fn commit(quarantine: &Quarantine, block: u64) -> usize {
        let (block, mut out) = (Extent { start: block % BLOCKS, len: 1 }, 0);
        quarantine.mark(block, |_| {});
        quarantine.retire(&[block], |_| out += 1);
        out
    }

    #[test]
    fn commits_alone_let_out_what_a_long_reader_held() {
        let quarantine = Quarantine::new(1, BLOCKS).expect("memory");
        let long = quarantine.pin(0);
        let held = BLOCKS - 100;
        let out: usize = (0..held).map(|block| commit(&quarantine, block)).sum();
        assert_eq!((out, quarantine.blocks()), (0, held));
        // There is always a reader, each for the time of two commits.
        let mut reader = quarantine.pin(0);
        quarantine.unpin(long);
        for (commits, block) in (1..).zip(held..held + held / BESIDE as u64 + 2) {
            commit(&quarantine, block);
            let next = quarantine.pin(0);
            quarantine.unpin(std::mem::replace(&mut reader, next));
            // Each lets out a few more pieces than it puts in.
            let most = (held + 2 * BESIDE as u64).saturating_sub(BESIDE as u64 * commits);
            let waiting = quarantine.blocks();
            assert!(waiting <= most.max(2), "{waiting} wait after {commits} commits");
        }
        assert!(quarantine.blocks() <= 2, "what the last two readers hold");
    }

    #[test]
    fn no_commit_pays_for_all_that_has_become_ripe() {
        let quarantine = Quarantine::new(1, BLOCKS).expect("memory");
        let long = quarantine.pin(0);
        (0..100).for_each(|block| assert_eq!(commit(&quarantine, block), 0));
        quarantine.unpin(long);
        // Without a reader its own piece does not wait.
        assert_eq!(commit(&quarantine, 100), 1 + BESIDE);
        assert_eq!(quarantine.blocks(), 100 - BESIDE as u64);
    }
}
