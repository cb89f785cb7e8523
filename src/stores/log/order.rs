//! Items that come in any order and count in order: the parts of an engine's log that an absorbing
//! log takes in, and the transactions that an engine's log has. A *mark* says up to where
//! everything has come; early items wait.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Parts of an engine's log, each with a `T`. They do not overlap. O(log n) in those that wait.
#[derive(Debug)]
pub(super) struct Order<T> {
    /// Everything before this has come.
    mark: u64,
    /// Early parts, by their beginning: the end and the `T`.
    waiting: BTreeMap<u64, (u64, T)>,
}

impl<T> Order<T> {
    pub(super) fn new(mark: u64) -> Self {
        Self { mark, waiting: BTreeMap::new() }
    }

    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    /// The parts that wait for an earlier one.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.waiting.values().map(|(_, what)| what)
    }

    /// How many parts wait for an earlier one.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Whether `span` has a length, begins at the mark or later, and overlaps nothing that waits.
    pub(super) fn takes(&self, span: &Range<u64>) -> bool {
        let before = self.waiting.range(..=span.start).next_back();
        let behind = self.waiting.range(span.start..).next();
        !span.is_empty()
            && span.start >= self.mark
            && before.is_none_or(|(_, (end, _))| *end <= span.start)
            && behind.is_none_or(|(start, _)| *start >= span.end)
    }

    /// Adds a part that [`Order::takes`] accepts. It waits until it is [`Order::next`].
    pub(super) fn add(&mut self, span: Range<u64>, what: T) {
        debug_assert!(self.takes(&span), "{span:?} at mark {}", self.mark);
        self.waiting.insert(span.start, (span.end, what));
    }

    /// Moves the mark over the part that begins there, if it has come.
    pub(super) fn next(&mut self) -> Option<(Range<u64>, T)> {
        let (end, what) = self.waiting.remove(&self.mark)?;
        let start = std::mem::replace(&mut self.mark, end);
        Some((start..end, what))
    }

    /// Moves the mark back to before the part that [`Order::next`] returned last.
    pub(super) fn put_back(&mut self, span: Range<u64>, what: T) {
        self.mark = span.start;
        self.waiting.insert(span.start, (span.end, what));
    }
}

/// Which transactions the engine's own log has. Those beyond the mark take about 16 bytes each.
#[derive(Debug)]
pub(super) struct Recorded {
    /// The engine's log has everything up to this one.
    mark: u64,
    /// And these later ones.
    later: BTreeSet<u64>,
}

impl Recorded {
    pub(super) fn new(mark: u64, later: BTreeSet<u64>) -> Self {
        let mut new = Self { mark, later };
        new.raise(mark);
        new
    }

    pub(super) fn mark(&self) -> u64 {
        self.mark
    }

    /// The engine's log has `lsn`.
    pub(super) fn add(&mut self, lsn: u64) {
        if lsn > self.mark {
            self.later.insert(lsn);
            self.raise(self.mark);
        }
    }

    /// The engine's log has everything up to `lsn`.
    pub(super) fn raise(&mut self, lsn: u64) {
        self.mark = self.mark.max(lsn);
        while let Some(next) = self.later.first().copied().filter(|&next| next <= self.mark + 1) {
            self.later.pop_first();
            self.mark = self.mark.max(next);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn parts_count_in_order_whatever_order_they_come_in() {
        let mut order = Order::new(10);
        let refused =
            |order: &Order<char>, spans: &[Range<u64>]| spans.iter().all(|span| !order.takes(span));
        #[expect(clippy::reversed_empty_ranges, reason = "an engine may pass it")]
        let empty = [10..10, 20..20, 30..20];
        assert!(refused(&order, &empty) && refused(&order, &[0..5, 5..10, 9..11]));
        order.add(20..30, 'c');
        order.add(40..u64::MAX, 'e');
        assert!(refused(&order, &[20..30, 19..21, 29..31, 10..50, 22..23, 30..41, 50..60]));
        assert_eq!((order.next(), order.mark(), order.waiting()), (None, 10, 2));
        order.add(10..20, 'b');
        assert_eq!(order.next(), Some((10..20, 'b')));
        assert_eq!(order.next(), Some((20..30, 'c')));
        assert_eq!((order.next(), order.mark()), (None, 30));
        assert!(refused(&order, &[20..30, 29..35]));
        order.add(30..40, 'd');
        assert_eq!(order.next(), Some((30..40, 'd')));
        assert_eq!(order.next(), Some((40..u64::MAX, 'e')));
        assert_eq!((order.mark(), order.waiting()), (u64::MAX, 0));
        order.put_back(40..u64::MAX, 'e');
        assert_eq!((order.mark(), order.takes(&(40..41))), (40, false));
    }

    #[test]
    fn the_mark_of_what_is_recorded_stops_before_the_first_gap() {
        let mut recorded = Recorded::new(3, [2, 4, 6].into());
        assert_eq!(recorded.mark(), 4);
        recorded.add(1);
        recorded.add(8);
        recorded.add(6);
        assert_eq!(recorded.mark(), 4);
        recorded.add(5);
        assert_eq!(recorded.mark(), 6);
        recorded.raise(7);
        assert_eq!(recorded.mark(), 8);
        recorded.raise(2);
        recorded.raise(20);
        recorded.add(22);
        assert_eq!(recorded.mark(), 20);
        recorded.add(21);
        assert_eq!((recorded.mark(), recorded.later.len()), (22, 0));
    }
}
