//! Discarding what is freed: which extents the device is told of and when, what becomes of the rest, and that nothing
//! is discarded that a caller owns. No test reads a clock: a discarder is told the time.

mod batches;
mod beside;
mod limits;
mod properties;
mod refusals;
mod traffic;
mod wish;

use std::time::Instant;

use freemap::{Discarder, Discarding, Extent};

/// All extents that are handed out until there is nothing to do, each batch apart.
fn all(discarder: &mut Discarder, mut now: Instant) -> Vec<Vec<Extent>> {
    let mut batches = Vec::new();
    loop {
        match discarder.next(now) {
            Discarding::Batch(batch) => batches.push(batch.extents().to_vec()),
            Discarding::Later(pause) => now += pause,
            Discarding::Nothing => return batches,
        }
    }
}
