//! How many top nodes of the summary show a run of each order.
//!
//! A thread that changes a word of a top node from or to zero counts that afterwards. Changes from
//! zero and to zero alternate, so the counts are exact when no thread is between change and count.
//! Before that, a run that was free long ago may not be counted. So only searches that may fail for
//! the time being use the counts, never one that answers "no".

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
pub(crate) struct Tops(Box<[CachePadded<[Counter; MOST_ORDERS]>; STRIPES]>);

/// No top node shows a run.
impl Default for Tops {
    #[inline(never)]
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| CachePadded::default())))
    }
}

impl Tops {
    /// Counts that top node `top` has come to show a run of `order`.
    #[inline]
    pub(crate) fn add(&self, top: usize, order: u32) {
        self.counter(top, order).add(1);
    }

    /// Counts that top node `top` no longer shows a run of `order`.
    #[inline]
    pub(crate) fn remove(&self, top: usize, order: u32) {
        step!(NeverUncountTop: self.counter(top, order).add(u64::MAX));
    }

    #[inline(always)]
    fn counter(&self, top: usize, order: u32) -> &Counter {
        &self.0[top / NEIGHBOURS % STRIPES][order as usize]
    }

    /// Whether any top node shows a run of `order`. O(1).
    #[inline(always)]
    pub(crate) fn any(&self, order: u32) -> bool {
        self.0.iter().any(|stripe| stripe[order as usize].get() > 0)
    }

    /// How many top nodes show one.
    pub(crate) fn count(&self, order: u32) -> u64 {
        self.0.iter().fold(0, |sum, stripe| sum.wrapping_add(stripe[order as usize].get()))
    }

    /// Bytes of the counts.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }
}
