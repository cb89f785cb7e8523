//! A small object store on a real file, to see freemap at work: threads put, overwrite, read back
//! and delete objects at a target fill, verify every byte they read, and print what it cost. Every
//! change is a transaction that survives a crash: `logs` and `rocks` say why.
//!
//! ```text
//! cargo run --release --example engine
//! cargo run --release --example engine -- --threads 4 --fill 97 --free-list tests/data/aged-xfs.free.csv
//! cargo run --release --example engine -- --dir DIR; kill it; the same again with --reopen
//! cargo run --release --example engine -- --defrag --discard --resize
//! cargo run --release --example engine -- --store piggyback
//! cargo run --release --features rocksdb --example engine -- --store rocksdb
//! ```
//!
//! - this file: options, one run; `start`: what a new store begins with;
//! - `worker`: what the threads do; `report`: what it came to;
//! - `defrag`, `discard`, `resize`: threads that look after the space meanwhile, run by `service`; `mover`:
//!   how objects are moved out of the way;
//! - `store`: objects and readers, transactions, checks; `object`: the bytes of an object;
//! - `durable`: what makes transactions durable and recovers them, as the store sees it;
//! - `logs`: one way, a space-map log beside `metadata`, the log of objects; `record`: its bytes;
//! - `absorbed`: one log, of which the space-map log is a checkpoint; `rocks`: the third way, a RocksDB database; `flush`: how threads share flushes there;
//! - `events`: what a test that kills the process wants to know.

mod absorbed;
mod defrag;
mod discard;
mod durable;
mod events;
#[cfg(feature = "rocksdb")]
mod flush;
mod logs;
mod metadata;
mod mover;
mod object;
mod record;
mod report;
mod resize;
#[cfg(feature = "rocksdb")]
mod rocks;
mod service;
mod start;
mod store;
mod worker;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use durable::Kind;
use events::Events;
use report::{Report, Run};
use service::Services;
use store::Store;
use worker::{Measured, Worker};

