//! Opening the freelist, alternating with a bare scan of the same keys by one thread that sums the
//! bytes of their values. RocksDB's block cache is empty, the system's page cache is not.

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use comfy_table::Table;
use freemap::RocksFreelist;
use freemap::rocks::CreateOptions;
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use rayon::ThreadPool;

use super::engine::{Engine, FREE, half_full, transact_many, transact_until_flush};
use super::{Run, median, milliseconds, print, row, table, timed};

/// What is measured, and into which table.
struct Rounds {
    table: Table,
    rounds: usize,
    single: ThreadPool,
}

pub fn restart(run: &Run) {
    let folder = run.folder();
    let path = folder.path();
    let header = [
        "pending",
        "files",
        "DB::open ms",
        "scan ms",
        "index ms",
        "together ms",
        "bare scan ms",
        "ratio (goal 3)",
        "of the scan",
        "1 thread",
    ];
    let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a thread");
    let mut rounds = Rounds { table: table(&header), rounds: run.count(9).max(5), single };
    let mut rng = Pcg64Mcg::seed_from_u64(2);
    let nearly = prepare(path, &mut rng);

    let (mut engine, mut took) = reopen(path);
    rounds.measure("nothing: folded", &engine, Some(took));
    let mut pending = 0;
    for _ in 0..3 {
        transact_many(&engine, &engine.open_freelist(), &mut rng, nearly);
        pending += nearly;
        if pending == nearly {
            rounds.measure(&format!("{pending}, in memory"), &engine, None);
        }
        drop(engine);
        (engine, took) = reopen(path);
        rounds.measure(&format!("{pending}"), &engine, Some(took));
    }
    transact_many(&engine, &engine.open_freelist(), &mut rng, nearly);
    pending += nearly;
    rounds.measure(&format!("{pending}, the last {nearly} in memory"), &engine, None);
    drop(engine);
    let compacting = without_compaction(path, pending, &mut rounds);
    print(rounds.table);
    println!("{compacting}");
    println!("a write buffer takes {} transactions of one random block", nearly / 9 * 10);
}

/// Makes a folded freelist; nine tenths of the transactions that fill a write buffer.
fn prepare(path: &Path, rng: &mut Pcg64Mcg) -> u64 {
    let engine = Engine::open(path, vec![]);
    let opened = engine.create(&half_full(), &CreateOptions::new());
    opened.freelist.fold().expect("a healthy disk");
    let full = transact_until_flush(&engine, &opened, rng);
    opened.freelist.fold().expect("a healthy disk");
    full / 10 * 9
}

fn reopen(path: &Path) -> (Engine, Duration) {
    timed(|| Engine::open(path, vec![]))
}

/// The fourth file, of a log that was not flushed, is one too many: RocksDB compacts all as soon as
/// the database is open. First without that, to see the worst state; then with it.
fn without_compaction(path: &Path, pending: u64, rounds: &mut Rounds) -> String {
    let mut family = RocksFreelist::family_options();
    family.set_disable_auto_compactions(true);
    let (engine, took) = timed(|| Engine::open_with(path, family, vec![]));
    rounds.measure(&format!("{pending}, compaction held off"), &engine, Some(took));
    drop(engine);
    let (engine, took) = reopen(path);
    let (opened, first) = timed(|| engine.open_freelist());
    let report = opened.report;
    drop(opened);
    let ((), rest) = timed(|| engine.settle(false));
    rounds.measure("after that compaction", &engine, None);
    format!(
        "{pending} pending, opened once while the compaction runs: DB::open {:.0} ms, then {:.0} ms \
         (scan {:.0}, index {:.0}); the compaction took {:.0} ms more",
        milliseconds(took),
        milliseconds(first),
        milliseconds(report.scan_time),
        milliseconds(report.build_time),
        milliseconds(rest),
    )
}

impl Rounds {
    fn measure(&mut self, name: &str, engine: &Engine, database: Option<Duration>) {
        let (mut scans, mut builds, mut all, mut bare) = (vec![], vec![], vec![], vec![]);
        let (mut ratios, mut ratios_of_scan, mut single) = (vec![], vec![], vec![]);
        for _ in 0..self.rounds {
            let (opened, together) = timed(|| engine.open_freelist());
            let (scan, build) = (opened.report.scan_time, opened.report.build_time);
            drop(opened);
            let (bytes, alone) = timed(|| engine.sum_bytes(FREE));
            black_box(bytes);
            let ((), slow) = self.single.install(|| timed(|| drop(engine.open_freelist())));
            scans.push(milliseconds(scan));
            builds.push(milliseconds(build));
            all.push(milliseconds(together));
            bare.push(milliseconds(alone));
            ratios.push(milliseconds(together) / milliseconds(alone));
            ratios_of_scan.push(milliseconds(scan) / milliseconds(alone));
            single.push(milliseconds(slow) / milliseconds(alone));
        }
        let database =
            database.map_or_else(String::new, |took| format!("{:.0}", milliseconds(took)));
        let short = |values| format!("{:.1}", median(values));
        let cells: [&dyn std::fmt::Display; 10] = [
            &name,
            &engine.pending_files(),
            &database,
            &short(scans),
            &short(builds),
            &short(all),
            &short(bare),
            &format!("{:.2}", median(ratios)),
            &format!("{:.2}", median(ratios_of_scan)),
            &format!("{:.2}", median(single)),
        ];
        row(&mut self.table, &cells);
    }
}
