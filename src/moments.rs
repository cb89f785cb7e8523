//! Moments that fit into a counter, for figures that say how old they are.

use std::time::{Duration, Instant};

use crate::sync::Counter;

/// No moment.
pub const NEVER: u64 = 0;

/// Counts milliseconds from when it was made. A moment is a number above [`NEVER`].
#[derive(Debug)]
pub struct Moments(Instant);

impl Moments {
    /// Begins to count.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// The moment now.
    pub fn now(&self) -> u64 {
        // 2^64 ms are not over yet.
        self.0.elapsed().as_millis() as u64 + 1
    }

    /// How long ago `moment` was, to the millisecond; `None` if it was never.
    pub fn age(&self, moment: u64) -> Option<Duration> {
        (moment != NEVER).then(|| Duration::from_millis(self.now().saturating_sub(moment)))
    }
}

/// When the oldest of several things came, kept without looking at all of them. Statistics: two
/// threads at the same moment may make it younger than it is, until the next look.
#[derive(Debug)]
pub struct Oldest(Counter);

impl Oldest {
    /// Of nothing.
    pub const fn new() -> Self {
        Self(Counter::new(NEVER))
    }

    /// Something came at `moment`.
    #[inline]
    pub fn came(&self, moment: u64) {
        if self.0.get() == NEVER {
            self.0.set(moment);
        }
    }

    /// The oldest that is left came at `moment`, or later: [`NEVER`] if nothing is left.
    #[inline]
    pub fn left(&self, moment: u64) {
        if self.0.get() != moment {
            self.0.set(moment);
        }
    }

    /// When the oldest came, or a little earlier; [`NEVER`] if there is nothing.
    pub fn moment(&self) -> u64 {
        self.0.get()
    }
}
