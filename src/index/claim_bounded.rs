//! Pieces with bounds: claiming them in one pass, and listing the runs that hold them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::base::geometry::Geometry;
use crate::base::heap::OutOfMemory;
use crate::base::mutant::{fault, step};
use crate::base::place::LeafIndex;
use crate::index::events::Event;
use crate::index::visit::Next;
use crate::index::watch::Ticket;
use crate::index::{Bitmap, Claimed, Refused, Taken, Wanted};
use crate::values::bounds::Bounds;

/// Why a plan was not carried out.
#[derive(Debug)]
pub(crate) enum Unplanned {
    /// No plan meets the request. The ticket shows whether that is still so.
    Nothing {
        ticket: Ticket,
        /// Whether any run has room for a piece.
        any: bool,
    },
    /// There was no memory for the list of runs, or of pieces.
    OutOfMemory,
}

impl<G: Geometry> Bitmap<G> {
    /// Claims pieces within `bounds` of the runs of at least `least` blocks in `leaves`, as far as
    /// they are wanted, each as long as leaves a rest that pieces can make up. One pass.
    pub(crate) fn claim_bounded<F: FnMut(Claimed) -> Taken>(
        &self,
        leaves: Range<LeafIndex>,
        least: u64,
        bounds: &Bounds,
        wanted: &mut Wanted<F>,
    ) -> Result<(), Refused> {
        debug_assert!(wanted.left > 0);
        let most = wanted.left.saturating_add(bounds.align - 1);
        let mut looks = wanted.looks;
        let done = self.visit_runs(leaves, 0, least, most, &mut looks, |start, end| {
            let (mut at, mut end) = (start, end);
            while let Some((start, run)) = bounds.usable(at, end) {
                let len = bounds.shares(wanted.left, run);
                if len == 0 {
                    break;
                }
                match self.claim(start, len) {
                    Ok(claimed) => match wanted.take(claimed) {
                        Ok(()) if wanted.left > 0 => at = start + len,
                        done => return Next::Done(done),
                    },
                    Err(conflict) => end = conflict.block,
                }
            }
            Next::From(end)
        });
        wanted.looks = looks;
        done.unwrap_or(Ok(()))
    }

    /// Claims pieces within `bounds` by a plan: lists the longest `count` runs that have room for a
    /// piece, has `plan` choose start and length of each piece, and claims these. Passes each to
    /// `took`. If another thread was faster, has `give_back` undo that, and starts over: so the
    /// loop repeats only because another operation succeeded (invariant 5). "No" is truthful
    /// (invariant 4).
    pub(crate) fn claim_planned<S: ?Sized, P: Iterator<Item = (u64, u64)>>(
        &self,
        bounds: &Bounds,
        count: u64,
        plan: impl Fn(Vec<(u64, u64)>) -> Result<Option<P>, OutOfMemory>,
        pieces: &mut S,
        took: impl Fn(&mut S, Claimed) -> Taken,
        give_back: impl Fn(&mut S),
    ) -> Result<(), Unplanned> {
        loop {
            let ticket = self.expect_runs_of(bounds.min);
            let runs = self.usable_runs(bounds, count).map_err(|_| Unplanned::OutOfMemory)?;
            let any = !runs.is_empty();
            let planned = plan(runs).map_err(|_| Unplanned::OutOfMemory)?;
            let Some(mut plan) = planned else {
                fault!(NoPlanWithoutLook: return Err(Unplanned::Nothing { ticket, any }));
                if !self.still_none(ticket) {
                    continue;
                }
                return Err(Unplanned::Nothing { ticket, any });
            };
            let mut last = Taken::Kept;
            let all = plan.all(|(start, len)| {
                last =
                    self.claim(start, len).map_or(Taken::Passed, |claimed| took(pieces, claimed));
                last == Taken::Kept
            });
            if all {
                return Ok(());
            }
            step!(PlanKeepsParts: give_back(pieces));
            if last == Taken::Refused {
                return Err(Unplanned::OutOfMemory);
            }
        }
    }

    /// The longest `count` runs that have room for a piece within `bounds`, by what is usable of
    /// them: where a piece may start, and the blocks from there on. One pass; counts as an exact
    /// search.
    pub(crate) fn usable_runs(
        &self,
        bounds: &Bounds,
        count: u64,
    ) -> Result<Vec<(u64, u64)>, OutOfMemory> {
        self.events.count(Event::ExactSearch, 0);
        let mut longest: BinaryHeap<Reverse<(u64, u64)>> = BinaryHeap::new();
        let mut shown = 0;
        let no_memory = self.visit_runs(
            self.all_leaves(),
            0,
            bounds.min,
            u64::MAX,
            &mut { u64::MAX },
            |start, end| {
                let usable = bounds.usable(start, end).filter(|_| end > shown);
                shown = shown.max(end);
                let Some((start, len)) = usable else { return Next::From(end) };
                if longest.len() as u64 == count {
                    if longest.peek().is_some_and(|Reverse((shortest, _))| len <= *shortest) {
                        return Next::From(end);
                    }
                    longest.pop();
                }
                if longest.try_reserve(1).is_err() {
                    return Next::Done(OutOfMemory { bytes: size_of::<(u64, u64)>() });
                }
                longest.push(Reverse((len, start)));
                Next::From(end)
            },
        );
        match no_memory {
            Some(no_memory) => Err(no_memory),
            None => Ok(longest.into_iter().map(|Reverse((len, start))| (start, len)).collect()),
        }
    }
}
