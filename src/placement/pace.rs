//! Work that does not pay with each request is done now and then.
//!
//! Passes are such work. A handle that searches for pieces knows what it has freed itself, and the
//! runs under the nodes that it looks at. A pass goes over the summary, to all leaves that may have
//! a longer run. It pays where other handles have freed one. If the last pass found nothing, the
//! next mostly finds nothing either, and reads leaves that pieces were taken from since.

use crate::base::geometry::{Geometry, Native};

/// How many requests skip a pass for an order after one that found nothing, per leaf that it read,
/// and the limit. So passes that find nothing read a quarter of a leaf per request and order, as
/// long as each reads at most 1024 leaves. A handle misses a run that others freed for no
/// longer than the limit; its occasional looks at nodes may find it sooner.
const REQUESTS_PER_LEAF: u64 = 4;
const MOST_REQUESTS: u64 = 4096;

/// A wait, in requests, blocks, or what else its owner counts. Over from the start, unless made by
/// [`Pace::after`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    left: u64,
}

impl Pace {
    /// A wait of `units`.
    #[inline(always)]
    pub(crate) const fn after(units: u64) -> Self {
        Self { left: units }
    }

    /// Whether it is over.
    #[inline(always)]
    pub(crate) fn is_over(self) -> bool {
        self.left == 0
    }

    /// Counts `units` of it.
    #[inline(always)]
    pub(crate) fn count(&mut self, units: u64) {
        self.left = self.left.saturating_sub(units);
    }
}

/// When a handle makes a pass for each order, in requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Passes([Pace; Native::MAX_ORDER as usize + 1]);

impl Passes {
    /// Whether to make a pass for `order` now; counts the request. Always for single blocks: a
    /// request that is down to those takes any.
    #[inline]
    pub(crate) fn is_due(&mut self, order: u32) -> bool {
        let pace = &mut self.0[order as usize];
        let due = pace.is_over() || order == 0;
        pace.count(1);
        due
    }

    /// Notes that a pass for `order` has read `leaves` leaves and found nothing.
    #[inline]
    pub(crate) fn was_in_vain(&mut self, order: u32, leaves: u64) {
        let requests = leaves.saturating_mul(REQUESTS_PER_LEAF).min(MOST_REQUESTS);
        self.0[order as usize] = Pace::after(requests);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pass_in_vain_is_followed_by_requests_without_one() {
        let mut passes = Passes::default();
        assert!((0..=Native::MAX_ORDER).all(|order| passes.is_due(order) && passes.is_due(order)));
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
