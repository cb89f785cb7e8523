//! How fast, and how far from the floor: what one compare-exchange with one find-first-one costs on
//! this machine. `cargo bench` prints criterion's figures and, after each group, its ratio to the
//! floor.

use std::hint::black_box;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use freemap::{Allocator, Extent, Handle, Request};
use rand::seq::SliceRandom;
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const BLOCKS: u64 = 1 << 24;
const TIB: u64 = 1 << 28;

/// Nanoseconds per operation of the best of seven rounds.
fn best(mut round: impl FnMut() -> (Duration, u64)) -> f64 {
    let rounds = (0..7).map(|_| {
        let (time, operations) = round();
        time.as_secs_f64() * 1e9 / operations as f64
    });
    rounds.fold(f64::INFINITY, f64::min)
}

fn rng() -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(7)
}

/// The floor's map: one bit per block, nothing above it.
struct Floor(Vec<AtomicU64>);

impl Floor {
    fn new() -> Self {
        Self((0..BLOCKS / 64).map(|_| AtomicU64::new(u64::MAX)).collect())
    }

    fn take(&self, cursor: &mut usize) -> u64 {
        loop {
            let word = &self.0[*cursor % self.0.len()];
            let free = word.load(SeqCst);
            if free == 0 {
                *cursor += 1;
                continue;
            }
            let bit = free.trailing_zeros();
            if word.compare_exchange(free, free & (free - 1), SeqCst, SeqCst).is_ok() {
                return (*cursor % self.0.len()) as u64 * 64 + u64::from(bit);
            }
        }
    }

    fn give(&self, block: u64) {
        self.0[(block / 64) as usize].fetch_or(1 << (block % 64), SeqCst);
    }
}

/// Floor of one allocate and one free in bulk, and of a churn pair.
struct Floors {
    allocate: f64,
    free: f64,
    pair: f64,
}

fn floors() -> Floors {
    let floor = Floor::new();
    let allocate = best(|| {
        floor.0.iter().for_each(|word| word.store(u64::MAX, SeqCst));
        let mut cursor = 0;
        let start = Instant::now();
        for _ in 0..BLOCKS {
            black_box(floor.take(&mut cursor));
        }
        (start.elapsed(), BLOCKS)
    });
    let free = best(|| {
        floor.0.iter().for_each(|word| word.store(0, SeqCst));
        let start = Instant::now();
        for block in 0..BLOCKS {
            floor.give(black_box(block));
        }
        (start.elapsed(), BLOCKS)
    });
    // A fetch_or at a random bit, then the next compare-exchange in order.
    floor.0.iter().for_each(|word| word.store(u64::MAX, SeqCst));
    let mut blocks: Vec<u64> = (0..BLOCKS).collect();
    blocks.shuffle(&mut rng());
    let pair = best(|| {
        let mut cursor = 0;
        let start = Instant::now();
        for &block in &blocks[..1 << 21] {
            floor.give(block);
            black_box(floor.take(&mut cursor));
        }
        (start.elapsed(), 1 << 21)
    });
    Floors { allocate, free, pair }
}

fn full(handle: &mut Handle, count: u64) -> Vec<u64> {
    (0..count).map(|_| handle.allocate(1).expect("room").start).collect()
}

fn bulk_allocate() -> f64 {
    let allocator = Allocator::new(BLOCKS).expect("allocator");
    let mut handle = allocator.handle();
    best(|| {
        let start = Instant::now();
        for _ in 0..BLOCKS {
            black_box(handle.allocate(1).expect("room"));
        }
        let time = start.elapsed();
        allocator.free(Extent::new(0, BLOCKS)).expect("all of it");
        (time, BLOCKS)
    })
}

fn bulk_free() -> f64 {
    let allocator = Allocator::new(BLOCKS).expect("allocator");
    let mut handle = allocator.handle();
    best(|| {
        allocator.mark_allocated(Extent::new(0, BLOCKS)).expect("all of it");
        let start = Instant::now();
        for block in 0..BLOCKS {
            handle.free(Extent::new(black_box(block), 1)).expect("ours");
        }
        (start.elapsed(), BLOCKS)
    })
}

/// The same in batches, in order: a block's part of an allocation and of a free.
fn batches() -> (f64, f64) {
    let allocator = Allocator::new(BLOCKS).expect("allocator");
    let mut handle = allocator.handle();
    let mut extents = vec![Extent::new(0, 0); BLOCKS as usize];
    let allocate = best(|| {
        let start = Instant::now();
        for batch in extents.chunks_mut(256) {
            handle.allocate_many(1, batch).expect("room");
        }
        let time = start.elapsed();
        allocator.free(Extent::new(0, BLOCKS)).expect("all of it");
        (time, BLOCKS)
    });
    extents.sort_unstable();
    let free = best(|| {
        allocator.mark_allocated(Extent::new(0, BLOCKS)).expect("all of it");
        let start = Instant::now();
        for batch in extents.chunks_mut(256) {
            handle.free_many(batch).expect("ours");
        }
        (start.elapsed(), BLOCKS)
    });
    (allocate, free)
}

/// Free one, allocate one; victims in order from a shuffled table.
fn churn(per_mille: u64) -> f64 {
    let allocator = Allocator::new(BLOCKS).expect("allocator");
    let mut handle = allocator.handle();
    let mut held = full(&mut handle, BLOCKS);
    held.shuffle(&mut rng());
    for block in held.split_off((BLOCKS * per_mille / 1000) as usize) {
        handle.free(Extent::new(block, 1)).expect("ours");
    }
    let mut next = 0;
    best(|| {
        let start = Instant::now();
        for _ in 0..1 << 21 {
            let place = &mut held[next];
            handle.free(Extent::new(*place, 1)).expect("ours");
            *place = handle.allocate(1).expect("room").start;
            next = (next + 1) % (BLOCKS * per_mille / 1000) as usize;
        }
        (start.elapsed(), 1 << 21)
    })
}

