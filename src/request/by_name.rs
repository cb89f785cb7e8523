//! Allocation of blocks that the caller names.
//!
//! What no caller owns can be had by name as it can be had by number. Besides free blocks, these are
//! blocks that wait to be discarded, blocks in the quarantine that no reader holds any more, and
//! blocks in escrow: a promise or a reserve is a number of blocks, and any others will do for it. So
//! others take their place there, or else a reserve is owed them.
//!
//! The blocks are taken in ascending order, so that of several callers that name the same blocks the
//! one that got furthest is stopped by none of the others.

use std::ops::Range;

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::make_room::LET_OUT;
use crate::request::promise;
use crate::space::Space;
use crate::values::error::{MarkError, on_device};
use crate::values::extent::{Extent, Extents};

/// How often a block may move from one place to another before another caller counts as its owner:
/// so no stopped or busy thread can hold up the call.
const TURNS: u32 = 64;

/// Allocates exactly `extent`.
pub(crate) fn mark_allocated(
    core: &Core,
    cursor: &mut Cursor,
    extent: Extent,
) -> Result<(), MarkError> {
    let (start, len) = on_device(extent, core.space.bitmap.blocks())?;
    let Ok(claimed) = core.space.bitmap.claim(start, len) else {
        return mark_parts(core, cursor, start, start + len);
    };
    let kept = core.space.keep(cursor.lane, claimed).map(|_| ());
    kept.ok_or_else(|| {
        let block = core.space.closed.held_in(start, start + len);
        MarkError::Closed { block: if block < start + len { block } else { start } }
    })
}

/// Allocates `start..end` part by part, wherever the parts are, or nothing.
#[cold]
fn mark_parts(core: &Core, cursor: &mut Cursor, start: u64, end: u64) -> Result<(), MarkError> {
    // Nothing is let out for a range that cannot be had.
    let owned = core.space.first_owned(start, end);
    if owned < end {
        return Err(MarkError::AlreadyAllocated { block: owned });
    }
    // Blocks in escrow come last, so that none of the range takes the place of another.
    let (mut parts, mut promised) = (Extents::new(), Extents::new());
    let mut taken = take(core, cursor, start..end, &mut parts, &mut |part| {
        promised.push(part);
        Ok(())
    });
    for part in promised {
        let range = part.start..part.start + part.len;
        taken = taken.and_then(|()| exchange(core, cursor, range, &mut parts));
    }
    let taken = taken.and_then(|()| match core.space.first_closed(start, end) {
        Some(block) => Err(MarkError::Closed { block }),
        None => Ok(()),
    });
    if taken.is_err() {
        parts.iter().for_each(|&part| core.space.let_out_undiscarded(cursor.lane, part));
    }
    taken
}

/// Takes what is free in `range`, waits to be discarded, or can come out of the quarantine, and adds
/// it to `parts`. Passes what is in escrow to `promised`.
fn take(
    core: &Core,
    cursor: &Cursor,
    range: Range<u64>,
    parts: &mut Extents,
    promised: &mut impl FnMut(Extent) -> Result<(), MarkError>,
) -> Result<(), MarkError> {
    let (space, lane, end) = (&core.space, cursor.lane, range.end);
    let (mut at, mut turns) = (range.start, 0);
    while at < end {
        let free = space.bitmap.claim_from(at, end).and_then(|claimed| space.keep(lane, claimed));
        let part = free.or_else(|| take_waiting(space, at, end));
        if let Some(part) = part {
            parts.push(part);
            (at, turns) = (at + part.len, 0);
            continue;
        }
        let kept = space.escrow.run_end(at, end);
        if kept > at {
            promised(Extent { start: at, len: kept - at })?;
            (at, turns) = (kept, 0);
            continue;
        }
        if let Some(block) = space.first_closed(at, at + 1) {
            return Err(MarkError::Closed { block });
        }
        if let Some((start, len)) = space.closed.take_from(at, end) {
            parts.push(Extent { start, len });
            (at, turns) = (at + len, 0);
            continue;
        }
        let waits = space.quarantine.first_marked(at, at + 1) == at;
        let moves = if waits {
            space.collect(lane, LET_OUT) > 0
        } else {
            space.first_owned(at, at + 1) > at && turns < TURNS
        };
        if !moves {
            return Err(MarkError::AlreadyAllocated { block: at });
        }
        turns += 1;
    }
    Ok(())
}

/// Takes `range`, which was in escrow a moment ago, and puts others in its place there: spare ones,
/// or free ones, or none, which a reserve is then owed.
fn exchange(
    core: &Core,
    cursor: &mut Cursor,
    range: Range<u64>,
    parts: &mut Extents,
) -> Result<(), MarkError> {
    let mut out = Extents::new();
    core.space.escrow.exchange(
        range.start,
        range.end,
        |most| tokens_for(core, cursor, most),
        |start, len| out.push(Extent { start, len }),
    );
    // What is still there, no others could take the place of. The rest another caller let out, or
    // has.
    let mut kept = |part: Extent| Err(MarkError::Promised { block: part.start });
    let mut at = range.start;
    let mut taken = Ok(());
    for part in out {
        parts.push(part);
        taken = taken.and_then(|()| take(core, cursor, at..part.start, parts, &mut kept));
        at = part.start + part.len;
    }
    taken.and_then(|()| take(core, cursor, at..range.end, parts, &mut kept))
}

/// Takes the blocks of `at..end` from `at` on that wait to be discarded.
fn take_waiting(space: &Space, at: u64, end: u64) -> Option<Extent> {
    let (start, len) = space.discards.take_from(at, end)?;
    space.skipped_discards.add(len);
    Some(Extent { start, len })
}

/// Up to `most` tokens for blocks that leave the escrow.
fn tokens_for(core: &Core, cursor: &mut Cursor, most: u64) -> u64 {
    let space = &core.space;
    let spare = space.escrow.take_up_to(most);
    if spare > 0 {
        return spare;
    }
    if let Ok(put @ 1..) = promise::fill_escrow(core, cursor, most, true) {
        return put;
    }
    for reserve in &space.class_reserves.0 {
        let tokens = reserve.take(most, true);
        if tokens > 0 {
            reserve.owe(&space.closed, tokens);
            return tokens;
        }
    }
    0
}
