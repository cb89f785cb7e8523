//! Best fit by memory: a request takes the shortest run that the handle knows of and that is long
//! enough, so that little is left.
//!
//! A tree of all free runs would find the best fit, but would be one lock for all threads. Instead
//! each handle remembers runs by length (`known_runs.rs`): those that its own frees complete, those
//! that its own claims leave, and those under the nodes of the summary. It looks at the nodes one
//! after another, now and then when a request finds no run of exactly its length. A remembered run
//! may be gone, longer or shorter since. So it is measured before it is used, or, if it is longer
//! than a leaf, the claim refuses it. The idea of keeping free space by exact length is that of
//! quick lists (Weinstock 1976; Wilson et al. 1995).

use crate::base::geometry::{LEAF_BLOCKS, Native};
use crate::base::place::{LeafIndex, NodeIndex};
use crate::index::events::Event;
use crate::index::{Claimed, Lost};
use crate::placement::Placer;
use crate::placement::cursor::Cursor;
use crate::placement::known_runs::{ENDLESS, LOOK_EVERY, Seen};
use crate::placement::pace::Pace;
use crate::space::Space;
use crate::values::class::Class;
use crate::values::extent::Extent;
use crate::values::request::Request;

/// Runs that one request tries, at most.
const TRIED: usize = 32;

/// Blocks asked for between two looks, at most: see [`LOOK_EVERY`].
const LOOK_AT_LEAST_EVERY: u64 = 4 * LOOK_EVERY;

/// Blocks that one request counts for, at most: a look takes the same time whatever the length of
/// the request, so two long ones share it at least.
const MOST_COUNTED: u64 = 128;

/// Nodes that one look skips, at most, because they are entirely free.
const PASSED: usize = 16;

/// How far to measure a run that is, or was, at most a leaf long. A free measures a leaf to either
/// side.
const REACH: u64 = 2 * LEAF_BLOCKS;

impl Placer {
    /// Claims a run that fits `request`, if the request goes by known runs.
    #[inline]
    pub(crate) fn fitting(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        request: &Request,
    ) -> Option<Claimed> {
        let len = request.len;
        let goes = self.goes_by_seen(request) && (2..=LEAF_BLOCKS).contains(&len);
        goes.then(|| self.claim_fitting(space, cursor, len)).flatten()
    }

    /// Whether `request` may take any run there is.
    #[inline]
    pub(crate) fn goes_by_seen(&self, request: &Request) -> bool {
        let &Request { align, near, class, .. } = request;
        let anywhere = align == 1 && near.is_none();
        anywhere && (class == Class::BULK || !self.zones.are_set())
    }

    /// Claims `len` blocks at the start of a free run that is not much longer, if the handle finds
    /// one soon: it tries at most 32 runs and looks at one node.
    pub(crate) fn claim_fitting(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        len: u64,
    ) -> Option<Claimed> {
        if cursor.sequential {
            return None;
        }
        cursor.asked_for_several();
        let seen = &mut cursor.seen;
        let mut may_look = true;
        for _ in 0..TRIED {
            let Some(hint) = seen.take(len) else {
                if !std::mem::take(&mut may_look) || !self.look_now_and_then(space, seen, len) {
                    return None;
                }
                continue;
            };
            let found = if hint.len >= LEAF_BLOCKS {
                let start = space.bitmap.run_beyond_word(hint.word);
                let start = start.filter(|start| start + len <= space.bitmap.blocks());
                start.map(|start| (start, hint.len))
            } else {
                space.bitmap.run_in_word(hint.word, len, REACH)
            };
            let Some((start, run)) = found else { continue };
            if run > hint.len {
                seen.put(start, run);
                continue;
            }
            if run > len
                && std::mem::take(&mut may_look)
                && self.look_now_and_then(space, seen, len)
            {
                seen.put(start, run);
                continue;
            }
            let claimed = self.claim_of_run(space, seen, start, run, len);
            if claimed.is_some() {
                return claimed;
            }
        }
        None
    }

