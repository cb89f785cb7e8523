//! What it costs to look: statistics of a device of 16 TiB, and a survey beside a busy thread. Prints
//! tables; `cargo bench --bench seeing -- stats|survey|beside` for one of them. Wants 2 GiB of memory.

#[path = "support/median.rs"]
mod median;

use std::hint::black_box;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use freemap::{Allocator, EvacuationRequest, Extent, Handle, Request};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use self::median::median;

/// 16 TiB of 4 KiB blocks.
const BLOCKS: u64 = 1 << 32;
/// 1 TiB of them: beyond any cache, and quick to fill.
const TIB: u64 = 1 << 28;
/// Blocks of one GiB.
const GIB: f64 = (1 << 18) as f64;

fn main() {
    let only = std::env::args().nth(1).filter(|arg| !arg.starts_with("--"));
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    if wanted("stats") {
        stats();
    }
    if wanted("survey") {
        speed();
    }
    if wanted("beside") {
        beside();
    }
}

/// Blocks that are allocated, as bitmaps have them: word by word from `word`.
fn bitmap(blocks: u64, mut word: impl FnMut() -> u64) -> Vec<u64> {
    (0..blocks / 64).map(|_| word()).collect()
}

fn named(name: &str, blocks: u64) -> Allocator {
    let mut rng = Pcg64Mcg::seed_from_u64(7);
    let build = |bits: Vec<u64>| Allocator::from_bitmap(blocks, &bits).expect("allocator");
    match name {
        "empty" => Allocator::new(blocks).expect("allocator"),
        // Free and used stretches of 1 to 511 blocks in turn, as after long use.
        "aged" => {
            let (mut left, mut used) = (0, false);
            build(bitmap(blocks, || {
                (0..64).fold(0, |word, bit| {
                    if left == 0 {
                        (left, used) = (rng.random_range(1..512), !used);
                    }
                    left -= 1;
                    word | u64::from(used) << bit
                })
            }))
        }
        "half, at random" => build(bitmap(blocks, || rng.next_u64())),
        "98 % full, at random" => build(bitmap(blocks, || {
            let full = (0..5).fold(0, |word, _| word | rng.next_u64());
            full | rng.next_u64() & rng.next_u64()
        })),
        _ => Allocator::builder(blocks).build_allocated().expect("allocator"),
    }
}

fn stats() {
    println!("\nstats() of 16 TiB in 4 KiB blocks (goal: less than 50 us)");
    for (name, shards) in
        [("empty", None), ("full", None), ("empty", Some(2048)), ("full", Some(2048))]
    {
        let builder = Allocator::builder(BLOCKS);
        let builder = match shards {
            Some(shards) => builder.shards(shards),
            None => builder,
        };
        let allocator = if name == "empty" { builder.build() } else { builder.build_allocated() };
        let allocator = allocator.expect("allocator");
        allocator.survey().finish();
        let time = |warm: bool| {
            let elsewhere = vec![1u64; 1 << 23];
            let rounds = (0..101).map(|_| {
                if !warm {
                    // 64 MiB that are not the allocator's.
                    black_box(elsewhere.iter().step_by(8).sum::<u64>());
                }
                let start = Instant::now();
                black_box(allocator.stats());
                start.elapsed().as_secs_f64() * 1e6
            });
            median(rounds.collect())
        };
        let (warm, cold) = (time(true), time(false));
        println!(
            "  {name:<6} {:>5} shards: {warm:6.2} us; caches cold {cold:6.2} us",
            allocator.shards()
        );
    }
}

fn speed() {
    println!("\nGiB of device per second: a survey alone, and a plan to empty regions of 4 MiB");
    for name in ["empty", "aged", "half, at random", "98 % full, at random", "full"] {
        let allocator = named(name, TIB);
        let per_second = |look: &dyn Fn()| {
            let rounds = (0..5).map(|_| {
                let start = Instant::now();
                look();
                start.elapsed().as_secs_f64()
            });
            TIB as f64 / GIB / median(rounds.collect())
        };
        let survey = per_second(&|| _ = black_box(allocator.survey().finish()));
        let request = EvacuationRequest::new(1024);
        let plan = per_second(&|| _ = black_box(allocator.plan_evacuation(&request).finish()));
        println!("  {name:<21} {survey:>10.0} {plan:>10.0}");
    }
}

/// What a busy thread does to go from one operation to the next.
type Work = fn(&mut Handle, &mut Vec<Extent>, &mut Pcg64Mcg);

/// A block at random freed, the first of what is left of an object, and another allocated.
#[expect(clippy::ptr_arg, reason = "all work has one type")]
fn single(handle: &mut Handle, held: &mut Vec<Extent>, rng: &mut Pcg64Mcg) {
    let victim = &mut held[rng.random_range(0..TIB as usize / 16)];
    handle.free(Extent::new(victim.start, 1)).expect("ours");
    *victim = match victim.len {
        1 => handle.allocate(1).expect("room"),
        _ => {
            handle.allocate(1).expect("room");
            Extent::new(victim.start + 1, victim.len - 1)
        }
    };
}

