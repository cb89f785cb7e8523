//! Moments that fit into a counter, for figures that show their age.

use std::time::{Duration, Instant};

use crate::base::sync::Counter;

/// No moment.
pub(crate) const NEVER: u64 = 0;

/// Counts milliseconds from its creation. A moment is a number above [`NEVER`].
#[derive(Debug)]
pub(crate) struct Moments(Instant);

impl Moments {
    /// Begins to count.
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// The current moment.
    pub(crate) fn now(&self) -> u64 {
        // 2^64 ms never pass.
        self.0.elapsed().as_millis() as u64 + 1
    }

    /// How long ago `moment` was, to the millisecond; `None` for [`NEVER`].
    pub(crate) fn age(&self, moment: u64) -> Option<Duration> {
        (moment != NEVER).then(|| Duration::from_millis(self.now().saturating_sub(moment)))
    }
}

/// How long a value has been the same, as far as calls of [`Unchanged::ask`] saw.
#[derive(Debug)]
pub(crate) struct Unchanged {
    moments: Moments,
    /// The value last seen, and when it was first seen. Statistics: they may come from two callers
    /// at the same moment.
    seen: Counter,
    since: Counter,
}

/// No value has been seen.
impl Default for Unchanged {
    fn default() -> Self {
        Self { moments: Moments::begin(), seen: Counter::new(0), since: Counter::new(NEVER) }
    }
}

impl Unchanged {
    /// How long ago `value` was first seen, with no other value seen since.
    pub(crate) fn ask(&self, value: u64) -> Duration {
        if self.seen.get() != value || self.since.get() == NEVER {
            self.seen.set(value);
            self.since.set(self.moments.now());
        }
        self.moments.age(self.since.get()).unwrap_or_default()
    }

    /// Records that there is no value at present.
    pub(crate) fn forget(&self) {
        self.since.set(NEVER);
    }
}
