//! Space that is promised before it is chosen.

use std::sync::Arc;

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::thread_cursor;
use crate::space::lanes::LaneId;
use crate::values::error::{AllocError, RequestError};
use crate::values::extent::{Extent, ExtentList, Extents};
use crate::values::request::Request;

/// Blocks that the escrow is filled up by, so that most promises find theirs there: a leaf.
const CHUNK: u64 = 512;

/// Spare blocks that are left in escrow for the promises to come. Whoever finds nothing free gets them.
const SPARE: u64 = 4 * CHUNK;

/// A promise that so many blocks can be allocated, from
/// [`Allocator::reserve`](crate::Allocator::reserve): for data that is accepted now and placed later
/// (delayed allocation, as ext4 and XFS call it).
///
/// No blocks are chosen yet. An allocation that uses the promise is placed like any other; it
/// cannot fail for want of space, whatever others do meanwhile, as long as it takes blocks wherever they
/// are: one block, or a [scattered](Request::scattered) request without
/// [`min_extent`](Request::min_extent) and [`align`](Request::align). Other requests may use it too, and may
/// find no run that fits; the promise is as it was then.
///
/// Dropping it returns what was not used. Blocks that were allocated under it are like any others: if the
/// transaction is dropped they are free again, and the promise is used up all the same. (A commit that
/// failed gives the transaction back: commit that again.)
///
/// While a promise stands, as many blocks of the free space are kept in escrow, any blocks, a leaf at a
/// time; they are not free and not allocated. So promising costs a compare-exchange on a shared word, most
/// of the time; others pay nothing for it.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use freemap::{Allocator, AllocError, Request};
///
/// let allocator = Allocator::new(1000)?;
/// let mut reservation = allocator.reserve(100)?; // a write of 100 blocks is accepted
/// assert_eq!(allocator.free_blocks(), 900);
///
/// let others = allocator.allocate_with(&Request::new(900).scattered())?;
/// assert!(matches!(allocator.allocate(1), Err(AllocError::NoSpace { .. })));
///
/// let mut transaction = allocator.begin(); // and written
/// let object = transaction.allocate_reserved(&mut reservation, &Request::new(80).scattered())?;
/// assert_eq!((object.blocks(), reservation.blocks()), (80, 20));
///
/// drop(reservation);
/// assert_eq!(allocator.free_blocks(), 20);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropping it gives the promise up"]
pub struct Reservation {
    core: Arc<Core>,
    /// Tokens of the escrow.
    blocks: u64,
}

impl Reservation {
    pub(crate) fn new(core: Arc<Core>, blocks: u64) -> Result<Self, AllocError> {
        thread_cursor::with_cursor(&core, |cursor| core.promise(cursor, blocks))?;
        Ok(Self { core, blocks })
    }

    /// Blocks that are promised and not used yet.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Cuts `blocks` of the promise off, to be used or dropped apart from the rest; `None` if it has not
    /// so many. O(1).
    pub fn split(&mut self, blocks: u64) -> Option<Reservation> {
        self.blocks = self.blocks.checked_sub(blocks)?;
        Some(Reservation { core: self.core.clone(), blocks })
    }

    /// Allocates what `request` asks for, and uses as much of the promise.
    ///
    /// # Errors
    /// See [`AllocError`]: the promise is smaller than the request, or the request wants more than just
    /// blocks. Nothing is allocated then, and the promise is as it was.
    pub fn allocate(&mut self, request: &Request) -> Result<Extents, AllocError> {
        let core = self.core.clone();
        thread_cursor::with_cursor(&core, |cursor| self.allocate_by(cursor, request))
    }

    pub(crate) fn allocate_by(
        &mut self,
        cursor: &mut Cursor,
        request: &Request,
    ) -> Result<Extents, AllocError> {
        if request.len > self.blocks {
            let (len, reserved) = (request.len, self.blocks);
            return Err(RequestError::BeyondReservation { len, reserved }.into());
        }
        let extents = self.core.allocate_promised(cursor, request)?;
        self.blocks -= extents.blocks();
        Ok(extents)
    }

    pub(crate) fn is_of(&self, core: &Core) -> bool {
        self.core.id == core.id
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.blocks > 0 {
            let core = &*self.core;
            thread_cursor::with_lane(core, |lane| core.give_up(lane, self.blocks));
        }
    }
}

