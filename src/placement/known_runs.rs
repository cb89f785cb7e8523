//! Free runs that a handle has seen, by length, so that a request finds one of its own length
//! without a search. All are hints, and may be wrong by the time they are used.

use std::ops::Range;

use crate::base::account::Account;
use crate::base::geometry::{Geometry, LEAF_BLOCKS, Native};
use crate::base::place::{NodeIndex, ShortWord, WordIndex};
use crate::placement::pace::Pace;

/// Classes of lengths: one for each length up to a leaf, then one for each number of whole leaves,
/// up to all leaves under one node of the summary; longer runs share that last one.
const LENGTHS: usize = Native::LEAF_BLOCKS + Native::FANOUT;
const SETS: usize = LENGTHS.div_ceil(64);

/// Where the runs of a class are remembered, and how many. Lengths that are asked for more often
/// get more room; mostly these are small objects. Together 22 KiB, which finds about what a tree of
/// all runs would (`cargo bench --bench space`).
#[inline(always)]
const fn room_of(class: usize) -> Range<usize> {
    let (start, len) = match class {
        ..32 => (32 * class, 32),
        32..64 => (1024 + 16 * (class - 32), 16),
        _ => (1536 + 8 * (class - 64), 8),
    };
    start..start + len
}

/// Room for all classes.
const ROOM: usize = room_of(LENGTHS - 1).end;

/// Blocks asked for between two looks at a node; a look takes about a microsecond. The distance
/// doubles after each look that showed no new run as long as the request, up to
/// `LOOK_AT_LEAST_EVERY` (`fit.rs`). For there is nothing to look for where there is much space:
/// more runs of each length than are asked for, or none that long. Requests of all lengths share
/// this distance: where long ones find nothing, short ones look less often, too.
pub(crate) const LOOK_EVERY: u64 = 256;

/// The known runs, as the words of the bitmap that they begin in.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Where its memory is counted.
    account: Account,
    /// For each class of lengths its runs, the lowest first. Of several suitable runs the lowest is
    /// taken, so that what lies high on the device can grow together. Empty until the first run is
    /// seen.
    runs: Vec<ShortWord>,
    /// The classes that have any runs.
    some: [u64; SETS],
    /// The summary node looked at last.
    pub node: NodeIndex,
    /// Where to continue under it, if it has more leaves to look at.
    pub place: Option<u32>,
    /// Blocks to be asked for before the next look.
    pub look: Pace,
    /// How many those were after the last look.
    pub look_after: u64,
}

/// A known run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hint {
    /// The word in which it began.
    pub word: WordIndex,
    /// Its length: exact up to a leaf, rounded down to whole leaves above.
    pub len: u64,
}

/// Runs of at least this many blocks share one class.
pub(crate) const ENDLESS: u64 = LEAF_BLOCKS * Native::FANOUT as u64;

fn class_of(len: u64) -> usize {
    debug_assert!(len > 0);
    if len <= LEAF_BLOCKS {
        len as usize - 1
    } else {
        Native::LEAF_BLOCKS + (len.min(ENDLESS) / LEAF_BLOCKS) as usize - 1
    }
}

fn len_of(class: usize) -> u64 {
    if class < Native::LEAF_BLOCKS {
        class as u64 + 1
    } else {
        (class - Native::LEAF_BLOCKS + 1) as u64 * LEAF_BLOCKS
    }
}

impl Seen {
    /// Nothing seen yet; the looks at the summary begin behind `node`.
    pub(crate) fn new(node: NodeIndex, account: Account) -> Self {
        Self {
            account,
            runs: Vec::new(),
            some: [0; SETS],
            node,
            place: None,
            look: Pace::after(LOOK_EVERY),
            look_after: LOOK_EVERY,
        }
    }

    /// Remembers a run of `len` blocks; returns whether it is new. If there is no room, forgets the
    /// highest.
    #[inline]
    pub(crate) fn put(&mut self, start: u64, len: u64) -> bool {
        if self.runs.is_empty() && !self.make_room() {
            return false;
        }
        if len == 0 {
            return false;
        }
        let class = class_of(len);
        let word = ShortWord::of(WordIndex::of_block::<Native>(start));
        let runs = &mut self.runs[room_of(class)];
        let place = runs.partition_point(|&kept| kept < word);
        if runs.get(place).is_none_or(|&kept| kept == word) {
            return false;
        }
        runs.copy_within(place..runs.len() - 1, place + 1);
        runs[place] = word;
        self.some[class / 64] |= 1 << (class % 64);
        true
    }

    #[cold]
    fn make_room(&mut self) -> bool {
        let made = self.runs.try_reserve_exact(ROOM).is_ok();
        if made {
            self.runs.resize(ROOM, ShortWord::NONE);
            self.account.add(self.bytes());
        }
        made
    }

    fn bytes(&self) -> usize {
        self.runs.capacity() * size_of::<ShortWord>()
    }

    /// Whether a single free block between blocks in use is known.
    #[inline(always)]
    pub(crate) fn has_single(&self) -> bool {
        self.some[0] & 1 == 1
    }

    /// Takes out the shortest known run of at least `least` blocks. Runs longer than a leaf are
    /// known by whole leaves, so one of these may be too short.
    #[inline]
    pub(crate) fn take(&mut self, least: u64) -> Option<Hint> {
        let class = self.shortest(class_of(least))?;
        Some(self.take_of(class))
    }

