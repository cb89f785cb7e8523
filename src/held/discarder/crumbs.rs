//! When crumbs leave the queue.

use std::time::{Duration, Instant};

/// Runs of waiting blocks that one call looks at, at most, to find crumbs among them.
pub(super) const RUNS: usize = 4096;

/// The time to the next call while some are left to be looked at.
const SOON: Duration = Duration::from_millis(1);

/// Sweeps over the queue, each of which lets out the crumbs that it meets. The clock is what the
/// caller says.
#[derive(Debug)]
pub(super) struct Crumbs {
    linger: Duration,
    /// When the last sweep began, or when blocks were first seen to wait since none did.
    since: Option<Instant>,
    /// Where the sweep under way has got to.
    position: Option<u64>,
}

impl Crumbs {
    pub(super) fn new(linger: Duration) -> Self {
        Self { linger, since: None, position: None }
    }

    /// Nothing waits.
    pub(super) fn none_wait(&mut self) {
        (self.since, self.position) = (None, None);
    }

    /// Blocks wait at `now`. Returns where to go on with a sweep, if one is under way or should
    /// begin: because of the time, or because `is_full` says that blocks found no room.
    pub(super) fn sweep_from(
        &mut self,
        now: Instant,
        is_full: impl FnOnce() -> bool,
    ) -> Option<u64> {
        let since = *self.since.get_or_insert(now);
        let due = now.saturating_duration_since(since) >= self.linger;
        if self.position.is_none() && (is_full() || due) {
            (self.since, self.position) = (Some(now), Some(0));
        }
        self.position
    }

    /// The sweep has got to `position`, or to the end.
    pub(super) fn swept_to(&mut self, position: Option<u64>) {
        self.position = position;
    }

    /// How long after `now` crumbs leave; `None` if they need not.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        if self.position.is_some() {
            return Some(SOON);
        }
        let due = self.since?.checked_add(self.linger)?;
        Some(due.saturating_duration_since(now).max(SOON))
    }
}
