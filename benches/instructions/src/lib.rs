//! Allocators and traffic for the benchmarks, prepared outside of what is counted.

use std::hint::black_box;

use freemap::{Allocator, Builder, Extent, Handle};
use gungraun::prelude::*;
use gungraun::{Callgrind, EventKind};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Blocks of a device, unless a benchmark has one of its own.
pub const BLOCKS: u64 = 1 << 24;
/// Operations that are counted together.
pub const ROUND: usize = 512;
/// Pairs before the count begins.
const WARM_UP: usize = 4096;

/// At most this many instructions for an operation, on average.
pub fn limit(each: u64) -> LibraryBenchmarkConfig {
    let mut callgrind = Callgrind::default();
    callgrind.hard_limits([(EventKind::Ir, each * ROUND as u64)]);
    let mut config = LibraryBenchmarkConfig::default();
    config.tool(callgrind);
    config
}

/// An allocator with shards that do not depend on the machine.
pub fn builder(blocks: u64) -> Builder {
    Allocator::builder(blocks).shards(8)
}

/// The same numbers in every run.
pub fn rng() -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(7)
}

/// A device of which `word` says, 64 blocks at a time, which blocks are taken.
pub fn device(blocks: u64, word: impl FnMut(u64) -> u64) -> Allocator {
    let words: Vec<u64> = (0..blocks / 64).map(word).collect();
    builder(blocks).build_from_bitmap(&words).expect("allocator")
}

/// A device of which `per_mille` are taken at random.
pub fn random_device(rng: &mut Pcg64Mcg, per_mille: u32) -> Allocator {
    device(BLOCKS, |_| {
        (0..64).fold(0, |word, _| word << 1 | u64::from(rng.random_ratio(per_mille, 1000)))
    })
}

/// The largest device that is measured, seven of eight blocks taken at random.
pub fn large_device(rng: &mut Pcg64Mcg) -> Allocator {
    device(1 << 28, |_| rng.next_u64() | rng.next_u64() | rng.next_u64())
}

/// Pairs of a free and an allocation of the same length.
pub struct Pairs {
    handle: Handle,
    /// Whoever frees, if it is not the same handle.
    freer: Option<Handle>,
    victims: Vec<Extent>,
}

impl Pairs {
    /// A victim that is free already, as some are, is passed by.
    pub fn run(&mut self) {
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

    fn of_one_handle(handle: Handle) -> Self {
        Self { handle, freer: None, victims: Vec::new() }
    }
}

fn single_blocks(allocator: &Allocator, mut rng: Pcg64Mcg) -> Pairs {
    let blocks = allocator.blocks();
    Pairs::of_one_handle(allocator.handle())
        .prepared(|| Extent::new(rng.random_range(0..blocks), 1))
}

/// Blocks from all over a device of which `per_mille` are taken.
pub fn churn(per_mille: u32) -> Pairs {
    let mut rng = rng();
    single_blocks(&random_device(&mut rng, per_mille), rng)
}

/// Blocks from all over the largest device.
pub fn churn_large() -> Pairs {
    let mut rng = rng();
    single_blocks(&large_device(&mut rng), rng)
}

/// 64 free blocks on the whole device; all frees come from another handle.
pub fn nearly_full() -> Pairs {
    let mut rng = rng();
    let allocator = builder(BLOCKS).build_allocated().expect("allocator");
    let (mut handle, freer) = (allocator.handle(), Some(allocator.handle()));
    let mut victim = || Extent::new(rng.random_range(0..BLOCKS), 1);
    for _ in 0..64 {
        handle.free(victim()).expect("allocated");
    }
    Pairs { handle, freer, victims: Vec::new() }.prepared(victim)
}

/// Extents of 2^k blocks with weight 1/2^k for k = 0..=8, of a smaller device of which `per_mille`
/// are taken.
pub fn mixed(per_mille: u64) -> Pairs {
    const SMALL: u64 = 1 << 20;
    let mut rng = rng();
    let allocator = builder(SMALL).shards(1).build().expect("allocator");
    let mut handle = allocator.handle();
    let mut held = Vec::new();
    while allocator.free_blocks() > SMALL / 1000 * (1000 - per_mille) {
        let order = rng.random::<u64>().trailing_zeros().min(8);
        held.push(handle.allocate(1 << order).expect("room"));
    }
    Pairs::of_one_handle(handle).prepared(|| held.swap_remove(rng.random_range(0..held.len())))
}
