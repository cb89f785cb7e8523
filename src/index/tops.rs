//! How often the top nodes of the summary show a run of each order.
//!
//! Top nodes above level 1 have a word for each order, and count once for each that is not zero. A
//! thread that changes such a word from or to zero counts that afterwards. Top nodes of level 1
//! count once for each leaf that they show, for the largest order of that leaf alone: a thread that
//! changes the number of a leaf counts that afterwards, in two steps. Either way, changes up and
//! down alternate, so the counts are exact when no thread is between change and count. Before that,
//! a run that was free long ago may not be counted. So only searches that may fail for the time
//! being use the counts, never one that answers "no".

use std::ops::RangeInclusive;

use crossbeam_utils::CachePadded;

use crate::base::geometry::MOST_ORDERS;
use crate::base::mutant::step;
use crate::base::sync::Counter;

/// Number of cache lines: threads that work in different parts of a device rarely meet.
const STRIPES: usize = 8;

/// Number of neighbouring top nodes that are counted in the same line.
const NEIGHBOURS: usize = 16;

/// The counts, by stripe and order.
#[derive(Debug)]
pub(crate) struct Tops {
    counts: Box<[CachePadded<[Counter; MOST_ORDERS]>; STRIPES]>,
    /// Whether they count leaves, each for its largest order, and not top nodes, each for all.
    of_leaves: bool,
}

impl Tops {
    /// No top node shows a run.
    #[inline(never)]
    pub(crate) fn new(of_leaves: bool) -> Self {
        Self { counts: Box::new(std::array::from_fn(|_| CachePadded::default())), of_leaves }
    }

    /// Counts that top node `top` has come to show a run of `order`, or `count` leaves under it of
    /// which that is the largest.
    #[inline]
    pub(crate) fn add(&self, top: usize, order: u32, count: u64) {
        self.counter(top, order).add(count);
    }

    /// Counts that top node `top` no longer shows a run of `order`, or that one leaf less has it as
    /// its largest.
    #[inline]
    pub(crate) fn remove(&self, top: usize, order: u32) {
        step!(NeverUncountTop: self.counter(top, order).add(u64::MAX));
    }

    /// Counts that a leaf under top node `top` had `before` orders and now has `now`.
    #[inline]
    pub(crate) fn renumber(&self, top: usize, before: u32, now: u32) {
        if before == now {
            return;
        }
        if let Some(order) = now.checked_sub(1) {
            self.add(top, order, 1);
        }
        if let Some(order) = before.checked_sub(1) {
            self.remove(top, order);
        }
    }

    #[inline(always)]
    fn counter(&self, top: usize, order: u32) -> &Counter {
        &self.counts[top / NEIGHBOURS % STRIPES][order as usize]
    }

    /// The counters in each stripe that say whether there is a run of `order`.
    #[inline(always)]
    fn counters_of(&self, order: u32) -> RangeInclusive<usize> {
        let order = order as usize;
        order..=if self.of_leaves { MOST_ORDERS - 1 } else { order }
    }

    /// Whether any top node shows a run of `order`. O(1).
    #[inline(always)]
    pub(crate) fn any(&self, order: u32) -> bool {
        let counters = self.counters_of(order);
        self.counts.iter().any(|stripe| stripe[counters.clone()].iter().any(|one| one.get() > 0))
    }

    /// How often the top nodes show one.
    pub(crate) fn count(&self, order: u32) -> u64 {
        let counters = self.counters_of(order);
        let all = self.counts.iter().flat_map(|stripe| &stripe[counters.clone()]);
        all.fold(0, |sum, counter| sum.wrapping_add(counter.get()))
    }

    /// Bytes of the counts.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.counts)
    }
}
