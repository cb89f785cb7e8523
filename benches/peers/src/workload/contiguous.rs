//! Runs of 256 blocks where few exist: 1 MiB of 4 KiB blocks on a fragmented device.

use std::time::Duration;

use rand::RngExt;

use super::size;
use crate::clock::within;
use crate::compare::{self, Alone, Round, Workload};
use crate::device::{BlockMap, Devices, Fill, rng};
use crate::report::section::{Column, Section};
use crate::settings::Settings;
use crate::subject::Subject;

/// What is asked for.
const RUN: u32 = 256;
/// The runs that exist, at equal distances: a word more than is asked for.
const FREE_RUN: u32 = 320;
const FREE_RUNS: u32 = 64;
/// How many of them are held, so that each pair finds another one free.
const HELD: usize = 32;

fn fragmented(blocks: u64, fill: Fill) -> BlockMap {
    let mut map = BlockMap::random(blocks, fill.free_blocks(blocks));
    let distance = blocks as u32 / FREE_RUNS;
    for start in (0..FREE_RUNS).map(|index| index * distance) {
        map.free(start..start + FREE_RUN);
    }
    map
}

struct Contiguous<F> {
    fill: Fill,
    blocks: u64,
    round: Duration,
    warm_up: Duration,
    pairs: usize,
    devices: Devices<F>,
}

impl<F: Fn(u64) -> BlockMap> Workload for Contiguous<F> {
    fn columns(&self) -> Vec<Column> {
        vec![Column::time(self.fill.to_string())]
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn free_runs(&self, blocks: u64) -> u64 {
        self.fill.free_runs(blocks)
    }

    fn longest_run(&self) -> u32 {
        RUN
    }
}

impl<F: Fn(u64) -> BlockMap> Alone for Contiguous<F> {
    fn prepare<S: Subject>(&self, blocks: u64) -> Round {
        let device = self.devices.of(blocks);
        let (mut subject, _) = S::with_state(&device.map, &[]);
        let run = |_| subject.allocate(RUN).expect("one of those made");
        let mut held: Vec<S::Held> = (0..HELD).map(run).collect();
        let mut rng = rng(9);
        let mut exchange = move |budget, pairs| {
            within(budget, pairs, |range| {
                for _ in range {
                    let slot = &mut held[rng.random_range(0..HELD)];
                    subject.free(*slot, RUN);
                    *slot = subject.allocate(RUN).expect("one was just freed");
                }
            })
        };
        let (round, pairs) = (self.round, self.pairs);
        exchange(self.warm_up, HELD * FREE_RUNS as usize);
        Box::new(move || vec![exchange(round, pairs).per_operation()])
    }
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let of = |&blocks: &u64| {
        let title = format!("Contiguous 1 MiB, {}", size(blocks));
        let caption = "Runs of 256 blocks on a device filled with single blocks at random, on \
                       which there are 64 runs of 320 free blocks, half of them in use; pairs: \
                       free one, allocate one. Time per pair.";
        let mut section = Section::new("contiguous", title, caption);
        for fill in [Fill::PerMille(500), Fill::PerMille(900)] {
            let Settings { round, warm_up, round_operations: pairs, .. } = *settings;
            let devices = Devices::new(|blocks| fragmented(blocks, fill));
            let contiguous = Contiguous { fill, blocks, round, warm_up, pairs, devices };
            compare::alone(settings, &contiguous, &mut section);
        }
        section
    };
    settings.churn_blocks.iter().map(of).collect()
}
