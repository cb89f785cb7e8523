//! Time boxes, and what was read off a clock.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// What one round of one subject came to in one column.
#[derive(Clone, Copy)]
pub struct Reading {
    /// In the unit of the column.
    pub value: f64,
    /// Operations behind the value.
    pub operations: u64,
    /// Why the value is not what the column says, if it is not.
    pub remark: Option<&'static str>,
}

impl Reading {
    /// A value with nothing to say about it.
    pub fn new(value: f64, operations: u64) -> Self {
        Self { value, operations, remark: None }
    }
}

/// How long some operations took.
#[derive(Clone, Copy, Default)]
pub struct Timed {
    pub time: Duration,
    pub operations: usize,
}

impl Timed {
    /// Nanoseconds per operation.
    pub fn per_operation(self) -> Reading {
        let nanoseconds = self.time.as_secs_f64() * 1e9;
        Reading::new(nanoseconds / self.operations.max(1) as f64, self.operations as u64)
    }

    /// Counts `operations` that began at `start` and have just ended.
    pub fn add(&mut self, start: Instant, operations: usize) {
        self.time += start.elapsed();
        self.operations += operations;
    }
}

/// Part of a time box after which the clock is read, so that it is overrun by little and the
/// reading costs nothing.
const SLICE: u32 = 256;

/// Calls `step` with one range of operations after the other until all `most` are done or `budget`
/// is spent. The ranges grow from one operation to as many as fill a slice of the budget, because
/// one operation may take 5 ns or 5 ms.
pub fn within(budget: Duration, most: usize, step: impl FnMut(Range<usize>)) -> Timed {
    within_unless(&AtomicBool::new(false), budget, most, step)
}

/// The same until `stop` is set.
pub fn within_unless(
    stop: &AtomicBool,
    budget: Duration,
    most: usize,
    mut step: impl FnMut(Range<usize>),
) -> Timed {
    let start = Instant::now();
    let mut timed = Timed::default();
    let mut slice = 1;
    while timed.operations < most && timed.time < budget && !stop.load(SeqCst) {
        let end = most.min(timed.operations + slice);
        step(timed.operations..end);
        let before = timed.time;
        timed = Timed { time: start.elapsed(), operations: end };
        if timed.time - before < budget / SLICE {
            slice *= 2;
        }
    }
    timed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_box_ends_with_the_operations_or_with_the_time() {
        let mut seen = Vec::new();
        let all = within(Duration::MAX, 1000, |range| seen.extend(range));
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        assert_eq!(all.operations, 1000);

        let sleep =
            |range: Range<usize>| std::thread::sleep(Duration::from_millis(range.len() as u64));
        let some = within(Duration::from_millis(20), 1000, sleep);
        assert!((1..1000).contains(&some.operations));
    }
}
