//! Retries a request once blocks that no caller owns were let out.
//!
//! Such blocks wait in three places: spare ones in escrow, those in the quarantine that no reader
//! holds any more, and those that wait to be discarded. A request that finds nothing lets out about
//! as many as it asks for, from the cheapest place first, and leaves the rest to those that need it.

use crate::core::Core;
use crate::placement::cursor::Cursor;
use crate::request::attempt;
use crate::values::error::AllocError;
use crate::values::extent::{ExtentList, blocks_of};
use crate::values::request::{Effort, Request};

/// Blocks that a request which found nothing lets out, at least: one word of the index. With fewer,
/// each of the next requests would first search and find nothing.
pub(crate) const LET_OUT: u64 = 64;

/// A request lets out no more than this many times twice as many blocks as the time before.
const DOUBLINGS: u32 = 20;

/// Appends extents to `list` that meet `request`. Retries until it succeeds, or there was a moment
/// at which nothing fitted and nothing could be let out. Does not use what is kept for the request's
/// class, nor, unless `spare`, the spare blocks in escrow.
#[inline]
pub(crate) fn allocate_unreserved(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    spare: bool,
) -> Result<Effort, AllocError> {
    let request = &request.checked(core.space.bitmap.blocks())?;
    let mut effort = Effort::default();
    let before = list.extents().len();
    let result = attempt::attempt(core, cursor, &part_of(request, 0), list, &mut effort);
    let had = blocks_of(&list.extents()[before..]);
    if had < request.goal() {
        retry(core, cursor, request, list, before, result, spare, &mut effort)?;
    }
    Ok(effort)
}

/// What one attempt looks for, when `had` blocks of `request` were found. A request that takes any
/// pieces keeps those it has while it looks for the rest: if it gave them back, it could not tell
/// its own frees from those of others.
fn part_of(request: &Request, had: u64) -> Request {
    let partial = request.partial || (request.scattered && request.takes_any_pieces());
    Request { len: request.len - had, partial, ..*request }
}

/// Goes on after the first attempt to meet `request`, which added to the first `before` extents of
/// `list`.
#[cold]
#[expect(clippy::too_many_arguments, reason = "the state of one loop")]
fn retry(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    list: &mut impl ExtentList,
    before: usize,
    mut result: Result<(), AllocError>,
    spare: bool,
    effort: &mut Effort,
) -> Result<(), AllocError> {
    let mut round = 0;
    loop {
        let mut had = blocks_of(&list.extents()[before..]);
        if had == request.goal() {
            return Ok(());
        }
        let want_of_space = result.as_ref().err().is_none_or(AllocError::is_want_of_space);
        let more = want_of_space
            && (make_room(core, cursor, &part_of(request, had), spare, &mut round)
                || changed(core, cursor, request));
        if !more && want_of_space && request.partial && had > 0 {
            return Ok(());
        }
        if !more || !request.takes_any_pieces() {
            core.space.give_back_from(cursor.lane, list, before);
        }
        if !more {
            let found = AllocError::NoSpace { requested: request.len, free: had };
            return Err(result.err().filter(|_| had == 0 || !want_of_space).unwrap_or(found));
        }
        if !request.takes_any_pieces() {
            had = 0;
        }
        result = attempt::attempt(core, cursor, &part_of(request, had), list, effort);
    }
}

/// Whether something was freed since the last attempt found nothing that would fit. (A request with
/// bounds looks itself.)
pub(crate) fn changed(core: &Core, cursor: &Cursor, request: &Request) -> bool {
    let any = request.takes_any_pieces();
    let (least, align) = match request.scattered {
        false => (request.len, request.align),
        true if any => (1, 1),
        true => return false,
    };
    !core.placer.known_to_fail(&core.space, cursor, least, align)
}

/// Lets blocks out for a request that did not find enough; returns whether there were any. `round`
/// counts the calls for one request.
///
/// A request that takes any blocks gets about as many as it asks for: O(len). One that needs a
/// certain run has blocks let out until some have become part of such a run, or nothing is left
/// that no caller holds: a refusal is true, and each block is let out once. Discards are not let
/// out unless they make such a run.
pub(crate) fn make_room(
    core: &Core,
    cursor: &mut Cursor,
    request: &Request,
    spare: bool,
    round: &mut u32,
) -> bool {
    let (space, lane, any) = (&core.space, cursor.lane, request.takes_any_blocks());
    let doublings = (*round).min(DOUBLINGS);
    let (len, wanted) = (request.len, LET_OUT.max(request.len) << doublings);
    *round += 1;
    let mut got = 0;
    if spare && space.escrow.spare() > 0 {
        // No more than it asks for, since others find these blocks nowhere meanwhile.
        got += space.collect_escrow(lane, if any { len } else { len << doublings });
    }
    if got < wanted && space.quarantine.blocks() > 0 {
        got += match any {
            true => space.collect_undiscarded(lane, wanted - got),
            false => space.collect_runs(lane, least_of(request), request.align, len << doublings),
        };
    }
    if got < wanted && any && space.discards.waiting() > 0 {
        got += space.skip_discards(lane, wanted - got);
    }
    if got == 0 && !any && space.discards.waiting() > 0 {
        let (least, align) = (least_of(request), request.align);
        let walk = &mut cursor.place(least).walk;
        got += space.skip_discards_for(lane, walk, (least, align), len);
    }
    got > 0
}

/// The shortest run that helps `request`.
fn least_of(request: &Request) -> u64 {
    if request.scattered { request.min_extent } else { request.len }
}
