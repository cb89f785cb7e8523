//! Frees blocks that no caller owns any more: from the quarantine, the escrow and the discarder.

use crate::base::geometry::NativeWord;
use crate::base::place::WordIndex;
use crate::space::Space;
use crate::space::lanes::LaneId;
use crate::values::error::{FreeError, on_device};
use crate::values::extent::{Extent, runs_in_word};

/// Blocks by which the escrow is filled, so that most promises find theirs there: a leaf.
pub(crate) const CHUNK: u64 = 512;

/// Spare blocks left in escrow for future promises. A request that finds nothing free gets them.
const SPARE: u64 = 4 * CHUNK;

impl Space {
    /// Lets at least `blocks` blocks out of the quarantine, or as many as the guards allow. Returns
    /// the number of blocks.
    pub(crate) fn collect(&self, lane: LaneId, blocks: u64) -> u64 {
        self.quarantine.collect(blocks, |extent| self.let_out(lane, extent))
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
        self.let_out_by(extent, |part| self.release_looking(lane, part, false));
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

    /// Frees the spare blocks in escrow. Returns their number.
    pub(crate) fn collect_escrow(&self, lane: LaneId) -> u64 {
        let mut freed = 0;
        loop {
            // Some at a time: a concurrent request that finds no spare token and nothing free gives
            // up.
            let tokens = self.escrow.take_up_to(CHUNK);
            if tokens == 0 {
                return freed;
            }
            self.let_out_of_escrow(lane, tokens);
            freed += tokens;
        }
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

    /// Makes `tokens` spare, and frees the blocks of surplus tokens.
    pub(crate) fn give_up(&self, lane: LaneId, tokens: u64) {
        self.escrow.leave_tokens(tokens);
        self.let_out_of_escrow(lane, self.escrow.take_all_but(SPARE));
    }

    /// Frees all blocks that wait to be discarded, undiscarded. Returns their number.
    pub(crate) fn skip_discards(&self, lane: LaneId) -> u64 {
        let blocks = self.bitmap.blocks();
        self.discards.let_out(0, blocks, &mut |word, bits| self.skip_word(lane, word, bits))
    }

    /// Frees blocks of one word that waited to be discarded and now belong to the caller,
    /// undiscarded, and counts them.
    pub(crate) fn skip_word(&self, lane: LaneId, word: WordIndex, bits: NativeWord) {
        self.skipped_discards.add(bits.count_ones().into());
        runs_in_word(word, bits).for_each(|extent| self.let_out_undiscarded(lane, extent));
    }
}
