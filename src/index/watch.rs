//! Makes "no" truthful, and lets a caller remember it.
//!
//! A search that is about to answer "no run of `len` blocks" first *registers* that length, then
//! searches everything, then checks whether the watch was lifted. A release that completes a run of
//! at least the registered length *lifts* the watch. Both live in one word, so there is no moment
//! between removing a registration and telling its owner.
//!
//! While no search is registered, a release pays one read of a cache line that is not written.

use std::fmt::{Debug, Formatter};

use crossbeam_utils::CachePadded;

use crate::base::mutant::fault;
use crate::base::sync::{AtomicWord, Site};

/// `[version: 52 | threshold: 12]`; the version counts lifts. At ten million failed searches a
/// second it would wrap in 14 years.
pub(crate) struct Watch(CachePadded<AtomicWord<u64>>);

/// The version of the watch that a search saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

const THRESHOLD_BITS: u32 = 12;
const THRESHOLD_MASK: u64 = (1 << THRESHOLD_BITS) - 1;
/// No search is registered.
const NOTHING: u64 = THRESHOLD_MASK;

impl Default for Watch {
    /// A watch without registrations.
    fn default() -> Self {
        Self(CachePadded::new(AtomicWord::new(NOTHING)))
    }
}

impl Watch {
    /// Registers a search for runs of `len` blocks. Retries only after another thread's
    /// registration or lift.
    pub(crate) fn register(&self, len: u64) -> Ticket {
        let mut seen = self.0.load(Site::WatchLook);
        fault!(WatchAfterSearch: return Ticket(seen >> THRESHOLD_BITS));
        loop {
            let wanted = threshold(len).min(seen & THRESHOLD_MASK);
            let new = seen & !THRESHOLD_MASK | wanted;
            if new == seen {
                return Ticket(seen >> THRESHOLD_BITS);
            }
            match self.0.compare_exchange(seen, new, Site::WatchChange) {
                Ok(_) => return Ticket(seen >> THRESHOLD_BITS),
                Err(now) => seen = now,
            }
        }
    }

    /// Whether no run that the holder of `ticket` registered for was completed since.
    #[inline]
    pub(crate) fn undisturbed(&self, ticket: Ticket) -> bool {
        fault!(NoEventValidation: return true);
        self.0.load(Site::WatchLook) >> THRESHOLD_BITS == ticket.0
    }

    /// The shortest run that a search is registered for (rounded down), or `None`.
    #[inline(always)]
    pub(crate) fn awaited(&self) -> Option<u64> {
        let seen = self.0.load(Site::WatchLook) & THRESHOLD_MASK;
        (seen != NOTHING).then(|| shortest(seen))
    }

    /// Tells every registered search to begin again. One compare-exchange is enough. If it fails,
    /// either another lift changed the word and did the work, or a registration did. That search
    /// may not see our blocks, so the lift is retried.
    pub(crate) fn lift(&self) {
        let mut seen = self.0.load(Site::WatchLook);
        let version = seen >> THRESHOLD_BITS;
        while seen >> THRESHOLD_BITS == version && seen & THRESHOLD_MASK != NOTHING {
            let mut next = version + 1;
            fault!(LiftKeepsVersion: next = version);
            let new = next << THRESHOLD_BITS | NOTHING;
            match self.0.compare_exchange(seen, new, Site::WatchChange) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }
}

impl Debug for Watch {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Watch").field(&self.awaited()).finish()
    }
}

/// `len` as a floating-point number with six bits each of exponent and fraction, rounded down:
/// exact below 128, within 1.6 % above. Rounding down lifts a little too often, never too seldom.
fn threshold(len: u64) -> u64 {
    debug_assert!(len > 0);
    let exponent = len.ilog2();
    let fraction = if exponent >= 6 { len >> (exponent - 6) } else { len << (6 - exponent) };
    u64::from(exponent) << 6 | (fraction & 63)
}

/// The shortest length with this threshold.
fn shortest(threshold: u64) -> u64 {
    let exponent = threshold >> 6;
    let fraction = 64 | (threshold & 63);
    if exponent >= 6 { fraction << (exponent - 6) } else { fraction >> (6 - exponent) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn thresholds_round_down_by_less_than_two_percent() {
        let lens = (1..10_000).chain((0..38).flat_map(|e| [(1 << e) - 1, 1 << e, (1 << e) + 1]));
        for len in lens.filter(|&len| len > 0) {
            let low = shortest(threshold(len));
            assert!(low <= len && len - low <= len / 64, "{len} {low}");
            assert!(len >= 128 || low == len);
            assert!(threshold(len) < NOTHING);
            assert!(threshold(len) <= threshold(len + 1));
        }
    }

    #[test]
    fn only_a_lift_disturbs() {
        let watch = Watch::default();
        assert_eq!(watch.awaited(), None);
        let first = watch.register(100);
        let second = watch.register(7);
        assert_eq!(watch.awaited(), Some(7));
        assert!(watch.undisturbed(first) && watch.undisturbed(second));
        watch.lift();
        assert_eq!(watch.awaited(), None);
        assert!(!watch.undisturbed(first) && !watch.undisturbed(second));
        let third = watch.register(9);
        assert!(watch.undisturbed(third) && !watch.undisturbed(first));
    }
}
