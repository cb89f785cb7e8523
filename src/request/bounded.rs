//! Requests in extents of bounded length.

use crate::base::geometry::{Geometry, Native};
use crate::base::word::order_above;
use crate::core::Core;
use crate::index::{Claimed, Pack, Search};
use crate::placement::cursor::{Cursor, Nothing};
use crate::placement::cuts::plan;
use crate::request::refusal;
use crate::space::lanes::LaneId;
use crate::values::error::AllocError;
use crate::values::extent::{Extent, ExtentList};
use crate::values::request::{Effort, Request};

pub(crate) fn scattered(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    effort: &mut Effort,
) -> Result<(), AllocError> {
    let before = list.extents().len();
    let mut left = request.len;
    let mut order = u32::MAX;
    while let Some(claimed) = piece(core, cursor, request, left, &mut order) {
        let Some(extent) = core.space.keep(cursor.lane, claimed) else { continue };
        effort.leaves += 1;
        if effort.leaves >= request.effort && order > order_above(request.min_extent) {
            order = order_above(request.min_extent);
            effort.gave_up = true;
        }
        if request.near.is_none() {
            let last = extent.start + extent.len - 1;
            core.placer.go_on(&core.space, cursor, request, left.min(request.max_extent), last);
        }
        if !add(list, before, extent, request.max_extent) {
            core.space.give_back(cursor.lane, &[extent]);
            core.space.give_back_from(cursor.lane, list, before);
            return Err(AllocError::OutOfMemory);
        }
        left -= extent.len;
    }
    let enough = left == 0 || (request.partial && left < request.len);
    if !enough {
        core.space.give_back_from(cursor.lane, list, before);
        if request.min_extent == 1 || request.partial {
            return Err(refusal::failure(core, request.len, request.align));
        }
        planned(core, cursor.lane, request, list)?;
    }
    Ok(())
}

/// Claims the next extent of a scattered request that still wants `left` blocks: of the largest
/// available order, which `order` carries from one extent to the next.
fn piece(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    left: u64,
    order: &mut u32,
) -> Option<Claimed> {
    let &Request { min_extent: least, max_extent, align, near, .. } = request;
    let most = left.min(max_extent);
    if most < least || core.placer.known_to_fail(&core.space, cursor, least, align) {
        return None;
    }
    let from = near.unwrap_or_else(|| core.placer.place_of(&core.space, cursor, most));
    let search = Search { least, most, align, take: |run| share(request, left, run) };
    let whole = order_above(most).min(Native::MAX_ORDER);
    if *order == u32::MAX && share(request, left, most) == most {
        let one = Request { len: most, scattered: false, ..*request };
        let fitting = core.placer.fitting(&core.space, cursor, &one);
        if let Some(taken) =
            fitting.or_else(|| core.placer.aligned(&core.space, cursor, &one, from))
        {
            return Some(taken);
        }
    }
    *order = whole.min(*order);
    while 1 << *order >= least {
        let claim = |leaves| core.space.bitmap.claim_around(*order, leaves, Pack::Tight, &search);
        let mut route = core.placer.route(&core.space, request, from);
        let taken = if core.space.bitmap.shows(*order) { route.find_map(claim) } else { None };
        if let Some(taken) = taken {
            return Some(taken);
        }
        if *order == 0 {
            break;
        }
        *order -= 1;
    }
    match core.space.bitmap.claim_exact(from, &search) {
        Ok(taken) => Some(taken),
        Err(ticket) => {
            // "Nothing to take" means "no such run" only if every run is usable.
            if share(request, left, least) > 0 {
                core.placer.remember(&core.space, cursor, Nothing { ticket, least, align });
            }
            None
        }
    }
}

/// The last resort of a scattered request with a lower bound on its extents: lists all runs,
/// chooses, and claims the choice. Starts over if another thread was faster.
#[cold]
fn planned(
    core: &Core,
    lane: LaneId,
    request: &Request,
    list: &mut impl ExtentList,
) -> Result<(), AllocError> {
    let &Request { len, min_extent: min, max_extent: max, align, .. } = request;
    let before = list.extents().len();
    let per_run = if align == 1 { u64::MAX } else { 1 };
    loop {
        let ticket = core.space.bitmap.expect_runs_of(min);
        let mut runs = Vec::new();
        let mut lens = Vec::new();
        let mut from = 0;
        while let Some(start) = core.space.bitmap.next_free(from) {
            let end = core.space.bitmap.run_end(start, core.space.bitmap.blocks());
            let aligned = start.next_multiple_of(align);
            if aligned < end && end - aligned >= min {
                if runs.try_reserve(1).is_err() || lens.try_reserve(1).is_err() {
                    return Err(AllocError::OutOfMemory);
                }
                runs.push(aligned);
                lens.push(end - aligned);
            }
            from = end + 1;
        }
        let Some(cuts) = plan(&lens, len, min, max, per_run) else {
            if core.space.bitmap.still_none(ticket) {
                return Err(refusal::failure(core, len, align));
            }
            continue;
        };
        let mut extents = cuts.iter().flat_map(|cut| {
            let (each, more) = (cut.blocks / cut.pieces, cut.blocks % cut.pieces);
            let mut start = runs[cut.run];
            (0..cut.pieces).map(move |piece| {
                let extent = Extent::new(start, each + u64::from(piece < more));
                start += extent.len;
                extent
            })
        });
        let mut memory = true;
        let claimed = extents.all(|extent| {
            let claimed = core.space.bitmap.claim(extent.start, extent.len).ok();
            let kept = claimed.and_then(|claimed| core.space.keep(lane, claimed));
            if kept.is_some() && !list.append(extent) {
                core.space.give_back(lane, &[extent]);
                memory = false;
            }
            kept.is_some() && memory
        });
        if claimed {
            return Ok(());
        }
        core.space.give_back_from(lane, list, before);
        if !memory {
            return Err(AllocError::OutOfMemory);
        }
    }
}

/// How many blocks a scattered request that wants `left` blocks takes of a run, so that extents
/// within its bounds can make up the rest; 0 if there is no such number.
fn share(request: &Request, left: u64, run: u64) -> u64 {
    let most = run.min(request.max_extent).min(left);
    let rest = left - most;
    let take = if request.partial || request.divisible(rest) {
        most
    } else {
        // The next larger rest that can be made up: as many of the shortest extents.
        left.saturating_sub(rest.div_ceil(request.max_extent) * request.min_extent)
    };
    if take >= request.min_extent { take } else { 0 }
}

/// Appends `extent`, or lengthens the last extent behind `before` by it if they are neighbours.
pub(crate) fn add(list: &mut impl ExtentList, before: usize, extent: Extent, max: u64) -> bool {
    if let Some(last) = list.extents()[before..].last_mut()
        && last.start + last.len == extent.start
        && last.len + extent.len <= max
    {
        last.len += extent.len;
        return true;
    }
    list.append(extent)
}
