//! When a handle that is in search of pieces goes over the summary for them.
//!
//! Of what it has freed itself, and of the runs under the nodes that it looks at now and then, a handle knows.
//! A pass over all leaves that may have a longer run is worth its time where others have freed one; where the
//! last one was in vain, the next will mostly be, too, and meets the leaves that pieces were taken of since.

use crate::base::geometry::{Geometry, Native};

/// Requests that make no pass for an order, for each leaf that the last one looked into in vain, and at most: so
/// passes in vain for one order look into a quarter of a leaf for each request, as long as each meets no more
/// than 1024 leaves. A run that others freed is passed by no longer than that, but by what a handle looks at now
/// and then.
const REQUESTS_PER_LEAF: u64 = 4;
const MOST_REQUESTS: u64 = 4096;

/// How many requests are still to do without a pass, for each order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passes([u64; Native::MAX_ORDER as usize + 1]);

impl Passes {
    /// Whether to make a pass for `order` now; counts that it was asked. For single blocks always: whoever
    /// looks for those takes any.
    #[inline]
    pub(crate) fn is_due(&mut self, order: u32) -> bool {
        let left = &mut self.0[order as usize];
        let due = *left == 0 || order == 0;
        *left = left.saturating_sub(1);
        due
    }

    /// A pass for `order` has looked into so many leaves, and found nothing.
    #[inline]
    pub(crate) fn was_in_vain(&mut self, order: u32, leaves: u64) {
        self.0[order as usize] = leaves.saturating_mul(REQUESTS_PER_LEAF).min(MOST_REQUESTS);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pass_in_vain_is_followed_by_requests_without_one() {
        let mut passes = Passes::default();
        assert!(passes.is_due(4) && passes.is_due(4));
        passes.was_in_vain(4, 3);
        passes.was_in_vain(0, 3);
        let waits = (0..).take_while(|_| !passes.is_due(4)).count();
        assert_eq!(waits as u64, 3 * REQUESTS_PER_LEAF);
        assert!(passes.is_due(3) && passes.is_due(0), "each order has its own");
        passes.was_in_vain(4, u64::MAX);
        assert_eq!((0..).take_while(|_| !passes.is_due(4)).count() as u64, MOST_REQUESTS);
        passes.was_in_vain(4, 0);
        assert!(passes.is_due(4), "nothing was looked into, so it costs nothing to ask again");
    }
}
