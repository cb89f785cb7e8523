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
    let before = list.extents().len();
    let result = match (request.scattered, request.takes_any_pieces()) {
        (false, _) => one_extent(core, cursor, request, list),
        (true, true) => pieces::gang(core, cursor, request, list, effort),
        (true, false) => bounded::bounded(core, cursor, request, list, effort),
    };
    let added = &list.extents()[before..];
    debug_assert!(if result.is_ok() { request.is_met_by(added) } else { added.is_empty() });
    result
}

fn one_extent(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
) -> Result<(), AllocError> {
    let extent = contiguous::contiguous(core, cursor, request)?;
    if !list.append(extent) {
        core.space.give_back(cursor.lane, &[extent]);
        return Err(AllocError::OutOfMemory);
    }
    Ok(())
}
