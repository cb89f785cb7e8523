//! From a request to the blocks that meet it, wherever they come from.

use crate::base::geometry::LEAF_BLOCKS;
use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::{contiguous, make_room, refusal, reserve};
use crate::values::error::AllocError;
use crate::values::extent::{Extent, ExtentList};
use crate::values::request::{Effort, Request};

/// Allocates `len` blocks in one extent.
#[inline(always)]
pub(crate) fn allocate(core: &Core, cursor: &mut Cursor, len: u64) -> Result<Extent, AllocError> {
    if len == 1
        && let Some(claimed) = core.placer.claim_one(&core.space, cursor)
        && let Some(extent) = core.space.keep(cursor.lane, claimed)
    {
        return Ok(extent);
    }
    allocate_elsewhere(core, cursor, len)
}

/// Allocates `len` blocks when the current word has nothing.
#[inline(never)]
fn allocate_elsewhere(core: &Core, cursor: &mut Cursor, len: u64) -> Result<Extent, AllocError> {
    let request = Request::new(len);
    // Before all else, since most requests for several blocks end here.
    let fits =
        (2..=LEAF_BLOCKS).contains(&len) && !core.placer.known_to_fail(&core.space, cursor, len, 1);
    if fits
        && let Some(claimed) = core.placer.claim_fitting(&core.space, cursor, len)
        && let Some(extent) = contiguous::settle(core, cursor, &request, claimed)
    {
        return Ok(extent);
    }
    request.check_len(core.space.bitmap.blocks())?;
    let mut result = if fits {
        contiguous::search(core, cursor, &request)
    } else {
        contiguous::contiguous(core, cursor, &request)
    };
    let mut round = 0;
    while result.as_ref().is_err_and(AllocError::is_want_of_space)
        && (make_room::make_room(core, cursor, &request, true, &mut round)
            || make_room::changed(core, cursor, &request))
    {
        result = contiguous::contiguous(core, cursor, &request);
    }
    result = result.or_else(|error| reserve::one_of_reserve(core, cursor, &request, error));
    result.inspect_err(|error| refusal::count_refused(core, cursor.lane, error))
}

/// Allocates what `request` asks for, and appends the extents to `list`.
#[inline]
pub(crate) fn allocate_into(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
) -> Result<Effort, AllocError> {
    let mut result = make_room::allocate_unreserved(core, cursor, request, list, true);
    if let Err(error) = result {
        result = reserve::allocate_of_reserve(core, cursor, request, list, error);
    }
    result.inspect_err(|error| refusal::count_refused(core, cursor.lane, error))
}
