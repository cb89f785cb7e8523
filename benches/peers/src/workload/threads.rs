//! Several threads on one device.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;

use super::churn::round_pairs;
use super::race::{Lap, race, rate};
use super::{size, threads};
use crate::clock::{Reading, within_unless};
use crate::compare::{self, Round, Together, Workload};
use crate::device::{BlockMap, Devices, Fill};
use crate::report::section::{Column, Section};
use crate::settings::Settings;
use crate::subject::{Shared, Subject, held_blocks};
use crate::victims::Victims;

/// Blocks that one thread hands to the next at a time.
const BATCH: usize = 256;
/// Batches on their way between two threads.
const RING: usize = 8;

/// What the threads do.
#[derive(Clone, Copy)]
enum Pattern {
    /// Each allocates many blocks and frees them in order, on a device that is free.
    Bulk,
    /// Each frees its own victims, which lie at random over the whole device, and allocates others.
    Churn,
    /// Each allocates blocks and hands them to the next one, which frees them.
    Remote,
}

/// A round of as many threads as there are handles: pairs per second.
type Rate<S> = Box<dyn FnMut(&mut [S]) -> Reading>;

struct Threads<F> {
    pattern: Pattern,
    fill: Fill,
    blocks: u64,
    threads: Vec<usize>,
    round: Duration,
    /// Pairs of one thread in a round.
    pairs: usize,
    devices: Devices<F>,
}

impl<F: Fn(u64) -> BlockMap> Workload for Threads<F> {
    fn columns(&self) -> Vec<Column> {
        self.threads.iter().map(|&count| Column::rate(threads(count))).collect()
    }

    fn blocks(&self) -> u64 {
        self.blocks
    }

    fn free_runs(&self, blocks: u64) -> u64 {
        self.fill.free_runs(blocks)
    }

    fn in_batches(&self) -> bool {
        true
    }
}

impl<F: Fn(u64) -> BlockMap> Together for Threads<F> {
    fn prepare<S: Shared>(&self, blocks: u64) -> Round {
        let most = self.threads.iter().copied().max().unwrap_or(1);
        let (counts, round) = (self.threads.clone(), self.round);
        let pairs = round_pairs(self.pairs, blocks / most as u64);
        let device = self.devices.of(blocks);
        let (subject, held) = S::with_state(&device.map, &device.victims);
        let mut handles = subject.handles(most);
        let mut run: Rate<S> = match self.pattern {
            Pattern::Bulk => {
                let mut tables: Vec<Vec<S::Held>> =
                    handles.iter_mut().map(|subject| table(subject, pairs)).collect();
                Box::new(move |handles| bulk(handles, &mut tables, round))
            }
            Pattern::Churn => {
                let mut victims = Victims::new(held);
                Box::new(move |handles| churn(handles, &mut victims, pairs, round))
            }
            Pattern::Remote => Box::new(move |handles| remote(handles, round)),
        };
        Box::new(move || {
            let reading = |&count: &usize| {
                let handles = &mut handles[..count];
                handles.iter_mut().for_each(S::begin_round);
                run(handles)
            };
            counts.iter().map(reading).collect()
        })
    }
}

/// Slots for `count` blocks, none of them allocated.
fn table<S: Subject>(subject: &mut S, count: usize) -> Vec<S::Held> {
    let mut held = held_blocks(subject, count);
    subject.free_each(&mut held);
    held
}

fn bulk<S: Subject>(handles: &mut [S], tables: &mut [Vec<S::Held>], round: Duration) -> Reading {
    let workers = handles.iter_mut().zip(tables).collect();
    let laps = race(workers, |_, (subject, held), stop| {
        let start = Instant::now();
        let allocate = within_unless(stop, round / 2, held.len(), |range| {
            subject.allocate_each(&mut held[range]);
        });
        let held = &mut held[..allocate.operations];
        let free = within_unless(stop, Duration::MAX, held.len(), |range| {
            subject.free_each(&mut held[range]);
        });
        // Two operations to a pair, as in the other patterns.
        let lap = Lap::since(start, (allocate.operations + free.operations) / 2);
        stop.store(true, SeqCst);
        subject.free_each(&mut held[free.operations..]);
        lap
    });
    rate(&laps)
}

