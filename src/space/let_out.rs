//! Frees blocks that no caller owns any more: from the quarantine, the escrow and the discarder.

use crate::base::geometry::NativeWord;
use crate::base::place::WordIndex;
use crate::quarantine::PIECE;
use crate::space::Space;
use crate::space::discard_runs::Walk;
use crate::space::lanes::LaneId;
use crate::values::error::{FreeError, on_device};
use crate::values::extent::{Extent, runs_in_word};

/// Tokens of the escrow that one step lets out. A concurrent request that finds no spare token and
/// nothing free gives up, so a step holds few.
const STEP: u64 = 64;

/// Spare blocks left in escrow for future promises. A request that finds nothing free gets them.
const SPARE: u64 = 2048;

/// How far a request for a run looks from blocks that have just been let out. Of a longer run it
/// finds out by searching.
const RUN: u64 = 2 * PIECE;

impl Space {
    /// Lets out what neither a caller nor a reader holds any more. Then, while nothing else runs,
    /// the free blocks are those of the bitmap, for all figures and lists alike. O(blocks let out).
    pub(crate) fn settle(&self, lane: LaneId) {
        self.collect(lane, u64::MAX);
        self.collect_escrow(lane, u64::MAX);
    }

    /// Lets at least `blocks` blocks out of the quarantine, or as many as the guards allow. Returns
    /// the number of blocks.
    pub(crate) fn collect(&self, lane: LaneId, blocks: u64) -> u64 {
        self.collect_by(blocks, |extent| self.let_out(lane, extent))
    }

    /// The same for a request that takes any blocks: they do not wait for the discarder, or it would
    /// have to let out more and more of them until the discarder's queue is full.
    pub(crate) fn collect_undiscarded(&self, lane: LaneId, blocks: u64) -> u64 {
        self.collect_by(blocks, |extent| {
            self.without_committed(extent, |part| self.let_out_undiscarded(lane, part));
        })
    }

    fn collect_by(&self, blocks: u64, let_out: impl Fn(Extent)) -> u64 {
        let mut left = blocks;
        self.quarantine.collect(|extent| {
            let_out(extent);
            left = left.saturating_sub(extent.len);
            left > 0
        })
    }

    /// Lets blocks out of the quarantine until those that are now part of a run of `least` blocks
    /// from a multiple of `align` on are `most` or more. What waits to be discarded in such a run
    /// becomes free with them; other blocks wait for the discarder. Returns the number of blocks
    /// that left the quarantine. O(blocks), and [`RUN`] / 64 for each piece.
    pub(crate) fn collect_runs(&self, lane: LaneId, least: u64, align: u64, most: u64) -> u64 {
        let (reach, least) = (least.saturating_add(align).min(RUN), least.min(RUN / 2));
        let align = if align < RUN / 2 { align } else { 1 };
        let mut left = most;
        self.quarantine.collect(|extent| {
            self.let_out(lane, extent);
            let (start, end) = self.discards.run_around(&self.bitmap, extent.start, reach);
            let run = end.saturating_sub(start.next_multiple_of(align));
            if run >= least {
                self.skip_discards_in(lane, start, end, u64::MAX);
                left = left.saturating_sub(run);
            }
            left > 0
        })
    }

    /// Frees an extent that comes out of the quarantine, or that a transaction has given up. Skips
    /// blocks that are free already, and blocks that the store knows to be committed.
    pub(crate) fn let_out(&self, lane: LaneId, extent: Extent) {
        self.without_committed(extent, |part| {
            self.let_out_by(part, |part| {
                let (start, len) = on_device(part, self.bitmap.blocks())?;
                self.release_owned(lane, start, len)
            });
        });
    }

    /// Frees an extent without passing it to the discarder. Skips blocks that are free already.
    pub(crate) fn let_out_undiscarded(&self, lane: LaneId, extent: Extent) {
        self.let_out_by(extent, |part| {
            on_device(part, self.bitmap.blocks())?;
            self.release_looking(lane, part, false)
        });
    }

    fn let_out_by(&self, extent: Extent, release: impl Fn(Extent) -> Result<(), FreeError>) {
        let Extent { mut start, len } = extent;
        debug_assert!(len > 0);
        let end = start + len;
        while start < end {
            match release(Extent { start, len: end - start }) {
                Ok(()) => return,
                Err(FreeError::DoubleFree { block }) => {
                    if block > start && release(Extent { start, len: block - start }).is_err() {
                        self.conflicts.add(block - start);
                    }
                    self.conflicts.add(1);
                    start = block + 1;
                }
                Err(FreeError::Torn { released }) => start += released.len,
                Err(FreeError::Range(_) | FreeError::Committed { .. }) => {
                    debug_assert!(false, "{extent} was checked when it was freed");
                    return;
                }
            }
        }
    }

    /// Frees up to `most` spare blocks in escrow. Returns their number.
    pub(crate) fn collect_escrow(&self, lane: LaneId, most: u64) -> u64 {
        let mut freed = 0;
        while freed < most {
            let tokens = self.escrow.take_up_to(STEP.min(most - freed));
            if tokens == 0 {
                break;
            }
            self.let_out_of_escrow(lane, tokens);
            freed += tokens;
        }
        freed
    }

    fn let_out_of_escrow(&self, lane: LaneId, tokens: u64) {
        let mut left = tokens;
        while left > 0 {
            let Some((start, len)) = self.escrow.take(left) else {
                debug_assert!(false, "there is a block for each token");
                return;
            };
            self.let_out_undiscarded(lane, Extent { start, len });
            left -= len;
        }
    }

    /// Gives `tokens` to reserves that are owed some, makes the rest spare, and frees the blocks of
    /// surplus tokens.
    pub(crate) fn give_up(&self, lane: LaneId, tokens: u64) {
        let reserves = self.class_reserves.0.iter();
        let left = reserves
            .fold(tokens, |left, reserve| left - reserve.refill_by_tokens(&self.closed, left));
        self.escrow.leave_tokens(left);
        self.let_out_of_escrow(lane, self.escrow.take_all_but(SPARE));
    }

    /// Frees about `most` blocks that wait to be discarded, undiscarded. Returns their number.
    pub(crate) fn skip_discards(&self, lane: LaneId, most: u64) -> u64 {
        self.skip_discards_in(lane, 0, self.bitmap.blocks(), most)
    }

    /// The same for waiting blocks in runs of `least` or more blocks at multiples of `align`, until
    /// those have `most` blocks: see [`Discards::let_out_runs`]. What makes no such run goes on
    /// waiting.
    ///
    /// [`Discards::let_out_runs`]: crate::space::discards::Discards::let_out_runs
    pub(crate) fn skip_discards_for(
        &self,
        lane: LaneId,
        walk: &mut Option<Walk>,
        run: (u64, u64),
        most: u64,
    ) -> u64 {
        let skip = &mut |word, bits| self.skip_word(lane, word, bits);
        self.discards.let_out_runs(&self.bitmap, walk, run, most, skip)
    }

    fn skip_discards_in(&self, lane: LaneId, start: u64, end: u64, most: u64) -> u64 {
        let skip = &mut |word, bits| self.skip_word(lane, word, bits);
        self.discards.let_out(start, end, most, skip)
    }

    /// Frees blocks of one word that waited to be discarded and now belong to the caller,
    /// undiscarded, and counts them.
    pub(crate) fn skip_word(&self, lane: LaneId, word: WordIndex, bits: NativeWord) {
        self.skipped_discards.add(bits.count_ones().into());
        runs_in_word(word, bits).for_each(|extent| self.let_out_undiscarded(lane, extent));
    }
}
