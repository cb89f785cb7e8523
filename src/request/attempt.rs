//! One attempt to meet a request.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::{bounded, contiguous, pieces};
use crate::values::error::AllocError;
use crate::values::extent::ExtentList;
use crate::values::request::{Effort, Request};

/// Appends extents to `list` that meet `request`, from what is free now. Records in `effort` how
/// far it looked. After an error nothing is allocated, and the list is unchanged.
#[inline]
pub(crate) fn attempt(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    effort: &mut Effort,
) -> Result<(), AllocError> {
    if request.scattered {
        return if request.takes_any_pieces() {
            pieces::gang(core, cursor, request, list, effort)
        } else {
            bounded::scattered(core, cursor, request, list, effort)
        };
    }
    let extent = contiguous::contiguous(core, cursor, request)?;
    if !list.append(extent) {
        core.space.give_back(cursor.lane, &[extent]);
        return Err(AllocError::OutOfMemory);
    }
    Ok(())
}
