//! The same transactions on three engines: a record of 200 bytes alone, with the freelist, and with
//! one in Ceph's manner.

use std::hint::black_box;
use std::time::{Duration, Instant};

use freemap::rocks::{CreateOptions, OpenOptions, Opened};
use freemap::{Allocator, RocksFreelist};
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::{ColumnFamilyDescriptor, Options, SingleThreaded, WriteBatch, WriteOptions};

use super::engine::{
    BITMAP, Engine, FREE, STEP, Written, half_full, one_block, plain_allocator, random_block,
    transact, write_options,
};
use super::xor::XOR;
use super::{Run, median, milliseconds, print, quantile, row, table, timed, xor};

/// The column family of the engine's records.
const OBJECTS: &str = "objects";

/// Who keeps the free space.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeper {
    Nobody,
    Ours,
    Xor,
}

const KEEPERS: [(Keeper, &str); 3] =
    [(Keeper::Nobody, "record alone"), (Keeper::Ours, "freemap"), (Keeper::Xor, "XOR of 16 bytes")];

/// An engine with both freelists, of which each transaction uses one or none.
struct Fixture {
    engine: Engine,
    ours: Opened<SingleThreaded>,
    others: Allocator,
}

impl Fixture {
    fn new(path: &std::path::Path, objects: Options) -> Self {
        let objects = ColumnFamilyDescriptor::new(OBJECTS, objects);
        let engine = Engine::open(path, vec![objects, xor::family()]);
        let words = half_full();
        let ours = engine.create(&words, &CreateOptions::new());
        xor::create(&engine, &words);
        ours.freelist.fold().expect("a healthy disk");
        xor::fold(&engine);
        engine.settle(true);
        Self { engine, ours, others: plain_allocator(&words) }
    }

    fn transact(&self, keeper: Keeper, rng: &mut Pcg64Mcg, options: &WriteOptions) {
        let mut batch = self.record(rng);
        let near = random_block(rng);
        match keeper {
            Keeper::Nobody => self.engine.db.write_opt(batch, options).expect("a healthy disk"),
            Keeper::Ours => transact(&self.engine, &self.ours, batch, options, near),
            Keeper::Xor => {
                let extents = self.others.allocate_with(&one_block(near)).expect("room");
                xor::stage(&self.engine, &mut batch, extents[0].start);
                self.engine.db.write_opt(batch, options).expect("a healthy disk");
            }
        }
    }

    /// A new record of an object.
    fn record(&self, rng: &mut Pcg64Mcg) -> WriteBatch {
        let (mut key, mut value) = ([0; 16], [0; 200]);
        rng.fill_bytes(&mut key);
        rng.fill_bytes(&mut value);
        let objects = self.engine.db.cf_handle(OBJECTS).expect("a family");
        let mut batch = WriteBatch::default();
        batch.put_cf(objects, key, value);
        batch
    }
}

pub fn commit(run: &Run) {
    latency(run);
    bytes(run);
}

/// Synced commits, 100 of each kind in turn, on one database.
fn latency(run: &Run) {
    const AT_ONCE: usize = 100;
    let folder = run.folder();
    let fixture = Fixture::new(folder.path(), Options::default());
    let options = write_options(true);
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    let (mut times, mut medians) = ([(); 3].map(|()| vec![]), [(); 3].map(|()| vec![]));
    for round in 0..run.count(100) {
        for turn in 0..KEEPERS.len() {
            let at = (round + turn) % KEEPERS.len();
            let mut block = Vec::with_capacity(AT_ONCE);
            for _ in 0..AT_ONCE {
                let ((), took) = timed(|| fixture.transact(KEEPERS[at].0, &mut rng, &options));
                block.push(1e6 * took.as_secs_f64());
            }
            times[at].extend_from_slice(&block);
            medians[at].push(median(block));
        }
    }
    let mut table = table(&["synced commit", "p50 us", "p99 us", "ratio", "its quartiles", "goal"]);
    for (at, (keeper, name)) in KEEPERS.into_iter().enumerate() {
        let ratios: Vec<f64> =
            medians[at].iter().zip(&medians[0]).map(|(with, alone)| with / alone).collect();
        let cut = |values: &Vec<f64>, share| quantile(values.clone(), share);
        let cells: [&dyn std::fmt::Display; 6] = [
            &name,
            &format!("{:.1}", cut(&times[at], 0.5)),
            &format!("{:.1}", cut(&times[at], 0.99)),
            &format!("{:.3}", cut(&ratios, 0.5)),
            &format!("{:.3} to {:.3}", cut(&ratios, 0.25), cut(&ratios, 0.75)),
            &if keeper == Keeper::Ours { "1.25" } else { "" },
        ];
        row(&mut table, &cells);
    }
    print(table);
}

/// What one kind of transactions came to.
struct Outcome {
    written: Written,
    transactions: u64,
    took: Duration,
    freelist: Option<Freelist>,
}

/// Its freelist: scans folded and with [`PENDING`] more transactions in a file, bytes when folded.
struct Freelist {
    folded: f64,
    pending: f64,
    bytes: u64,
}

const PENDING: u64 = 200_000;

