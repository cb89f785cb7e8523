//! Allocated blocks in the order in which a workload frees them.

use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

use crate::device::rng;

/// A table of what is held, in random order. A workload frees what is in a slot and puts there what
/// it gets instead; it goes through the slots in order, and the table is shuffled after each pass.
/// (Otherwise the second pass would free in the order in which the first one allocated.)
pub struct Victims<H> {
    held: Vec<H>,
    next: usize,
    rng: Pcg64Mcg,
}

impl<H> Victims<H> {
    /// Of `held`, which is in random order.
    pub fn new(held: Vec<H>) -> Self {
        Self { held, next: 0, rng: rng(3) }
    }

    /// The next `count` slots, or all if there are fewer. Takes its time when a pass is over: not
    /// to be called while a clock runs.
    pub fn take(&mut self, count: usize) -> &mut [H] {
        let count = count.min(self.held.len());
        if self.held.len() - self.next < count {
            self.held.shuffle(&mut self.rng);
            self.next = 0;
        }
        self.next += count;
        &mut self.held[self.next - count..self.next]
    }
}
