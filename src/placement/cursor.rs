//! Where one handle allocates: hints and memories, all of which may be lost at any time.

use crate::base::account::Account;
use crate::base::geometry::{Geometry, Native};
use crate::base::place::{LeafIndex, ShortWord, WordIndex};
use crate::base::word::order_above;
use crate::index::watch::Ticket;
use crate::placement::known_runs::Seen;
use crate::placement::pace::{Pace, Passes};
use crate::placement::recent_frees::Freed;
use crate::space::discard_runs::Walk;
use crate::space::lanes::LaneId;
use crate::values::class;
use crate::values::extent::MAX_BLOCKS;

/// Classes of runs: one for each order, by the smallest order that holds the run, and one for all
/// runs longer than a leaf.
const CLASSES: usize = Native::MAX_ORDER as usize + 2;

/// Recent frees that a handle remembers for each class. Single blocks are often freed many at a
/// time, by a transaction or a batch, before as many are allocated.
const fn freed_room(class: usize) -> usize {
    if class == 0 { 512 } else { 8 }
}

/// Single-block requests in a row after which a handle counts as asking for single blocks only.
const ALL_SINGLE: u64 = 16;

/// Allocations in places just freed after which a handle looks at its own leaf again.
const REUSES: u64 = 2048;

/// The last position of a handle, for each class of requests and of runs.
type Classes = [[LeafIndex; CLASSES]; class::CLASSES];

/// The state that one handle keeps for itself.
#[derive(Debug)]
pub(crate) struct Cursor {
    /// Where its memory is counted.
    account: Account,
    places: [Place; CLASSES],
    /// The lane that the handle counts in.
    pub lane: LaneId,
    nothing: Option<Nothing>,
    /// The last leaf for each class of requests and of runs, if placements are set;
    /// [`LeafIndex::NONE`] before the first.
    classes: Option<Box<Classes>>,
    /// Whether it continues behind the last allocation, instead of where a run fits best.
    pub sequential: bool,
    /// Single-block requests after which it counts as asking for single blocks only.
    mixed: Pace,
    /// When to make a pass over the summary for pieces.
    pub passes: Passes,
    /// Known runs to choose from.
    pub seen: Seen,
}

/// Where a handle allocates runs of one class.
///
/// Continuing from the last run lays out in sequence what is allocated in sequence, and costs
/// little while the neighbourhood has plenty. Where it has not, the blocks that this handle has
/// just freed are closer than anything a search would find: their cache lines are here, and no
/// other handle heads for them.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// The word that the last run was taken from.
    pub word: WordIndex,
    /// Whether the leaf of that word had few such runs when it was found.
    pub poor: bool,
    /// Whether another thread changed that word while this handle worked on it.
    pub crowded: bool,
    /// Reuses until the next look at the neighbourhood.
    look: Pace,
    freed: Freed,
    /// Its way through what waits to be discarded.
    pub walk: Option<Walk>,
}

/// What a handle remembers are [`ShortWord`]s.
const _: () = assert!(MAX_BLOCKS.div_ceil(Native::WORD_BLOCKS as u64) <= ShortWord::WORDS);

/// An exact search that found nothing: there is no run of `least` blocks at a multiple of `align`
/// until the watch is lifted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nothing {
    pub ticket: Ticket,
    pub least: u64,
    pub align: u64,
}

impl Cursor {
    /// A cursor that begins at `word`, and counts its memory in `account`.
    pub(crate) fn new(word: WordIndex, lane: LaneId, account: &Account) -> Self {
        let places = std::array::from_fn(|class| Place {
            word,
            poor: false,
            crowded: false,
            look: Pace::after(REUSES),
            freed: Freed::new(freed_room(class)),
            walk: None,
        });
        account.add(size_of::<Self>());
        Self {
            account: account.clone(),
            places,
            lane,
            nothing: None,
            classes: None,
            sequential: false,
            mixed: Pace::default(),
            passes: Passes::default(),
            seen: Seen::new(word.leaf::<Native>().node::<Native>(), account.clone()),
        }
    }

