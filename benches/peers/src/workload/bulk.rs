//! Filling a device and emptying it, block by block.

use std::time::Duration;

use rand::seq::SliceRandom;

use super::size;
use crate::clock::{Reading, within};
use crate::compare::{self, Alone, Round, Workload};
use crate::device::rng;
use crate::report::section::{Column, Section};
use crate::settings::Settings;
use crate::subject::{Subject, held_blocks};

const PARTLY: &str = "not all blocks of the device: time was up";

struct Bulk {
    blocks: u64,
    round: Duration,
}

impl Workload for Bulk {
    fn columns(&self) -> Vec<Column> {
        ["allocate", "free in order", "free at random"].map(Column::time).to_vec()
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    /// When half of the blocks are freed at random.
    fn free_runs(&self, blocks: u64) -> u64 {
        blocks / 4
    }

    fn in_batches(&self) -> bool {
        true
    }
}

impl Alone for Bulk {
    fn prepare<S: Subject>(&self, blocks: u64) -> Round {
        let round = self.round;
        let mut subject = S::new(blocks);
        let mut held = held_blocks(&mut subject, blocks as usize);
        subject.free_each(&mut held);
        let mut rng = rng(6);
        Box::new(move || {
            let all = held.len();
            let allocate = within(round, all, |range| subject.allocate_each(&mut held[range]));
            let held = &mut held[..allocate.operations];
            let in_order = within(Duration::MAX, held.len(), |range| {
                subject.free_each(&mut held[range]);
            });
            subject.allocate_each(held);
            held.shuffle(&mut rng);
            let at_random = within(round, held.len(), |range| subject.free_each(&mut held[range]));
            if at_random.operations < held.len() {
                subject = S::new(blocks);
            }
            [allocate, in_order, at_random]
                .map(|timed| Reading {
                    remark: (timed.operations < all).then_some(PARTLY),
                    ..timed.per_operation()
                })
                .to_vec()
        })
    }
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let title = format!("Bulk, {}", size(settings.blocks));
    let caption = "Single blocks: the whole device is allocated, freed in the order of allocation, \
                   allocated again and freed at random. Time per block.";
    let mut section = Section::new("bulk", title, caption);
    let bulk = Bulk { blocks: settings.blocks, round: 2 * settings.round };
    compare::alone(settings, &bulk, &mut section);
    vec![section]
}
