//! Moments that fit into a counter, for figures that say how old they are.

use std::time::{Duration, Instant};

use crate::base::sync::Counter;

/// No moment.
pub(crate) const NEVER: u64 = 0;

/// Counts milliseconds from when it was made. A moment is a number above [`NEVER`].
#[derive(Debug)]
pub(crate) struct Moments(Instant);

impl Moments {
    /// Begins to count.
    pub(crate) fn begin() -> Self {
        Self(Instant::now())
    }

    /// The moment now.
    pub(crate) fn now(&self) -> u64 {
        // 2^64 ms are not over yet.
        self.0.elapsed().as_millis() as u64 + 1
    }

    /// How long ago `moment` was, to the millisecond; `None` if it was never.
    pub(crate) fn age(&self, moment: u64) -> Option<Duration> {
        (moment != NEVER).then(|| Duration::from_millis(self.now().saturating_sub(moment)))
    }
}

/// For how long something has been the same, as far as those saw who asked.
#[derive(Debug)]
pub(crate) struct Unchanged {
    moments: Moments,
    /// What was seen last, and when first. Statistics: they may be of two askers at the same moment.
    seen: Counter,
    since: Counter,
}

/// Nobody has asked.
impl Default for Unchanged {
    fn default() -> Self {
        Self { moments: Moments::begin(), seen: Counter::new(0), since: Counter::new(NEVER) }
    }
}

impl Unchanged {
    /// How long ago it was first seen to be `value`, without having been seen to be anything else
    /// since.
    pub(crate) fn ask(&self, value: u64) -> Duration {
        if self.seen.get() != value || self.since.get() == NEVER {
            self.seen.set(value);
            self.since.set(self.moments.now());
        }
        self.moments.age(self.since.get()).unwrap_or_default()
    }

    /// It is nothing at present.
    pub(crate) fn forget(&self) {
        self.since.set(NEVER);
    }
}