/// Bulk allocation on `threads` threads, a handle and an equal part of a TiB each: operations per
/// second.
fn threads(threads: usize) -> f64 {
    const EACH: u64 = 1 << 22;
    let allocator = Allocator::builder(TIB).shards(64).build().expect("allocator");
    let seconds = best(|| {
        let barrier = Barrier::new(threads);
        let longest = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    let (mut handle, barrier) = (allocator.handle(), &barrier);
                    scope.spawn(move || {
                        let mut blocks = Vec::with_capacity(EACH as usize);
                        barrier.wait();
                        let start = Instant::now();
                        for _ in 0..EACH {
                            blocks.push(handle.allocate(1).expect("room").start);
                        }
                        for block in blocks {
                            handle.free(Extent::new(block, 1)).expect("ours");
                        }
                        start.elapsed()
                    })
                })
                .collect();
            let times = workers.into_iter().map(|worker| worker.join().expect("worker"));
            times.max().expect("at least one")
        });
        (longest, 2 * EACH * threads as u64)
    });
    1e9 / seconds
}

/// A bitmap of a TiB with every word from `word`.
fn tib(mut word: impl FnMut() -> u64) -> Vec<u64> {
    (0..TIB / 64).map(|_| word()).collect()
}

fn table(_: &mut Criterion) {
    let floors = floors();
    let line = |what: &str, ns: f64, floor: f64, target: f64| {
        println!("{what:<34} {ns:>9.2} ns   {:>5.2} x floor   (target {target})", ns / floor);
    };
    println!(
        "floor: allocate {:.2} ns, free {:.2} ns, churn pair {:.2} ns",
        floors.allocate, floors.free, floors.pair
    );
    line("allocate one block, bulk", bulk_allocate(), floors.allocate, 1.5);
    line("free one block, bulk", bulk_free(), floors.free, 2.5);
    let (allocate_many, free_many) = batches();
    line("allocate, 256 blocks to a call", allocate_many, floors.allocate, 0.25);
    line("free, 256 blocks to a call", free_many, floors.free, 0.5);
    for per_mille in [500, 900, 990, 999] {
        let name = format!("churn at {:.1} % fill", per_mille as f64 / 10.0);
        line(&name, churn(per_mille), floors.pair, 2.5);
    }
    let (one, two) = (threads(1), threads(2));
    println!(
        "bulk, 1 thread {:.1} M/s, 2 threads {:.1} M/s: {:.2} x",
        one / 1e6,
        two / 1e6,
        two / one
    );
    hopeless();
    restart();
}

fn hopeless() {
    let every_second = tib(|| 0xAAAA_AAAA_AAAA_AAAA);
    let allocator = Allocator::from_bitmap(TIB, &every_second).expect("allocator");
    for len in [256, 2] {
        let mut handle = allocator.handle();
        for time in ["first", "second"] {
            let start = Instant::now();
            handle.allocate(len).expect_err("no such run");
            println!(
                "1 TiB, every second block free: {len} blocks refused the {time} time in {:?}",
                start.elapsed()
            );
        }
    }
    let memory = allocator.memory();
    println!(
        "memory for 1 TiB: bitmap {} bytes, search structures {} bytes",
        memory.bitmap, memory.search
    );
}

fn restart() {
    let mut rng = rng();
    let random = tib(|| rng.next_u64());
    let nanoseconds = best(|| {
        let start = Instant::now();
        let allocator = Allocator::from_bitmap(TIB, &random).expect("allocator");
        let time = start.elapsed();
        black_box(&allocator);
        (time, 1)
    });
    println!("restart of 1 TiB from a random bitmap: {:.1} ms", nanoseconds / 1e6);
}

fn criterion_groups(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("allocate and free");
    group.throughput(Throughput::Elements(1));
    for len in [1, 7, 64, 256, 4096] {
        let allocator = Allocator::new(BLOCKS).expect("allocator");
        let mut handle = allocator.handle();
        group.bench_function(BenchmarkId::new("contiguous", len), |bencher| {
            bencher.iter(|| {
                let extent = handle.allocate(black_box(len)).expect("room");
                handle.free(extent).expect("ours");
            });
        });
    }
    group.finish();

    let mut group = criterion.benchmark_group("mixed sizes at 90 %");
    let allocator = Allocator::new(BLOCKS).expect("allocator");
    let mut handle = allocator.handle();
    let mut rng = rng();
    let mut held = Vec::new();
    while allocator.free_blocks() > BLOCKS / 10 {
        let request = Request::new(rng.random_range(1..=128)).scattered();
        handle.allocate_into(&request, &mut held).expect("room");
    }
    group.bench_function("1 to 128 blocks", |bencher| {
        bencher.iter(|| {
            let victim = rng.random_range(0..held.len());
            handle.free(held[victim]).expect("ours");
            let request = Request::new(held[victim].len).scattered();
            let extents = handle.allocate_with(&request).expect("as much as was freed");
            held[victim] = extents[0];
            held.extend_from_slice(&extents[1..]);
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("fragmented");
    let mut bits = tib(|| rng.next_u64() | rng.next_u64());
    for place in (0..bits.len() - 8).step_by(4096) {
        bits[place..place + 5].fill(0);
    }
    let allocator = Allocator::from_bitmap(TIB, &bits).expect("allocator");
    let mut handle = allocator.handle();
    group.bench_function("contiguous 1 MiB", |bencher| {
        bencher.iter(|| {
            let extent = handle.allocate(256).expect("a run in every 4096 words");
            handle.free(extent).expect("ours");
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = table, criterion_groups
}
criterion_main!(benches);
