//! From a bitmap to an allocator: what a restart costs beside reading the bitmap.

use std::any::Any;
use std::hint::black_box;
use std::time::Instant;

use freemap::Allocator;
use rand::Rng;
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use super::size;
use crate::clock::{Reading, Timed};
use crate::device::{BlockMap, rng};
use crate::report::section::{Cell, Column, Outcome, Section};
use crate::settings::Settings;
use crate::subject::roster::{FLOOR, FREEMAP};
use crate::subject::two_level::TwoLevel;
use crate::subject::{Subject, roster};

/// Blocks of 4 KiB in 1 TiB.
const TIB: u64 = 1 << 28;
/// Words that one task reads: as many as make the cost of a task small.
const TASK: usize = 1 << 14;

/// What a pass makes: dropped when the clock has been read.
type Made = Box<dyn Any + Send>;

/// One way to go over the bitmap.
struct Pass {
    name: &'static str,
    run: fn(&BlockMap) -> Made,
    /// Whether it uses the threads of the pool that it is called in.
    parallel: bool,
}

const PASSES: [Pass; 4] = [
    Pass { name: FLOOR, run: count, parallel: true },
    Pass { name: "copy", run: copy, parallel: true },
    Pass { name: FREEMAP, run: freemap, parallel: true },
    Pass { name: roster::TWO_LEVEL, run: two_level, parallel: false },
];

fn count(map: &BlockMap) -> Made {
    let ones = |words: &[u64]| words.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
    Box::new(map.allocated.par_chunks(TASK).map(ones).sum::<u64>())
}

fn copy(map: &BlockMap) -> Made {
    Box::new(map.allocated.par_iter().map(|word| !word).collect::<Vec<u64>>())
}

fn freemap(map: &BlockMap) -> Made {
    Box::new(Allocator::from_bitmap(map.blocks, &map.allocated).expect("a device of that size"))
}

fn two_level(map: &BlockMap) -> Made {
    Box::new(TwoLevel::with_state(map, &[]).0)
}

fn time(pass: &Pass, map: &BlockMap, pool: &ThreadPool) -> Reading {
    let (mut timed, start) = (Timed::default(), Instant::now());
    let made = pool.install(|| (pass.run)(map));
    timed.add(start, 1);
    drop(black_box(made));
    timed.per_operation()
}

fn rebuild(settings: &Settings, map: &BlockMap) -> Section {
    let title = format!("Rebuild from a random bitmap, {}", size(map.blocks));
    let caption = "Time from a bitmap in memory to an allocator that is ready. The floor counts \
                   the bits; the copy writes the bitmap to new memory, which every allocator must. \
                   With rayon on as many threads; two-level uses one.";
    let mut section = Section::new("rebuild", title, caption);
    for &threads in &settings.threads {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let column = Column::time(super::threads(threads));
        let mut readings = PASSES.map(|_| Vec::new());
        for number in 0..=settings.rounds {
            for (pass, readings) in PASSES.iter().zip(&mut readings) {
                if pass.parallel || threads == 1 {
                    let reading = time(pass, map, &pool);
                    if number > 0 {
                        readings.push(reading);
                    }
                }
            }
        }
        let outcomes = PASSES.iter().zip(&readings).map(|(pass, readings)| {
            let outcome = match readings.as_slice() {
                [] => Outcome::Missing { why: "one thread only".to_owned() },
                some => Outcome::Measured(Cell::new(&column, map.blocks, some, None)),
            };
            (pass.name, vec![outcome])
        });
        let outcomes = outcomes.collect();
        section.add(vec![column], outcomes);
    }
    section
}

/// What the allocators say they occupy.
fn memory() -> Section {
    let title = "Memory for 1 TiB of 4 KiB blocks";
    let caption = "The bitmap, and what is beside it to search in it.";
    let mut section = Section::new("memory", title, caption);
    let columns = vec![Column::bytes("bitmap"), Column::bytes("search structures")];
    let freemap = Allocator::new(TIB).expect("a device of that size").memory();
    let two_level = TwoLevel::new(TIB);
    let figures = [
        (FREEMAP, [freemap.bitmap, freemap.search]),
        (roster::TWO_LEVEL, [two_level.bitmap_bytes(), two_level.summary_bytes()]),
    ];
    let outcomes = figures.into_iter().map(|(name, bytes)| {
        let cells = columns.iter().zip(bytes).map(|(column, bytes)| {
            let reading = [Reading::new(bytes as f64, 1)];
            Outcome::Measured(Cell::new(column, TIB, &reading, None))
        });
        (name, cells.collect())
    });
    let outcomes = outcomes.collect();
    section.add(columns, outcomes);
    section
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let mut rng = rng(11);
    let mut map = BlockMap::of_words(settings.rebuild_blocks, 0);
    map.allocated.fill_with(|| rng.next_u64());
    vec![rebuild(settings, &map), memory()]
}
