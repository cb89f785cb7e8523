//! What durability costs, each figure beside the bare loop that it is compared with: restart, group
//! commit, the CPU of a transaction, the quarantine, and the bounds of the space-map log.
//!
//! `cargo bench --bench durability` prints everything; `-- restart`, `commit`, `cpu`, `quarantine`
//! or `bounds` one part. The log files go to the folder in `FREEMAP_BENCH_DIR`, by default a
//! temporary one, which should be on the device of interest.

#[path = "support/median.rs"]
mod median;

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, RwLock};
use std::time::{Duration, Instant};

use freemap::{
    Allocator, CreateOptions, Delta, Disk, Extent, Figures, FileDisk, Lsn, OpenOptions,
    SpaceMapLog, Store,
};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rayon::prelude::*;

use self::median::median;

const TIB: u64 = 1 << 28;

/// A part of the run by its name; it is given a folder for its files.
type Part = (&'static str, fn(&Path));

fn main() {
    let wanted: Vec<String> =
        std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let parts: [Part; 5] = [
        ("restart", restart),
        ("commit", group_commit),
        ("cpu", transaction_cpu),
        ("quarantine", quarantine),
        ("bounds", bounds),
    ];
    let temporary = tempfile::tempdir().expect("a temporary folder");
    let dir = std::env::var_os("FREEMAP_BENCH_DIR")
        .map_or_else(|| temporary.path().to_path_buf(), PathBuf::from);
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!("--- {name}");
            part(&dir);
        }
    }
}

