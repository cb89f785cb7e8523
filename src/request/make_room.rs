//! Trying again once others have freed something.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::attempt;
use crate::values::error::AllocError;
use crate::values::extent::ExtentList;
use crate::values::request::{Effort, Request};

/// Blocks that a request which found nothing lets out of the quarantine, at least: one word of the index.
/// Fewer, and each of the next requests would have to search in vain first.
pub(crate) const LET_OUT: u64 = 64;

/// Appends extents to `list` that meet `request`: tries until it succeeds, or has nowhere to get more free
/// blocks from. Without what is kept for the request's class; and without what is spare in escrow, unless `spare`.
#[inline]
pub(crate) fn allocate_unreserved(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    spare: bool,
) -> Result<Effort, AllocError> {
    request.validate(core.space.bitmap.blocks())?;
    let mut effort = Effort::default();
    let mut result = attempt::attempt(core, cursor, request, list, &mut effort);
    let mut blocks = LET_OUT.max(request.len);
    while may_retry(core, cursor, &result, spare, &mut blocks) {
        result = attempt::attempt(core, cursor, request, list, &mut effort);
    }
    result.map(|()| effort)
}

/// Whether an allocation failed for want of space, and there was some elsewhere that is free now: in the
/// quarantine, in escrow, or waiting to be discarded. So whoever tries again does so because others
/// freed something. Of the quarantine about `blocks` blocks are let out, and twice as many the next time:
/// a request pays for about as many as it needs, and for few searches if blocks have to meet first.
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
    // All of them: what one of them has may not be enough.
    waiting() | escrow() | undiscarded()
}
