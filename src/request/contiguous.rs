//! Requests for one extent.

use crate::core::Core;
use crate::index::Claimed;
use crate::placement::cursor::Cursor;
use crate::request::refusal;
use crate::values::error::AllocError;
use crate::values::extent::Extent;
use crate::values::request::Request;

/// Allocates one extent for `request`.
#[inline]
pub(crate) fn contiguous(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
) -> Result<Extent, AllocError> {
    if core.placer.known_to_fail(&core.space, cursor, request.len, request.align) {
        return Err(refusal::failure(core, request.len, request.align));
    }
    let fitting = core.placer.fitting(&core.space, cursor, request);
    match fitting.and_then(|claimed| settle(core, cursor, request, claimed)) {
        Some(extent) => Ok(extent),
        None => search(core, cursor, request),
    }
}

/// Allocates one extent for `request` when no known run fits.
pub(crate) fn search(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
) -> Result<Extent, AllocError> {
    let &Request { len, align, near, .. } = request;
    loop {
        let from = near.unwrap_or_else(|| core.placer.place_of(&core.space, cursor, len));
        let found = core.placer.claim_contiguous(&core.space, cursor, request, from);
        let claimed = found.ok_or_else(|| refusal::failure(core, len, align))?;
        if let Some(extent) = settle(core, cursor, request, claimed) {
            return Ok(extent);
        }
    }
}

/// Makes an extent of the claim and moves the cursor; `None` if the claim may not be kept.
#[inline]
pub(crate) fn settle(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    claimed: Claimed,
) -> Option<Extent> {
    if request.near.is_none() {
        core.placer.go_on(&core.space, cursor, request, claimed.len(), claimed.last());
    }
    core.space.keep(cursor.lane, claimed)
}