/// What can go wrong outside the store itself.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A small object store on freemap.
#[derive(Parser, Debug)]
struct Options {
    /// Where the store's files live, and stay; a temporary folder by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// What makes changes durable; RocksDB if built with the feature `rocksdb`.
    #[arg(long, value_enum, default_value_t = Kind::Log)]
    store: Kind,
    /// Recover the store in --dir and verify all of it, then go on with it.
    #[arg(long, requires = "dir", conflicts_with_all = ["ext4", "free_list", "print_free"])]
    reopen: bool,
    /// Worker threads. They share flushes, so more of them commit more.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// How long to run; 0 for not at all.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Percent of the blocks to keep in use.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u8).range(1..=99))]
    fill: u8,
    /// Seed of the random numbers.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print the result as one JSON object.
    #[arg(long)]
    json: bool,
    /// Blocks of 4 KiB of an empty device, 65536 by default. For --resize, the length to go back to,
    /// also of a store that is reopened.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=freemap::MAX_BLOCKS))]
    blocks: Option<u64>,
    /// Keep a free run of so many blocks at hand, by moving objects.
    #[arg(long, value_name = "BLOCKS", num_args = 0..=1, default_missing_value = "1024")]
    defrag: Option<u64>,
    /// Punch holes into the data file where blocks were freed.
    #[arg(long)]
    discard: bool,
    /// Make the device longer by a quarter and shorter again, about once a second.
    #[arg(long)]
    resize: bool,
    /// Begin with the free space of this ext4 image.
    #[arg(long, conflicts_with = "free_list")]
    ext4: Option<PathBuf>,
    /// Begin with the free space in this file: a line `start,len` per free extent.
    #[arg(long)]
    free_list: Option<PathBuf>,
    /// Print the free extents that the run would begin with as `start,len`, and stop.
    #[arg(long)]
    print_free: bool,
    /// Append to this file what was found, begun and acknowledged, line by line.
    #[arg(long, value_name = "FILE")]
    acknowledge: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("engine: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs the store; whether everything that was read back and counted was right.
fn run(options: &Options) -> Result<bool, Failure> {
    let temporary;
    let dir = match &options.dir {
        Some(dir) => dir.as_path(),
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path()
        }
    };
    if options.print_free {
        for extent in start::load(options)?.allocator.free_extents() {
            println!("{},{}", extent.start, extent.len);
        }
        return Ok(true);
    }
    let (store, mut run) = begin(options, dir)?;
    if run.is_right() {
        store.tell_ready()?;
        work(options, &store, &mut run)?;
    }
    let report = Report::new(options, &store, run);
    if options.json {
        println!("{}", report.json());
    } else {
        println!("{}", report.table());
    }
    Ok(report.verified())
}

/// Creates or recovers the store; a recovered one is verified.
fn begin(options: &Options, dir: &Path) -> Result<(Store, Run), Failure> {
    let events = options.acknowledge.as_deref().map(Events::create).transpose()?;
    if !options.reopen {
        let start = start::load(options)?;
        let store = Store::create(options.store, dir, &start, events)?;
        let run = Run::new(start.origin, &store);
        return Ok((store, run));
    }
    let (store, recovery) = Store::open(options.store, dir, events)?;
    let mut run = Run::new(format!("the store in {}", dir.display()), &store);
    run.recovery = Some(recovery);
    verify(&store, &mut run)?;
    Ok((store, run))
}

/// Lets the workers work, then verifies everything and leaves the store as it should be left.
fn work(options: &Options, store: &Store, run: &mut Run) -> Result<(), Failure> {
    if options.seconds == 0 {
        return store.close();
    }
    let before = store.figures();
    let stop = AtomicBool::new(false);
    let operations = AtomicU64::new(0);
    let limit = Duration::from_secs(options.seconds);
    let started = Instant::now();
    let workers = (0..u64::from(options.threads))
        .map(|number| Worker::new(number, options, store))
        .collect::<Result<Vec<_>, Failure>>()?;
    let (stop, operations) = (&stop, &operations);
    (run.workers, run.served) = std::thread::scope(|scope| {
        let services = Services::start(scope, options, store, stop);
        let workers: Vec<_> = workers
            .into_iter()
            .map(|worker| scope.spawn(move || worker.run(stop, operations)))
            .collect();
        show_progress(limit, options.json, operations, || {
            services.any_finished() || workers.iter().any(|worker| worker.is_finished())
        });
        stop.store(true, Ordering::Relaxed);
        let measured = workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| "a worker panicked".into()).flatten())
            .collect::<Result<Vec<Measured>, Failure>>();
        let served = services.join();
        Ok::<_, Failure>((measured?, served?))
    })?;
    run.elapsed = started.elapsed();
    run.figures = store.figures().since(&before);
    verify(store, run)?;
    store.close()
}

/// Reads everything back and checks the bookkeeping.
fn verify(store: &Store, run: &mut Run) -> Result<(), Failure> {
    run.corrupt_blocks += store.read_all()?;
    run.faults.extend(store.faults());
    Ok(())
}

/// Waits until `limit` is over or `over` says so, showing how far it is.
fn show_progress(limit: Duration, quiet: bool, operations: &AtomicU64, over: impl Fn() -> bool) {
    let bar =
        if quiet { ProgressBar::hidden() } else { ProgressBar::new(limit.as_millis() as u64) };
    if let Ok(style) = ProgressStyle::with_template("{elapsed} {wide_bar} {msg}") {
        bar.set_style(style);
    }
    let started = Instant::now();
    while started.elapsed() < limit && !over() {
        std::thread::sleep(Duration::from_millis(50).min(limit));
        bar.set_position(started.elapsed().as_millis() as u64);
        bar.set_message(format!("{} operations", operations.load(Ordering::Relaxed)));
    }
    bar.finish_and_clear();
}
