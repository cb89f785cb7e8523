//! Creating, opening and inspecting a freelist.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rocksdb::{DBWithThreadMode, IteratorMode, SingleThreaded, WriteBatch, WriteOptions};

use crate::allocator::Allocator;
use crate::base::sync::Counter;
use crate::stores::rocks::chunk::{self, ChunkOrder};
use crate::stores::rocks::error::RocksError;
use crate::stores::rocks::family::{self, Lease, Mode};
use crate::stores::rocks::meta::{self, Meta};
use crate::stores::rocks::options::{CreateOptions, OpenOptions};
use crate::stores::rocks::scan::{PROBE, Scanned, read_failed, scan};
use crate::stores::rocks::{Inner, RocksFreelist, operand};
use crate::values::extent::Extent;
use crate::values::plain_bitmap::{expect_count, on_device};

/// A freelist and its allocator.
#[non_exhaustive]
pub struct Opened<M: Mode = SingleThreaded> {
    /// The freelist that transactions are staged or committed to.
    pub freelist: RocksFreelist<M>,
    /// The free space as of the last write. What is allocated or freed here without a transaction
    /// is not in the freelist: freeing it in one later is a
    /// [`StageError::Conflict`](crate::stores::rocks::StageError::Conflict).
    pub allocator: Allocator,
    /// What was found.
    pub report: Report,
}

// Not derived: the modes implement no `Debug`.
impl<M: Mode> std::fmt::Debug for Opened<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened")
            .field("freelist", &self.freelist)
            .field("allocator", &self.allocator)
            .field("report", &self.report)
            .finish()
    }
}

/// What opening a freelist found, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Blocks of the device.
    pub blocks: u64,
    /// Allocated blocks.
    pub allocated: u64,
    /// Chunks that have a key.
    pub chunks: u64,
    /// Time to read the column family.
    pub scan_time: Duration,
    /// Time to build the index.
    pub build_time: Duration,
}

impl<M: Mode> RocksFreelist<M> {
    /// Makes the column family `family` the freelist of a new device of `blocks` blocks, all free.
    /// Writes only the description, synced. Builds the allocator, with the memory and time of
    /// [`Builder::build`](crate::Builder::build), and as much memory again for the ledger.
    ///
    /// # Errors
    /// [`RocksError::Exists`] if the column family is not empty; [`RocksError::Option`],
    /// [`RocksError::Config`] for impossible options; [`RocksError::NoFamily`],
    /// [`RocksError::InUse`], [`RocksError::Operator`]: nothing was written but the probe, which is
    /// deleted. [`RocksError::Database`], and
    /// [`ConfigError::OutOfMemory`](crate::ConfigError::OutOfMemory): there may be a freelist.
    pub fn create(
        db: Arc<DBWithThreadMode<M>>,
        family: &str,
        blocks: u64,
        options: &CreateOptions,
    ) -> Result<Opened<M>, RocksError> {
        Self::create_with(db, family, blocks, None, options)
    }

    /// As [`RocksFreelist::create`], for a device that is in use already: bit i % 64 of word i / 64
    /// of `allocated` is block i, 1 = allocated, as in
    /// [`Allocator::from_bitmap`](crate::Allocator::from_bitmap). Writes a key for every chunk that
    /// is not all free. The description comes last: if creation is interrupted, there is no
    /// freelist yet.
    ///
    /// # Errors
    /// As [`RocksFreelist::create`], and
    /// [`ConfigError::BitmapLength`](crate::ConfigError::BitmapLength).
    pub fn create_from_bitmap(
        db: Arc<DBWithThreadMode<M>>,
        family: &str,
        blocks: u64,
        allocated: &[u64],
        options: &CreateOptions,
    ) -> Result<Opened<M>, RocksError> {
        expect_count(blocks, allocated)?;
        Self::create_with(db, family, blocks, Some(allocated), options)
    }

    fn create_with(
        db: Arc<DBWithThreadMode<M>>,
        family: &str,
        blocks: u64,
        allocated: Option<&[u64]>,
        options: &CreateOptions,
    ) -> Result<Opened<M>, RocksError> {
        let lease = Lease::take(&db, family)?;
        let block_size = options.block_size.unwrap_or(4096);
        let chunk = options.chunk()?;
        Allocator::builder(blocks)
            .block_size(block_size)
            .with_settings(options.settings)
            .validate()?;
        let uuid = options.uuid.map_or_else(draw_uuid, Ok)?;
        if !options.overwrite {
            refuse_used(&db, family)?;
        }
        probe(&db, family)?;
        begin(&db, family)?;
        let meta = Meta { blocks, block_size, chunk, uuid, rechunking: None };
        if let Some(allocated) = allocated {
            write_chunks(&db, family, &meta, allocated)?;
        }
        write_meta(&db, family, &meta)?;
        Self::open_leased(
            db,
            family,
            lease,
            &OpenOptions { settings: options.settings, blocks: None },
        )
    }

