//! Counting what happens off the usual path.

use crossbeam_utils::CachePadded;

use crate::base::sync::Counter;

/// Number of sets of counters. Threads at different places of the device, or with different lanes,
/// mostly use different sets.
const STRIPES: usize = 16;

/// What is counted. Allocations and frees on the usual path are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A compare-exchange to take blocks failed because another thread changed the word.
    LostClaim,
    /// A claim of several words found one of them taken, and gave back the others.
    RolledBackClaim,
    /// A node of the summary showed what its children do not have, and was repaired.
    Repair,
    /// A pass over all runs that might fit, after the summary alone had shown none.
    ExactSearch,
    /// A request was refused with `NoSpace`.
    NoSpace,
    /// A request was refused with `NoContiguous`.
    NoContiguous,
    /// A shard was surveyed.
    ShardSurvey,
}

const EVENTS: usize = Event::ShardSurvey as usize + 1;

/// Counters for all events, on the heap apart from their owner: half a page, rarely read.
#[derive(Debug)]
pub(crate) struct Events(Box<[CachePadded<[Counter; EVENTS]>; STRIPES]>);

/// All counters are zero.
impl Default for Events {
    #[inline(never)]
    fn default() -> Self {
        let stripe = |_| CachePadded::new(std::array::from_fn(|_| Counter::new(0)));
        Self(Box::new(std::array::from_fn(stripe)))
    }
}

impl Events {
    /// Counts `event` in a counter chosen by `place`: any value that differs between threads that
    /// work apart.
    #[cold]
    #[inline(never)]
    pub(crate) fn count(&self, event: Event, place: usize) {
        self.0[place % STRIPES][event as usize].add(1);
    }

    /// The same without a locked instruction, for events that may happen several times in one
    /// allocation. Two threads that count in the same counter at the same moment may lose one
    /// count.
    #[inline]
    pub(crate) fn count_roughly(&self, event: Event, place: usize) {
        self.0[place % STRIPES][event as usize].add_as_owner(1);
    }

    /// Bytes of the counters.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// How often `event` happened. Exact while nothing else runs.
    pub(crate) fn total(&self, event: Event) -> u64 {
        self.0.iter().fold(0, |sum, stripe| sum.wrapping_add(stripe[event as usize].get()))
    }
}
