//! Runs that blocks waiting to be discarded make with each other and with free blocks, for requests
//! that find nothing else.
//!
//! No index has such runs: half of one may be free and the other half wait. A request for a run
//! that finds nothing else goes through what waits, once. From then on, whoever frees blocks looks
//! at the run around them, and notes its place if it is long enough. So the next such request looks
//! at the noted places, and goes on where it stopped.
//!
//! A note is taken after the blocks are there, and a request goes through what waits after it has
//! registered: a run that it does not see is noted. Except for a free that began before there was a
//! discarder, and saw none: that run is found when the same run of blocks changes again, or by a
//! handle that has not gone through what waits yet.

use crate::base::geometry::Geometry;
use crate::base::mutant::{fault, step};
use crate::base::place::WordIndex;
use crate::index::Bitmap;
use crate::space::discards::Discards;
use crate::space::joined::LONGEST;

/// Notes of one free, at most, beside those of its ends. For a free so much longer than what
/// requests missed, they go through all that waits again.
const MOST_INSIDE: u64 = 30;

/// A way through what waits, in search of runs of `least` blocks at multiples of `align`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    least: u64,
    align: u64,
    /// How far frees look at the run around what they free.
    reach: u64,
    /// There was none below this block when there were so many `notes`, and so many claims had been
    /// rolled back: their blocks seemed to be taken for a moment.
    at: u64,
    notes: u64,
    roll_backs: u64,
}

impl<G: Geometry> Discards<G> {
    /// Has `release` make `start..start + len` free in `index`, or let it wait. Then looks at the run
    /// around it, for requests that missed one. O(1) if there were none.
    pub(crate) fn noting_runs<T>(
        &self,
        index: &Bitmap<G>,
        (start, len): (u64, u64),
        release: impl FnOnce() -> T,
    ) -> T {
        let note = || {
            if let Some((least, reach)) = self.joined.missed() {
                self.note_run(index, start, least, reach);
                if len > 1 {
                    self.note_run(index, start + len - 1, least, reach);
                }
                self.note_inside(index, (start, len), least, reach);
            }
        };
        fault!(NoteBeforeBlocks: note());
        let released = release();
        // Pairs with `let_out_runs` [mutants: NoteBeforeBlocks, WalkUnregistered, NotesAfterWalk].
        step!(NoteBeforeBlocks: note());
        released
    }

    /// Notes of the blocks `start..start + len` that began to wait one at least every `least`: if
    /// others take some of them, a run that is left lies away from both ends. What became free is in
    /// the index.
    #[cold]
    fn note_inside(&self, index: &Bitmap<G>, (start, len): (u64, u64), least: u64, reach: u64) {
        let waits = |from: u64, to: u64| self.next(from).is_some_and(|waiting| waiting < to);
        if len / least <= MOST_INSIDE {
            let inside = (start..start + len - 1).step_by(least as usize).skip(1);
            let waiting = inside.filter(|&block| waits(block, block + 1));
            waiting.for_each(|block| self.note_run(index, block, least, reach));
        } else if waits(start, start + len) {
            self.joined.forget();
        }
    }

    #[cold]
    fn note_run(&self, index: &Bitmap<G>, block: u64, least: u64, reach: u64) {
        let near = reach.min(LONGEST);
        let (start, end) = self.run_around(index, block, near);
        // A run of free blocks alone is in the index. If they go on, others may wait behind them.
        let goes_on = near < reach && (start + near <= block || end >= block + near);
        let mixed = || {
            let (lowest, highest) = (block.saturating_sub(near), index.blocks().min(block + near));
            (index.run_start(block, lowest), index.run_end(block, highest)) != (start, end)
        };
        if goes_on || (end - start >= least && mixed()) {
            self.joined.note(block);
        }
    }

    /// Lets out, to be `free`, what waits in runs of `least` or more blocks from a multiple of
    /// `align` on, which it makes with free blocks, until there are `most` blocks in such runs.
    /// Returns their number; 0 only if there is no such run. `walk` remembers how far it went.
    ///
    /// O(runs that began to wait since, and `least` blocks around each).
    pub(crate) fn let_out_runs(
        &self,
        index: &Bitmap<G>,
        walk: &mut Option<Walk>,
        (least, align): (u64, u64),
        most: u64,
        free: &mut impl FnMut(WordIndex, G::Word),
    ) -> u64 {
        let blocks = index.blocks();
        let roll_backs = index.roll_backs() + self.roll_backs();
        let mut found = 0;
        let mut go_through = |from: u64, to: u64| {
            let mut at = from;
            while found < most {
                let Some(waiting) = self.next(at).filter(|&waiting| waiting < to) else {
                    return to;
                };
                let (start, end) = self.run_around(index, waiting, least.saturating_add(align));
                at = end.max(waiting + 1);
                let start = start.checked_next_multiple_of(align).unwrap_or(end);
                let run = end.saturating_sub(start);
                if run >= least {
                    // Not only the free blocks before the one that waits.
                    let len =
                        run.min(least.max(most - found)).max((waiting + 1).saturating_sub(start));
                    if self.let_out(start, start + len, u64::MAX, free) > 0 {
                        found += len;
                    }
                    at = start + len;
                }
            }
            at
        };
        let before = *walk;
        let known = before.filter(|walk| {
            // Going through all that waits is no more than this.
            let noted = self.joined.notes().wrapping_sub(walk.notes);
            noted.saturating_mul(walk.reach) <= blocks.max(LONGEST)
                && walk.roll_backs == roll_backs
                && least >= walk.least
                && align.is_multiple_of(walk.align)
                && least.saturating_add(align) <= walk.reach
        });
        let known = known.and_then(|known| {
            // Some of a run may have been taken, so its rest may lie anywhere around.
            let reach = known.reach;
            let look = |place: u64| {
                let to = place.saturating_add(reach).min(blocks);
                go_through(place.saturating_sub(reach), to) >= to
            };
            self.joined.since(known.notes, look).map(|notes| Walk { notes, ..known })
        });
        let mut now = known.unwrap_or_else(|| {
            // Also for requests that are somewhat longer.
            let reach = least.saturating_add(align).next_power_of_two();
            let registered = |notes| Walk { least, align, reach, at: 0, notes, roll_backs };
            fault!(WalkUnregistered: return registered(self.joined.notes()));
            registered(self.joined.register(least, reach))
        });
        now.at = go_through(now.at, blocks);
        fault!(NotesAfterWalk: now.notes = self.joined.notes());
        // What was passed by for a longer run is not known for a shorter one. If nothing was, the
        // walk is still that of the shorter one.
        let went = |walk: &Walk| (walk.at, walk.notes) != (now.at, now.notes);
        if known.is_none() || before.as_ref().is_none_or(went) {
            (now.least, now.align) = (least, align);
        }
        *walk = Some(now);
        found
    }

    /// The run of free and waiting blocks around `block`, at most `reach` to either side.
    pub(crate) fn run_around(&self, index: &Bitmap<G>, block: u64, reach: u64) -> (u64, u64) {
        let (lowest, highest) =
            (block.saturating_sub(reach), index.blocks().min(block.saturating_add(reach)));
        let (mut start, mut end) = (block, block);
        loop {
            let waiting = self.run_start(index.run_start(start, lowest), lowest);
            if waiting == start {
                break;
            }
            start = waiting;
        }
        loop {
            let free = index.run_end(self.run_end(end, highest), highest);
            if free == end {
                break;
            }
            end = free;
        }
        (start, end)
    }
}
