//! From a request to the blocks that meet it, wherever they come from.

use crate::base::geometry::LEAF_BLOCKS;
use crate::core::Core;
use crate::index::Lost;
use crate::index::events::Event;
use crate::placement::cursor::{Cursor, Nothing};
use crate::space::lanes::LaneId;
use crate::values::error::{AllocError, MarkError, on_device};
use crate::values::extent::{Extent, ExtentList};
use crate::values::request::{Effort, Request};

/// Blocks that a request which found nothing lets out of the quarantine, at least: one word of the index.
/// Fewer, and each of the next requests would have to search in vain first.
const LET_OUT: u64 = 64;

impl Core {
    /// `len` blocks in one extent.
    #[inline(always)]
    pub(crate) fn allocate(&self, cursor: &mut Cursor, len: u64) -> Result<Extent, AllocError> {
        if len == 1
            && let Some(start) = self.claim_one(cursor)
            && self.keeps(cursor.lane, Extent { start, len })
        {
            let extent = Extent { start, len };
            self.count_allocated(cursor.lane, extent);
            return Ok(extent);
        }
        self.allocate_elsewhere(cursor, len)
    }

    /// One block of the word at hand. Where longer runs are asked for, too, or space is short, single holes
    /// come first: nothing else fits into those. Where it is short, the word in which a block was just freed is
    /// next, whose cache line is here.
    #[inline(always)]
    fn claim_one(&self, cursor: &mut Cursor) -> Option<u64> {
        let (mixed, poor) = (cursor.is_mixed(), cursor.place(1).poor);
        if mixed {
            cursor.asked_for_one();
        }
        if (mixed || poor)
            && cursor.seen.has_single()
            && let Some(start) = self.claim_single(cursor)
        {
            return Some(start);
        }
        let place = cursor.place(1);
        if poor && let Some(word) = place.reuse() {
            place.word = word;
            // Who has changed that one meanwhile does not work here.
            return self.bitmap.claim_one_in(word).unwrap_or_else(|Lost| {
                self.count(Event::LostClaim, word);
                None
            });
        }
        match self.bitmap.claim_one_in(place.word) {
            Ok(claimed) => claimed,
            Err(Lost) => {
                place.crowded = true;
                None
            }
        }
    }

    /// The same when the word at hand has nothing.
    #[inline(never)]
    fn allocate_elsewhere(&self, cursor: &mut Cursor, len: u64) -> Result<Extent, AllocError> {
        let request = Request::new(len);
        // Before all else: here most requests for several blocks end.
        let fits = (2..=LEAF_BLOCKS).contains(&len) && !self.known_to_fail(cursor, len, 1);
        if fits
            && let Some(start) = self.claim_fitting(cursor, len)
            && let Some(extent) = self.settle(cursor, &request, (start, len))
        {
            return Ok(extent);
        }
        request.validate(self.bitmap.blocks())?;
        let mut result =
            if fits { self.search(cursor, &request) } else { self.contiguous(cursor, &request) };
        let mut blocks = LET_OUT.max(len);
        while self.may_retry(cursor, &result, true, &mut blocks) {
            result = self.contiguous(cursor, &request);
        }
        result = result.or_else(|error| self.one_of_reserve(cursor, &request, error));
        result.inspect_err(|error| self.count_refused(cursor.lane, error))
    }

    /// Appends the extents of `request` to `list`.
    #[inline]
    pub(crate) fn allocate_into(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        list: &mut impl ExtentList,
    ) -> Result<Effort, AllocError> {
        let mut result = self.allocate_unreserved(cursor, request, list, true);
        if let Err(error) = result {
            result = self.allocate_of_reserve(cursor, request, list, error);
        }
        result.inspect_err(|error| self.count_refused(cursor.lane, error))
    }

    /// The same without what is kept for the class of `request`; and without what is spare in escrow, unless
    /// `spare`.
    #[inline]
    pub(crate) fn allocate_unreserved(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        list: &mut impl ExtentList,
        spare: bool,
    ) -> Result<Effort, AllocError> {
        request.validate(self.bitmap.blocks())?;
        let mut effort = Effort::default();
        let mut result = self.allocate_now(cursor, request, list, &mut effort);
        let mut blocks = LET_OUT.max(request.len);
        while self.may_retry(cursor, &result, spare, &mut blocks) {
            result = self.allocate_now(cursor, request, list, &mut effort);
        }
        result.map(|()| effort)
    }

