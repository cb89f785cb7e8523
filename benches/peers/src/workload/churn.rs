//! Free one block, allocate one: what a device sees at a steady fill.

use std::time::Duration;

use super::size;
use crate::clock::within;
use crate::compare::{self, Alone, Round, Workload};
use crate::device::{BlockMap, Devices, Fill};
use crate::report::section::{Column, Section};
use crate::settings::Settings;
use crate::subject::Subject;
use crate::victims::Victims;

/// How full the device is in the table, the plot and among threads.
pub const FILLS: [Fill; 4] =
    [Fill::PerMille(500), Fill::PerMille(900), Fill::PerMille(990), Fill::PerMille(999)];

/// Pairs in a round on a device of `blocks` blocks: few enough that the floor, which begins with
/// all blocks free, does not run out of them.
pub fn round_pairs(settings_pairs: usize, blocks: u64) -> usize {
    settings_pairs.min(blocks as usize / 4)
}

struct Churn<F> {
    column: String,
    fill: Fill,
    blocks: u64,
    round: Duration,
    warm_up: Duration,
    pairs: usize,
    devices: Devices<F>,
}

impl<F: Fn(u64) -> BlockMap> Workload for Churn<F> {
    fn columns(&self) -> Vec<Column> {
        vec![Column::time(&self.column)]
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn free_runs(&self, blocks: u64) -> u64 {
        self.fill.free_runs(blocks)
    }

    fn in_batches(&self) -> bool {
        true
    }
}

impl<F: Fn(u64) -> BlockMap> Alone for Churn<F> {
    fn prepare<S: Subject>(&self, blocks: u64) -> Round {
        let device = self.devices.of(blocks);
        let (mut subject, held) = S::with_state(&device.map, &device.victims);
        let mut victims = Victims::new(held);
        let mut exchange = move |budget, pairs| {
            let slots = victims.take(pairs);
            subject.begin_round();
            within(budget, slots.len(), |range| subject.exchange_each(&mut slots[range]))
        };
        // Until every block that was free at first could have been allocated once.
        exchange(self.warm_up, device.map.free_blocks() as usize);
        let (round, pairs) = (self.round, round_pairs(self.pairs, blocks));
        Box::new(move || vec![exchange(round, pairs).per_operation()])
    }
}

fn churn(settings: &Settings, column: String, fill: Fill, blocks: u64, section: &mut Section) {
    let workload = Churn {
        column,
        fill,
        blocks,
        round: settings.round,
        warm_up: settings.warm_up,
        pairs: settings.round_operations,
        devices: Devices::new(|blocks| BlockMap::random(blocks, fill.free_blocks(blocks))),
    };
    compare::alone(settings, &workload, section);
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let of = |&blocks: &u64| {
        let title = format!("Churn, {}", size(blocks));
        let caption = "A device filled at random to so much; then pairs: free a block drawn at \
                       random, allocate one. Time per pair.";
        let mut section = Section::new("churn", title, caption);
        for fill in FILLS {
            churn(settings, fill.to_string(), fill, blocks, &mut section);
        }
        section
    };
    settings.churn_blocks.iter().map(of).collect()
}

/// The same with 64 free blocks on the whole device.
pub fn run_nearly_full(settings: &Settings) -> Vec<Section> {
    let title = "Churn with 64 free blocks on the whole device";
    let caption = "Pairs as in churn. Time per pair.";
    let mut section = Section::new("nearly-full", title, caption);
    for &blocks in &settings.nearly_full_blocks {
        churn(settings, size(blocks), Fill::AllBut(64), blocks, &mut section);
    }
    vec![section]
}