fn churn<S: Subject>(
    handles: &mut [S],
    victims: &mut Victims<S::Held>,
    pairs: usize,
    round: Duration,
) -> Reading {
    let slots = victims.take(pairs * handles.len());
    let each = slots.len() / handles.len();
    let workers = handles.iter_mut().zip(slots.chunks_exact_mut(each)).collect();
    let laps = race(workers, |_, (subject, slots), stop| {
        let start = Instant::now();
        let timed = within_unless(stop, round, slots.len(), |range| {
            subject.exchange_each(&mut slots[range]);
        });
        Lap::since(start, timed.operations)
    });
    rate(&laps)
}

/// What one thread hands to the next.
struct Link<H> {
    batches: ArrayQueue<Vec<H>>,
    /// Set when the last batch has been pushed.
    closed: AtomicBool,
}

fn remote<S: Subject>(handles: &mut [S], round: Duration) -> Reading {
    let blank = table(&mut handles[0], BATCH);
    let link = || Link { batches: ArrayQueue::new(RING), closed: AtomicBool::new(false) };
    let links: Vec<Link<S::Held>> = handles.iter().map(|_| link()).collect();
    let workers: Vec<_> = handles.iter_mut().map(|subject| (subject, blank.clone())).collect();
    let laps = race(workers, |index, (subject, blank), stop| {
        let (inbox, outbox) = (&links[index], &links[(index + 1) % links.len()]);
        let (start, mut freed, mut spare) = (Instant::now(), 0, Vec::new());
        let mut receive = |subject: &mut S, spare: &mut Vec<Vec<S::Held>>| {
            let batch = inbox.batches.pop();
            if let Some(mut batch) = batch {
                subject.free_each(&mut batch);
                freed += batch.len();
                spare.push(batch);
                return true;
            }
            false
        };
        while start.elapsed() < round && !stop.load(SeqCst) {
            let mut batch = spare.pop().unwrap_or_else(|| blank.clone());
            subject.allocate_each(&mut batch);
            while let Err(full) = outbox.batches.push(batch) {
                batch = full;
                if !receive(subject, &mut spare) {
                    std::thread::yield_now();
                }
            }
            receive(subject, &mut spare);
        }
        outbox.closed.store(true, SeqCst);
        loop {
            let last = inbox.closed.load(SeqCst);
            if !receive(subject, &mut spare) {
                if last {
                    break;
                }
                std::thread::yield_now();
            }
        }
        Lap::since(start, freed)
    });
    rate(&laps)
}

pub fn run(settings: &Settings) -> Vec<Section> {
    let blocks = settings.blocks;
    let case = |name, title: &str, caption, pattern, fill: Fill| {
        let title = format!("Threads: {title}, {}", size(blocks));
        let mut section = Section::new(name, title, caption);
        let workload = Threads {
            pattern,
            fill,
            blocks,
            threads: settings.threads.clone(),
            round: settings.round,
            pairs: settings.round_operations,
            devices: Devices::new(|blocks| BlockMap::random(blocks, fill.free_blocks(blocks))),
        };
        compare::together(settings, &workload, &mut section);
        section
    };
    vec![
        case(
            "threads-bulk",
            "bulk",
            "Each thread allocates blocks of an empty device and frees them in order, the floor \
             and freemap in parts of the device of their own. Pairs of all threads per second; all \
             but the floor and freemap behind a parking_lot::Mutex.",
            Pattern::Bulk,
            Fill::PerMille(0),
        ),
        case(
            "threads-churn-90",
            "churn at 90 %",
            "Churn by each thread: its victims lie at random over the whole device. Pairs of all \
             threads per second; all but the floor and freemap behind a parking_lot::Mutex.",
            Pattern::Churn,
            Fill::PerMille(900),
        ),
        case(
            "threads-churn-99.9",
            "churn at 99.9 %",
            "The same with less to choose from.",
            Pattern::Churn,
            Fill::PerMille(999),
        ),
        case(
            "threads-remote",
            "remote frees at 90 %",
            "Each thread allocates blocks and hands them over a ring, 256 at a time, to the next \
             thread, which frees them. Blocks of all threads per second; all but the floor and \
             freemap behind a parking_lot::Mutex.",
            Pattern::Remote,
            Fill::PerMille(900),
        ),
    ]
}