    /// The place for runs of `len` blocks, at least 1.
    #[inline(always)]
    pub(crate) fn place(&mut self, len: u64) -> &mut Place {
        debug_assert!(len > 0);
        &mut self.places[(order_above(len) as usize).min(CLASSES - 1)]
    }

    /// Whether one of the last requests asked for several blocks. Then single blocks should also
    /// spare the runs.
    #[inline(always)]
    pub(crate) fn is_mixed(&self) -> bool {
        !self.mixed.is_over()
    }

    /// Counts a request for a single block while the cursor [is mixed](Self::is_mixed).
    #[inline(always)]
    pub(crate) fn asked_for_one(&mut self) {
        self.mixed.count(1);
    }

    /// Notes a request for several blocks, up to a leaf, that may lie anywhere.
    #[inline(always)]
    pub(crate) fn asked_for_several(&mut self) {
        self.mixed = Pace::after(ALL_SINGLE);
    }

    /// Makes it continue behind the last allocation.
    pub(crate) fn in_sequence(mut self) -> Self {
        self.sequential = true;
        self
    }

    /// Makes room for the positions of all classes of requests.
    pub(crate) fn with_classes(mut self) -> Self {
        self.make_classes();
        self
    }

    /// The last leaf for runs of `len` blocks of class `class`.
    pub(crate) fn class_place(&mut self, class: usize, len: u64) -> &mut LeafIndex {
        let order = (order_above(len) as usize).min(CLASSES - 1);
        &mut self.make_classes()[class % class::CLASSES][order]
    }

    fn make_classes(&mut self) -> &mut Classes {
        let account = &self.account;
        self.classes.get_or_insert_with(|| {
            account.add(size_of::<Classes>());
            Box::new([[LeafIndex::NONE; CLASSES]; class::CLASSES])
        })
    }

    /// Remembers that `len` blocks from `start` on were freed.
    #[inline(always)]
    pub(crate) fn freed(&mut self, start: u64, len: u64) {
        let word = WordIndex::of_block::<Native>(start);
        let class = (order_above(len) as usize).min(CLASSES - 1);
        self.places[class].freed.push(word, &self.account);
    }

    /// Whether it is known that there is no run of `least` blocks at a multiple of `align`, if
    /// `still_none` confirms the memory.
    #[inline]
    pub(crate) fn known_to_fail(
        &self,
        least: u64,
        align: u64,
        still_none: impl FnOnce(Ticket) -> bool,
    ) -> bool {
        self.nothing.is_some_and(|nothing| {
            least >= nothing.least
                && align.is_multiple_of(nothing.align)
                && still_none(nothing.ticket)
        })
    }

    /// Keeps the stronger of two memories: the one about shorter runs.
    pub(crate) fn remember(&mut self, new: Nothing, still_none: impl FnOnce(Ticket) -> bool) {
        debug_assert!(new.least > 0 && new.align > 0);
        let weaker = self
            .nothing
            .is_some_and(|old| old.least <= new.least && old.align == 1 && still_none(old.ticket));
        if !weaker {
            self.nothing = Some(new);
        }
    }
}

impl Place {
    /// The last of this class's recent frees, as a word, and forgets it. `None` if there is none,
    /// or if it is [time to look](Self::look_now) at the neighbourhood again.
    #[inline]
    pub(crate) fn reuse(&mut self) -> Option<WordIndex> {
        if self.look.is_over() {
            return None;
        }
        let word = self.freed.pop()?;
        self.look.count(1);
        Some(word)
    }

