//! How long single operations take.

use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::churn::round_pairs;
use super::race::race;
use super::{size, threads};
use crate::clock::{Reading, within_unless};
use crate::compare::{self, Round, Together, Workload};
use crate::device::{BlockMap, Devices, Fill};
use crate::report::section::{Column, Section};
use crate::settings::Settings;
use crate::subject::{Shared, Subject};
use crate::victims::Victims;

const FILL: Fill = Fill::PerMille(990);
const PERCENTILES: [f64; 4] = [50.0, 99.0, 99.9, 99.99];
/// Of the recorded times.
const SIGNIFICANT_DIGITS: u8 = 3;

/// The times of one kind of operation, in nanoseconds.
struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        Self(Histogram::new(SIGNIFICANT_DIGITS).expect("a sensible precision"))
    }

    #[inline]
    fn record(&mut self, time: Duration) {
        self.0.record(time.as_nanos() as u64).expect("a histogram that grows");
    }

    fn merge(mut self, other: &Self) -> Self {
        self.0.add(&other.0).expect("a histogram that grows");
        self
    }

    fn readings(&self) -> impl Iterator<Item = Reading> {
        let percentiles = PERCENTILES.iter().map(|&part| self.0.value_at_percentile(part));
        let values = percentiles.chain([self.0.max()]);
        values.map(|nanoseconds| Reading::new(nanoseconds as f64, self.0.len()))
    }
}

struct Latency<F> {
    blocks: u64,
    threads: usize,
    round: Duration,
    pairs: usize,
    devices: Devices<F>,
}

impl<F: Fn(u64) -> BlockMap> Workload for Latency<F> {
    /// Of allocations, then of frees.
    fn columns(&self) -> Vec<Column> {
        let mut columns = PERCENTILES.map(|part| Column::time(format!("p{part}"))).to_vec();
        columns.push(Column::longest("max"));
        [columns.clone(), columns].concat()
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn free_runs(&self, blocks: u64) -> u64 {
        FILL.free_runs(blocks)
    }
}

impl<F: Fn(u64) -> BlockMap> Together for Latency<F> {
    fn prepare<S: Shared>(&self, blocks: u64) -> Round {
        let device = self.devices.of(blocks);
        let (subject, held) = S::with_state(&device.map, &device.victims);
        let mut handles = subject.handles(self.threads);
        let mut victims = Victims::new(held);
        let (round, pairs) = (self.round, round_pairs(self.pairs, blocks / self.threads as u64));
        Box::new(move || {
            handles.iter_mut().for_each(S::begin_round);
            let slots = victims.take(pairs * handles.len());
            let each = slots.len() / handles.len();
            let workers = handles.iter_mut().zip(slots.chunks_exact_mut(each)).collect();
            let times =
                race(workers, |_, (subject, slots), stop| time_each(subject, slots, stop, round));
            let (allocate, free) = times
                .into_iter()
                .reduce(|sum, times| (sum.0.merge(&times.0), sum.1.merge(&times.1)))
                .expect("at least one thread");
            allocate.readings().chain(free.readings()).collect()
        })
    }
}

/// Pairs with a look at the clock before, between and after; the times of allocations and of frees.
fn time_each<S: Subject>(
    subject: &mut S,
    slots: &mut [S::Held],
    stop: &AtomicBool,
    round: Duration,
) -> (Times, Times) {
    let (mut allocate, mut free) = (Times::new(), Times::new());
    within_unless(stop, round, slots.len(), |range| {
        for slot in &mut slots[range] {
            let start = Instant::now();
            subject.free(*slot, 1);
            let freed = Instant::now();
            *slot = subject.allocate(1).expect("one was just freed");
            let allocated = Instant::now();
            free.record(freed - start);
            allocate.record(allocated - freed);
        }
    });
    (allocate, free)
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let of = |count: usize| {
        let case = format!("churn at {FILL}, {}, {}", threads(count), size(settings.blocks));
        let caption = "Each operation timed with a clock whose reading takes 20 ns or so, the \
                       floor's too. Median over the rounds of each percentile; the largest of all. \
                       All but the floor and freemap behind a parking_lot::Mutex.";
        let mut both = Section::new("latency", format!("Latency of allocate, {case}"), caption);
        let devices = Devices::new(|blocks| BlockMap::random(blocks, FILL.free_blocks(blocks)));
        let Settings { blocks, round, round_operations: pairs, .. } = *settings;
        let latency = Latency { blocks, threads: count, round, pairs, devices };
        compare::together(settings, &latency, &mut both);
        let free = both.split_off(both.columns.len() / 2, format!("Latency of free, {case}"));
        [both, free]
    };
    settings.threads.iter().filter(|&&count| count <= 2).flat_map(|&count| of(count)).collect()
}