    /// Takes out the run for a piece of up to `most` blocks and at least `least`: the shortest with
    /// `most` blocks, or else the longest. Only runs shorter than a leaf.
    #[inline]
    pub(crate) fn take_piece(&mut self, least: u64, most: u64) -> Option<Hint> {
        let (least, leaf) = (class_of(least), class_of(LEAF_BLOCKS));
        let enough = class_of(most).min(leaf);
        let class = self.shortest(enough).filter(|&class| class < leaf);
        let class = class.or_else(|| self.longest(enough).filter(|&class| class >= least))?;
        Some(self.take_of(class))
    }

    /// Takes out the lowest run of a class that has any.
    #[inline]
    fn take_of(&mut self, class: usize) -> Hint {
        let runs = &mut self.runs[room_of(class)];
        let known = runs[0] != ShortWord::NONE && runs.is_sorted();
        debug_assert!(known, "`some` shows a run of class {class}");
        let word = runs[0].get();
        runs.copy_within(1.., 0);
        runs[runs.len() - 1] = ShortWord::NONE;
        if runs[0] == ShortWord::NONE {
            self.some[class / 64] &= !(1 << (class % 64));
        }
        Hint { word, len: len_of(class) }
    }

    /// The first class from `first` on that has any runs.
    #[inline]
    fn shortest(&self, first: usize) -> Option<usize> {
        let mut mask = u64::MAX << (first % 64);
        (first / 64..SETS).find_map(|set| {
            let some = self.some[set] & std::mem::replace(&mut mask, u64::MAX);
            (some != 0).then(|| 64 * set + some.trailing_zeros() as usize)
        })
    }

    /// The last class before `end` that has any runs.
    #[inline]
    fn longest(&self, end: usize) -> Option<usize> {
        let mut mask = (1 << (end % 64)) - 1;
        (0..=end / 64).rev().find_map(|set| {
            let some = self.some[set] & std::mem::replace(&mut mask, u64::MAX);
            some.checked_ilog2().map(|place| 64 * set + place as usize)
        })
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.account.take(self.bytes());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn word(number: usize) -> WordIndex {
        WordIndex::new(number)
    }

    #[test]
    fn classes_follow_lengths() {
        let mut last = 0;
        for len in 1..2 * ENDLESS {
            let class = class_of(len);
            assert!(class == last || class == last + 1, "{len}");
            let whole_leaves = len.min(ENDLESS) / LEAF_BLOCKS * LEAF_BLOCKS;
            let known = if len <= LEAF_BLOCKS { len } else { whole_leaves };
            assert!(class < LENGTHS && len_of(class) == known, "{len}");
            last = class;
        }
        assert_eq!(last, LENGTHS - 1);
    }

    #[test]
    fn every_class_has_room_of_its_own() {
        let ends = (1..LENGTHS).map(|class| (room_of(class - 1).end, room_of(class).start));
        assert!(ends.into_iter().all(|(end, start)| end == start) && room_of(0).start == 0);
        assert!(ROOM * size_of::<ShortWord>() <= 22 << 10);
    }

    #[test]
    fn memory_is_taken_with_the_first_run_and_counted_until_the_end() {
        let account = Account::default();
        let mut seen = Seen::new(NodeIndex::FIRST, account.clone());
        assert_eq!(account.bytes(), 0);
        for start in 0..3 {
            assert!(seen.put(word(start).first_block::<Native>(), 1));
            assert_eq!(account.bytes(), ROOM * size_of::<ShortWord>());
        }
        drop(seen);
        assert_eq!(account.bytes(), 0);
    }

    #[test]
    fn the_shortest_that_will_do_comes_first_and_of_those_the_lowest() {
        let mut seen = Seen::new(NodeIndex::FIRST, Account::default());
        assert_eq!(seen.take(1), None);
        seen.put(word(5).block::<Native>(0), 1);
        assert!(seen.has_single());
        assert_eq!(seen.take(1), Some(Hint { word: word(5), len: 1 }));
        assert!(!seen.has_single());
        let kept = room_of(class_of(30)).len();
        for number in (0..kept + 2).rev() {
            seen.put(word(number).block::<Native>(3), 30);
        }
        seen.put(word(7).block::<Native>(0), 31);
        seen.put(word(7).block::<Native>(20), 31);
        seen.put(0, 10 * ENDLESS);
        for number in 0..kept {
            assert_eq!(seen.take(20), Some(Hint { word: word(number), len: 30 }));
        }
        assert_eq!(seen.take(20), Some(Hint { word: word(7), len: 31 }));
        assert_eq!(seen.take(20), Some(Hint { word: word(0), len: ENDLESS }));
        assert_eq!(seen.take(1), None);
    }

    #[test]
    fn a_piece_comes_of_the_shortest_run_that_is_enough_or_else_of_the_longest() {
        let mut seen = Seen::new(NodeIndex::FIRST, Account::default());
        for (number, len) in [(1, 5), (2, 64), (3, 70), (4, 200), (5, LEAF_BLOCKS), (6, ENDLESS)] {
            seen.put(word(number).first_block::<Native>(), len);
        }
        let mut piece =
            |least, most| seen.take_piece(least, most).map(|hint| (hint.word.get(), hint.len));
        assert_eq!(piece(1, 66), Some((3, 70)));
        assert_eq!(piece(201, 1000), None);
        assert_eq!(piece(65, 1000), Some((4, 200)), "not one as long as a leaf");
        assert_eq!(piece(65, 100), None);
        assert_eq!(piece(5, 64), Some((2, 64)));
        assert_eq!(piece(6, 7), None);
        assert_eq!(piece(1, 7), Some((1, 5)));
        assert_eq!(piece(1, u64::MAX), None);
        assert_eq!(seen.take(1), Some(Hint { word: word(5), len: LEAF_BLOCKS }));
    }
}
