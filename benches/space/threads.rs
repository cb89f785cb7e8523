//! Several threads on one aged device, each with a handle and objects of its own: what a thread frees lies all
//! over the device, among what the others free. Requests in turn with frees, as in `fill`.

use std::sync::Barrier;
use std::time::Instant;

use freemap::{Extent, Handle};

use crate::fill::in_turn;
use crate::trace::{Freemap, Objects};
use crate::{median, print, table};

/// Blocks that a thread replaces in one round.
const ROUND: u64 = 4096;
const ROUNDS: usize = 21;

pub fn threads(blocks: u64) {
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    let counts: Vec<usize> =
        std::iter::successors(Some(1), |count| Some(2 * count).filter(|&n| n <= cores)).collect();
    let mut header = vec!["blocks".to_string(), "fill %".to_string()];
    header.extend(counts.iter().map(|count| format!("{count} threads, M/s")));
    header.push("to 1".to_string());
    let mut figures = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for per_mille in [100, 900, 990, 999] {
        for len in [1, 16] {
            let mut space = Freemap::new(blocks);
            let mut objects = Objects::new(blocks);
            objects.fill(&mut space, per_mille);
            objects.overwrite(&mut space, 20, per_mille);
            let mut rates = vec![];
            for &count in &counts {
                let new = || Vec::with_capacity(ROUND as usize);
                let worker =
                    |_| Worker { handle: space.allocator.handle(), old: Vec::new(), new: new() };
                let mut workers: Vec<Worker> = (0..count).map(worker).collect();
                let round = |_| rate(&mut objects, blocks, &mut workers, len);
                rates.push(median((0..ROUNDS).map(round).collect()));
            }
            let mut cells = vec![len.to_string(), format!("{:.1}", objects.fill_percent())];
            cells.extend(rates.iter().map(|rate| format!("{rate:.1}")));
            cells.push(format!("{:.1}", rates[rates.len() - 1] / rates[0]));
            figures.add_row(cells);
        }
    }
    print(figures);
    println!(
        "medians of {ROUNDS} rounds; frees and requests of all threads, one of each counted as one"
    );
}

/// A thread's own.
struct Worker {
    handle: Handle,
    old: Vec<Extent>,
    new: Vec<Extent>,
}

/// Millions of requests, with the frees before them, of all `workers` in a second.
fn rate(objects: &mut Objects, blocks: u64, workers: &mut [Worker], len: u64) -> f64 {
    let barrier = Barrier::new(workers.len());
    for worker in &mut *workers {
        objects.shed(ROUND, len, blocks, &mut worker.old);
    }
    let work = |Worker { handle, old, new }: &mut Worker| {
        barrier.wait();
        let started = Instant::now();
        in_turn(handle, len, old.drain(..), new);
        started.elapsed()
    };
    let longest = std::thread::scope(|scope| {
        let spawned: Vec<_> =
            workers.iter_mut().map(|worker| scope.spawn(|| work(worker))).collect();
        spawned.into_iter().map(|worker| worker.join().expect("a worker")).max()
    });
    workers.iter_mut().for_each(|worker| objects.store(&mut worker.new));
    let requests = workers.len() as u64 * ROUND / len;
    requests as f64 / longest.expect("a worker").as_secs_f64() / 1e6
}
