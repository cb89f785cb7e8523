//! Layer 6: where freed extents wait for the readers that might still read the old data.
//!
//! What no reader may still see does not wait at all. Other extents go into a [queue](crate::queue), cut
//! into pieces, in the order in which they were freed; so it is enough to look at the first piece to find
//! out whether anything may be let out. Beside it, a bitmap says which blocks wait.
//!
//! # Invariants
//! 1. *A marked block has one piece.* A block whose mark is set is in exactly one piece, in the queue or in
//!    the hands of the thread that puts it in or lets it out. Setting the mark makes a block part of a
//!    piece, so a block that is freed twice does not get into two.
//! 2. *The mark goes first.* It is set before the piece is in the queue, or another thread lets the block
//!    out, and the mark stays for ever. It is taken away before the block is let out, or the mark of its
//!    next life is.
//! 3. *Let out in time.* A piece is let out when no pin of an epoch up to its stamp is left
//!    (`epoch.rs`, invariants 3 and 4).
//! 4. *Order.* A stamp taken after a piece was put in is not older than that of the piece. So a piece that
//!    waits behind another with a later stamp was put in at the same moment by another thread.
//!
//! *Bounded.* A piece has at most [`PIECE`] blocks, and each call lets out a number of them. *Lock-free:* a
//! thread that stops holds at most the piece that it was putting in or letting out.

use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::epoch::{Clock, Pin, Stamp};
use crate::extent::Extent;
use crate::moments::Unchanged;
use crate::mutant::{Mutant, mutated};
use crate::queue::Queue;
use crate::segmented::{OutOfMemory, Segmented};
use crate::sync::{AtomicWord, Counter, Site};
use crate::word::Word;
use crate::words::spans;

/// Blocks of a piece, at most: 64 words of the bitmap to change when it is let out. A power of two, and a
/// piece starts and ends at multiples of it where its extent does not.
pub const PIECE: u64 = 1 << PIECE_BITS;
const PIECE_BITS: u32 = 12;

/// Pieces that a retirement lets out beside as many as it puts in. More than none, so that what became ripe
/// together does not wait for as many retirements.
const BESIDE: usize = 4;

/// Blocks per word of marks.
const MARKS: u64 = u64::BITS as u64;

/// Extents whose free is durable, until every pin is gone that may see them.
#[derive(Debug)]
pub struct Quarantine {
    clock: Clock,
    queue: Queue,
    /// A set bit is a block that waits.
    marks: Segmented<Vec<AtomicWord<u64>>>,
    /// Blocks that wait, and those that are just being put in.
    waiting: CachePadded<Counter>,
    /// The place of the first piece, while something waits.
    standing: Unchanged,
}

impl Quarantine {
    /// An empty quarantine for a device of `blocks` blocks; see [`Clock::new`] for `lanes`. The marks take
    /// no memory before something waits.
    pub fn new(lanes: usize, blocks: u64) -> Result<Self, OutOfMemory> {
        Ok(Self {
            clock: Clock::new(lanes),
            queue: Queue::new()?,
            marks: Segmented::new(AtomicWord::zeros(blocks.div_ceil(MARKS) as usize)?),
            waiting: CachePadded::default(),
            standing: Unchanged::default(),
        })
    }

