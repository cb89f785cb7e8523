//! Threads that begin together and end together.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::Instant;

use crate::clock::Reading;

/// What one thread did, and when.
pub struct Lap {
    start: Instant,
    end: Instant,
    operations: usize,
}

impl Lap {
    /// `operations` that began at `start` and have just ended.
    pub fn since(start: Instant, operations: usize) -> Self {
        Self { start, end: Instant::now(), operations }
    }
}

/// Operations per second of all threads, from the first start to the last end.
pub fn rate(laps: &[Lap]) -> Reading {
    let operations: usize = laps.iter().map(|lap| lap.operations).sum();
    let start = laps.iter().map(|lap| lap.start).min().expect("at least one");
    let end = laps.iter().map(|lap| lap.end).max().expect("at least one");
    let per_second = operations as f64 / (end - start).as_secs_f64().max(f64::MIN_POSITIVE);
    Reading::new(per_second, operations as u64)
}

/// Calls `body` for each of `workers` on a thread of its own, all at the same time, and returns
/// what they made. When one is done the flag is set, and the others stop when they see it: otherwise
/// the last one would have the device to itself.
pub fn race<W: Send, R: Send>(
    workers: Vec<W>,
    body: impl Fn(usize, W, &AtomicBool) -> R + Sync,
) -> Vec<R> {
    let (count, arrived, stop) = (workers.len(), AtomicUsize::new(0), AtomicBool::new(false));
    let run = |index, worker| {
        arrived.fetch_add(1, SeqCst);
        while arrived.load(SeqCst) < count {
            std::thread::yield_now();
        }
        let made = body(index, worker, &stop);
        stop.store(true, SeqCst);
        made
    };
    std::thread::scope(|scope| {
        let run = &run;
        let spawn = |(index, worker)| scope.spawn(move || run(index, worker));
        let threads: Vec<_> = workers.into_iter().enumerate().map(spawn).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker")).collect()
    })
}
