//! The same trace with each allocator: see `trace.rs` for it.

use comfy_table::Table;

use crate::baseline::{FirstFit, RangeTree, Space};
use crate::trace::{Freemap, Objects};
use crate::{print, row, score, table};

const PER_MILLE: u64 = 900;

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
    age("freemap", Freemap::new(blocks), blocks, &mut figures);
    age("first fit", FirstFit::new(blocks), blocks, &mut figures);
    age("range tree", RangeTree::new(blocks), blocks, &mut figures);
    print(figures);
    println!(
        "runs in blocks; score as Ceph's, 0 is best; objects split, extents per object; time per \
         overwrite, the last column, is one allocation and one free"
    );
}

fn age(name: &str, mut space: impl Space, blocks: u64, figures: &mut Table) {
    let mut objects = Objects::new(blocks);
    objects.fill(&mut space, PER_MILLE);
    let mut done = 0;
    for times in [1, 5, 10, 20] {
        let time = objects.overwrite(&mut space, times - done, PER_MILLE);
        done = times;
        let runs = space.runs();
        let free: u64 = runs.iter().sum();
        let (split, extents) = objects.split();
        row(
            figures,
            &[
                &name,
                &times,
                &format!("{:.1}", objects.fill_percent()),
                &format!("{:.2}", free as f64 / runs.len() as f64),
                &runs.len(),
                &format!("{:.4}", score::ceph(&runs)),
                &format!("{split:.2}"),
                &format!("{extents:.3}"),
                &objects.failures,
                &time.as_nanos(),
            ],
        );
    }
}
