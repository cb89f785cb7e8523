//! Requests in pieces, the longest available, in few passes. (ZFS calls it a gang block.)
//!
//! If no run is long enough, the request tries each smaller order in turn. First come the runs of
//! that order that the handle remembers, the longest first, except that the shortest one that is
//! enough for the rest goes before. Then one pass over the leaves that may have others, from the
//! handle's place on, takes those runs whole. An order that no leaf shows costs no pass. A leaf
//! that has such a run yields something, and one that has none is not shown again. So a request
//! reads no more leaves than it gets pieces, except for stale ones; and each of at most ten passes
//! reads the part of the summary that its order shows.
//!
//! A handle that may take any run goes by what it remembers, and makes such passes now and then:
//! see `pace.rs`.

use crate::base::geometry::{Geometry, LEAF_BLOCKS, Native};
use crate::base::word::order_above;
use crate::core::Core;
use crate::index::{Claimed, Refused, Taken, Wanted};
use crate::placement::cursor::{Cursor, Nothing};
use crate::values::error::AllocError;
use crate::values::extent::{ExtentList, blocks_of};
use crate::values::request::{Effort, Request};

/// Leaves that a search for a whole run counts as read, if it finds none.
const IN_VAIN: u64 = 16;

/// Appends extents to `list` that make up `request`, which takes any pieces.
pub(crate) fn gang(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    effort: &mut Effort,
) -> Result<(), AllocError> {
    let before = list.extents().len();
    let claimed = claim_gang(core, cursor, request, list, effort);
    let taken = blocks_of(&list.extents()[before..]);
    let enough = taken == request.len || (request.partial && taken > 0);
    if claimed.is_err() || !enough {
        core.space.give_back_from(cursor.lane, list, before);
        let memory = claimed.map_err(|Refused| AllocError::OutOfMemory);
        return memory.and(Err(AllocError::NoSpace { requested: request.len, free: taken }));
    }
    if let Some(last) = list.extents()[before..].last().copied() {
        let last = last.start + last.len - 1;
        core.placer.go_on_behind_pieces(&core.space, cursor, request, request.len, last);
    }
    Ok(())
}

/// Claims what there is, up to all of `request`.
fn claim_gang(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    effort: &mut Effort,
) -> Result<(), Refused> {
    let before = list.extents().len();
    if core.placer.known_to_fail(&core.space, cursor, 1, 1) {
        return Ok(());
    }
    let (lane, max) = (cursor.lane, request.max_extent);
    let mut wanted = Wanted {
        left: request.len,
        looks: request.effort,
        took: |claimed| {
            let Some(extent) = core.space.keep(lane, claimed) else { return Taken::Passed };
            if !list.add(before, extent, max) {
                core.space.give_back(lane, &[extent]);
                return Taken::Refused;
            }
            Taken::Kept
        },
    };
    let from =
        request.near.unwrap_or_else(|| core.placer.place_of(&core.space, cursor, request.len));
    let zone = core.placer.zones.of(request.class.index()).filter(|_| request.near.is_none());
    let mut order = order_above(request.len).min(Native::MAX_ORDER);
    if let Some(zone) = zone {
        core.placer.gang_in_zones(&core.space, cursor, request, zone, &mut wanted, effort)?;
    } else if let Some(claimed) = whole(core, cursor, request, from, order) {
        wanted.take(claimed)?;
    } else if request.len <= LEAF_BLOCKS {
        // A search for this order everywhere has just failed, or none was due.
        order = order.saturating_sub(1);
    }
    let by_seen = core.placer.goes_by_seen(request) && !cursor.sequential;
    while wanted.left > 0 {
        while by_seen
            && wanted.left > 0
            && let Some(claimed) =
                core.placer.claim_piece(&core.space, cursor, 1 << order, wanted.left)
        {
            wanted.take(claimed)?;
        }
        if order == 0 {
            wanted.looks = u64::MAX;
        }
        if !by_seen || cursor.passes.is_due(order) {
            let before = (wanted.left, effort.leaves);
            let route = core.placer.route(&core.space, request, from);
            core.placer.claim_pieces_in(&core.space, order, route, &mut wanted, effort)?;
            if by_seen && wanted.left == before.0 {
                cursor.passes.was_in_vain(order, effort.leaves - before.1);
            }
        }
        if order == 0 || wanted.left == 0 {
            break;
        }
        order = (order - 1).min(order_above(wanted.left));
        if wanted.looks == 0 {
            (order, effort.gave_up) = (0, true);
        }
    }
    take_rest(core, cursor, from, &mut wanted)
}

/// Claims blocks that other threads gave back behind the passes; or remembers, for certain, that there
/// is none.
fn take_rest<F: FnMut(Claimed) -> Taken>(
    core: &Core,
    cursor: &mut Cursor,
    from: u64,
    wanted: &mut Wanted<F>,
) -> Result<(), Refused> {
    if let Some(ticket) = core.space.bitmap.claim_rest(from, wanted)? {
        core.placer.remember(&core.space, cursor, Nothing { ticket, least: 1, align: 1 });
    }
    Ok(())
}

/// Claims one run for all of `request`, whose order is `order`.
#[inline]
fn whole(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    from: u64,
    order: u32,
) -> Option<Claimed> {
    if request.len > LEAF_BLOCKS {
        return None; // longer than an order: pieces of the largest one come next
    }
    if let Some(found) = core.placer.fitting(&core.space, cursor, request) {
        return Some(found);
    }
    let by_seen = core.placer.goes_by_seen(request) && !cursor.sequential;
    if by_seen && !(core.space.bitmap.shows(order) && cursor.passes.is_due(order)) {
        return None;
    }
    let found = core.placer.aligned(&core.space, cursor, request, from);
    if by_seen && found.is_none() {
        cursor.passes.was_in_vain(order, IN_VAIN);
    }
    found
}
