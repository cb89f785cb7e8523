//! Requests in pieces with bounds: lengths, alignment, a unit.
//!
//! First come the quick searches, one piece at a time, while they find pieces of the wanted length.
//! Then passes over the runs that may hold pieces, each for shorter runs, as for pieces of any
//! length (`pieces.rs`). They take of each run as much as leaves a rest that pieces can make up.
//! What they leave over may still be had by other cuts. So if something is left, the request gives
//! back what it has, lists the longest runs once, and cuts them so that the pieces cover the most
//! (`placement/cuts.rs`). Only this may say "no".

use crate::base::geometry::{Geometry, LEAF_BLOCKS, Native};
use crate::base::heap::reserved;
use crate::base::word::order_above;
use crate::core::Core;
use crate::index::{Claimed, Refused, Taken, Unplanned, Wanted};
use crate::placement::cursor::{Cursor, Nothing};
use crate::placement::cuts::plan;
use crate::placement::route::Route;
use crate::request::refusal;
use crate::values::bounds::Bounds;
use crate::values::error::AllocError;
use crate::values::extent::{ExtentList, blocks_of};
use crate::values::request::{Effort, Request};

/// Pieces that one request looks for by quick searches, at most: each costs a search, where a pass
/// takes all that a run has.
const QUICK: u64 = 4;

/// Appends extents to `list` that make up `request`, which has bounds.
pub(crate) fn bounded(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    effort: &mut Effort,
) -> Result<(), AllocError> {
    let (bounds, before) = (request.bounds(), list.extents().len());
    let goal = request.goal();
    if core.placer.known_to_fail(&core.space, cursor, bounds.min, bounds.align) {
        return Err(refusal::failure(core, request.len, request.align));
    }
    let claimed = claim_pieces(core, cursor, request, goal, list, effort);
    let taken = blocks_of(&list.extents()[before..]);
    let result = match claimed {
        Ok(()) if taken == goal => Ok(()),
        Ok(()) => {
            core.space.give_back_from(cursor.lane, list, before);
            planned(core, cursor, request, goal, list)
        }
        Err(Refused) => {
            core.space.give_back_from(cursor.lane, list, before);
            Err(AllocError::OutOfMemory)
        }
    };
    if result.is_ok()
        && let Some(last) = list.extents().last().copied()
    {
        let last = last.start + last.len - 1;
        core.placer.go_on_behind_pieces(&core.space, cursor, request, goal.min(bounds.max), last);
    }
    result
}

/// Claims pieces that sum to `goal`, as far as the quick searches and the passes find them.
fn claim_pieces(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    goal: u64,
    list: &mut impl ExtentList,
    effort: &mut Effort,
) -> Result<(), Refused> {
    let (bounds, lane, before) = (request.bounds(), cursor.lane, list.extents().len());
    let mut wanted = Wanted {
        left: goal,
        looks: request.effort,
        took: |claimed| {
            let Some(extent) = core.space.keep(lane, claimed) else { return Taken::Passed };
            if !list.add(before, extent, bounds.max) {
                core.space.give_back(lane, &[extent]);
                return Taken::Refused;
            }
            Taken::Kept
        },
    };
    let from = request.near.unwrap_or_else(|| core.placer.place_of(&core.space, cursor, goal));
    let zone = core.placer.zones.of(request.class.index()).filter(|_| request.near.is_none());
    let Some(zone) = zone else {
        for _ in 0..QUICK {
            let len = bounds.share(wanted.left, bounds.max);
            if !(1..=LEAF_BLOCKS).contains(&len) {
                break;
            }
            let one = Request { len, scattered: false, ..*request };
            let fitting = core.placer.fitting(&core.space, cursor, &one);
            let claimed = fitting.or_else(|| core.placer.aligned(&core.space, cursor, &one, from));
            let Some(claimed) = claimed else { break };
            core.placer.go_on_behind_pieces(&core.space, cursor, &one, len, claimed.last());
            wanted.take(claimed)?;
        }
        let route = core.placer.route(&core.space, request, from);
        return passes(core, &route, &bounds, &mut wanted, effort);
    };
    let leaf = core.placer.leaf_in_zones(&core.space, cursor, request, zone);
    for part in &zone.leaves {
        let route = Route::in_part(part, zone.direction, leaf, core.space.bitmap.leaf_end());
        passes(core, &route, &bounds, &mut wanted, effort)?;
    }
    Ok(())
}

/// Passes along `route`, each for runs half as long as the one before.
fn passes<F: FnMut(Claimed) -> Taken>(
    core: &Core,
    route: &Route,
    bounds: &Bounds,
    wanted: &mut Wanted<F>,
    effort: &mut Effort,
) -> Result<(), Refused> {
    if wanted.left == 0 {
        return Ok(());
    }
    let mut order = order_above(wanted.left.min(bounds.max)).min(Native::MAX_ORDER);
    loop {
        let least = bounds.min.max(1 << order);
        if least == bounds.min {
            wanted.looks = u64::MAX;
        }
        let looks = wanted.looks;
        for leaves in route.clone() {
            if wanted.left > 0 {
                core.space.bitmap.claim_bounded(leaves, least, bounds, wanted)?;
            }
        }
        effort.leaves += looks - wanted.looks;
        if wanted.left == 0 || least == bounds.min {
            return Ok(());
        }
        order = (order - 1).min(order_above(wanted.left.min(bounds.max)));
        if wanted.looks == 0 {
            (order, effort.gave_up) = (0, true);
        }
    }
}

/// Lists all runs, chooses, and claims the choice: `goal` blocks, or what there is of them if the
/// request is partial. Starts over if another thread was faster.
#[cold]
fn planned(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    goal: u64,
    list: &mut impl ExtentList,
) -> Result<(), AllocError> {
    let (bounds, before) = (&request.bounds(), list.extents().len());
    let (lane, &Bounds { min: least, align, .. }) = (cursor.lane, bounds);
    let cut = |runs: Vec<(u64, u64)>| {
        let mut lens = reserved(runs.len())?;
        lens.extend(runs.iter().map(|&(_, len)| len));
        let cuts = plan(&lens, bounds, goal, request.partial)?;
        Ok(cuts.map(|cuts| {
            cuts.into_iter().flat_map(move |cut| {
                let (start, len) = runs[cut.run];
                let extents = bounds.extents(len, cut.pieces, cut.blocks);
                extents.map(move |(offset, len)| (start + offset, len))
            })
        }))
    };
    let claimed = core.space.bitmap.claim_planned(
        bounds,
        goal / least,
        cut,
        list,
        |list, claimed| {
            let Some(extent) = core.space.keep(lane, claimed) else { return Taken::Passed };
            if !list.append(extent) {
                core.space.give_back(lane, &[extent]);
                return Taken::Refused;
            }
            Taken::Kept
        },
        |list| core.space.give_back_from(lane, list, before),
    );
    claimed.map_err(|unplanned| match unplanned {
        Unplanned::OutOfMemory => AllocError::OutOfMemory,
        Unplanned::Nothing { ticket, any } => {
            if !any {
                core.placer.remember(&core.space, cursor, Nothing { ticket, least, align });
            }
            refusal::failure(core, request.len, request.align)
        }
    })
}
