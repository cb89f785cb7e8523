//! The same traces with each allocator: see `trace.rs` for them. On one alone mean run and score of two that place
//! alike differ by 3 %.

use comfy_table::Table;

use crate::baseline::{FirstFit, RangeTree, Space};
use crate::trace::{Freemap, Objects};
use crate::{print, score, table};

const PER_MILLE: u64 = 900;
const TRACES: u64 = 12;
/// Overwrites after which is looked.
const TIMES: [u64; 4] = [1, 5, 10, 20];

pub fn ageing(blocks: u64) {
    let header = [
        "allocator",
        "overwrites",
        "fill %",
        "mean free run",
        "free runs",
        "score",
        "split %",
        "extents",
        "failures",
        "ns",
    ];
    let mut figures = table(&header);
    age("freemap", Freemap::new, blocks, &mut figures);
    age("first fit", FirstFit::new, blocks, &mut figures);
    age("range tree", RangeTree::new, blocks, &mut figures);
    print(figures);
    println!(
        "averages of {TRACES} traces; runs in blocks; score as Ceph's, 0 is best; objects split, extents per \
         object; time per overwrite, the last column, is one allocation and one free"
    );
}

fn age<S: Space>(name: &str, space: impl Fn(u64) -> S, blocks: u64, figures: &mut Table) {
    let mut sums = [[0.0; 8]; TIMES.len()];
    for trace in 0..TRACES {
        let (mut space, mut objects) = (space(blocks), Objects::of_trace(blocks, trace));
        objects.fill(&mut space, PER_MILLE);
        let mut done = 0;
        for (times, sums) in TIMES.into_iter().zip(&mut sums) {
            let time = objects.overwrite(&mut space, times - done, PER_MILLE);
            done = times;
            let runs = space.runs();
            let free: u64 = runs.iter().sum();
            let (split, extents) = objects.split();
            let seen = [
                objects.fill_percent(),
                free as f64 / runs.len() as f64,
                runs.len() as f64,
                score::ceph(&runs),
                split,
                extents,
                objects.failures as f64,
                time.as_nanos() as f64,
            ];
            sums.iter_mut().zip(seen).for_each(|(sum, seen)| *sum += seen);
        }
    }
    for (times, sums) in TIMES.into_iter().zip(sums) {
        let digits = [1, 2, 0, 4, 2, 3, 0, 0];
        let mut cells = vec![name.to_string(), times.to_string()];
        cells.extend(
            sums.iter()
                .zip(digits)
                .map(|(sum, digits)| format!("{:.digits$}", sum / TRACES as f64)),
        );
        figures.add_row(cells);
    }
}
