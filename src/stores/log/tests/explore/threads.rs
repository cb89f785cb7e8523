//! Several threads that commit at the same time, with and without a flusher, until the power fails. Which
//! transaction gets which number differs from run to run; what must be there does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::timeline::{Bits, compare};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::tests::sim::SimDisk;
use crate::stores::log::tests::small;
use crate::stores::log::{Authority, OpenOptions, Opened, SpaceMapLog};
use crate::transaction::store::Store;
use crate::values::delta::Delta;
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

/// What all threads know together.
#[derive(Default)]
struct Told {
    acknowledged: BTreeMap<u64, Delta>,
    /// Those of which it is not known.
    in_doubt: Vec<Delta>,
    /// What the engine's own log has.
    recorded: BTreeSet<u64>,
}

/// One thread: commits until it cannot.
fn work(opened: &Opened, told: &Mutex<Told>, seed: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let told = || told.lock().expect("no panic");
    let (mut owned, mut unrecorded): (Vec<Extent>, Vec<Lsn>) = (Vec::new(), Vec::new());
    loop {
        let mut transaction = opened.allocator.begin();
        for _ in 0..rng.random_range(1..4) {
            let _full = transaction.allocate(rng.random_range(1..60));
        }
        for _ in 0..rng.random_range(0..3).min(owned.len()) {
            let old = owned.swap_remove(rng.random_range(0..owned.len()));
            transaction.free(old).expect("owned");
        }
        owned.extend(transaction.allocated());
        let frozen = transaction.freeze();
        let delta = frozen.delta().clone();
        if delta.is_empty() {
            continue;
        }
        let committed = match rng.random() {
            true => frozen.reopen().commit(&opened.log),
            false => opened.log.submit(frozen).and_then(|pending| pending.wait()),
        };
        match committed {
            Ok(lsn) => drop(told().acknowledged.insert(lsn.0, delta)),
            Err(failed) => {
                if opened.log.leaves_doubt(&failed.error) {
                    told().in_doubt.push(delta);
                }
                return;
            }
        }
        // The engine's own log is behind, in the order of this thread.
        unrecorded.extend(committed.ok());
        while unrecorded.len() > rng.random_range(0..3) {
            let lsn = unrecorded.remove(0);
            told().recorded.insert(lsn.0);
            if opened.log.authority() == Authority::Engine {
                opened.log.recorded(lsn).expect("acknowledged");
            }
        }
    }
}

/// Opens what a power failure left behind several threads.
fn run(authority: Authority, seed: u64) -> Result<(), String> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let disk = Arc::new(SimDisk::default());
    let options = small().authority(authority);
    let opened = SpaceMapLog::create(disk.clone(), 3 * RANGE_BLOCKS, &options)
        .map_err(|error| error.to_string())?;
    let told = Mutex::default();
    disk.crash_after(rng.random_range(1..300), rng.random());
    let flusher = rng.random::<bool>().then(|| opened.log.start_flusher().expect("a thread"));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (opened, told) = (&opened, &told);
            scope.spawn(move || work(opened, told, 4 * seed + thread));
        }
    });
    drop((flusher, opened));
    let told: Told = told.into_inner().expect("no panic");
    for _ in 0..4 {
        let disk = Arc::new(SimDisk::new(disk.after_crash(&mut rng)));
        match authority {
            Authority::Engine => check_recorded(disk, &told)?,
            _ => check_acknowledged(disk, &told)?,
        }
    }
    Ok(())
}

/// Everything that was acknowledged is there, and of the others whole ones.
fn check_acknowledged(disk: Arc<SimDisk>, told: &Told) -> Result<(), String> {
    let last = told.acknowledged.keys().last().copied().unwrap_or(0);
    let opened = SpaceMapLog::open(disk, &OpenOptions::new().expect_lsn(Lsn(last)))
        .map_err(|error| error.to_string())?;
    let mut state = Bits::new();
    told.acknowledged.values().for_each(|delta| state.apply(delta));
    let mut more = 0;
    for delta in &told.in_doubt {
        let is_there = match (delta.allocated(), delta.freed()) {
            ([first, ..], _) => opened.allocator.is_allocated(*first) == Ok(true),
            (_, [first, ..]) => opened.allocator.is_free(*first) == Ok(true),
            _ => false,
        };
        if is_there {
            state.apply(delta);
            more += 1;
        }
    }
    let (found, expected) = (opened.report.last.0, told.acknowledged.len() + more);
    if found != expected as u64 {
        return Err(format!("{found} transactions are there, and the blocks of {expected}"));
    }
    compare(&opened.allocator, &state)
}

/// Exactly those are there that the engine's own log has.
fn check_recorded(disk: Arc<SimDisk>, told: &Told) -> Result<(), String> {
    let mark = (0..).find(|lsn| !told.recorded.contains(&(lsn + 1))).unwrap_or(0);
    let later = told.recorded.iter().copied().filter(|&lsn| lsn > mark).map(Lsn);
    let options = OpenOptions::new().recover_until(Lsn(mark)).recover_also(later);
    let opened = SpaceMapLog::open(disk, &options).map_err(|error| error.to_string())?;
    let mut state = Bits::new();
    let all = told.acknowledged.iter().filter(|(lsn, _)| told.recorded.contains(lsn));
    all.for_each(|(_, delta)| state.apply(delta));
    compare(&opened.allocator, &state)
}

#[test]
fn nothing_is_lost_when_many_commit() {
    for authority in [Authority::Log, Authority::Engine] {
        for seed in 0..300 {
            run(authority, seed).unwrap_or_else(|error| panic!("{authority:?}, {seed}: {error}"));
        }
    }
}
