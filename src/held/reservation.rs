//! Space that is promised before its blocks are chosen.

use std::sync::Arc;

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::{promise, thread_cursor};
use crate::values::error::{AllocError, RequestError};
use crate::values::extent::Extents;
use crate::values::request::Request;

/// A promise that a number of blocks can be allocated, from
/// [`Allocator::reserve`](crate::Allocator::reserve). For data that is accepted now and placed
/// later (delayed allocation, as ext4 and XFS call it).
///
/// No blocks are chosen yet. An allocation that uses the promise is placed like any other. Whatever
/// other callers do, it cannot fail for want of space if it takes blocks wherever they are: one
/// block, or a [scattered](Request::scattered) request without [`min_extent`](Request::min_extent)
/// and [`align`](Request::align). Other requests may use the promise too, and may find no run that
/// fits; the promise is then unchanged.
///
/// Dropping the reservation returns what was not used. Blocks allocated under it are like any
/// others: if the transaction is dropped, they are free again, and the promise is used up all the
/// same. (A failed commit gives the transaction back: commit that again.)
///
/// While a promise stands, as many blocks, any blocks, are kept out of the free space in escrow.
/// They are neither free nor allocated. Those of used promises stay there for the next ones, up to
/// 2048, until they are needed or a figure of free blocks is asked for. So a promise mostly costs one
/// compare-exchange on a shared word, and otherwise an allocation; other requests pay nothing for
/// it.
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
    /// Promised blocks, as tokens of the escrow.
    blocks: u64,
}

impl Reservation {
    pub(crate) fn new(core: Arc<Core>, blocks: u64) -> Result<Self, AllocError> {
        thread_cursor::with_cursor(&core, |cursor| promise::promise(&core, cursor, blocks))?;
        Ok(Self { core, blocks })
    }

    /// Blocks promised and not yet used.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Splits `blocks` off the promise, to be used or dropped separately; `None` if the promise is
    /// smaller. O(1).
    pub fn split(&mut self, blocks: u64) -> Option<Reservation> {
        self.blocks = self.blocks.checked_sub(blocks)?;
        Some(Reservation { core: self.core.clone(), blocks })
    }

    /// Allocates what `request` asks for, and uses up as much of the promise.
    ///
    /// # Errors
    /// See [`AllocError`]: the promise is smaller than the request, or the request wants more than
    /// just blocks. Nothing is allocated then, and the promise is unchanged.
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
        let extents = promise::allocate_promised(&self.core, cursor, request)?;
        debug_assert!(extents.blocks() <= self.blocks);
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
            thread_cursor::with_lane(core, |lane| core.space.give_up(lane, self.blocks));
        }
    }
}
