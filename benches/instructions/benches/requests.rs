//! As `hot_paths`, of requests for more than one block, of batches and of transactions.

use std::convert::Infallible;
use std::hint::black_box;

use freemap::{Allocator, Delta, Extent, Handle, Lsn, Request, Store};
use freemap_instructions::{ROUND, builder, device, large_device, limit, random_device, rng};
use gungraun::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use rand_pcg::Pcg64Mcg;

/// Blocks that a handle frees together, and has again by one call.
struct Batches {
    allocator: Allocator,
    handle: Handle,
    rng: Pcg64Mcg,
    /// Blocks in use, in no order.
    held: Vec<Extent>,
}

impl Batches {
    const BATCH: usize = 64;

    fn run(&mut self) {
        let mut again = [Extent::new(0, 1); Self::BATCH];
        for batch in self.held.chunks_mut(Self::BATCH) {
            black_box(self.handle.free_many(batch)).expect("in use");
            let again = &mut again[..batch.len()];
            black_box(self.handle.allocate_many(1, again)).expect("as many as were freed");
            batch.copy_from_slice(again);
        }
    }

    /// A round of blocks from all over.
    fn chosen(mut self) -> Self {
        let blocks = self.allocator.blocks();
        self.held.clear();
        while self.held.len() < ROUND {
            let block = self.rng.random_range(0..blocks);
            if self.allocator.is_allocated(Extent::new(block, 1)) == Ok(true) {
                self.held.push(Extent::new(block, 1));
            }
        }
        self.held.sort_unstable_by_key(|extent| extent.start);
        self.held.dedup();
        self.held.shuffle(&mut self.rng);
        self
    }
}

fn batches() -> Batches {
    let mut rng = rng();
    let allocator = large_device(&mut rng);
    let handle = allocator.handle();
    let mut batches = Batches { allocator, handle, rng, held: Vec::new() };
    for _ in 0..8 {
        batches = batches.chosen();
        batches.run();
    }
    batches.chosen()
}

/// A run in every 4096 words, and little else on a device whose blocks are taken at random.
fn fragmented() -> Handle {
    let mut rng = rng();
    let word = |place| if place % 4096 < 5 { 0 } else { rng.next_u64() | rng.next_u64() };
    let mut handle = device(1 << 28, word).handle();
    runs_of(&mut handle, 4 * ROUND);
    handle
}

fn runs_of(handle: &mut Handle, pairs: usize) {
    for _ in 0..pairs {
        let extent = black_box(handle.allocate(256)).expect("a run in every 4096 words");
        handle.free(extent).expect("ours");
    }
}

/// Requests for sixteen blocks in pieces, on a device with one free block in a thousand.
struct Pieces {
    handle: Handle,
    blocks: u64,
    rng: Pcg64Mcg,
}

impl Pieces {
    /// Each piece that is freed was allocated some time before.
    fn run(&mut self, requests: usize) {
        let request = Request::new(16).scattered();
        for _ in 0..requests {
            let mut freed = 0;
            while freed < 16 {
                let victim = Extent::new(self.rng.random_range(0..self.blocks), 1);
                freed += u64::from(self.handle.free(victim).is_ok());
            }
            black_box(self.handle.allocate_with(&request)).expect("as much as was freed");
        }
    }
}

fn pieces() -> Pieces {
    let mut rng = rng();
    let allocator = random_device(&mut rng, 999);
    let (handle, blocks) = (allocator.handle(), allocator.blocks());
    let mut pieces = Pieces { handle, blocks, rng };
    pieces.run(ROUND);
    pieces
}

/// A store that writes nothing.
struct Nowhere;

impl Store for Nowhere {
    type Error = Infallible;

    fn commit(&self, delta: &Delta) -> Result<Lsn, Infallible> {
        black_box(delta);
        Ok(Lsn(0))
    }
}

/// Transactions that free four extents and allocate four.
struct Commits {
    allocator: Allocator,
    rng: Pcg64Mcg,
    held: Vec<Extent>,
}

impl Commits {
    fn run(&mut self, transactions: usize) {
        for _ in 0..transactions {
            let mut transaction = self.allocator.begin();
            for _ in 0..4 {
                let victim = self.rng.random_range(0..self.held.len());
                transaction.free(self.held.swap_remove(victim)).expect("ours");
            }
            for _ in 0..4 {
                self.held.push(transaction.allocate(8).expect("room"));
            }
            black_box(transaction.commit(&Nowhere)).expect("it says yes");
        }
    }
}

fn commits() -> Commits {
    let allocator = builder(1 << 20).build().expect("allocator");
    let mut handle = allocator.handle();
    let held = (0..1 << 16).map(|_| handle.allocate(8).expect("room")).collect();
    let mut commits = Commits { allocator, rng: rng(), held };
    commits.run(4 * ROUND);
    commits
}

#[library_benchmark]
#[bench::from_all_over(args = (), setup = batches, config = limit(662))]
fn batch(mut batches: Batches) -> Batches {
    batches.run();
    batches
}

#[library_benchmark]
#[bench::of_256(args = (), setup = fragmented, config = limit(3318))]
fn run(mut handle: Handle) -> Handle {
    runs_of(&mut handle, ROUND);
    handle
}

#[library_benchmark]
#[bench::in_16(args = (), setup = pieces, config = limit(21490))]
fn scattered(mut pieces: Pieces) -> Pieces {
    pieces.run(ROUND);
    pieces
}

#[library_benchmark]
#[bench::four_and_four(args = (), setup = commits, config = limit(9639))]
fn transaction(mut commits: Commits) -> Commits {
    commits.run(ROUND);
    commits
}

library_benchmark_group!(name = requests, benchmarks = [batch, run, scattered, transaction]);
main!(library_benchmark_groups = requests);
