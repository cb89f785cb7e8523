//! Allocation of blocks kept for promises.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::make_room;
use crate::values::error::AllocError;
use crate::values::extent::{Extent, ExtentList, Extents};
use crate::values::request::Request;

/// Gets the caller `blocks` tokens of the escrow: see [`Escrow::promise`].
///
/// [`Escrow::promise`]: crate::space::escrow::Escrow::promise
pub(crate) fn promise(core: &Core, cursor: &mut Cursor, blocks: u64) -> Result<(), AllocError> {
    Request::new(blocks).check_len(core.space.bitmap.blocks())?;
    let promised = core.space.escrow.promise(blocks, |most| fill_escrow(core, cursor, most, false));
    if !matches!(promised, Ok(Ok(()))) {
        // What it held is spare now.
        core.space.give_up(cursor.lane, 0);
    }
    promised?.map_err(|free| AllocError::NoSpace { requested: blocks, free })
}

/// Puts up to `most` free blocks into escrow, or, if `spare`, spare ones of it when none is free;
/// returns how many tokens the caller has for them.
pub(crate) fn fill_escrow(
    core: &Core,
    cursor: &mut Cursor,
    most: u64,
    spare: bool,
) -> Result<u64, AllocError> {
    let mut extents = Extents::new();
    let request = Request::new(most).scattered().partial();
    match make_room::allocate_unreserved(core, cursor, &request, &mut extents, spare) {
        Ok(_) => {
            let put = |extent: &Extent| core.space.escrow.put_blocks(extent.start, extent.len);
            Ok(extents.iter().map(put).sum())
        }
        Err(error) if error.is_want_of_space() => Ok(0),
        Err(error) => Err(error),
    }
}

/// Allocates what `request` asks for, for which the caller has tokens. Those become spare, or are
/// used up.
pub(crate) fn allocate_promised(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
) -> Result<Extents, AllocError> {
    let mut extents = Extents::new();
    let failed = match make_room::allocate_unreserved(core, cursor, request, &mut extents, true) {
        Ok(_) => {
            core.space.give_up(cursor.lane, extents.blocks());
            return Ok(extents);
        }
        Err(error) if error.is_want_of_space() => error,
        Err(error) => return Err(error),
    };
    let request = request.checked(core.space.bitmap.blocks())?;
    draw(core, &request, &mut extents, failed)?;
    Ok(extents)
}

/// Meets `request` with blocks from escrow, for which the caller has tokens; they are used up then.
/// Otherwise returns `failed`, or that there is no memory, and has done nothing.
pub(crate) fn draw(
    core: &Core,
    request: &Request,
    list: &mut impl ExtentList,
    failed: AllocError,
) -> Result<(), AllocError> {
    let before = list.extents().len();
    let runs = |left: u64| {
        if request.takes_any_blocks() {
            core.space.escrow.take(left.min(request.max_extent))
        } else if request.scattered {
            None
        } else {
            core.space.escrow.take_run(request.len, request.align)
        }
    };
    let mut left = request.len;
    let mut error = failed;
    while let Some((start, len)) = (left > 0).then(|| runs(left)).flatten() {
        if !list.append(Extent { start, len }) {
            core.space.escrow.put_blocks(start, len);
            error = AllocError::OutOfMemory;
            break;
        }
        left -= len;
    }
    if left == 0 {
        debug_assert!(request.is_met_by(&list.extents()[before..]));
        return Ok(());
    }
    // The caller still has the tokens.
    for extent in &list.extents()[before..] {
        core.space.escrow.put_blocks(extent.start, extent.len);
    }
    list.cut(before);
    Err(error)
}

/// Replaces the blocks in escrow of `from..to`, which is closed, by others, and lets them go, as
/// far as others are free.
pub(crate) fn move_escrow(core: &Core, cursor: &mut Cursor, from: u64, to: u64) {
    core.space.collect_escrow(cursor.lane, u64::MAX);
    let lane = cursor.lane;
    let fill = |most| fill_escrow(core, cursor, most, true).unwrap_or(0);
    let let_out = |start, len| core.space.let_out_undiscarded(lane, Extent { start, len });
    core.space.escrow.exchange(from, to, fill, let_out);
}