/// Bytes written by many commits that are not synced, on a database for each kind: as many as there
/// are in two cycles of our freelist, four flushes and a compaction each.
fn bytes(run: &Run) {
    let cycles = if run.quick { 1 } else { 2 };
    let ours = outcome(run, Keeper::Ours, |changes, _| changes == cycles);
    let same = |_, count| count == ours.transactions;
    let [alone, xor] = [Keeper::Nobody, Keeper::Xor].map(|keeper| outcome(run, keeper, same));
    // Records are compacted only where they are alone, and then whenever RocksDB finds it is time.
    // Without that, the runs differ by the freelist, whose share is then the greatest.
    let compaction = alone.written.compaction;
    let base = alone.written.total() - compaction;
    let mut table = table(&[
        "bytes per transaction",
        "log",
        "flush",
        "compaction",
        "together",
        "more",
        "ratio",
        "ratio with those of records",
        "goal",
        "us/tx, all in",
    ]);
    for (name, outcome, goal) in [
        ("record alone", &alone, ""),
        ("and freemap", &ours, "1.4"),
        ("and XOR of 16 bytes", &xor, ""),
    ] {
        let mut written = outcome.written;
        if outcome.freelist.is_none() {
            written.compaction = 0;
        }
        let per = |bytes: u64| format!("{:.1}", bytes as f64 / outcome.transactions as f64);
        let more = written.total() - base;
        let ratio = |base: u64| format!("{:.3}", 1.0 + more as f64 / base as f64);
        let cells: [&dyn std::fmt::Display; 10] = [
            &name,
            &per(written.log),
            &per(written.flush),
            &per(written.compaction),
            &per(written.total()),
            &per(more),
            &ratio(base),
            &ratio(base + compaction),
            &goal,
            &format!("{:.1}", 1e6 * outcome.took.as_secs_f64() / outcome.transactions as f64),
        ];
        row(&mut table, &cells);
    }
    print(table);
    println!(
        "{} transactions; compactions of records, where they are alone: {:.1} bytes",
        alone.transactions,
        compaction as f64 / alone.transactions as f64
    );
    print_freelists([("freemap", ours), ("XOR of 16 bytes", xor)]);
}

fn print_freelists(outcomes: [(&str, Outcome); 2]) {
    let pending = format!("scan ms, {PENDING} pending");
    let mut table =
        table(&["freelist", "scan ms, folded", &pending, "bytes of files, folded", "x the bitmap"]);
    for (name, outcome) in outcomes {
        if let Some(Freelist { folded, pending, bytes }) = outcome.freelist {
            let cells: [&dyn std::fmt::Display; 5] = [
                &name,
                &format!("{folded:.1}"),
                &format!("{pending:.1}"),
                &bytes,
                &format!("{:.3}", bytes as f64 / BITMAP as f64),
            ];
            row(&mut table, &cells);
        }
    }
    print(table);
}

/// Transactions until `done`, which is told how many compactions there were and how many
/// transactions.
fn outcome(run: &Run, keeper: Keeper, done: impl Fn(u64, u64) -> bool) -> Outcome {
    let folder = run.folder();
    let mut objects = Options::default();
    objects.set_disable_auto_compactions(keeper != Keeper::Nobody);
    let fixture = Fixture::new(folder.path(), objects);
    let engine = &fixture.engine;
    let options = write_options(false);
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let before = engine.written();
    let (mut compactions, mut compacted, mut transactions) = (0, before.compaction, 0);
    let started = Instant::now();
    while !done(compactions, transactions) {
        (0..STEP).for_each(|_| fixture.transact(keeper, &mut rng, &options));
        engine.settle(false);
        transactions += STEP;
        let now = engine.written().compaction;
        compactions += u64::from(now != compacted);
        compacted = now;
    }
    engine.settle(true);
    let (written, took) = (engine.written() - before, started.elapsed());
    let freelist = (keeper != Keeper::Nobody).then(|| fixture.freelist(keeper, &mut rng));
    Outcome { written, transactions, took, freelist }
}

impl Fixture {
    fn freelist(&self, keeper: Keeper, rng: &mut Pcg64Mcg) -> Freelist {
        let scans = || median((0..9).map(|_| self.scan(keeper)).collect());
        self.fold(keeper);
        let bytes = self.engine.bytes(if keeper == Keeper::Ours { FREE } else { XOR });
        let folded = scans();
        let options = write_options(false);
        (0..PENDING).for_each(|_| self.transact(keeper, rng, &options));
        self.engine.settle(true);
        Freelist { folded, pending: scans(), bytes }
    }

    fn fold(&self, keeper: Keeper) {
        match keeper {
            Keeper::Xor => xor::fold(&self.engine),
            _ => self.ours.freelist.fold().expect("a healthy disk"),
        }
    }

    /// Milliseconds of reading the freelist.
    fn scan(&self, keeper: Keeper) -> f64 {
        let options = OpenOptions::new();
        milliseconds(match keeper {
            Keeper::Xor => timed(|| black_box(xor::scan(&self.engine))).1,
            _ => {
                let read = RocksFreelist::inspect(&self.engine.db, FREE, &options);
                read.expect("a freelist").1.scan_time
            }
        })
    }
}
