//! Freed blocks that wait to be discarded.
//!
//! While there is a discarder, a freed block first becomes a set bit of a second bitmap, where
//! adjacent blocks join, regardless of the thread and the time of their free. The discarder takes
//! runs of whole units out of it, tells the device, and frees them. An allocation that finds
//! nothing takes out whatever waits at once.
//!
//! A block that is taken out for the device goes to a third bitmap until the device is done with
//! it. Nothing searches there: it shows that the block has no owner, so that a free of it is
//! refused. The device may have any number of blocks, for any time.
//!
//! The double-check is that of set-aside blocks: a thread first puts a block in, and then looks
//! whether there still is a discarder. The end of a discarder is first announced, and then takes
//! out what waits. One of the two sees the other.

use crate::base::geometry::Geometry;
use crate::base::heap::OutOfMemory;
use crate::base::mutant::{fault, step};
use crate::base::place::{LeafIndex, WordIndex, place_in_word};
use crate::base::sync::{AtomicWord, Counter, Site};
use crate::base::word::Word;
use crate::index::{Bitmap, ReleaseError, Verification};
use crate::space::joined::Joined;
use crate::space::units::Units;

/// The blocks of one index that wait to be discarded.
#[derive(Debug)]
pub(crate) struct Discards<G: Geometry> {
    /// A set bit is a waiting block.
    blocks: Bitmap<G>,
    /// A set bit is a block that the device is discarding.
    with_device: Bitmap<G>,
    /// Blocks that may wait; 0 if there is no discarder.
    limit: AtomicWord<u64>,
    /// Waiting blocks, and those that are just being put in or taken out.
    waiting: Counter,
    /// 1 if blocks found no room since [`Discards::was_full`] was asked. A hint.
    full: Counter,
    /// Runs that they make with free blocks.
    pub(super) joined: Joined,
}

impl<G: Geometry> Discards<G> {
    /// For a device of `blocks` blocks, without a discarder. Takes no memory until a block waits.
    pub(crate) fn new(blocks: u64) -> Result<Self, OutOfMemory> {
        // One level of nodes: `let_out` and `let_out_runs` go through what waits without a watch.
        // There a number and its guard are one read, so no repair hides a block from them; above,
        // it would be two [scenarios: d8, d9].
        Ok(Self {
            blocks: Bitmap::none_free(blocks, 1)?,
            with_device: Bitmap::none_free(blocks, 1)?,
            limit: AtomicWord::new(0),
            waiting: Counter::new(0),
            full: Counter::new(0),
            joined: Joined::default(),
        })
    }

    /// Extends it for a device of `blocks` blocks. For one caller at a time.
    pub(crate) fn lengthen(&self, blocks: u64) -> Result<(), OutOfMemory> {
        self.blocks.lengthen(blocks)?;
        self.with_device.lengthen(blocks)
    }