    /// Claims a known run of at most `most` blocks: the shortest that has that many, or else the
    /// longest of those that have at least `least`. Tries at most 32 runs.
    pub(crate) fn claim_piece(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        least: u64,
        most: u64,
    ) -> Option<Claimed> {
        if cursor.sequential {
            return None;
        }
        let seen = &mut cursor.seen;
        for _ in 0..TRIED {
            let hint = seen.take_piece(least, most)?;
            let found = space.bitmap.run_in_word(hint.word, hint.len, REACH);
            let Some((start, run)) = found else { continue };
            let len = run.min(most);
            if run > hint.len && run > len {
                seen.put(start, run);
            } else if let Some(claimed) = self.claim_of_run(space, seen, start, run, len) {
                return Some(claimed);
            }
        }
        None
    }

    /// Claims the first `len` blocks of the run of `run` blocks at `start`, unless another thread
    /// was faster. Remembers the rest of the run.
    #[inline]
    fn claim_of_run(
        &self,
        space: &Space,
        seen: &mut Seen,
        start: u64,
        run: u64,
        len: u64,
    ) -> Option<Claimed> {
        debug_assert!((1..=run).contains(&len));
        let claimed = space.bitmap.claim(start, len).ok()?;
        if run > len && self.is_for_bulk(start + len) {
            seen.put(start + len, if run == ENDLESS { run } else { run - len });
        }
        Some(claimed)
    }

    /// Claims a known single free block between blocks in use. Tries no more than it remembers.
    #[inline(never)]
    pub(crate) fn claim_single(&self, space: &Space, cursor: &mut Cursor) -> Option<Claimed> {
        while cursor.seen.has_single() {
            let hint = cursor.seen.take(1)?;
            match space.bitmap.claim_hole_in(hint.word) {
                Ok(Some((claimed, others))) => {
                    // A handle that asks for single blocks only continues where it frees, which is
                    // faster.
                    if others && cursor.is_mixed() {
                        cursor.seen.put(claimed.start(), 1);
                    }
                    return Some(claimed);
                }
                Ok(None) => {}
                Err(Lost) => space.count(Event::LostClaim, hint.word.get()),
            }
        }
        None
    }

    /// Remembers where `extent` was freed, and the run that the free completed.
    #[inline(always)]
    pub(crate) fn remember_freed(
        &self,
        space: &Space,
        cursor: &mut Cursor,
        Extent { start, len }: Extent,
    ) {
        if len > 1 || cursor.is_mixed() {
            self.saw_freed(space, cursor, start, len);
        }
        cursor.freed(start, len);
    }

    /// Remembers the run that a free of `len` blocks from `start` on completed.
    #[inline]
    pub(crate) fn saw_freed(&self, space: &Space, cursor: &mut Cursor, start: u64, len: u64) {
        let (start, run) = space.bitmap.run_around(start, len, LEAF_BLOCKS);
        if self.is_for_bulk(start) {
            cursor.seen.put(start, run);
        }
    }

    /// Whether requests without a class belong there: only they go by known runs.
    #[inline]
    pub(crate) fn is_for_bulk(&self, start: u64) -> bool {
        self.zones.of(0).is_none_or(|zone| zone.is_home(LeafIndex::of_block::<Native>(start)))
    }

    /// Looks at the next node of the summary for a request of `len` blocks, if enough was asked for
    /// since the last look. Returns whether it looked.
    fn look_now_and_then(&self, space: &Space, seen: &mut Seen, len: u64) -> bool {
        seen.look.count(len.min(MOST_COUNTED));
        if !seen.look.is_over() {
            return false;
        }
        let end = space.bitmap.node_end();
        if seen.place.is_none() || seen.node >= end {
            // A run that begins before a node and ends behind it was seen where it begins.
            let is_whole = |node: NodeIndex| node < end && space.bitmap.is_whole(node);
            let mut goes_on = is_whole(seen.node);
            for _ in 0..PASSED {
                let next = seen.node.next();
                seen.node = if next < end { next } else { NodeIndex::FIRST };
                goes_on = goes_on && seen.node > NodeIndex::FIRST && is_whole(seen.node);
                if !goes_on {
                    break;
                }
            }
        }
        let (node, from) = (seen.node, seen.place.unwrap_or(0));
        let mut taught = false;
        seen.place = space.bitmap.runs_under(node, from, REACH, |start, run| {
            taught |= self.is_for_bulk(start) && seen.put(start, run) && run >= len;
        });
        let longer = (2 * seen.look_after).min(LOOK_AT_LEAST_EVERY);
        seen.look_after = if taught { LOOK_EVERY } else { longer };
        seen.look = Pace::after(seen.look_after);
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
