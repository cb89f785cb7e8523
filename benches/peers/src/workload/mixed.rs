//! Extents of 1 to 256 blocks, short ones more often.

use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64Mcg;

use super::size;
use crate::clock::{Reading, within};
use crate::compare::{self, Alone, Round, Workload};
use crate::device::{Fill, rng};
use crate::report::section::{Column, Section};
use crate::settings::Settings;
use crate::subject::Subject;

const MAX_ORDER: u32 = 8;

/// An order from 0 to [`MAX_ORDER`], each half as often as the one before.
fn order(rng: &mut Pcg64Mcg) -> u32 {
    loop {
        let order = rng.next_u64().trailing_zeros();
        if order <= MAX_ORDER {
            return order;
        }
    }
}

/// A subject and the extents that are held of it.
struct Extents<S: Subject> {
    subject: S,
    /// With their lengths in blocks, in random order: freed from the end, so that what the table
    /// itself costs is the same for all and next to nothing.
    held: Vec<(S::Held, u32)>,
    /// Those allocated since the table was shuffled.
    new: Vec<(S::Held, u32)>,
    blocks: u64,
    rng: Pcg64Mcg,
}

impl<S: Subject> Extents<S> {
    fn new(blocks: u64) -> Self {
        Self { subject: S::new(blocks), held: Vec::new(), new: Vec::new(), blocks: 0, rng: rng(7) }
    }

    /// Whether there was a run.
    #[inline]
    fn allocate(&mut self, len: u32) -> bool {
        let run = self.subject.allocate(len);
        if let Some(held) = run {
            self.new.push((held, len));
            self.blocks += u64::from(len);
        }
        run.is_some()
    }

    /// Frees a random extent.
    #[inline]
    fn free(&mut self) {
        if self.held.is_empty() {
            self.shuffle();
        }
        if let Some((held, len)) = self.held.pop() {
            self.subject.free(held, len);
            self.blocks -= u64::from(len);
        }
    }

    /// Puts everything that is held into random order.
    #[cold]
    fn shuffle(&mut self) {
        self.held.append(&mut self.new);
        self.held.shuffle(&mut self.rng);
    }

    /// Allocates until nothing fits, then frees at random down to `most` blocks.
    fn fill(&mut self, most: u64) {
        loop {
            let len = 1 << order(&mut self.rng);
            if !self.allocate(len) {
                break;
            }
        }
        while self.blocks > most {
            self.free();
        }
    }

    /// An allocation of a random order after as many frees as make room for it below `most`
    /// blocks: one on average. Whether it succeeded; one more extent is freed if not.
    #[inline]
    fn exchange(&mut self, most: u64) -> bool {
        let len = 1 << order(&mut self.rng);
        while self.blocks + u64::from(len) > most {
            self.free();
        }
        let allocated = self.allocate(len);
        if !allocated {
            self.free();
        }
        allocated
    }
}

struct Mixed {
    fill: Fill,
    blocks: u64,
    round: Duration,
    warm_up: Duration,
    pairs: usize,
}

impl Workload for Mixed {
    fn columns(&self) -> Vec<Column> {
        vec![
            Column::time(format!("{}: pair", self.fill)),
            Column::percent(format!("{}: failures", self.fill)),
        ]
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    /// Extents have 4.5 blocks on average; half of them are free at worst.
    fn free_runs(&self, blocks: u64) -> u64 {
        blocks / 16
    }

    fn longest_run(&self) -> u32 {
        1 << MAX_ORDER
    }
}

impl Alone for Mixed {
    fn prepare<S: Subject>(&self, blocks: u64) -> Round {
        let most = blocks - self.fill.free_blocks(blocks);
        let mut extents = Extents::<S>::new(blocks);
        extents.fill(most);
        let mut exchange = move |budget, pairs| {
            extents.shuffle();
            let mut failures = 0;
            let timed = within(budget, pairs, |range| {
                for _ in range {
                    failures += usize::from(!extents.exchange(most));
                }
            });
            let failed = 100.0 * failures as f64 / timed.operations as f64;
            vec![timed.per_operation(), Reading::new(failed, timed.operations as u64)]
        };
        exchange(self.warm_up, blocks as usize);
        let (round, pairs) = (self.round, self.pairs);
        Box::new(move || exchange(round, pairs))
    }
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let title = format!("Mixed orders, {}", size(settings.blocks));
    let caption = "Extents of 2^k blocks, k from 0 to 8, each half as often as the one before. The \
                   device is filled with them, and some are freed at random; then pairs: free a \
                   random one, allocate one of a random order. Time per pair; allocations that \
                   failed.";
    let mut section = Section::new("mixed", title, caption);
    for fill in [Fill::PerMille(500), Fill::PerMille(900)] {
        let Settings { blocks, round, warm_up, .. } = *settings;
        let pairs = settings.round_operations;
        let mixed = Mixed { fill, blocks, round, warm_up, pairs };
        compare::alone(settings, &mixed, &mut section);
    }
    vec![section]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_orders_come_twice_as_often_as_the_next() {
        let mut rng = rng(8);
        let mut counts = [0; MAX_ORDER as usize + 1];
        (0..1 << 20).for_each(|_| counts[order(&mut rng) as usize] += 1);
        for pair in counts.windows(2) {
            let ratio = f64::from(pair[0]) / f64::from(pair[1]);
            assert!((1.8..2.2).contains(&ratio), "{counts:?}");
        }
    }
}
