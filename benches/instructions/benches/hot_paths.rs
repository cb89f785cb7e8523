//! How many instructions the hot paths take, counted by callgrind: the same on every machine and in
//! every run, so that a limit can be kept. Each function is one round of 512 operations on an allocator
//! prepared outside the count. A limit is what was counted when it was set and about 5 %; whoever
//! lowers a count lowers its limit.
//!
//! Counts know nothing of cache misses and of what a locked instruction costs: for nanoseconds see
//! `cargo bench` and `benches/peers`.

use std::hint::black_box;

use freemap::{Allocator, Builder, Extent, Handle};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const BLOCKS: u64 = 1 << 24;
const ROUND: usize = 512;
/// Pairs before the count begins.
const WARM_UP: usize = 4096;

/// At most this many instructions for an operation, on average.
fn limit(each: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, each * ROUND as u64)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

/// An allocator with shards that do not depend on the machine.
fn builder(blocks: u64) -> Builder {
    Allocator::builder(blocks).shards(8)
}

fn rng() -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(7)
}

fn empty() -> Handle {
    builder(BLOCKS).build().expect("allocator").handle()
}

fn full() -> Handle {
    builder(BLOCKS).build_allocated().expect("allocator").handle()
}

/// Pairs of a free and an allocation of the same length.
struct Pairs {
    handle: Handle,
    /// Whoever frees, if it is not the same handle.
    freer: Option<Handle>,
    victims: Vec<Extent>,
}

impl Pairs {
    /// A victim that is free already, as some are, is passed by.
    fn run(&mut self) {
        for &victim in &self.victims {
            let freer = self.freer.as_mut().unwrap_or(&mut self.handle);
            if black_box(freer.free(victim)).is_ok() {
                black_box(self.handle.allocate(victim.len)).expect("as much as was freed");
            }
        }
    }

    /// Warms up, and chooses the victims to be counted.
    fn prepared(mut self, mut victim: impl FnMut() -> Extent) -> Self {
        for count in [WARM_UP, ROUND] {
            self.run();
            self.victims = (0..count).map(|_| victim()).collect();
        }
        self
    }
}

/// A device of which `per_mille` are taken at random.
fn churn(per_mille: u32) -> Pairs {
    let mut rng = rng();
    let mut word =
        || (0..64).fold(0, |word, _| word << 1 | u64::from(rng.random_ratio(per_mille, 1000)));
    let words: Vec<u64> = (0..BLOCKS / 64).map(|_| word()).collect();
    let handle = builder(BLOCKS).build_from_bitmap(&words).expect("allocator").handle();
    Pairs { handle, freer: None, victims: Vec::new() }
        .prepared(|| Extent::new(rng.random_range(0..BLOCKS), 1))
}

/// 64 free blocks on the whole device; all frees come from another handle.
fn nearly_full() -> Pairs {
    let mut rng = rng();
    let allocator = builder(BLOCKS).build_allocated().expect("allocator");
    let (mut handle, freer) = (allocator.handle(), Some(allocator.handle()));
    let mut victim = || Extent::new(rng.random_range(0..BLOCKS), 1);
    for _ in 0..64 {
        handle.free(victim()).expect("allocated");
    }
    Pairs { handle, freer, victims: Vec::new() }.prepared(victim)
}

/// Extents of 2^k blocks with weight 1/2^k for k = 0..=8, nine tenths of a smaller device.
fn mixed() -> Pairs {
    const SMALL: u64 = 1 << 20;
    let mut rng = rng();
    let allocator = builder(SMALL).shards(1).build().expect("allocator");
    let mut handle = allocator.handle();
    let mut held = Vec::new();
    while allocator.free_blocks() > SMALL / 10 {
        let order = rng.random::<u64>().trailing_zeros().min(8);
        held.push(handle.allocate(1 << order).expect("room"));
    }
    Pairs { handle, freer: None, victims: Vec::new() }
        .prepared(|| held.swap_remove(rng.random_range(0..held.len())))
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
#[bench::in_sequence(args = (), setup = full, config = limit(250))]
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
#[bench::in_sequence(args = (), setup = full, config = limit(64))]
fn free_many(mut handle: Handle) -> Handle {
    let mut extents: [Extent; ROUND] = std::array::from_fn(|block| Extent::new(block as u64, 1));
    let _ = black_box(handle.free_many(&mut extents));
    handle
}

#[library_benchmark]
#[bench::churn_50(args = (500), setup = churn, config = limit(259))]
#[bench::churn_90(args = (900), setup = churn, config = limit(400))]
#[bench::churn_99(args = (990), setup = churn, config = limit(432))]
#[bench::churn_99_9(args = (999), setup = churn, config = limit(444))]
#[bench::nearly_full(args = (), setup = nearly_full, config = limit(2585))]
#[bench::mixed_orders(args = (), setup = mixed, config = limit(953))]
fn pair(mut pairs: Pairs) -> Pairs {
    pairs.run();
    pairs
}

library_benchmark_group!(
    name = hot_paths,
    benchmarks = [allocate, free, allocate_many, free_many, pair]
);
main!(library_benchmark_groups = hot_paths);
