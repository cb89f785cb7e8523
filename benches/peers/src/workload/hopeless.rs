//! Requests that nothing fits.

use std::time::Instant;

use super::size;
use crate::clock::Timed;
use crate::compare::{self, Alone, Round, Workload};
use crate::device::BlockMap;
use crate::report::section::{Column, Section};
use crate::settings::Settings;
use crate::subject::{Subject, held_blocks};

/// What is asked for: much more than there is, and just more than there is.
const RUNS: [u32; 2] = [256, 2];
/// Blocks 0, 2, 4, ... are free.
const EVERY_SECOND: u64 = 0xAAAA_AAAA_AAAA_AAAA;
/// Blocks that are allocated and freed before each request, so that a handle has a place to begin
/// at and what is timed is not its first use.
const BEFORE: usize = 8;

struct Hopeless {
    blocks: u64,
}

impl Workload for Hopeless {
    fn columns(&self) -> Vec<Column> {
        let column = |run, time| Column::time(format!("{run} blocks, {time}"));
        RUNS.into_iter().flat_map(|run| [column(run, "first"), column(run, "again")]).collect()
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn free_runs(&self, blocks: u64) -> u64 {
        blocks / 2
    }

    fn longest_run(&self) -> u32 {
        RUNS[0]
    }
}

impl Alone for Hopeless {
    fn prepare<S: Subject>(&self, blocks: u64) -> Round {
        let map = BlockMap::of_words(blocks, EVERY_SECOND);
        let (mut subject, _) = S::with_state(&map, &[]);
        Box::new(move || {
            let mut readings = Vec::new();
            for run in RUNS {
                subject.forget_failures();
                let mut held = held_blocks(&mut subject, BEFORE);
                subject.free_each(&mut held);
                for _ in 0..2 {
                    let (mut timed, start) = (Timed::default(), Instant::now());
                    let found = subject.allocate(run);
                    timed.add(start, 1);
                    assert!(found.is_none(), "no two free blocks are neighbours");
                    readings.push(timed.per_operation());
                }
            }
            readings
        })
    }
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let of = |&blocks: &u64| {
        let title = format!("Hopeless requests, {}", size(blocks));
        let caption = "Every second block is free, and a run of 256 or 2 blocks is asked for, \
                       twice. Time of one call, the clock's 20 ns or so included.";
        let mut section = Section::new("hopeless", title, caption);
        compare::alone(settings, &Hopeless { blocks }, &mut section);
        section
    };
    settings.churn_blocks.iter().map(of).collect()
}
