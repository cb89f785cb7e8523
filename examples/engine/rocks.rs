//! One RocksDB database that has the freelist and the objects. All numbers in it are big-endian.
//!
//! ```text
//! column family   key      value
//! free            what RocksFreelist keeps there
//! objects         id       version, for each extent: start, blocks
//! foreign         start    blocks: what was in use before the store was created
//! ids             "next"   greater than the id of every object ever put
//! ```
//!
//! # Why objects and freelist agree after a crash
//!
//! A transaction is one batch, with the object's record and the bits of its blocks, and RocksDB
//! recovers all of a batch or nothing. So there is nothing to take back, and no order to keep but
//! this: data is flushed before the batch that names it is written, and the old version's blocks are
//! let go after. What a crash leaves, then, if it comes
//!
//! - before the batch is durable: the store without it. The new blocks are free, and nobody had the
//!   old ones.
//! - after: the store with it, whether it was acknowledged or not.
//! - while the device is made longer or shorter: the freelist has the one size or the other.
//! - during creation: there is a store if the database has its name, which it gets last.
//!
//! If writing the batch fails, it may be durable or not, which shows when the database is opened
//! again. Until then nobody gets its blocks.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use freemap::rocks::{CreateOptions, OpenOptions, Opened, RocksError, StageError};
use freemap::{Allocator, Delta, Extent, RocksFreelist, Shrink, ShrinkFailed};
use rocksdb::statistics::Ticker;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, IteratorMode, Options, SingleThreaded, WriteBatch,
    WriteOptions,
};

use super::Failure;
use super::durable::{Contents, DATABASE, Durable, Figures, Flushes, Found, NotDurable, Recovery};
use super::flush::SharedFlush;
use super::object::{Change, Object};
use super::start::Start;

const DATABASE_NEW: &str = "rocksdb.freemap-engine.new";

const FREE: &str = "free";
const OBJECTS: &str = "objects";
const FOREIGN: &str = "foreign";
const IDS: &str = "ids";
const NEXT_ID: &[u8] = b"next";

pub struct Rocks {
    opened: Opened<SingleThreaded>,
    data: SharedFlush,
    commits: AtomicU64,
    /// Those that the database was opened with, for its statistics.
    options: Options,
}

impl Rocks {
    pub fn create(
        dir: &Path,
        start: &Start,
        data: &Arc<File>,
    ) -> Result<Box<dyn Durable>, Failure> {
        let new = dir.join(DATABASE_NEW);
        DB::destroy(&Options::default(), &new)?;
        let mut options = Options::default();
        options.create_if_missing(true);
        let db = open_database(&new, &options)?;
        let mut batch = WriteBatch::default();
        for extent in start.foreign() {
            let key = extent.start.to_be_bytes();
            batch.put_cf(family(&db, FOREIGN)?, key, extent.len.to_be_bytes());
        }
        db.write_opt(batch, &synced())?;
        let (blocks, bitmap) = (start.allocator.blocks(), start.allocator.to_bitmap()?);
        let how = CreateOptions::new().block_size(start.allocator.block_size());
        // Both are closed before the folder gets its name.
        drop(RocksFreelist::create_from_bitmap(db, FREE, blocks, &bitmap, &how)?);
        fs::rename(new, dir.join(DATABASE))?;
        File::open(dir)?.sync_all()?;
        Ok(Self::open(dir, data)?.durable)
    }

    pub fn open(dir: &Path, data: &Arc<File>) -> Result<Found, Failure> {
        let mut options = Options::default();
        options.enable_statistics();
        let db = open_database(&dir.join(DATABASE), &options)?;
        let contents = read(&db)?;
        let opened = RocksFreelist::open(db, FREE, &OpenOptions::new())?;
        let account = format!("{} chunks of the freelist read", opened.report.chunks);
        let recovery = Recovery { account, ..Recovery::default() };
        let (data, commits) = (SharedFlush::new(data.clone()), AtomicU64::new(0));
        let durable = Box::new(Self { opened, data, commits, options });
        Ok(Found { durable, contents, recovery })
    }

    fn db(&self) -> &DB {
        self.opened.freelist.database()
    }

    /// Adds what `change` comes to in the objects.
    fn stage(&self, batch: &mut WriteBatch, change: &Change) -> Result<(), RocksError> {
        let objects = family(self.db(), OBJECTS)?;
        match change {
            Change::Put(object) => {
                batch.put_cf(objects, object.id.to_be_bytes(), encode(object));
                if object.version == 0 {
                    let next = object.id.saturating_add(1).to_be_bytes();
                    batch.merge_cf(family(self.db(), IDS)?, NEXT_ID, next);
                }
            }
            Change::Delete { id, .. } => batch.delete_cf(objects, id.to_be_bytes()),
        }
        Ok(())
    }
}