/// A log of a TiB half of whose blocks are used at random, the worst case for anything that encodes
/// runs: reading it back from the page cache, against reading the same bytes and building the index.
fn restart(dir: &Path) {
    let path = dir.join("restart.log");
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let words: Vec<u64> = (0..TIB / 64).map(|_| rng.next_u64()).collect();
    let disk = FileDisk::open(&path).expect("a file");
    drop(
        SpaceMapLog::create_from_bitmap(disk, TIB, &words, &CreateOptions::new().overwrite())
            .expect("an empty file"),
    );
    let (mut loads, mut builds, mut reads, mut cores, mut totals) =
        (vec![], vec![], vec![], vec![], vec![]);
    let mut bytes = 0;
    for _ in 0..5 {
        let disk = FileDisk::open(&path).expect("a file");
        let started = Instant::now();
        let opened = SpaceMapLog::open(disk, &OpenOptions::new()).expect("intact");
        totals.push(started.elapsed().as_secs_f64() * 1e3);
        loads.push(opened.report.load_time.as_secs_f64() * 1e3);
        builds.push(opened.report.build_time.as_secs_f64() * 1e3);
        bytes = opened.report.read_bytes;
        drop(opened);
        reads.push(read_all(&path, bytes));
        let started = Instant::now();
        black_box(Allocator::from_bitmap(TIB, &words).expect("memory"));
        cores.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let (load, build, read, core) = (median(loads), median(builds), median(reads), median(cores));
    println!("1 TiB, 50 % at random: {:.1} MiB read", bytes as f64 / (1 << 20) as f64);
    println!(
        "load and check {load:.1} ms, build the index {build:.1} ms, together {:.1} ms",
        load + build
    );
    println!("with the two flushes of an opening {:.1} ms", median(totals));
    println!(
        "bare read of as many bytes {read:.1} ms, bare rebuild {core:.1} ms: {:.2} x their sum (target 2, and 150 ms)",
        (load + build) / (read + core)
    );
}

/// Milliseconds to read `bytes` bytes of the file with all threads.
fn read_all(path: &Path, bytes: u64) -> f64 {
    let file = File::open(path).expect("the file");
    let started = Instant::now();
    (0..bytes.div_ceil(1 << 20)).into_par_iter().for_each(|chunk| {
        let mut buffer = vec![0; ((bytes - (chunk << 20)) as usize).min(1 << 20)];
        file.read_exact_at(&mut buffer, chunk << 20).expect("long enough");
        black_box(&buffer);
    });
    started.elapsed().as_secs_f64() * 1e3
}

/// Commits per second of one committer and of 64, against a loop of write and fdatasync.
fn group_commit(dir: &Path) {
    const ROUND: Duration = Duration::from_millis(300);
    let created = SpaceMapLog::create(
        FileDisk::open(dir.join("commit.log")).expect("a file"),
        1 << 24,
        &CreateOptions::new().overwrite(),
    )
    .expect("an empty file");
    let (log, allocator) = (&created.log, &created.allocator);
    let (mut bare, mut one, mut many, mut tickets) = (vec![], vec![], vec![], vec![]);
    let file = append_file(&dir.join("bare.log"));
    for _ in 0..15 {
        bare.push(append_loop(&file, ROUND));
        one.push(committers(log, allocator, 1, ROUND));
        many.push(committers(log, allocator, 64, ROUND));
        tickets.push(in_flight(log, allocator, 64, ROUND));
    }
    let (bare, one, many, tickets) = (median(bare), median(one), median(many), median(tickets));
    let Figures { commits, syncs, .. } = log.figures();
    println!("append 4 KiB and fdatasync: {bare:.0}/s");
    println!("1 committer: {one:.0}/s, {:.2} x the time of the bare loop (target 1.3)", bare / one);
    println!("64 committing threads: {many:.0}/s, {:.1} x one committer (target 20)", many / one);
    println!(
        "64 in flight from one thread, with a flusher: {tickets:.0}/s, {:.1} x",
        tickets / one
    );
    println!("{:.1} commits per flush over all", commits as f64 / syncs as f64);
}

const APPEND_LEN: u64 = 64 << 20;

/// A file whose blocks have all been written, as the log's have.
fn append_file(path: &Path) -> File {
    let mut options = File::options();
    let file =
        options.read(true).write(true).create(true).truncate(true).open(path).expect("a file");
    let zeros = vec![0; 1 << 20];
    (0..APPEND_LEN >> 20).for_each(|mib| file.write_all_at(&zeros, mib << 20).expect("room"));
    file.sync_all().expect("a healthy disk");
    file
}

fn append_loop(file: &File, time: Duration) -> f64 {
    let page = [7; 4096];
    let started = Instant::now();
    let mut count = 0;
    while started.elapsed() < time {
        file.write_all_at(&page, count * 4096 % APPEND_LEN).expect("room");
        file.sync_data().expect("a healthy disk");
        count += 1;
    }
    count as f64 / started.elapsed().as_secs_f64()
}

fn committers(log: &SpaceMapLog, allocator: &Allocator, threads: usize, time: Duration) -> f64 {
    let (stop, count, barrier) =
        (AtomicBool::new(false), AtomicU64::new(0), Barrier::new(threads + 1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut handle = allocator.handle();
                let mut held = None;
                barrier.wait();
                while !stop.load(Relaxed) {
                    let mut transaction = handle.begin();
                    let extent = transaction.allocate(4).expect("room");
                    if let Some(old) = held.replace(extent) {
                        transaction.free(old).expect("ours");
                    }
                    transaction.commit(log).expect("a healthy disk");
                    count.fetch_add(1, Relaxed);
                }
                let mut transaction = handle.begin();
                held.into_iter().for_each(|old| transaction.free(old).expect("ours"));
                transaction.commit(log).expect("a healthy disk");
            });
        }
        barrier.wait();
        let started = Instant::now();
        std::thread::sleep(time);
        let rate = count.load(Relaxed) as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        rate
    })
}

/// One thread that keeps `count` transactions in flight.
fn in_flight(log: &SpaceMapLog, allocator: &Allocator, count: usize, time: Duration) -> f64 {
    let _flusher = log.start_flusher().expect("a thread");
    let mut pending = std::collections::VecDeque::new();
    let started = Instant::now();
    let mut done = 0;
    while started.elapsed() < time {
        while pending.len() < count {
            let mut transaction = allocator.begin();
            let extent = transaction.allocate(4).expect("room");
            pending.push_back((extent, log.submit(transaction.freeze()).expect("fits")));
        }
        let (extent, first) = pending.pop_front().expect("not empty");
        first.wait().expect("a healthy disk");
        done += 1;
        // What is free again goes with the next commit.
        let mut transaction = allocator.begin();
        transaction.free(extent).expect("ours");
        drop(log.submit(transaction.freeze()).expect("fits"));
    }
    let rate = f64::from(done) / started.elapsed().as_secs_f64();
    for (extent, pending) in pending {
        pending.wait().expect("a healthy disk");
        let mut transaction = allocator.begin();
        transaction.free(extent).expect("ours");
        transaction.commit(log).expect("a healthy disk");
    }
    rate
}