    /// Opens the freelist in the column family `family`. Reads all of it, in parallel on the
    /// caller's rayon pool. Writes only the probe: a few bytes that show whether the column family
    /// was opened with our merge operator.
    ///
    /// # Errors
    /// [`RocksError`]. Nothing was written but the probe, which is deleted.
    pub fn open(
        db: Arc<DBWithThreadMode<M>>,
        family: &str,
        options: &OpenOptions,
    ) -> Result<Opened<M>, RocksError> {
        let lease = Lease::take(&db, family)?;
        Self::open_leased(db, family, lease, options)
    }

    fn open_leased(
        db: Arc<DBWithThreadMode<M>>,
        family: &str,
        lease: Lease,
        options: &OpenOptions,
    ) -> Result<Opened<M>, RocksError> {
        let (meta, allocator, report) = load(&db, family, options)?;
        probe(&db, family)?;
        let inner = Inner {
            _lease: lease,
            db,
            family: family.to_string(),
            chunk: meta.chunk,
            blocks: Counter::new(meta.blocks),
            meta: Mutex::new(meta),
            allocator: allocator.id(),
            failed: Counter::new(0),
            unsettled: Counter::new(0),
        };
        Ok(Opened { freelist: Self { inner: Arc::new(inner) }, allocator, report })
    }

    /// The state at this moment: an allocator whose transactions every freelist refuses, and a
    /// report. Writes nothing. Works beside an open freelist and on a database that was opened
    /// read-only, but not on a secondary instance, which has no snapshots.
    ///
    /// # Errors
    /// [`RocksError`].
    pub fn inspect(
        db: &DBWithThreadMode<M>,
        family: &str,
        options: &OpenOptions,
    ) -> Result<(Allocator, Report), RocksError> {
        let (_, allocator, report) = load(db, family, options)?;
        Ok((allocator, report))
    }
}

fn load<M: Mode>(
    db: &DBWithThreadMode<M>,
    family: &str,
    options: &OpenOptions,
) -> Result<(Meta, Allocator, Report), RocksError> {
    let started = Instant::now();
    let Scanned { meta, words, chunks } = scan(db, family)?;
    let scan_time = started.elapsed();
    let (family, found) = (family.to_string(), meta.blocks);
    if let Some(expected) = options.blocks.filter(|&expected| expected != found) {
        return Err(RocksError::Geometry { family, what: "the number of blocks", expected, found });
    }
    let started = Instant::now();
    let builder =
        Allocator::builder(meta.blocks).block_size(meta.block_size).with_settings(options.settings);
    let allocator = builder.build_with_ledger(words)?;
    let build_time = started.elapsed();
    let stats = allocator.stats();
    let allocated = meta.blocks - stats.free_blocks - stats.reserved_blocks;
    let blocks = meta.blocks;
    Ok((meta, allocator, Report { blocks, allocated, chunks, scan_time, build_time }))
}

fn draw_uuid() -> Result<[u8; 16], RocksError> {
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(|error| RocksError::Random(error.to_string()))?;
    Ok(uuid)
}

/// Marks an unfinished creation: present with this value from its beginning until there is a
/// description.
const BEGUN: (&[u8], &[u8]) = (b"begun", b"fm-rocks");

/// An error if the family holds anything but the rest of an interrupted creation.
fn refuse_used<M: Mode>(db: &DBWithThreadMode<M>, family: &str) -> Result<(), RocksError> {
    let handle = family::find(db, family)?;
    let get = |key| db.get_pinned_cf(&handle, key).map_err(|error| read_failed(error, family));
    if get(BEGUN.0)?.is_some_and(|value| *value == *BEGUN.1) && get(meta::KEY)?.is_none() {
        return Ok(());
    }
    let probed = chunk::encode(PROBE, PROBED);
    for item in db.full_iterator_cf(&handle, IteratorMode::Start) {
        let (key, value) = item.map_err(|error| read_failed(error, family))?;
        if (&*key, &*value) != (PROBE, &*probed) {
            return Err(RocksError::Exists { family: family.to_string() });
        }
    }
    Ok(())
}

