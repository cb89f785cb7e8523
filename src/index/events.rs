//! Counting what happens off the usual path.

use crossbeam_utils::CachePadded;

use crate::base::sync::Counter;

/// Counters that threads at different places of the device, or with different lanes, do not share.
const STRIPES: usize = 16;

/// What is counted. Allocations and frees that go the usual way are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A compare-exchange that was to take blocks met another thread's change of the word.
    LostClaim,
    /// A claim of several words found one of them taken, and gave back the others.
    RolledBackClaim,
    /// A node of the summary promised what its children have not: put right.
    Repair,
    /// A pass over all runs that might fit, after the summary alone had found none.
    ExactSearch,
    /// A request was refused with `NoSpace`.
    NoSpace,
    /// A request was refused with `NoContiguous`.
    NoContiguous,
    /// A shard was surveyed.
    ShardSurvey,
}

const EVENTS: usize = Event::ShardSurvey as usize + 1;

/// Counters for all events, out of the way of what holds them: half a page, and hardly ever looked at.
#[derive(Debug)]
pub(crate) struct Events(Box<[CachePadded<[Counter; EVENTS]>; STRIPES]>);

/// All zero.
impl Default for Events {
    #[inline(never)]
    fn default() -> Self {
        let stripe = |_| CachePadded::new(std::array::from_fn(|_| Counter::new(0)));
        Self(Box::new(std::array::from_fn(stripe)))
    }
}

impl Events {
    /// Counts `event`, in a counter chosen by `place`: anything that differs between threads which
    /// do not meet.
    #[cold]
    #[inline(never)]
    pub(crate) fn count(&self, event: Event, place: usize) {
        self.0[place % STRIPES][event as usize].add(1);
    }

    /// The same for what may happen several times in one allocation: without a locked instruction, and
    /// one is missed where two threads count in the same counter at the same moment.
    #[inline]
    pub(crate) fn count_roughly(&self, event: Event, place: usize) {
        self.0[place % STRIPES][event as usize].add_as_owner(1);
    }

    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// How often `event` happened. Exact while nothing runs.
    pub(crate) fn total(&self, event: Event) -> u64 {
        self.0.iter().fold(0, |sum, stripe| sum.wrapping_add(stripe[event as usize].get()))
    }
}
