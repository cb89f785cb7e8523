//! What an engine does: opens a database, writes batches, counts what RocksDB writes.

use std::ops::{AddAssign, Sub};
use std::path::Path;
use std::sync::Arc;

use freemap::rocks::{CreateOptions, OpenOptions, Opened};
use freemap::{Allocator, Request, RocksFreelist};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;
use rocksdb::statistics::Ticker;
use rocksdb::{
    ColumnFamilyDescriptor, DB, Options, ReadOptions, SingleThreaded, WaitForCompactOptions,
    WriteBatch, WriteOptions, properties,
};

/// Blocks of the device: 1 TiB of 4 KiB.
pub const BLOCKS: u64 = 1 << 28;
/// Bytes of its bitmap.
pub const BITMAP: u64 = BLOCKS / 8;
/// The column family of the freelist.
pub const FREE: &str = "free";

/// Half of the blocks, at random: nothing to compress.
pub fn half_full() -> Vec<u64> {
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    (0..BLOCKS / 64).map(|_| rng.next_u64()).collect()
}

/// An open database with its statistics.
pub struct Engine {
    pub db: Arc<DB>,
    options: Options,
}

impl Engine {
    pub fn open(path: &Path, others: Vec<ColumnFamilyDescriptor>) -> Self {
        Self::open_with(path, RocksFreelist::family_options(), others)
    }

    /// With `family` as the options of the freelist's column family.
    pub fn open_with(
        path: &Path,
        family: Options,
        mut others: Vec<ColumnFamilyDescriptor>,
    ) -> Self {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.enable_statistics();
        others.push(ColumnFamilyDescriptor::new(FREE, family));
        let db = DB::open_cf_descriptors(&options, path, others).expect("a database");
        Self { db: Arc::new(db), options }
    }

    pub fn create(&self, words: &[u64], options: &CreateOptions) -> Opened<SingleThreaded> {
        RocksFreelist::create_from_bitmap(self.db.clone(), FREE, BLOCKS, words, options)
            .expect("an empty family")
    }

    pub fn open_freelist(&self) -> Opened<SingleThreaded> {
        RocksFreelist::open(self.db.clone(), FREE, &OpenOptions::new()).expect("a freelist")
    }

    pub fn ticker(&self, ticker: Ticker) -> u64 {
        self.options.get_ticker_count(ticker)
    }

    /// What was written since the database was opened.
    pub fn written(&self) -> Written {
        Written {
            log: self.ticker(Ticker::WalFileBytes),
            flush: self.ticker(Ticker::FlushWriteBytes),
            compaction: self.ticker(Ticker::CompactWriteBytes),
        }
    }

    /// Lets RocksDB finish what it has begun, and flush first if `flush`.
    pub fn settle(&self, flush: bool) {
        let mut options = WaitForCompactOptions::default();
        options.set_flush(flush);
        self.db.wait_for_compact(&options).expect("a healthy disk");
    }

    /// Bytes of the live files of a family.
    pub fn bytes(&self, family: &str) -> u64 {
        self.property(family, properties::LIVE_SST_FILES_SIZE)
    }

    /// Files of the freelist that a flush made and no compaction has taken up.
    pub fn pending_files(&self) -> u64 {
        self.property(FREE, &properties::num_files_at_level(0))
    }

    fn property(&self, family: &str, name: &rocksdb::properties::PropName) -> u64 {
        let family = self.db.cf_handle(family).expect("a family");
        let value = self.db.property_int_value_cf(family, name).expect("a property");
        value.expect("a property")
    }

    /// Iterates over a family like the freelist's scan, but with one thread, and gives each value
    /// to `visit`.
    pub fn iterate(&self, family: &str, mut visit: impl FnMut(&[u8], &[u8])) {
        let mut options = ReadOptions::default();
        options.fill_cache(false);
        options.set_readahead_size(2 << 20);
        let family = self.db.cf_handle(family).expect("a family");
        let mut iterator = self.db.raw_iterator_cf_opt(family, options);
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            visit(key, value);
            iterator.next();
        }
        iterator.status().expect("a healthy disk");
    }

    /// The bare scan: the sum of all bytes of all values of a family.
    pub fn sum_bytes(&self, family: &str) -> u64 {
        let mut sum = 0;
        self.iterate(family, |_, value| {
            sum += value.iter().map(|&byte| u64::from(byte)).sum::<u64>();
        });
        sum
    }
}

/// Bytes that RocksDB wrote, by reason.
#[derive(Clone, Copy, Default)]
pub struct Written {
    pub log: u64,
    pub flush: u64,
    pub compaction: u64,
}

impl Written {
    pub fn total(self) -> u64 {
        self.log + self.flush + self.compaction
    }
}

impl Sub for Written {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            log: self.log - before.log,
            flush: self.flush - before.flush,
            compaction: self.compaction - before.compaction,
        }
    }
}

impl AddAssign for Written {
    fn add_assign(&mut self, more: Self) {
        self.log += more.log;
        self.flush += more.flush;
        self.compaction += more.compaction;
    }
}

pub fn write_options(synced: bool) -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(synced);
    options
}

/// The block to be wanted next.
pub fn random_block(rng: &mut Pcg64Mcg) -> u64 {
    rng.random_range(0..BLOCKS)
}

/// One block near `near`.
pub fn one_block(near: u64) -> Request {
    Request::new(1).near(near)
}

/// A transaction of one block near `near` that is written with whatever is in `batch`.
pub fn transact(
    engine: &Engine,
    opened: &Opened<SingleThreaded>,
    mut batch: WriteBatch,
    options: &WriteOptions,
    near: u64,
) {
    let mut transaction = opened.allocator.begin();
    transaction.allocate_with(&one_block(near)).expect("room");
    let frozen = transaction.freeze();
    opened.freelist.stage(&mut batch, frozen.delta()).expect("ours");
    engine.db.write_opt(batch, options).expect("a healthy disk");
    frozen.committed();
}

/// Transactions between two looks at what RocksDB has written.
pub const STEP: u64 = 5_000;

/// So many transactions of one random block each, with nothing else, not synced.
pub fn transact_many(
    engine: &Engine,
    opened: &Opened<SingleThreaded>,
    rng: &mut Pcg64Mcg,
    count: u64,
) {
    let options = write_options(false);
    for _ in 0..count {
        transact(engine, opened, WriteBatch::default(), &options, random_block(rng));
    }
}

/// Transactions of one random block each until RocksDB has flushed something: their number.
pub fn transact_until_flush(
    engine: &Engine,
    opened: &Opened<SingleThreaded>,
    rng: &mut Pcg64Mcg,
) -> u64 {
    let before = engine.written().flush;
    let mut count = 0;
    while engine.written().flush == before {
        transact_many(engine, opened, rng, STEP);
        engine.settle(false);
        count += STEP;
    }
    count
}

/// An allocator as full as the freelist, for those who keep its blocks elsewhere.
pub fn plain_allocator(words: &[u64]) -> Allocator {
    Allocator::from_bitmap(BLOCKS, words).expect("memory")
}
