//! All sizes of chunks side by side, and of write buffers. Bytes are counted over a whole cycle of
//! four flushes and the compaction that follows, from one folded state to the next.

use std::time::Duration;

use freemap::RocksFreelist;
use freemap::rocks::{CreateOptions, OpenOptions, Opened};
use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use rocksdb::SingleThreaded;
use tempfile::TempDir;

use super::engine::{BITMAP, Engine, FREE, Written, half_full, transact_until_flush};
use super::{Run, median, milliseconds, print, row, table, timed};

const CHUNKS: [u64; 8] = [512, 1024, 2048, 4096, 8192, 16384, 32768, 131_072];
/// Write buffers in MiB; the default is among them.
const BUFFERS: [usize; 3] = [4, 8, 16];

/// A freelist with chunks and a write buffer of certain sizes, and what came of it.
struct Size {
    name: u64,
    engine: Engine,
    rng: Pcg64Mcg,
    /// Transactions of the cycle, what they wrote, and how long they took.
    transactions: u64,
    written: Written,
    took: Duration,
    bytes: u64,
    /// Milliseconds of scans, with three files pending and folded.
    pending: Vec<f64>,
    folded: Vec<f64>,
    _folder: TempDir,
}

pub fn chunk(run: &Run) {
    let words = half_full();
    let whole = 1 << 20;
    let chunks = CHUNKS.into_iter().filter(|&blocks| !run.quick || blocks >= 4096);
    let sizes = chunks.map(|blocks| {
        let options = CreateOptions::new().chunk_blocks(blocks);
        Size::new(run, blocks, &words, RocksFreelist::family_options(), &options)
    });
    compare(run, "blocks per chunk", sizes.collect());
    let buffers = BUFFERS.into_iter().filter(|&mebibytes| !run.quick || mebibytes < 16);
    let sizes = buffers.map(|mebibytes| {
        let mut family = RocksFreelist::family_options();
        family.set_write_buffer_size(mebibytes * whole);
        Size::new(run, mebibytes as u64, &words, family, &CreateOptions::new())
    });
    compare(run, "MiB of write buffer", sizes.collect());
}

fn compare(run: &Run, what: &str, mut sizes: Vec<Size>) {
    sizes.iter_mut().for_each(|size| size.flush(3));
    scan_in_turn(run, &mut sizes, |size| &mut size.pending);
    sizes.iter_mut().for_each(Size::end_cycle);
    scan_in_turn(run, &mut sizes, |size| &mut size.folded);
    print_sizes(what, sizes);
}

impl Size {
    /// A folded freelist.
    fn new(
        run: &Run,
        name: u64,
        words: &[u64],
        family: rocksdb::Options,
        options: &CreateOptions,
    ) -> Self {
        let folder = run.folder();
        let engine = Engine::open_with(folder.path(), family, vec![]);
        let opened = engine.create(words, options);
        opened.freelist.fold().expect("a healthy disk");
        engine.settle(false);
        Self {
            name,
            rng: Pcg64Mcg::seed_from_u64(name),
            transactions: 0,
            written: Written::default(),
            took: Duration::ZERO,
            bytes: 0,
            pending: vec![],
            folded: vec![],
            engine,
            _folder: folder,
        }
    }

    /// Transactions until RocksDB has flushed so often.
    fn flush(&mut self, times: usize) {
        let opened = self.engine.open_freelist();
        (0..times).for_each(|_| self.flush_once(&opened));
    }

    fn flush_once(&mut self, opened: &Opened<SingleThreaded>) {
        let before = self.engine.written();
        let (count, took) = timed(|| transact_until_flush(&self.engine, opened, &mut self.rng));
        self.written += self.engine.written() - before;
        self.transactions += count;
        self.took += took;
    }

    /// Transactions until the files are compacted.
    fn end_cycle(&mut self) {
        let opened = self.engine.open_freelist();
        while self.written.compaction == 0 {
            self.flush_once(&opened);
        }
        opened.freelist.fold().expect("a healthy disk");
        self.bytes = self.engine.bytes(FREE);
    }
}

/// Reads each freelist in turn, some rounds.
fn scan_in_turn(run: &Run, sizes: &mut [Size], times: fn(&mut Size) -> &mut Vec<f64>) {
    for _ in 0..run.count(15) {
        for size in &mut *sizes {
            let read = RocksFreelist::inspect(&size.engine.db, FREE, &OpenOptions::new());
            let (_, report) = read.expect("a freelist");
            times(size).push(milliseconds(report.scan_time));
        }
    }
}

fn print_sizes(what: &str, sizes: Vec<Size>) {
    let mut table = table(&[
        what,
        "transactions",
        "log B/tx",
        "flush B/tx",
        "compaction B/tx",
        "together B/tx",
        "us/tx, all in",
        "x the bitmap",
        "scan ms, folded",
        "scan ms, 3 files",
    ]);
    for size in sizes {
        let per = |bytes: u64| format!("{:.1}", bytes as f64 / size.transactions as f64);
        let Written { log, flush, compaction } = size.written;
        let cells: [&dyn std::fmt::Display; 10] = [
            &size.name,
            &size.transactions,
            &per(log),
            &per(flush),
            &per(compaction),
            &per(size.written.total()),
            &format!("{:.1}", 1e6 * size.took.as_secs_f64() / size.transactions as f64),
            &format!("{:.3}", size.bytes as f64 / BITMAP as f64),
            &format!("{:.1}", median(size.folded)),
            &format!("{:.1}", median(size.pending)),
        ];
        row(&mut table, &cells);
    }
    print(table);
}