/// Marks that a creation has begun, and deletes every other key. One by one: ranges cannot be
/// deleted where there is a row cache, and slow scans down elsewhere.
fn begin<M: Mode>(db: &DBWithThreadMode<M>, family: &str) -> Result<(), RocksError> {
    const ACTION: &str = "clear the column family";
    let handle = family::find(db, family)?;
    let mut batch = WriteBatch::default();
    batch.delete_cf(&handle, meta::KEY);
    batch.put_cf(&handle, BEGUN.0, BEGUN.1);
    write(db, family, batch, ACTION)?;
    let mut batch = WriteBatch::default();
    for item in db.full_iterator_cf(&handle, IteratorMode::Start) {
        let (key, _) = item.map_err(|error| read_failed(error, family))?;
        if &*key != BEGUN.0 {
            batch.delete_cf(&handle, key);
        }
        if batch.size_in_bytes() > BATCH_BYTES {
            write(db, family, std::mem::take(&mut batch), ACTION)?;
        }
    }
    write(db, family, batch, ACTION)
}

/// The size at which a batch of many keys is written: 1 MiB.
const BATCH_BYTES: usize = 1 << 20;

/// Writes all chunks that are not all free.
fn write_chunks<M: Mode>(
    db: &DBWithThreadMode<M>,
    family: &str,
    meta: &Meta,
    allocated: &[u64],
) -> Result<(), RocksError> {
    let handle = family::find(db, family)?;
    let mut batch = WriteBatch::default();
    for (number, words) in allocated.chunks(meta.chunk.words()).enumerate() {
        let first = number * meta.chunk.words();
        let whole = (0..meta.chunk.words()).map(|index| {
            words.get(index).map_or(0, |word| word & on_device(meta.blocks, first + index))
        });
        if whole.clone().all(|word| word == 0) {
            continue;
        }
        let key = chunk::key(number as u64);
        batch.put_cf(&handle, key, chunk::encode(&key, whole));
        if batch.size_in_bytes() > BATCH_BYTES {
            let full = std::mem::take(&mut batch);
            db.write(full).map_err(|error| RocksError::of(error, "write chunks", family))?;
        }
    }
    write(db, family, batch, "write chunks")
}

/// Writes the description, and makes it durable together with everything before it.
pub(super) fn write_meta<M: Mode>(
    db: &DBWithThreadMode<M>,
    family: &str,
    meta: &Meta,
) -> Result<(), RocksError> {
    let handle = family::find(db, family)?;
    let mut batch = WriteBatch::default();
    batch.put_cf(&handle, meta::KEY, meta.encode());
    batch.delete_cf(&handle, BEGUN.0);
    write(db, family, batch, "write the description")
}

/// Writes `batch`, synced.
pub(super) fn write<M: Mode>(
    db: &DBWithThreadMode<M>,
    family: &str,
    batch: WriteBatch,
    action: &'static str,
) -> Result<(), RocksError> {
    db.write_opt(batch, &synced()).map_err(|error| RocksError::of(error, action, family))
}

/// The options of a write that is durable when it returns.
pub(super) fn synced() -> WriteOptions {
    let mut synced = WriteOptions::default();
    synced.set_sync(true);
    synced
}

/// The bits that the probe must produce.
const PROBED: [u64; 1] = [0b10];

/// Merges an operand into a key beside the freelist, and checks that the result is right.
fn probe<M: Mode>(db: &DBWithThreadMode<M>, family: &str) -> Result<(), RocksError> {
    const ACTION: &str = "probe the merge operator";
    let handle = family::find(db, family)?;
    let bit = [Extent::new(1, 1)];
    let Some((_, operand)) = operand::operands(ChunkOrder::MIN, &bit, &[]).next() else {
        return Ok(());
    };
    let failed = |error| RocksError::of(error, ACTION, family);
    // Not in a batch: RocksDB notices too late that a merging batch has no operator.
    db.merge_cf(&handle, PROBE, &operand[..]).map_err(failed)?;
    let right = match db.get_pinned_cf(&handle, PROBE) {
        Ok(found) => found.is_some_and(|found| *found == *chunk::encode(PROBE, PROBED)),
        Err(_) => false,
    };
    // An operand that another operator cannot merge must not remain until a compaction.
    db.delete_cf(&handle, PROBE).map_err(failed)?;
    if right { Ok(()) } else { Err(RocksError::Operator { family: family.to_string() }) }
}