    #[inline]
    pub(crate) fn allocate_now(
        &self,
        cursor: &mut Cursor,
        request: &Request,
        list: &mut impl ExtentList,
        effort: &mut Effort,
    ) -> Result<(), AllocError> {
        if request.scattered {
            return if request.takes_any_pieces() {
                self.gang(cursor, request, list, effort)
            } else {
                self.scattered(cursor, request, list, effort)
            };
        }
        let extent = self.contiguous(cursor, request)?;
        if !list.append(extent) {
            self.give_back(extent);
            self.count_freed(cursor.lane, extent);
            return Err(AllocError::OutOfMemory);
        }
        Ok(())
    }

    /// Whether an allocation failed for want of space, and there was some elsewhere that is free now: in the
    /// quarantine, in escrow, or waiting to be discarded. So whoever tries again does so because others
    /// freed something. Of the quarantine about `blocks` blocks are let out, and twice as many the next time:
    /// a request pays for about as many as it needs, and for few searches if blocks have to meet first.
    #[inline]
    fn may_retry<T>(
        &self,
        cursor: &Cursor,
        result: &Result<T, AllocError>,
        spare: bool,
        blocks: &mut u64,
    ) -> bool {
        let failed = result.as_ref().is_err_and(AllocError::is_want_of_space);
        let mut waiting = |core: &Self| {
            let wanted = std::mem::replace(blocks, blocks.saturating_mul(2));
            core.quarantine.blocks() > 0 && core.collect(cursor.lane, wanted) > 0
        };
        let escrow =
            |core: &Self| spare && core.escrow.spare() > 0 && core.collect_escrow(cursor.lane) > 0;
        let undiscarded =
            |core: &Self| core.pending.waiting() > 0 && core.skip_discards(cursor.lane) > 0;
        // All of them: what one of them has may not be enough.
        failed && waiting(self) | escrow(self) | undiscarded(self)
    }

    /// Takes exactly `extent`.
    pub(crate) fn mark_allocated(&self, lane: LaneId, extent: Extent) -> Result<(), MarkError> {
        let (start, len) = on_device(extent, self.bitmap.blocks())?;
        if let Err(conflict) = self.bitmap.claim(start, len) {
            let closed = self.aside.held_in(conflict.block, conflict.block + 1) == conflict.block;
            return Err(match conflict.block {
                block if closed => MarkError::Closed { block },
                block => MarkError::AlreadyAllocated { block },
            });
        }
        if !self.keeps(lane, extent) {
            let block = self.aside.held_in(start, start + len);
            return Err(MarkError::Closed {
                block: if block < start + len { block } else { start },
            });
        }
        self.count_allocated(lane, extent);
        Ok(())
    }

    /// Whether a claim of `extent` may be kept: not if a part of it is closed. Asked after the claim, so
    /// that it either began before the region was closed or sees it. A claim that is not kept has left
    /// nothing free in the closed leaves that it met, so what repeats it gets on.
    #[inline(always)]
    pub(crate) fn keeps(&self, lane: LaneId, extent: Extent) -> bool {
        !self.aside.is_active() || self.keeps_looking(lane, extent)
    }

    #[cold]
    fn keeps_looking(&self, lane: LaneId, extent: Extent) -> bool {
        self.aside.keeps(&self.bitmap, extent.start, extent.len, &mut self.moved(lane))
    }

    pub(crate) fn known_to_fail(&self, cursor: &Cursor, least: u64, align: u64) -> bool {
        cursor.known_to_fail(least, align, |ticket| self.bitmap.still_none(ticket))
    }

    pub(crate) fn remember(&self, cursor: &mut Cursor, nothing: Nothing) {
        cursor.remember(nothing, |ticket| self.bitmap.still_none(ticket));
    }

    pub(crate) fn failure(&self, requested: u64, align: u64) -> AllocError {
        // One block fits wherever it is free: do not let the counters contradict the search.
        let free = if (requested, align) == (1, 1) { 0 } else { self.free_blocks() };
        if free < requested {
            AllocError::NoSpace { requested, free }
        } else {
            AllocError::NoContiguous { requested, free }
        }
    }

    /// Every refusal that somebody is told of is counted here.
    #[cold]
    pub(crate) fn count_refused(&self, lane: LaneId, error: &AllocError) {
        let event = match error {
            AllocError::NoSpace { .. } => Event::NoSpace,
            AllocError::NoContiguous { .. } => Event::NoContiguous,
            _ => return,
        };
        self.count(event, lane.index());
    }
}