    /// Makes it as long as a device of `blocks` blocks needs. For one caller at a time.
    pub fn lengthen(&self, blocks: u64) -> Result<(), OutOfMemory> {
        self.marks.grow(blocks.div_ceil(MARKS) as usize, |range| AtomicWord::zeros(range.len()))
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
    #[inline(always)]
    pub fn blocks(&self) -> u64 {
        self.waiting.get()
    }

    /// For how long the first of what waits has been the first, as far as calls of this saw; `None` if
    /// nothing waits. It is what a pin costs that is never undone, and no commit has to look at a clock. O(1).
    pub fn age(&self) -> Option<Duration> {
        if self.blocks() == 0 {
            self.standing.forget();
            return None;
        }
        Some(self.standing.ask(self.queue.position()))
    }

    /// The first block of `start..end` that waits, or `end`. O((end - start) / 64), O(1) while nothing waits.
    pub fn first_waiting(&self, start: u64, end: u64) -> u64 {
        if self.blocks() == 0 {
            return end;
        }
        let mut words = spans(Extent { start, len: end - start });
        let waiting = words.find_map(|(index, mask)| {
            let bits = self.marks[index].load(Site::Waiting) & mask;
            (bits != 0).then(|| MARKS * index as u64 + u64::from(bits.trailing_zeros()))
        });
        waiting.unwrap_or(end)
    }

    /// Takes in extents that have become unreachable, and hands to `release` those that no pin holds, in
    /// pieces or as they are; and a few more pieces than it took in of what became ripe meanwhile. How many
    /// of the blocks waited already, and so were freed twice: they are not taken in again.
    ///
    /// O(pieces, blocks / 64, generations).
    pub fn retire(&self, extents: &[Extent], mut release: impl FnMut(Extent)) -> u64 {
        let stamp = self.clock.stamp();
        let (mut pieces, mut twice) = (0, 0);
        for &extent in extents {
            let end = extent.start + extent.len;
            if !stamp.held && self.first_waiting(extent.start, end) == end {
                release(extent);
                continue;
            }
            let mut from = extent.start;
            while from < end {
                let to = end.min((from / PIECE + 1) * PIECE);
                twice += self.put_in(Extent { start: from, len: to - from }, stamp);
                pieces += 1;
                from = to;
            }
        }
        if self.blocks() > 0 {
            self.let_out(stamp.floor, u64::MAX, pieces + BESIDE, &mut release);
        }
        twice
    }

    /// Has the blocks of `piece` wait; how many of them did so already.
    fn put_in(&self, piece: Extent, stamp: Stamp) -> u64 {
        // Counted first, so that there are never more than are counted.
        self.waiting.add(piece.len);
        if mutated(Mutant::MarkAfterPush) {
            self.push(piece.start, piece.start + piece.len, stamp);
        }
        let (mut from, mut twice) = (piece.start, 0);
        for (index, mask) in spans(piece) {
            let before = self.marks[index].fetch_or(mask, Site::Waiting) & mask;
            if before == 0 {
                continue;
            }
            // What was marked already is in another piece (invariant 1).
            twice += u64::from(before.count_ones());
            let first = MARKS * index as u64;
            self.push(from, piece.start.max(first), stamp);
            for (place, len) in (mask & !before).runs() {
                let start = first + u64::from(place);
                self.push(start, start + u64::from(len), stamp);
            }
            from = first + MARKS;
        }
        if !mutated(Mutant::MarkAfterPush) {
            self.push(from, piece.start + piece.len, stamp);
        }
        self.waiting.add(twice.wrapping_neg());
        twice
    }

    /// Puts `start..end` into the queue, unless it is empty. Without memory for it the blocks wait until a
    /// restart.
    fn push(&self, start: u64, end: u64, stamp: Stamp) {
        if start < end {
            let _ = self.queue.push(packed(start, end - start), stamp.epoch);
        }
    }

    /// Hands pieces to `release` that no pin holds any more, until they have `blocks` blocks; how many they
    /// have. 0 only if no pin lets anything out, or others are letting it out. O(blocks, generations).
    pub fn collect(&self, blocks: u64, mut release: impl FnMut(Extent)) -> u64 {
        let floor = self.clock.floor();
        self.let_out(floor, blocks, usize::MAX, &mut release)
    }

    fn let_out(
        &self,
        floor: u64,
        most: u64,
        pieces: usize,
        release: &mut impl FnMut(Extent),
    ) -> u64 {
        let mut blocks = 0;
        for _ in 0..pieces {
            let Some(piece) = self.queue.pop_below(floor).map(unpacked) else { break };
            if mutated(Mutant::LetOutBeforeUnmark) {
                release(piece);
            }
            for (index, mask) in spans(piece) {
                self.marks[index].fetch_and(!mask, Site::Waiting);
            }
            self.waiting.add(piece.len.wrapping_neg());
            if !mutated(Mutant::LetOutBeforeUnmark) {
                release(piece);
            }
            blocks += piece.len;
            if blocks >= most {
                break;
            }
        }
        blocks
    }

    /// Bytes of the pins' counters and of the queue on the heap.
    pub fn bytes(&self) -> usize {
        self.clock.bytes() + self.queue.bytes()
    }

    /// Bytes of the marks, one bit per block, of which memory is taken as they are used.
    pub fn mark_bytes(&self) -> usize {
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
