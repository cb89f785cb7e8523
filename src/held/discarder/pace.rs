//! How fast a discarder may go: a token bucket, whose clock is what the caller says.

use std::time::{Duration, Instant};

const NANOS: u128 = 1_000_000_000;

/// The shortest wait: at a high speed, less would end in batches of a few blocks.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Blocks that may be discarded: a number for each second, saved up to a burst.
#[derive(Debug)]
pub(super) struct Pace {
    per_second: u64,
    burst: u64,
    /// Billionths of a block that may be discarded at `refilled`: a speed of one block a second
    /// earns one of them in a nanosecond, so nothing is rounded.
    saved: u128,
    /// The latest time that the caller has said.
    refilled: Option<Instant>,
}

impl Pace {
    /// `per_second` blocks a second on average ([`u64::MAX`]: no limit), and `burst` at once, which
    /// are there already.
    pub(super) fn new(per_second: u64, burst: u64) -> Self {
        debug_assert!(per_second > 0 && burst > 0);
        Self { per_second, burst, saved: u128::from(burst) * NANOS, refilled: None }
    }

    /// Blocks that may be discarded at `now`. A time before one of earlier calls counts as that.
    pub(super) fn allowance(&mut self, now: Instant) -> u64 {
        let refilled = *self.refilled.get_or_insert(now);
        let since = now.saturating_duration_since(refilled).as_nanos();
        let earned = match self.per_second {
            u64::MAX => u128::MAX, // no limit, even if time stands still
            per_second => u128::from(per_second).saturating_mul(since),
        };
        self.saved = self.saved.saturating_add(earned).min(u128::from(self.burst) * NANOS);
        self.refilled = Some(now.max(refilled));
        (self.saved / NANOS) as u64
    }

    /// Takes `blocks`, which are allowed, out of the allowance.
    pub(super) fn spend(&mut self, blocks: u64) {
        debug_assert!(u128::from(blocks) * NANOS <= self.saved);
        self.saved -= u128::from(blocks) * NANOS;
    }

    /// How long after the last call of [`allowance`](Self::allowance) `blocks` will be allowed,
    /// which are no more than a burst. At least a millisecond.
    pub(super) fn wait_for(&self, blocks: u64) -> Duration {
        debug_assert!(blocks <= self.burst);
        let missing = (u128::from(blocks) * NANOS).saturating_sub(self.saved);
        let nanos = missing.div_ceil(self.per_second.into());
        let seconds = u64::try_from(nanos / NANOS).unwrap_or(u64::MAX);
        Duration::new(seconds, (nanos % NANOS) as u32).max(SHORTEST_WAIT)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// After the wait that was told, and not before, there is enough; over many waits the speed is
    /// that which was asked for.
    #[test]
    fn the_wait_that_is_told_is_the_wait_that_is_needed() {
        for per_second in [1, 3, 7, 640, 1999, 1 << 18, 10_000_001] {
            let mut pace = Pace::new(per_second, 1000);
            let start = Instant::now();
            let (mut now, mut spent) = (start, 0);
            for nth in 0..1000 {
                let blocks = 1 + nth * 7 % 1000;
                if pace.allowance(now) < blocks {
                    let wait = pace.wait_for(blocks);
                    if wait > SHORTEST_WAIT {
                        assert!(pace.allowance(now + wait - Duration::from_nanos(1)) < blocks);
                    }
                    now += wait;
                    assert!(pace.allowance(now) >= blocks, "{per_second} {blocks} {wait:?}");
                }
                pace.spend(blocks);
                spent += blocks;
            }
            let earned = u128::from(per_second) * (now - start).as_nanos() / NANOS;
            assert!(u128::from(spent) <= 1000 + earned, "{spent} {earned} at {per_second}");
        }
    }

    #[test]
    fn a_time_that_goes_back_earns_nothing() {
        let mut pace = Pace::new(100, 100);
        let now = Instant::now() + Duration::from_secs(100);
        pace.allowance(now);
        pace.spend(100);
        for _ in 0..100 {
            assert_eq!(pace.allowance(now), 0);
            assert_eq!(pace.allowance(now - Duration::from_secs(1)), 0);
        }
    }

    #[test]
    fn any_speed_and_time_will_do() {
        for per_second in [1, u64::MAX - 1, u64::MAX] {
            let mut pace = Pace::new(per_second, u64::MAX);
            let now = Instant::now();
            pace.allowance(now);
            pace.spend(u64::MAX);
            assert!(pace.wait_for(u64::MAX) >= SHORTEST_WAIT);
            let later = now.checked_add(Duration::from_secs(1 << 50)).unwrap_or(now);
            pace.allowance(later);
        }
    }
}