/// A store without any I/O at all.
struct Nowhere;

impl Store for Nowhere {
    type Error = io::Error;

    fn commit(&self, delta: &Delta) -> io::Result<Lsn> {
        black_box(delta);
        Ok(Lsn(0))
    }
}

/// A disk in memory that can be told to forget what is written: then only the CPU's work is left.
#[derive(Default)]
struct Forgetful {
    memory: Memory,
    forget: std::sync::Arc<AtomicBool>,
}

impl Disk for Forgetful {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        self.memory.grow(len)
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, bytes)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.forget.load(Relaxed) { Ok(()) } else { self.memory.write(offset, bytes) }
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn name(&self) -> String {
        "nowhere".to_string()
    }
}

/// A disk in memory.
#[derive(Default)]
struct Memory(RwLock<Vec<u8>>);

impl Disk for Memory {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.read().expect("no panic").len() as u64)
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        self.0.write().expect("no panic").resize(len as usize, 0);
        Ok(())
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let all = self.0.read().expect("no panic");
        bytes.copy_from_slice(&all[offset as usize..][..bytes.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut all = self.0.write().expect("no panic");
        all[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn name(&self) -> String {
        "memory".to_string()
    }
}

/// Four allocations and four frees: bare, in a transaction without a store, and through the whole
/// log, whose writes go nowhere.
fn transaction_cpu(_: &Path) {
    const ROUNDS: u64 = 200_000;
    let allocator = Allocator::new(1 << 24).expect("memory");
    let mut handle = allocator.handle();
    let disk = Forgetful::default();
    let forget = disk.forget.clone();
    let created = SpaceMapLog::create(disk, 1 << 24, &CreateOptions::new()).expect("empty");
    forget.store(true, Relaxed);
    let mut logged = created.allocator.handle();
    let (mut bare, mut nowhere, mut memory) = (vec![], vec![], vec![]);
    let nanoseconds = |started: Instant| started.elapsed().as_secs_f64() * 1e9 / ROUNDS as f64;
    for _ in 0..7 {
        let mut held: Vec<Extent> = (0..4).map(|_| handle.allocate(3).expect("room")).collect();
        let started = Instant::now();
        for _ in 0..ROUNDS {
            let new: [Extent; 4] = std::array::from_fn(|_| handle.allocate(3).expect("room"));
            held.iter().for_each(|&old| handle.free(old).expect("ours"));
            held.copy_from_slice(&new);
        }
        bare.push(nanoseconds(started));
        let started = Instant::now();
        for _ in 0..ROUNDS {
            let mut transaction = handle.begin();
            let new: [Extent; 4] = std::array::from_fn(|_| transaction.allocate(3).expect("room"));
            held.iter().for_each(|&old| transaction.free(old).expect("ours"));
            transaction.commit(&Nowhere).expect("nowhere");
            held.copy_from_slice(&new);
        }
        nowhere.push(nanoseconds(started));
        held.iter().for_each(|&old| handle.free(old).expect("ours"));

        let mut held: Vec<Extent> = Vec::new();
        let started = Instant::now();
        for _ in 0..ROUNDS {
            let mut transaction = logged.begin();
            let new: [Extent; 4] = std::array::from_fn(|_| transaction.allocate(3).expect("room"));
            held.drain(..).for_each(|old| transaction.free(old).expect("ours"));
            transaction.commit(&created.log).expect("memory");
            held.extend(new);
        }
        memory.push(nanoseconds(started));
        let mut transaction = logged.begin();
        held.drain(..).for_each(|old| transaction.free(old).expect("ours"));
        transaction.commit(&created.log).expect("memory");
    }
    let (bare, nowhere, memory) = (median(bare), median(nowhere), median(memory));
    println!("4 allocations and 4 frees, bare: {bare:.0} ns");
    println!("in a transaction: {nowhere:.0} ns, {:.0} ns more", nowhere - bare);
    println!(
        "through the log, without its writes: {memory:.0} ns, {:.0} ns more (target 1000)",
        memory - bare
    );
}

/// What a free costs on its way through the quarantine, and a guard; crossbeam-epoch's beside it.
fn quarantine(_: &Path) {
    const BATCH: usize = 64;
    const ROUNDS: usize = 20_000;
    let allocator = Allocator::new(1 << 24).expect("memory");
    let mut handle = allocator.handle();
    let per = |started: Instant, count: usize| started.elapsed().as_secs_f64() * 1e9 / count as f64;
    let (mut direct, mut recorded, mut quarantined) = (vec![], vec![], vec![]);
    for _ in 0..7 {
        for (which, list) in [(0, &mut direct), (1, &mut recorded), (2, &mut quarantined)] {
            let mut total = Duration::ZERO;
            for _ in 0..ROUNDS / 10 {
                let held: Vec<Extent> =
                    (0..BATCH).map(|_| handle.allocate(1).expect("room")).collect();
                // Every second one, so that neighbours do not become one extent.
                let (freed, rest): (Vec<_>, Vec<_>) =
                    held.into_iter().partition(|e| e.start % 2 == 0);
                let mut transaction = allocator.begin();
                if which == 2 {
                    freed.iter().for_each(|&old| transaction.free(old).expect("ours"));
                }
                let frozen = transaction.freeze();
                let started = Instant::now();
                match which {
                    0 => freed.iter().for_each(|&old| handle.free(old).expect("ours")),
                    1 => {}
                    _ => frozen.committed(),
                }
                total += started.elapsed();
                if which == 1 {
                    freed.iter().for_each(|&old| handle.free(old).expect("ours"));
                }
                rest.into_iter().for_each(|old| handle.free(old).expect("ours"));
            }
            list.push(total.as_secs_f64() * 1e9 / (ROUNDS / 10 * BATCH / 2) as f64);
        }
        allocator.collect();
    }
    let (direct, clock, quarantined) = (median(direct), median(recorded), median(quarantined));
    println!(
        "free, 32 at a time: direct {:.1} ns, through the quarantine {:.1} ns: {:.1} ns more (target 15)",
        direct - clock,
        quarantined - clock,
        quarantined - direct
    );

    // Commits of one block each, and an allocation in its place; with a guard for each, and for 64 at a time.
    let names = ["without guards", "under a guard each", "under a guard for 64"];
    let mut times = [vec![], vec![], vec![]];
    let mut block = handle.allocate(1).expect("room");
    for _ in 0..7 {
        for (kind, times) in times.iter_mut().enumerate() {
            let mut guard = None;
            let started = Instant::now();
            for round in 0..ROUNDS {
                if kind == 1 || kind == 2 && round % 64 == 0 {
                    guard = Some(allocator.pin());
                }
                let mut transaction = handle.begin();
                transaction.free(block).expect("ours");
                transaction.freeze().committed();
                block = handle.allocate(1).expect("room");
                if kind == 1 {
                    guard = None;
                }
            }
            times.push(per(started, ROUNDS));
            drop(guard);
            allocator.collect();
        }
    }
    for (name, times) in names.into_iter().zip(times) {
        println!("a commit of one block, {name}: {:.0} ns", median(times));
    }

    const PINS: usize = 5_000_000;
    let (mut ours, mut owned, mut theirs) = (vec![], vec![], vec![]);
    let collector = crossbeam_epoch::Collector::new();
    let local = collector.register();
    for _ in 0..7 {
        let started = Instant::now();
        (0..PINS).for_each(|_| drop(black_box(allocator.pin())));
        ours.push(per(started, PINS));
        let started = Instant::now();
        (0..PINS).for_each(|_| drop(black_box(allocator.pin_owned())));
        owned.push(per(started, PINS));
        let started = Instant::now();
        (0..PINS).for_each(|_| drop(black_box(local.pin())));
        theirs.push(per(started, PINS));
    }
    println!(
        "pin and unpin: {:.1} ns (target 25), owned {:.1} ns; crossbeam-epoch, bound to its thread: {:.1} ns",
        median(ours),
        median(owned),
        median(theirs)
    );
}

/// How blocks are chosen.
#[derive(Clone, Copy)]
enum Choice {
    /// Any block: allocated if it is free, freed if it is not.
    Uniform,
    /// Allocations one after another, frees mostly of a tenth of the device.
    Skewed,
}

/// The table of the log's bounds: ten million runs each, onto memory, then a replay.
fn bounds(_: &Path) {
    println!(
        "device, L, batch                           | log B/op | image B/op | amplification (bound) | max live / L | max image burst | replay"
    );
    bound("1 TiB, 144 MiB, 4096, uniform", TIB, 144 << 20, 4096, 4096, Choice::Uniform, 10_000_000);
    bound("1 TiB, 144 MiB, 64, uniform", TIB, 144 << 20, 64, 4096, Choice::Uniform, 10_000_000);
    bound("1 TiB, 16 MiB, 1024, uniform", TIB, 16 << 20, 1024, 4096, Choice::Uniform, 10_000_000);
    bound(
        "1 TiB, 144 MiB, 4096, seq + skewed",
        TIB,
        144 << 20,
        4096,
        4096,
        Choice::Skewed,
        10_000_000,
    );
    bound(
        "1 TiB, 144 MiB, 1, uniform, 512 B sectors",
        TIB,
        144 << 20,
        1,
        512,
        Choice::Uniform,
        1_000_000,
    );
}

fn bound(
    name: &str,
    blocks: u64,
    limit: u64,
    batch: u64,
    sector: u32,
    choice: Choice,
    operations: u64,
) {
    let disk = std::sync::Arc::new(Memory::default());
    let options = CreateOptions::new().limit(limit).sector(sector).sparse();
    let created = SpaceMapLog::create(disk.clone(), blocks, &options).expect("empty");
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let mut used = vec![0u64; (blocks / 64) as usize];
    let mut next = 0;
    for _ in 0..operations / batch {
        let mut transaction = created.allocator.begin();
        let mut changed = std::collections::HashSet::new();
        for number in 0..batch {
            let block = match choice {
                Choice::Uniform => rng.random_range(0..blocks),
                Choice::Skewed if number % 2 == 0 => {
                    next = (next + 1) % blocks;
                    next
                }
                // Nine of ten from the tenth that was allocated last.
                Choice::Skewed => {
                    let back = if rng.random_ratio(9, 10) { next / 10 } else { next };
                    next - rng.random_range(0..=back)
                }
            };
            if !changed.insert(block) {
                continue;
            }
            let (word, bit) = ((block / 64) as usize, 1 << (block % 64));
            let extent = Extent::new(block, 1);
            if used[word] & bit != 0 {
                transaction.free(extent).expect("committed");
            } else if transaction.mark_allocated(extent).is_err() {
                continue; // still in the quarantine
            }
            used[word] ^= bit;
        }
        transaction.commit(&created.log).expect("memory");
    }
    let figures = created.log.figures();
    drop(created);
    let started = Instant::now();
    let opened = SpaceMapLog::open(disk, &OpenOptions::new()).expect("intact");
    let replay = started.elapsed();
    let ranges = blocks.div_ceil(1 << 15);
    let per = |bytes: u64| bytes as f64 / operations as f64;
    println!(
        "{name:<42} | {:>8.1} | {:>10.1} | {:>6.2} ({:.2}), with directory {:.2} | {:.2} | {} KiB | {:.0} ms for {:.1} MiB and {} transactions",
        per(figures.log_bytes),
        per(figures.image_bytes),
        (figures.log_bytes + figures.image_bytes) as f64 / figures.log_bytes as f64,
        1.0 + 2.0 * (4608 * ranges) as f64 / limit as f64,
        (figures.log_bytes + figures.image_bytes + figures.directory_bytes) as f64
            / figures.log_bytes as f64,
        figures.max_live as f64 / limit as f64,
        figures.max_image_burst >> 10,
        replay.as_secs_f64() * 1e3,
        opened.report.log_bytes as f64 / (1 << 20) as f64,
        opened.report.replayed,
    );
}
