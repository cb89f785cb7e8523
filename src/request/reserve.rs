//! Blocks that only one class gets when nothing else is free.
//!
//! A reserve (`space/class_reserve.rs`) is a promise made to a class when the allocator is made.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::{attempt, promise};
use crate::values::error::AllocError;
use crate::values::extent::{Extent, ExtentList, Extents, blocks_of};
use crate::values::request::{Effort, Request};

/// Gives class `class` a reserve of `blocks` blocks; what is not free is owed.
pub(crate) fn make_reserve(core: &Core, cursor: &mut Cursor, class: usize, blocks: u64) {
    let reserve = &core.space.class_reserves.0[class];
    let now = blocks.min(core.space.free_blocks());
    let made = if now > 0 && promise::promise(core, cursor, now).is_ok() { now } else { 0 };
    reserve.add(made);
    reserve.owe(&core.space.closed, blocks - made);
}

/// Meets `request` from the reserve of its class and from what is free; otherwise returns `failed`.
#[cold]
pub(crate) fn allocate_of_reserve(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    failed: AllocError,
) -> Result<Effort, AllocError> {
    let reserve = &core.space.class_reserves.0[request.class.index()];
    if !failed.is_want_of_space() || reserve.tokens() == 0 {
        return Err(failed);
    }
    let request = &request.checked(core.space.bitmap.blocks())?;
    let (before, mut effort) = (list.extents().len(), Effort::default());
    if request.takes_any_blocks() {
        let part = request.scattered().partial();
        // If it finds nothing, the reserve has to provide all of it.
        let _ = attempt::attempt(core, cursor, &part, list, &mut effort);
    }
    let had = blocks_of(&list.extents()[before..]);
    debug_assert!(had <= request.len);
    let missing = request.len - had;
    let tokens = reserve.take(missing, request.partial);
    let rest = Request { len: tokens, ..*request };
    let drawn = match tokens {
        // By now all of it was free.
        0 if missing == 0 || (had > 0 && request.partial) => Ok(()),
        0 => Err(failed),
        _ => promise::draw(core, &rest, list, failed),
    };
    match drawn {
        Ok(()) => {
            reserve.owe(&core.space.closed, tokens);
            Ok(effort)
        }
        Err(error) => {
            reserve.add(tokens);
            core.space.give_back_from(cursor.lane, list, before);
            Err(error)
        }
    }
}

/// As [`allocate_of_reserve`], for one extent.
pub(crate) fn one_of_reserve(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    failed: AllocError,
) -> Result<Extent, AllocError> {
    let mut extents = Extents::new();
    allocate_of_reserve(core, cursor, request, &mut extents, failed)?;
    Ok(extents[0])
}
