//! How many instructions the hot paths take, counted by callgrind: the same on every machine and in
//! every run, so that a limit can be kept. Each function is one round of 512 operations on an allocator
//! prepared outside the count. A limit is what was counted when it was set and about 5 %; whoever
//! lowers a count lowers its limit.
//!
//! Counts know nothing of cache misses and of what a locked instruction costs: for nanoseconds see
//! `cargo bench` and `benches/peers`.

use std::hint::black_box;

use freemap::{Extent, Handle};
use freemap_instructions::{
    BLOCKS, Pairs, ROUND, builder, churn, churn_large, limit, mixed, nearly_full,
};
use gungraun::prelude::*;

fn empty() -> Handle {
    builder(BLOCKS).build().expect("allocator").handle()
}

fn full() -> Handle {
    builder(BLOCKS).build_allocated().expect("allocator").handle()
}

#[library_benchmark]
#[bench::in_sequence(args = (), setup = empty, config = limit(80))]
fn allocate(mut handle: Handle) -> Handle {
    for _ in 0..ROUND {
        let _ = black_box(handle.allocate(1));
    }
    handle
}

#[library_benchmark]
#[bench::in_sequence(args = (), setup = full, config = limit(140))]
fn free(mut handle: Handle) -> Handle {
    for block in 0..ROUND as u64 {
        let _ = black_box(handle.free(Extent::new(block, 1)));
    }
    handle
}

#[library_benchmark]
#[bench::in_sequence(args = (), setup = empty, config = limit(39))]
fn allocate_many(mut handle: Handle) -> Handle {
    let mut extents = [Extent::new(0, 0); ROUND];
    let _ = black_box(handle.allocate_many(1, &mut extents));
    handle
}

#[library_benchmark]
#[bench::in_sequence(args = (), setup = full, config = limit(62))]
fn free_many(mut handle: Handle) -> Handle {
    let mut extents: [Extent; ROUND] = std::array::from_fn(|block| Extent::new(block as u64, 1));
    let _ = black_box(handle.free_many(&mut extents));
    handle
}

#[library_benchmark]
#[bench::churn_50(args = (500), setup = churn, config = limit(188))]
#[bench::churn_90(args = (900), setup = churn, config = limit(279))]
#[bench::churn_99(args = (990), setup = churn, config = limit(300))]
#[bench::churn_99_9(args = (999), setup = churn, config = limit(443))]
#[bench::nearly_full(args = (), setup = nearly_full, config = limit(2808))]
#[bench::churn_large(args = (), setup = churn_large, config = limit(316))]
#[bench::mixed_50(args = (500), setup = mixed, config = limit(894))]
#[bench::mixed_90(args = (900), setup = mixed, config = limit(933))]
fn pair(mut pairs: Pairs) -> Pairs {
    pairs.run();
    pairs
}

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [allocate, free, allocate_many, free_many, pair]
);
main!(library_benchmark_groups = hot_paths);
