//! The freelist in RocksDB on the real engine, each figure beside the bare one it is compared with,
//! in the same run.
//!
//! `cargo bench --features rocksdb --bench rocks` prints everything in some minutes; `-- disk
//! restart` and so on some parts, `-- --quick` everything with fewer rounds and transactions. The
//! databases lie in a temporary folder (`TMPDIR`), or in `FREEMAP_BENCH_DIR`, which should be on the
//! device of interest. Everywhere: 1 TiB of 4 KiB blocks, half of them used at random.
//!
//! - `disk`: bytes of the folded column family. Goal: 1.3 x the 32 MiB of bitmap.
//! - `restart`: opening the freelist, against a bare scan of the same keys by one thread; folded, and
//!   with transactions pending in memory and in files. Goal: 3 x.
//! - `commit`: a transaction of one random block and a record of 200 bytes, against the record alone,
//!   and beside a freelist in Ceph's manner (XOR of 16-byte values). Goals: 25 % more time with a
//!   synced write-ahead log, 40 % more bytes written, compactions included.
//! - `chunk`: bytes written per transaction, bytes on disk and restart for all sizes of chunks, and
//!   of write buffers; the defaults are chosen from this.
//! - `group`: commits per second of many threads as multiples of one, and commits per flush.
//! - `stage`: CPU of a transaction up to the batch, against allocating alone.

mod chunk;
mod commit;
mod disk;
mod engine;
mod group;
#[path = "../support/median.rs"]
mod median;
mod restart;
mod stage;
#[path = "../support/table.rs"]
mod table;
mod xor;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::median::median;
use self::table::{print, row, table};

/// Where a run happens, and how long it may take.
struct Run {
    dir: PathBuf,
    quick: bool,
}

impl Run {
    /// `full`, or a fifth of it.
    fn count(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(5) } else { full }
    }

    /// A folder for a database, gone when this is dropped.
    fn folder(&self) -> tempfile::TempDir {
        tempfile::tempdir_in(&self.dir).expect("a temporary folder")
    }
}

/// A part of the run by its name.
type Part = (&'static str, fn(&Run));

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|arg| !arg.starts_with('-')).collect();
    let parts: [Part; 6] = [
        ("disk", disk::disk),
        ("restart", restart::restart),
        ("commit", commit::commit),
        ("chunk", chunk::chunk),
        ("group", group::group),
        ("stage", stage::stage),
    ];
    let dir = std::env::var_os("FREEMAP_BENCH_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    let run = Run { dir, quick: arguments.iter().any(|arg| arg == "--quick") };
    println!("databases in {}; {} threads", run.dir.display(), rayon::current_num_threads());
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| *wanted == name) {
            let started = Instant::now();
            println!("--- {name}");
            part(&run);
            println!("({:.0} s)", started.elapsed().as_secs_f64());
        }
    }
}

/// The value that a share of `share` of `values` is below.
fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() - 1) as f64 * share).round() as usize]
}

/// What `work` answers, and how long it took.
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let answer = work();
    (answer, started.elapsed())
}

fn milliseconds(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}