impl Durable for Rocks {
    fn allocator(&self) -> &Allocator {
        &self.opened.allocator
    }

    fn commit(&self, delta: &Delta, change: &Change) -> Result<(), NotDurable> {
        let mut batch = WriteBatch::default();
        self.opened.freelist.stage(&mut batch, delta)?;
        self.stage(&mut batch, change)?;
        if let Change::Put(_) = change {
            self.data.flush()?;
        }
        self.db().write_opt(batch, &synced()).map_err(|error| {
            let error = StageError::of_write(error);
            NotDurable { doubt: error.leaves_doubt(), error: error.into() }
        })?;
        self.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn grow(&self, blocks: u64) -> Result<(), Failure> {
        Ok(self.opened.freelist.grow(&self.opened.allocator, blocks)?)
    }

    fn shrink(&self, shrink: Shrink) -> Result<(), ShrinkFailed<Failure>> {
        let shrunk = self.opened.freelist.shrink(shrink);
        shrunk
            .map_err(|ShrinkFailed { shrink, error }| ShrinkFailed { shrink, error: error.into() })
    }

    fn faults(&self, used: Vec<Extent>) -> Vec<String> {
        match self.opened.check(used) {
            Ok(found) if found.is_clean() => Vec::new(),
            Ok(found) => vec![format!("the freelist disagrees: {found:?}")],
            Err(error) => vec![error.to_string()],
        }
    }

    fn figures(&self) -> Figures {
        let commits = self.commits.load(Ordering::Relaxed);
        let in_log = Flushes {
            place: "in the write-ahead log",
            key: "commits_per_sync",
            asked: commits,
            made: self.options.get_ticker_count(Ticker::WalFileSynced),
        };
        let (asked, made) = self.data.figures();
        let place = "in the data file";
        let in_data = Flushes { place, key: "data_writes_per_sync", asked, made };
        Figures { commits, flushes: [in_log, in_data] }
    }

    /// Leaves nothing to merge.
    fn close(&self) -> Result<(), Failure> {
        Ok(self.opened.freelist.fold()?)
    }
}

fn open_database(path: &Path, options: &Options) -> Result<Arc<DB>, Failure> {
    // Those who put objects at the same time write their batches in any order.
    let mut greatest = Options::default();
    greatest.set_merge_operator_associative("greatest", |_, value, operands| {
        operands.iter().chain(value).max().map(<[u8]>::to_vec)
    });
    let others = vec![
        ColumnFamilyDescriptor::new(OBJECTS, Options::default()),
        ColumnFamilyDescriptor::new(FOREIGN, Options::default()),
        ColumnFamilyDescriptor::new(IDS, greatest),
    ];
    Ok(Arc::new(RocksFreelist::open_database(path, options, FREE, others)?))
}

fn family<'a>(db: &'a DB, name: &str) -> Result<&'a ColumnFamily, RocksError> {
    db.cf_handle(name).ok_or_else(|| RocksError::NoFamily { family: name.to_string() })
}

fn synced() -> WriteOptions {
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    synced
}

fn read(db: &DB) -> Result<Contents, Failure> {
    let mut contents = Contents::default();
    for item in db.iterator_cf(family(db, OBJECTS)?, IteratorMode::Start) {
        let (key, value) = item?;
        let object = decode(&key, &value).ok_or("an object's record is damaged")?;
        contents.objects.insert(object.id, Arc::new(object));
    }
    for item in db.iterator_cf(family(db, FOREIGN)?, IteratorMode::Start) {
        let (start, len) = item?;
        let extent = number(&start).zip(number(&len));
        let (start, len) = extent.ok_or("the record of a foreign extent is damaged")?;
        contents.foreign.push(Extent::new(start, len));
    }
    if let Some(next) = db.get_cf(family(db, IDS)?, NEXT_ID)? {
        contents.next_id = number(&next).ok_or("the next id is damaged")?;
    }
    Ok(contents)
}

fn encode(object: &Object) -> Vec<u8> {
    let extents = object.extents.iter().flat_map(|extent| [extent.start, extent.len]);
    std::iter::once(object.version).chain(extents).flat_map(u64::to_be_bytes).collect()
}

fn decode(key: &[u8], value: &[u8]) -> Option<Object> {
    let (version, extents) = value.split_at_checked(8)?;
    let extents = extents.chunks(16).map(|extent| {
        let (start, len) = extent.split_at_checked(8)?;
        Some(Extent::new(number(start)?, number(len)?))
    });
    Some(Object {
        id: number(key)?,
        version: number(version)?,
        extents: extents.collect::<Option<_>>()?,
    })
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}