impl Core {
    /// Has the caller have `blocks` tokens of the escrow. Repeats only when others were promised what it
    /// had put there.
    pub(crate) fn promise(&self, cursor: &mut Cursor, blocks: u64) -> Result<(), AllocError> {
        Request::new(blocks).validate(self.bitmap.blocks())?;
        while let Err(spare) = self.escrow.take_tokens(blocks) {
            let missing = blocks - spare;
            let filled = self.fill_escrow(cursor, missing.next_multiple_of(CHUNK));
            if filled.is_err() && self.fill_escrow(cursor, missing).is_err() {
                // What others left there meanwhile may be enough now.
                return self.escrow.take_tokens(blocks).map_err(|_| self.no_room_for(1, blocks));
            }
        }
        Ok(())
    }

    fn fill_escrow(&self, cursor: &mut Cursor, blocks: u64) -> Result<(), AllocError> {
        let mut extents = Extents::new();
        self.allocate_unreserved(cursor, &Request::new(blocks).scattered(), &mut extents, false)?;
        extents.iter().for_each(|extent| self.escrow.put(extent.start, extent.len));
        Ok(())
    }

    /// Allocates what `request` asks for, which the caller has tokens for; those are spare then, or used up.
    fn allocate_promised(
        &self,
        cursor: &mut Cursor,
        request: &Request,
    ) -> Result<Extents, AllocError> {
        let mut extents = Extents::new();
        let failed = match self.allocate_unreserved(cursor, request, &mut extents, true) {
            Ok(_) => {
                self.give_up(cursor.lane, extents.blocks());
                return Ok(extents);
            }
            Err(error) if error.is_want_of_space() => error,
            Err(error) => return Err(error),
        };
        self.draw(request, &mut extents, failed)?;
        Ok(extents)
    }

    /// Meets `request` with blocks from escrow, as many as the caller has tokens for, which are used up then;
    /// or answers with `failed`, or that there is no memory, and has done nothing.
    pub(crate) fn draw(
        &self,
        request: &Request,
        list: &mut impl ExtentList,
        failed: AllocError,
    ) -> Result<(), AllocError> {
        let before = list.extents().len();
        let runs = |left: u64| {
            if request.takes_any_blocks() {
                self.escrow.take(left.min(request.max_extent))
            } else if request.scattered {
                None
            } else {
                self.escrow.take_run(request.len, request.align)
            }
        };
        let mut left = request.len;
        let mut error = failed;
        while let Some((start, len)) = (left > 0).then(|| runs(left)).flatten() {
            if !list.append(Extent { start, len }) {
                self.escrow.put_blocks(start, len);
                error = AllocError::OutOfMemory;
                break;
            }
            left -= len;
        }
        if left == 0 {
            return Ok(());
        }
        // The tokens are the caller's still.
        for extent in &list.extents()[before..] {
            self.escrow.put_blocks(extent.start, extent.len);
        }
        list.cut(before);
        Err(error)
    }

    /// Leaves `tokens` to others, and gives the blocks back of those that are too many.
    fn give_up(&self, lane: LaneId, tokens: u64) {
        self.escrow.leave_tokens(tokens);
        self.let_out_of_escrow(lane, self.escrow.take_all_but(SPARE));
    }

    /// Frees what is spare in escrow; the number of blocks.
    pub(crate) fn collect_escrow(&self, lane: LaneId) -> u64 {
        let mut freed = 0;
        loop {
            // Some at a time: whoever finds none that is spare and nothing free gives up.
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

    /// Puts other blocks into escrow for those of `from..to`, which is closed, and lets these go: as far as
    /// others are free.
    pub(crate) fn move_escrow(&self, cursor: &mut Cursor, from: u64, to: u64) {
        self.collect_escrow(cursor.lane);
        let mut at = self.escrow.first_in(from, to);
        while at < to {
            let most = self.escrow.run_end(at, to) - at;
            let mut others = Extents::new();
            let request = Request::new(most.max(1)).scattered().partial();
            if self.allocate_unreserved(cursor, &request, &mut others, true).is_err() {
                return;
            }
            let put = |extent: &Extent| self.escrow.put_blocks(extent.start, extent.len);
            let put: u64 = others.iter().map(put).sum();
            let taken = self.escrow.take_without_tokens(at, to, put);
            if let Some((start, len)) = taken {
                self.let_out_undiscarded(cursor.lane, Extent { start, len });
            }
            // More went in than came out if somebody else was quicker.
            self.escrow.leave_tokens(put - taken.map_or(0, |(_, len)| len));
            at = self.escrow.first_in(at, to);
        }
    }
}