    /// Whether enough was reused for another look at the neighbourhood. True once each time.
    #[inline]
    pub(crate) fn look_now(&mut self) -> bool {
        let now = self.look.is_over();
        if now {
            self.look = Pace::after(REUSES);
        }
        now
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let freed: usize = self.places.iter().map(|place| place.freed.bytes()).sum();
        let classes = self.classes.as_ref().map_or(0, |_| size_of::<Classes>());
        self.account.take(size_of::<Self>() + freed + classes);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::index::Bitmap;
    use crate::space::lanes::Lanes;
    use crate::{Allocator, Request};

    fn cursor() -> Cursor {
        Cursor::new(WordIndex::FIRST, Lanes::new().shared(0), &Account::default())
    }

    fn nothing(least: u64, align: u64) -> Nothing {
        let index = Bitmap::<Native>::none_free(512, 1).expect("memory");
        Nothing { ticket: index.expect_runs_of(least), least, align }
    }

    #[test]
    fn what_was_freed_is_remembered_by_class() {
        let mut cursor = cursor();
        for word in 0..12 {
            cursor.freed(WordIndex::new(word).block::<Native>(1), 2);
        }
        let reused: Vec<_> = std::iter::from_fn(|| cursor.place(2).reuse()).collect();
        assert_eq!(reused, [11, 10, 9, 8, 7, 6, 5, 4].map(WordIndex::new));
        cursor.freed(0, 4);
        let reused = cursor.place(3).reuse();
        assert_eq!(reused, Some(WordIndex::FIRST), "the class of three blocks is that of four");
        assert_eq!(cursor.place(2).reuse(), None);
    }

    #[test]
    fn reuse_stops_for_a_look_now_and_then() {
        let mut cursor = cursor();
        for _ in 0..3 {
            for _ in 0..REUSES {
                cursor.freed(0, 1);
                assert!(!cursor.place(1).look_now() && cursor.place(1).reuse().is_some());
            }
            cursor.freed(0, 1);
            assert!(cursor.place(1).reuse().is_none() && cursor.place(1).look_now());
        }
    }

    #[test]
    fn a_refusal_stands_for_requests_that_are_no_easier_to_meet() {
        let mut cursor = cursor();
        assert!(!cursor.known_to_fail(u64::MAX, 8, |_| true), "nothing was refused yet");
        cursor.remember(nothing(4, 8), |_| true);
        for (least, align) in [(4, 8), (5, 8), (4, 16), (4, 24), (512, 512)] {
            assert!(cursor.known_to_fail(least, align, |_| true), "{least} at {align}");
            assert!(!cursor.known_to_fail(least, align, |_| false), "something was freed");
        }
        for (least, align) in [(3, 8), (4, 1), (4, 4), (4, 12), (512, 4), (1, 512)] {
            assert!(!cursor.known_to_fail(least, align, |_| true), "{least} at {align}");
        }
    }

    #[test]
    fn the_refusal_of_shorter_runs_anywhere_is_kept() {
        // What was refused, what is refused then, and which of the two is remembered.
        for (old, new, kept) in [
            ((4, 1), (5, 1), (4, 1)),
            ((4, 1), (4, 8), (4, 1)),
            ((4, 1), (3, 1), (3, 1)),
            ((4, 1), (3, 8), (3, 8)),
            ((4, 8), (9, 1), (9, 1)),
        ] {
            let mut cursor = cursor();
            cursor.remember(nothing(old.0, old.1), |_| true);
            cursor.remember(nothing(new.0, new.1), |_| true);
            let remembered = cursor.nothing.map(|nothing| (nothing.least, nothing.align));
            assert_eq!(remembered, Some(kept), "{old:?}, then {new:?}");
            cursor.remember(nothing(600, 3), |_| false);
            let remembered = cursor.nothing.map(|nothing| nothing.least);
            assert_eq!(remembered, Some(600), "something was freed since");
        }
    }

    #[test]
    fn a_handle_that_was_refused_gets_what_is_easier_to_have() {
        // Free: blocks 1 to 6 of each word.
        let allocator = Allocator::from_bitmap(1024, &[!0b111_1110; 16][..]).expect("memory");
        let of = |len: u64| [Request::new(len), Request::new(2 * len).scattered().min_extent(len)];
        for (refused, met) in of(6).map(|one| one.align(8)).into_iter().zip(of(6)) {
            let mut handle = allocator.handle();
            assert!(handle.allocate_with(&refused).is_err());
            assert!(handle.allocate_with(&met).is_ok(), "{met:?} after {refused:?}");
        }
        for (refused, met) in of(7).into_iter().zip(of(6)) {
            let mut handle = allocator.handle();
            assert!(handle.allocate_with(&refused).is_err());
            assert!(handle.allocate_with(&met).is_ok(), "{met:?} after {refused:?}");
        }
    }
}