/// An object at random freed, and one of the same size allocated.
fn objects(handle: &mut Handle, held: &mut Vec<Extent>, rng: &mut Pcg64Mcg) {
    let victim = rng.random_range(0..held.len());
    handle.free(held[victim]).expect("ours");
    let extents = handle.allocate_with(&Request::new(held[victim].len).scattered()).expect("room");
    held[victim] = extents[0];
    held.extend_from_slice(&extents[1..]);
}

fn in_sequence(handle: &mut Handle, _: &mut Vec<Extent>, _: &mut Pcg64Mcg) {
    let extent = handle.allocate(1).expect("room");
    handle.free(black_box(extent)).expect("ours");
}

/// What the other thread does meanwhile.
const NOTHING: u8 = 0;
const BURN: u8 = 1;
const SURVEY: u8 = 2;
const END: u8 = 3;

/// Nanoseconds that this thread has had of a processor. Others on the machine take it away at times,
/// which is not what is measured. Linux alone says so.
fn processor_time() -> u64 {
    std::thread::yield_now(); // brings the figure up to date
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    stat.split(' ').next().and_then(|first| first.parse().ok()).expect("nanoseconds")
}

/// Processor time per operation of a busy thread: beside a thread that sleeps, one that computes and
/// touches no memory, and one that goes over the device again and again.
fn beside() {
    println!("\nA busy thread beside a survey on another thread (goal: at most 5 % slower)");
    let cases: [(&str, u64, Work); 3] = [
        ("allocate and free", 64, in_sequence),
        ("churn, 1 block", 8, single),
        ("churn, 1 to 64 blocks", 64, objects),
    ];
    for (name, longest, work) in cases {
        let allocator = Allocator::new(TIB).expect("allocator");
        let mut rng = Pcg64Mcg::seed_from_u64(9);
        let mut handle = allocator.handle();
        // Objects all over the device, one in five of which goes again.
        let mut held: Vec<Extent> = Vec::new();
        while allocator.free_blocks() > TIB / 50 {
            let request = Request::new(rng.random_range(1..=longest)).scattered();
            handle.allocate_into(&request, &mut held).expect("room");
        }
        held.retain(|&extent| rng.random_ratio(4, 5) || handle.free(extent).is_err());
        let (task, surveyed) = (AtomicU8::new(NOTHING), AtomicU64::new(0));
        let mut times = [const { Vec::new() }; 3];
        let mut speeds = Vec::new();
        std::thread::scope(|scope| {
            scope.spawn(|| other(&allocator, &task, &surveyed));
            let mut round = |now: u8| {
                task.store(now, Relaxed);
                std::thread::sleep(Duration::from_millis(2));
                let (start, processor) = (Instant::now(), processor_time());
                let (before, mut operations) = (surveyed.load(Relaxed), 0);
                while start.elapsed() < Duration::from_millis(100) {
                    (0..256).for_each(|_| work(&mut handle, &mut held, &mut rng));
                    operations += 256;
                }
                let blocks = surveyed.load(Relaxed) - before;
                let speed = blocks as f64 / GIB / start.elapsed().as_secs_f64();
                ((processor_time() - processor) as f64 / f64::from(operations), speed)
            };
            round(NOTHING);
            for _ in 0..41 {
                for now in [NOTHING, BURN, SURVEY] {
                    let (time, speed) = round(now);
                    times[usize::from(now)].push(time);
                    if now == SURVEY {
                        speeds.push(speed);
                    }
                }
            }
            task.store(END, Relaxed);
        });
        let ratio = |than: u8| {
            let pairs = times[usize::from(SURVEY)].iter().zip(&times[usize::from(than)]);
            100.0 * (median(pairs.map(|(survey, other)| survey / other).collect()) - 1.0)
        };
        let (to_nothing, to_burn) = (ratio(NOTHING), ratio(BURN));
        let [alone, ..] = times;
        println!(
            "  {name:<22}{:>8.1} ns alone; with a survey {to_nothing:+.1} %, and {to_burn:+.1} % \
             against a thread without memory; survey {:.0} GiB/s",
            median(alone),
            median(speeds),
        );
    }
}

fn other(allocator: &Allocator, task: &AtomicU8, surveyed: &AtomicU64) {
    let mut walk = allocator.survey();
    loop {
        match task.load(Relaxed) {
            NOTHING => std::thread::sleep(Duration::from_micros(500)),
            BURN => {
                black_box((0..20_000u64).fold(1, |sum, n| black_box(sum ^ n)));
            }
            SURVEY => {
                if !walk.step(1 << 15) {
                    walk = allocator.survey();
                }
                surveyed.fetch_add(1 << 15, Relaxed);
            }
            _ => return,
        }
    }
}
