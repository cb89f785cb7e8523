//! A small object store on a real file, to see the allocator at work: threads put, overwrite, read
//! back and delete objects at a target fill, verify every byte they read, and print what it cost.
//!
//! ```text
//! cargo run --release --example engine
//! cargo run --release --example engine -- --threads 4 --fill 97 --free-list tests/data/aged-xfs.free.csv
//! ```

mod report;
mod start;
mod worker;

use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};

use report::Report;
use worker::Worker;

/// What can go wrong outside the store itself.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A small object store on freemap.
#[derive(Parser, Debug)]
struct Options {
    /// Where the store's file lives; a temporary folder by default.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Worker threads.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// How long to run.
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
    /// Blocks of 4 KiB of an empty device.
    #[arg(long, default_value_t = 1 << 18)]
    blocks: u64,
    /// Begin with the free space of this ext4 image.
    #[arg(long, conflicts_with = "free_list")]
    ext4: Option<PathBuf>,
    /// Begin with the free space in this file: a line `start,len` per free extent.
    #[arg(long)]
    free_list: Option<PathBuf>,
    /// Print the free extents that the run would begin with as `start,len`, and stop.
    #[arg(long)]
    print_free: bool,
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
    let start = start::load(options)?;
    if options.print_free {
        for extent in start.allocator.free_extents() {
            println!("{},{}", extent.start, extent.len);
        }
        return Ok(true);
    }
    let temporary;
    let dir = match &options.dir {
        Some(dir) => dir.as_path(),
        None => {
            temporary = tempfile::tempdir()?;
            temporary.path()
        }
    };
    let path = dir.join("objects.freemap-engine");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    file.set_len(start.allocator.blocks() * u64::from(start.allocator.block_size()))?;

    let stop = AtomicBool::new(false);
    let operations = AtomicU64::new(0);
    let limit = Duration::from_secs(options.seconds);
    let started = Instant::now();
    let workers = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..u64::from(options.threads))
            .map(|id| {
                let worker = Worker::new(id, options, &start, &file);
                let (stop, operations) = (&stop, &operations);
                scope.spawn(move || worker.run(stop, operations))
            })
            .collect();
        show_progress(limit, options.json, &operations, || {
            workers.iter().any(|worker| worker.is_finished())
        });
        stop.store(true, Ordering::Relaxed);
        workers
            .into_iter()
            .map(|worker| worker.join().map_err(|_| "a worker panicked".into()).flatten())
            .collect::<Result<Vec<_>, Failure>>()
    });
    let elapsed = started.elapsed();
    let removed = std::fs::remove_file(&path);
    let report = Report::new(options, &start, workers?, elapsed);
    removed?;
    if options.json {
        println!("{}", report.json());
    } else {
        println!("{}", report.table());
    }
    Ok(report.verified())
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
