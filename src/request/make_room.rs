//! Retries a request once other callers have freed something.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::attempt;
use crate::values::error::AllocError;
use crate::values::extent::ExtentList;
use crate::values::request::{Effort, Request};

/// Blocks that a request which found nothing lets out of the quarantine, at least: one word of the
/// index. With fewer, each of the next requests would first search and find nothing.
pub(crate) const LET_OUT: u64 = 64;

/// Appends extents to `list` that meet `request`. Retries until it succeeds, or has no other source
/// of free blocks. Does not use what is kept for the request's class, nor, unless `spare`, the
/// spare blocks in escrow.
#[inline]
pub(crate) fn allocate_unreserved(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    spare: bool,
) -> Result<Effort, AllocError> {
    let request = &request.checked(core.space.bitmap.blocks())?;
    let mut effort = Effort::default();
    let mut result = attempt::attempt(core, cursor, request, list, &mut effort);
    let mut blocks = LET_OUT.max(request.len);
    while may_retry(core, cursor, &result, spare, &mut blocks) {
        result = attempt::attempt(core, cursor, request, list, &mut effort);
    }
    result.map(|()| effort)
}

/// Whether an allocation failed for want of space, and some was found elsewhere that is free now:
/// in the quarantine, in escrow, or waiting to be discarded. So a retry happens only because other
/// callers freed something. Lets about `blocks` blocks out of the quarantine, and twice as many the
/// next time: a request pays for about as many as it needs, and makes few searches if freed blocks
/// have to join first.
#[inline]
pub(crate) fn may_retry<T>(
    core: &Core,
    cursor: &Cursor,
    result: &Result<T, AllocError>,
    spare: bool,
    blocks: &mut u64,
) -> bool {
    if !result.as_ref().is_err_and(AllocError::is_want_of_space) {
        return false;
    }
    let (space, lane) = (&core.space, cursor.lane);
    let wanted = std::mem::replace(blocks, blocks.saturating_mul(2));
    let waiting = || space.quarantine.blocks() > 0 && space.collect(lane, wanted) > 0;
    let escrow = || spare && space.escrow.spare() > 0 && space.collect_escrow(lane) > 0;
    let undiscarded = || space.discards.waiting() > 0 && space.skip_discards(lane) > 0;
    // Try all of them: one source may not be enough.
    waiting() | escrow() | undiscarded()
}
