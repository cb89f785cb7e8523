//! Places of runs that blocks waiting to be discarded make with each other and with free blocks.
//!
//! `discard_runs.rs` has the searches; this file only remembers.

use crate::base::sync::{AtomicWord, Site};
use crate::values::extent::MAX_BLOCKS;

/// How far a free looks, at most. A request that wants to know of longer runs is told of all that go
/// on there.
pub(super) const LONGEST: u64 = 4096;

/// Places remembered. A request that missed more of them goes through all that waits again.
const PLACES: usize = 64;

/// `[number of the note: 28 | block: 36]`.
const BLOCK_BITS: u32 = 36;
const BLOCK_MASK: u64 = (1 << BLOCK_BITS) - 1;
const _: () = assert!(MAX_BLOCKS <= 1 << BLOCK_BITS);

/// Where such runs were completed.
#[derive(Debug)]
pub(crate) struct Joined {
    /// The shortest run that a request missed; 0 if none did.
    shortest: AtomicWord<u64>,
    /// How far one that a request missed may reach.
    longest: AtomicWord<u64>,
    /// Notes ever taken.
    notes: AtomicWord<u64>,
    places: [AtomicWord<u64>; PLACES],
}

impl Default for Joined {
    fn default() -> Self {
        Self {
            shortest: AtomicWord::new(0),
            longest: AtomicWord::new(0),
            notes: AtomicWord::new(0),
            // No note at this place has the number of the next.
            places: std::array::from_fn(|place| AtomicWord::new((place as u64 + 1) << BLOCK_BITS)),
        }
    }
}

impl Joined {
    /// From now on, runs of `least` and more blocks are noted, in which free blocks and blocks that
    /// wait are at most `reach` blocks apart. Returns the number of notes so far: see
    /// [`since`](Self::since).
    pub(super) fn register(&self, least: u64, reach: u64) -> u64 {
        debug_assert!(0 < least && least <= reach);
        // The notes first: `end` takes a note after it has removed the registrations.
        let notes = self.notes();
        let longer = |longest| (reach > longest).then_some(reach);
        let _ = self.longest.update(Site::Joined, longer);
        let shorter = |shortest| (shortest == 0 || least < shortest).then_some(least);
        let _ = self.shortest.update(Site::Joined, shorter);
        notes
    }

    /// The shortest run that a free notes, and how far to look for it; `None` if no request missed
    /// one.
    #[inline]
    pub(super) fn missed(&self) -> Option<(u64, u64)> {
        let shortest = self.shortest.load(Site::Joined);
        (shortest > 0).then(|| (shortest, self.longest.load(Site::Joined)))
    }

    /// Removes all registrations: nothing waits any more.
    pub(super) fn end(&self) {
        self.shortest.store(0, Site::Joined);
        self.longest.store(0, Site::Joined);
        self.forget();
    }

    /// Notes ever taken.
    pub(super) fn notes(&self) -> u64 {
        self.notes.load(Site::Joined)
    }

    /// Notes that `block` lies in a run that was missed.
    pub(super) fn note(&self, block: u64) {
        let note = self.notes.fetch_add(1, Site::Joined);
        self.places[note as usize % PLACES].store(note << BLOCK_BITS | block, Site::Joined);
    }

    /// Tells every request to go through all that waits again.
    pub(super) fn forget(&self) {
        self.notes.fetch_add(PLACES as u64 + 1, Site::Joined);
    }

    /// Hands to `look` the places noted `since` there were so many notes, until it returns `false`.
    /// Returns the number of the note for which it did, or how many notes there are now. `None` if
    /// some are not known any more, or not yet.
    pub(super) fn since(&self, since: u64, mut look: impl FnMut(u64) -> bool) -> Option<u64> {
        let notes = self.notes();
        if notes.wrapping_sub(since) > PLACES as u64 {
            return None;
        }
        for note in since..notes {
            let place = self.places[note as usize % PLACES].load(Site::Joined);
            if place >> BLOCK_BITS != note & (u64::MAX >> BLOCK_BITS) {
                return None;
            }
            if !look(place & BLOCK_MASK) {
                return Some(note);
            }
        }
        Some(notes)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    pub(super) fn since(joined: &Joined, notes: u64) -> Option<Vec<u64>> {
        let mut places = Vec::new();
        let all = |place| {
            places.push(place);
            true
        };
        joined.since(notes, all).map(|_| places)
    }

    #[test]
    fn the_last_notes_are_known_or_said_to_be_lost() {
        let joined = Joined::default();
        assert_eq!(since(&joined, 0), Some(Vec::new()));
        for count in 1..300 {
            joined.note(MAX_BLOCKS - count);
            for back in 0..=count {
                let known = (back <= PLACES as u64)
                    .then(|| (1..=count).skip((count - back) as usize).map(|n| MAX_BLOCKS - n));
                assert_eq!(since(&joined, count - back), known.map(Iterator::collect));
            }
        }
        let notes = joined.notes();
        joined.forget();
        assert_eq!(since(&joined, notes), None);
        assert_eq!(since(&joined, joined.notes()), Some(Vec::new()));
    }

    #[test]
    fn the_shortest_and_the_longest_run_that_was_missed_are_known() {
        let joined = Joined::default();
        assert_eq!(joined.missed(), None);
        let lens = [9, 12, 7, 7, 8];
        let missed = lens.map(|len| {
            joined.register(len, len + 1);
            joined.missed()
        });
        assert_eq!(missed, [(9, 10), (9, 13), (7, 13), (7, 13), (7, 13)].map(Some));
    }
}
