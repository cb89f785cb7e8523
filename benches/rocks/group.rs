//! Threads that commit at the same time: RocksDB makes one write and one flush of them.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use freemap::rocks::{CreateOptions, Opened};
use rocksdb::SingleThreaded;
use rocksdb::statistics::Ticker;

use super::engine::{Engine, half_full};
use super::{Run, median, print, row, table};

const THREADS: [usize; 4] = [1, 4, 16, 64];

pub fn group(run: &Run) {
    let folder = run.folder();
    let engine = Engine::open(folder.path(), vec![]);
    let opened = engine.create(&half_full(), &CreateOptions::new());
    let mut rates = vec![vec![]; THREADS.len()];
    let mut sharing = vec![vec![]; THREADS.len()];
    for _ in 0..run.count(10) {
        for (at, threads) in THREADS.into_iter().enumerate() {
            let before = engine.ticker(Ticker::WalFileSynced);
            let (commits, rate) = committers(&opened, threads, Duration::from_millis(300));
            let syncs = engine.ticker(Ticker::WalFileSynced) - before;
            rates[at].push(rate);
            sharing[at].push(commits as f64 / syncs as f64);
        }
    }
    let mut table = table(&["threads", "commits/s", "x one thread", "commits per flush"]);
    let times: Vec<f64> = (rates.iter())
        .map(|rates_of| {
            median(rates_of.iter().zip(&rates[0]).map(|(many, one)| many / one).collect())
        })
        .collect();
    for (at, threads) in THREADS.into_iter().enumerate() {
        let cells: [&dyn std::fmt::Display; 4] = [
            &threads,
            &format!("{:.0}", median(rates[at].clone())),
            &format!("{:.2}", times[at]),
            &format!("{:.1}", median(sharing[at].clone())),
        ];
        row(&mut table, &cells);
    }
    print(table);
}

/// Threads that allocate a block and free the one before in each commit: all commits, and how many a
/// second while all are at work.
fn committers(opened: &Opened<SingleThreaded>, threads: usize, time: Duration) -> (u64, f64) {
    let (stop, count, barrier) =
        (AtomicBool::new(false), AtomicU64::new(0), Barrier::new(threads + 1));
    let rate = std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut handle = opened.allocator.handle();
                let mut held = None;
                barrier.wait();
                while !stop.load(Relaxed) {
                    let mut transaction = handle.begin();
                    let extent = transaction.allocate(1).expect("room");
                    if let Some(old) = held.replace(extent) {
                        transaction.free(old).expect("ours");
                    }
                    transaction.commit(&opened.freelist).expect("a healthy disk");
                    count.fetch_add(1, Relaxed);
                }
            });
        }
        barrier.wait();
        let started = Instant::now();
        std::thread::sleep(time);
        let rate = count.load(Relaxed) as f64 / started.elapsed().as_secs_f64();
        stop.store(true, Relaxed);
        rate
    });
    (count.into_inner(), rate)
}