    /// Bytes on the heap.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.bytes() + self.with_device.bytes()
    }

    /// Verifies the bitmaps of the waiting blocks and of those with the device.
    pub(crate) fn verify(&self) -> [Verification; 2] {
        [self.blocks.verify(), self.with_device.verify()]
    }

    /// Whether `len` more blocks may wait. Remembers a "no".
    pub(crate) fn has_room(&self, len: u64) -> bool {
        let room = self.waiting.get().saturating_add(len) <= self.limit.load(Site::Discarding);
        // Written once for many frees: they share the line.
        if !room && self.full.get() == 0 {
            self.full.set(1);
        }
        room
    }

    /// Whether blocks found no room since the last call.
    pub(crate) fn was_full(&self) -> bool {
        self.full.get() != 0 && self.full.swap(0) != 0
    }

    /// Waiting blocks. Exact while nothing else runs.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.get()
    }

    /// From now on, up to `limit` blocks may wait. With 0, none may, and those that wait become
    /// `free`.
    pub(crate) fn set_limit(&self, limit: u64, free: &mut impl FnMut(WordIndex, G::Word)) {
        let off = limit == 0;
        self.full.set(0);
        fault!(LimitAfterLook: if off { self.let_out(0, self.blocks.blocks(), u64::MAX, free); });
        self.limit.store(limit, Site::Discarding);
        if off {
            step!(LimitAfterLook: self.let_out(0, self.blocks.blocks(), u64::MAX, free););
            self.joined.end();
        }
    }

    /// Makes blocks that the caller owns wait. If the discarder is gone, they become `free`.
    /// Promises what [`Bitmap::release`] promises; of a torn range, what lies before the torn word
    /// waits.
    pub(crate) fn put(
        &self,
        start: u64,
        len: u64,
        free: &mut impl FnMut(WordIndex, G::Word),
    ) -> Result<(), ReleaseError> {
        debug_assert!(len > 0);
        // Count first: no reader may see fewer than there are.
        self.waiting.add(len);
        let released = self.blocks.release(start, len);
        let put = released.map_or_else(|error| error.released(start), |()| len);
        self.waiting.add((len - put).wrapping_neg());
        // Pairs with `set_limit` [mutants: PendingWithoutLook, TornWithoutLook, LimitAfterLook].
        // Also for the part that was put in before another thread's free of the rest.
        fault!(PendingWithoutLook: return released);
        fault!(TornWithoutLook: released?);
        if put > 0 && self.limit.load(Site::Discarding) == 0 {
            self.let_out(start, start + put, u64::MAX, free);
        }
        released
    }

    /// The first waiting run of whole units at or after `from`: start and length. Of a run longer
    /// than `measure`, which is not below the shortest that counts, only so much may be reported.
    /// O(levels of the summary), and 64 blocks at a time for each leaf that shows such a run.
    pub(crate) fn find(&self, from: u64, units: &Units, measure: u64) -> Option<(u64, u64)> {
        debug_assert!(measure >= units.shortest());
        // The summary shows the leaves that have an aligned run: stretches of crumbs are skipped.
        let order = units.order().min(G::MAX_ORDER);
        let blocks = self.blocks.blocks();
        let mut block = from;
        while block < blocks {
            let leaf = self.blocks.next_leaf(order, LeafIndex::of_block::<G>(block))?;
            let leaf_end = leaf.next().first_block::<G>().min(blocks);
            block = self.blocks.free_in(block.max(leaf.first_block::<G>()), leaf_end);
            if block == leaf_end {
                continue;
            }
            // It may begin in a leaf that does not show enough of it.
            let start = self.blocks.run_start(block, from);
            let to = blocks.min(units.border(start).saturating_add(measure));
            block = self.blocks.run_end(block + 1, to);
            if let Some(found) = units.inside(start, block) {
                return Some(found);
            }
        }
        None
    }

    /// Takes out `start..start + len` for the device, or nothing if another thread takes some of
    /// it.
    pub(crate) fn take(&self, start: u64, len: u64) -> Option<(u64, u64)> {
        let claimed = self.blocks.claim(start, len).ok()?;
        self.with_device.add(start, len);
        tidy(&self.blocks, start, len);
        self.waiting.add(claimed.len().wrapping_neg());
        Some(claimed.into_run())
    }

    /// Ends what [`take`](Self::take) began: the device is done with the blocks, which become
    /// `free`.
    pub(crate) fn give_back(&self, start: u64, len: u64, free: impl Fn(u64, u64)) {
        fault!(FreeBeforeGiveBack: free(start, len));
        for (word, mask) in Bitmap::<G>::words_of(start, len) {
            let taken = self.with_device.take_in_word(word, mask);
            debug_assert!(taken == mask, "the device has all of them");
        }
        tidy(&self.with_device, start, len);
        // Last: the next owner of a block may free it at once, and must not be refused [mutant:
        // FreeBeforeGiveBack].
        step!(FreeBeforeGiveBack: free(start, len));
    }

    /// Takes out what waits at or after `from` and belongs to no run of whole units, to be `free`.
    /// Stops after `runs` runs of waiting blocks. Returns where to continue, if it has not reached
    /// the end. O(runs), and 64 blocks at a time for each.
    pub(crate) fn let_out_crumbs(
        &self,
        from: u64,
        units: &Units,
        runs: usize,
        free: &mut impl FnMut(WordIndex, G::Word),
    ) -> Option<u64> {
        let mut from = from;
        for _ in 0..runs {
            let start = self.blocks.next_free(from)?;
            let end = self.blocks.run_end(start + 1, self.blocks.blocks());
            let (whole, len) = units.inside(start, end).unwrap_or((end, 0));
            self.let_out(start, whole, u64::MAX, free);
            self.let_out(whole + len, end, u64::MAX, free);
            from = end;
        }
        Some(from)
    }

    /// Takes out the waiting blocks of `at..end` from `at` on, for the caller, if `at` waits.
    pub(crate) fn take_from(&self, at: u64, end: u64) -> Option<(u64, u64)> {
        let claimed = self.blocks.claim_from(at, end)?;
        tidy(&self.blocks, at, claimed.len());
        self.waiting.add(claimed.len().wrapping_neg());
        Some(claimed.into_run())
    }

    /// Takes out the waiting blocks of `from..to`, word by word, to be `free`, until they are `most`
    /// or more. Returns their number. O(words), and the levels of the summary for each.
    pub(crate) fn let_out(
        &self,
        from: u64,
        to: u64,
        most: u64,
        free: &mut impl FnMut(WordIndex, G::Word),
    ) -> u64 {
        debug_assert!(from <= to);
        let (mut from, mut blocks) = (from, 0);
        while blocks < most
            && let Some(start) = self.blocks.next_free(from).filter(|&start| start < to)
        {
            let word = WordIndex::of_block::<G>(start);
            let behind = word.next().first_block::<G>();
            let mask = G::Word::span(place_in_word::<G>(start), (to.min(behind) - start) as u32);
            let taken = self.blocks.take_in_word(word, mask);
            if taken != G::Word::ZERO {
                self.waiting.add(u64::from(taken.count_ones()).wrapping_neg());
                blocks += u64::from(taken.count_ones());
                tidy(&self.blocks, start, 1);
                free(word, taken);
            }
            from = behind;
        }
        blocks
    }

    /// Has every request for a run go through what waits again: many blocks became free.
    pub(crate) fn forget_runs(&self) {
        self.joined.forget();
    }

    /// How many claims of waiting blocks were rolled back.
    pub(super) fn roll_backs(&self) -> u64 {
        self.blocks.roll_backs()
    }

    /// The first waiting block at or after `from`.
    pub(crate) fn next(&self, from: u64) -> Option<u64> {
        self.blocks.next_free(from)
    }

    /// Where the waiting blocks that end at `to` begin, not below `floor`.
    pub(crate) fn run_start(&self, to: u64, floor: u64) -> u64 {
        self.blocks.run_start(to, floor)
    }

    /// The first block of `from..to` that does not wait, or `to`.
    pub(crate) fn run_end(&self, from: u64, to: u64) -> u64 {
        self.blocks.run_end(from, to)
    }

    /// The first block of `from..to` that waits or is with the device, or `to`.
    pub(crate) fn first_in(&self, from: u64, to: u64) -> u64 {
        self.blocks.free_in(from, to).min(self.with_device.free_in(from, to))
    }

    /// The blocks of `word` that wait or are with the device.
    pub(crate) fn look(&self, word: WordIndex) -> G::Word {
        let [waiting, with_device] = self.places(word);
        waiting | with_device
    }

    /// The blocks of `word` that wait, and those that are with the device.
    pub(crate) fn places(&self, word: WordIndex) -> [G::Word; 2] {
        [self.blocks.look(word), self.with_device.look(word)]
    }
}

/// Repairs the summary after a removal: no search here would do it.
fn tidy<G: Geometry>(bitmap: &Bitmap<G>, start: u64, len: u64) {
    let leaves = LeafIndex::of_blocks::<G>(start..start + len);
    LeafIndex::each(leaves).for_each(|leaf| bitmap.refresh(leaf));
}
