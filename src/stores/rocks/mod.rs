//! The freelist in RocksDB, for engines that keep their metadata there. Feature `rocksdb`.
//!
//! The bitmap of allocated blocks lies in chunks under the keys of a column family, and RocksDB's
//! merge changes it bit by bit: a transaction adds a few bytes per chunk to the engine's own write
//! batch, so that the engine's metadata and its free space are committed by one write. This is the
//! persistent form that Allen Samuels proposed on ceph-devel in 2016 together with the index.
//!
//! ```
//! use std::sync::Arc;
//!
//! use freemap::RocksFreelist;
//! use freemap::rocks::{CreateOptions, OpenOptions};
//! use rocksdb::{DB, Options, WriteOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path();
//! let mut options = Options::default();
//! options.create_if_missing(true);
//! let db: Arc<DB> = Arc::new(RocksFreelist::open_database(path, &options, "free", vec![])?);
//! let created = RocksFreelist::create(db.clone(), "free", 1 << 20, &CreateOptions::new())?;
//!
//! let mut transaction = created.allocator.begin();
//! let extent = transaction.allocate(100)?;
//! let mut synced = WriteOptions::default();
//! synced.set_sync(true);
//! created.freelist.commit_with(transaction.freeze(), &synced, |batch| {
//!     batch.put(b"object 7", extent.start.to_le_bytes()); // the engine's metadata: both or none
//! })?;
//! drop(created); // or a crash
//!
//! let opened = RocksFreelist::open(db, "free", &OpenOptions::new())?;
//! assert_eq!(opened.allocator.is_allocated(extent), Ok(true));
//! assert_eq!(opened.allocator.free_blocks(), (1 << 20) - 100);
//! # Ok(())
//! # }
//! ```
//!
//! Readers [pin](crate::Allocator::pin), look the object up, read, and drop the guard. A database of the
//! same version of the `rocksdb` crate is needed, so this module has it as [`rocks::rocksdb`](rocksdb).
//! The options and reports here are not those of the space-map log, which have the same names at the
//! root of the crate.
//!
//! # What an engine has to keep to
//!
//! - A transaction is committed when its batch is as durable as the engine needs it: written with a
//!   synced write-ahead log, or followed by `flush_wal(true)`. Freed blocks are reused from then on, so
//!   with less, old objects can come back after a power failure with foreign data in them. Without a
//!   write-ahead log the families must be flushed together (`atomic_flush`) first.
//! - An error of the write may leave open whether the batch is durable.
//!   [`RocksFreelist::commit_with`] and [`Transaction::commit`](crate::Transaction::commit) see to it
//!   that nobody gets those blocks; who stages and writes himself asks [`StageError::of_write`], and
//!   calls [`Frozen::in_doubt`](crate::Frozen::in_doubt). A batch that was never written does no harm,
//!   and writing one twice comes to the same; but while a batch may still be written, its frozen
//!   transaction must not be dropped, nor its delta be kept for later.
//! - What a transaction allocated may be freed by another as soon as the first has been written, not
//!   before: if it is given up, its blocks go to somebody else while the second frees them.
//! - The database is always opened with the family's options: [`RocksFreelist::open_database`], or
//!   [`RocksFreelist::family_options`]. If it is opened once without our merge operator, also by a
//!   tool, RocksDB's replay of the write-ahead log stops at the first of our operands, without an
//!   error, and what was committed behind it is lost. Operands that come first in their batch leave at
//!   least no half of it. A time to live (`open_with_ttl`), or a compaction style that drops old files,
//!   drops the freelist.
//! - The device changes its length by [`RocksFreelist::grow`] and [`shrink`](RocksFreelist::shrink), not by the
//!   allocator alone, so that the database knows of blocks before a transaction does.
//! - While a freelist is open its family is not dropped, and `ignore_missing_column_families` not set.
//! - One process, one database, one family: no secondary instances. The transactional databases of
//!   RocksDB have batches of another type and are not supported.
//!
//! # What cannot happen unseen
//!
//! Setting what is set or clearing what is clear comes from a mistake above: a block freed by two
//! transactions, or allocated or freed without one (freeing so what is committed is refused). The allocator that comes from here keeps the
//! committed state in memory (a [ledger](crate::Builder::build_with_ledger), 32 MiB per TiB of
//! 4 KiB blocks), every transaction is compared with it when it is frozen, and one that contradicts
//! it is refused ([`StageError::Conflict`]) before anything is in a batch. What is written into the
//! column family behind our back changes bits only where it says so, never flips any, and
//! [`Opened::check`] finds where the durable state differs from what was committed. Setting a set
//! bit behind our back changes nothing, so nothing can be found. Nor can, with one bit per block, a
//! stale free of a block that was allocated again since.
//!
//! # Restart
//!
//! [`RocksFreelist::open`] scans the column family, in parallel, on a snapshot. Chunks with pending
//! merge operands cost several times as much as others. RocksDB folds them: a flush makes one
//! operand per chunk of those in memory, and after four flushes a compaction leaves none. With
//! [`RocksFreelist::family_options`] that is every 16 MiB of operands in memory, some 460,000
//! transactions of one block, whatever the rest of the database does. [`RocksFreelist::fold`] does it
//! at once, before a shutdown, say. With `unordered_write` a snapshot may hold half a batch, which only
//! checks, inspections and exports beside commits can see. README has the figures; after a crash, most of the time goes into
//! RocksDB's replay of the write-ahead log.

mod check;
mod chunk;
mod error;
mod family;
mod merge;
mod meta;
mod open;
mod operand;
mod options;
mod rechunk;
mod resize;
mod scan;
#[cfg(test)]
mod tests;
mod transfer;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rocksdb::{
    BottommostLevelCompaction, ColumnFamilyDescriptor, CompactOptions, DBWithThreadMode, Options,
    SingleThreaded, WriteBatch, WriteOptions,
};

use crate::base::sync::Counter;
use crate::transaction::Frozen;
use crate::transaction::store::Store;
use crate::values::delta::Delta;
use crate::values::error::on_device;
use crate::values::lsn::Lsn;

pub use ::rocksdb;
pub use check::Integrity;
pub use error::{Place, RocksError, StageError};
pub use family::Mode;
pub use open::{Opened, Report};
pub use options::{CreateOptions, OpenOptions};
pub use rechunk::Progress;

use family::Lease;
use meta::Meta;

/// The freelist of one device in a column family of a RocksDB database. See the
/// [module](crate::stores::rocks).
///
/// A clone is another name for the same freelist. The column family must not be used by anybody
/// else; as long as a clone lives, no other freelist of this process can be opened there. The
/// database is kept open.
pub struct RocksFreelist<M: Mode = SingleThreaded> {
    inner: Arc<Inner<M>>,
}

struct Inner<M: Mode> {
    /// Given back before the database can go.
    _lease: Lease,
    db: Arc<DBWithThreadMode<M>>,
    family: String,
    /// The description as it is on disk. Locked while it is changed; by commits only after a change of it
    /// has failed.
    meta: Mutex<Meta>,
    /// Its number of blocks.
    blocks: Counter,
    chunk: chunk::ChunkOrder,
    /// The allocator whose transactions this freelist takes.
    allocator: u64,
    /// 1 since a write failed, until one succeeds.
    failed: Counter,
    /// 1 since a write of the description failed, until one succeeds: the device may have another size
    /// on disk than here.
    unsettled: Counter,
}

impl<M: Mode> Clone for RocksFreelist<M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<M: Mode> std::fmt::Debug for RocksFreelist<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RocksFreelist")
            .field("path", &self.inner.db.path())
            .field("family", &self.inner.family)
            .field("meta", &*self.meta())
            .finish_non_exhaustive()
    }
}

impl RocksFreelist {
    /// The options of a freelist's column family, for engines that open the database themselves:
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use freemap::RocksFreelist;
    /// use rocksdb::{ColumnFamilyDescriptor, DB, Options};
    ///
    /// let free = ColumnFamilyDescriptor::new("free", RocksFreelist::family_options());
    /// let objects = ColumnFamilyDescriptor::new("objects", Options::default());
    /// let db = DB::open_cf_descriptors(&Options::default(), "path", [free, objects])?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Sizes, triggers, compression, tables and caches may be changed; not merge operator, compaction
    /// filter and comparator, nor to a compaction style or a time to live that drops files, nor to
    /// timestamps of the user's. Write buffer and compaction trigger decide how long a restart can take;
    /// there is no compression, which pays where free space is in long runs.
    pub fn family_options() -> Options {
        family::options()
    }

    /// Opens the database in the folder `path`, with the column family `family` for a freelist, made
    /// if it is not there, and `others`, which must be all the others that the database has (the
    /// default one is opened anyway) and are made, too, if they are not there. `options` are those of the
    /// database and of the default family; a new database needs `create_if_missing`. What the result
    /// is assigned to chooses the [`Mode`]: `Arc<rocksdb::DB>`, as a rule.
    ///
    /// # Errors
    /// [`RocksError::Locked`] if another process, or another part of this one, has it open;
    /// [`RocksError::Name`], [`RocksError::Database`].
    pub fn open_database<M: Mode>(
        path: impl AsRef<Path>,
        options: &Options,
        family: &str,
        others: Vec<ColumnFamilyDescriptor>,
    ) -> Result<DBWithThreadMode<M>, RocksError> {
        family::open_database(path.as_ref(), options, family, others)
    }
}

impl<M: Mode> Store for RocksFreelist<M> {
    type Error = StageError;

    /// Writes the delta alone, with a synced write-ahead log, for those who keep nothing else in the
    /// database. RocksDB writes and flushes those who commit at the same time as one group.
    ///
    /// The answer is a sequence number of the database at which the transaction is durable, not the
    /// number of transactions: others in between may have the same, and there are gaps.
    fn commit(&self, delta: &Delta) -> Result<Lsn, StageError> {
        let work = || {
            let mut batch = WriteBatch::default();
            self.stage(&mut batch, delta)?;
            if !batch.is_empty() {
                self.try_out()?;
                self.write(batch, &open::synced())?;
            }
            Ok(Lsn(self.inner.db.latest_sequence_number()))
        };
        delta.hand_over(work, StageError::leaves_doubt)
    }

    fn leaves_doubt(&self, error: &StageError) -> bool {
        error.leaves_doubt()
    }
}

impl<M: Mode> RocksFreelist<M> {
    /// Writes a transaction in one batch with what `add` appends there, and with the engine's
    /// `options`: synced, as a rule, since freed blocks are reused as soon as this returns. To sync later,
    /// or to try again after an error, use [`RocksFreelist::stage`]. RocksDB writes and flushes those
    /// who commit at the same time as one group. `add` runs before the write, under no lock.
    ///
    /// The answer is as that of [`Store::commit`] here.
    ///
    /// # Errors
    /// [`StageError`], and the transaction is given up: rolled back, or kept from everybody after
    /// [`StageError::Doubt`].
    pub fn commit_with(
        &self,
        mut transaction: Frozen,
        options: &WriteOptions,
        add: impl FnOnce(&mut WriteBatch),
    ) -> Result<Lsn, StageError> {
        /// Sequence number and count, which RocksDB fills in.
        const HEADER: usize = 12;
        let mut batch = WriteBatch::default();
        self.stage(&mut batch, transaction.delta())?;
        self.try_out()?;
        let staged = batch.data().get(HEADER..).unwrap_or_default().to_vec();
        transaction.at_work(false);
        add(&mut batch);
        if !batch.data().get(HEADER..).is_some_and(|data| data.starts_with(&staged)) {
            return Err(StageError::Cleared);
        }
        transaction.at_work(true);
        match self.write(batch, options) {
            Ok(()) => {
                transaction.committed();
                Ok(Lsn(self.inner.db.latest_sequence_number()))
            }
            Err(error) => {
                if error.leaves_doubt() {
                    transaction.in_doubt();
                }
                Err(error)
            }
        }
    }

    /// Adds `delta` to a batch that the engine writes itself, best before anything else is in it.
    /// Then: [`Frozen::committed`](crate::Frozen::committed) if the write went well, and until then
    /// nobody gets the freed blocks; [`Frozen::in_doubt`](crate::Frozen::in_doubt) if it did not. A
    /// batch must not be written any more when the freelist has been closed.
    ///
    /// One merge operand for each chunk that the delta touches: of two to four bytes for a single
    /// block of a chunk of the default size (with RocksDB's own 16 in the batch), and never more bytes
    /// than a quarter of the chunk's blocks. O(extents), no lock (a database in mode
    /// [`MultiThreaded`](rocksdb::MultiThreaded) has one around the names of its column families). Only
    /// after [`RocksFreelist::grow`] or [`shrink`](RocksFreelist::shrink) failed, the size that the device
    /// has is written again first, so that nothing is staged for blocks that a restart might not know.
    ///
    /// # Errors
    /// [`StageError`]; the batch is as it was then, and the transaction may be dropped.
    pub fn stage(&self, batch: &mut WriteBatch, delta: &Delta) -> Result<(), StageError> {
        let inner = &*self.inner;
        if delta.origin != Some(inner.allocator) {
            return Err(StageError::Foreign);
        }
        if let Some(block) = delta.conflict() {
            return Err(StageError::Conflict { block });
        }
        // The allocator may have been made longer behind our back.
        for last in [delta.allocated().last(), delta.freed().last()].into_iter().flatten() {
            on_device(*last, inner.blocks.get())?;
        }
        if inner.unsettled.get() != 0 {
            self.settle_size()?;
        }
        let family = M::family(&inner.db, &inner.family)
            .ok_or_else(|| StageError::NoFamily { family: inner.family.clone() })?;
        for (number, operand) in operand::operands(inner.chunk, delta.allocated(), delta.freed()) {
            batch.merge_cf(&family, chunk::key(number), &operand[..]);
        }
        Ok(())
    }

    /// Writes out all pending operands and folds them into the chunks, so that the next opening is
    /// as fast as it can be; chunks that are all free lose their keys. Runs beside commits; rewrites
    /// up to the whole column family, 32 MiB per TiB of 4 KiB blocks.
    ///
    /// # Errors
    /// [`RocksError::Database`] if the flush fails, [`RocksError::NoFamily`]. The `rocksdb` crate does
    /// not tell whether a compaction failed; nothing is lost then, and RocksDB's log says why.
    pub fn fold(&self) -> Result<(), RocksError> {
        let family = family::find(&self.inner.db, &self.inner.family)?;
        let failed = |error| RocksError::of(error, "flush the freelist", &self.inner.family);
        self.inner.db.flush_cf(&family).map_err(failed)?;
        let mut options = CompactOptions::default();
        // Also what has just been compacted: the filter does not see what a merge results in.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        let all = None::<&[u8]>;
        self.inner.db.compact_range_cf_opt(&family, all, all, &options);
        Ok(())
    }

    /// Blocks of a chunk.
    pub fn chunk_blocks(&self) -> u64 {
        self.inner.chunk.blocks()
    }

    /// The identity of the device, as chosen or drawn at creation.
    pub fn uuid(&self) -> [u8; 16] {
        self.meta().uuid
    }

    /// The database.
    pub fn database(&self) -> &Arc<DBWithThreadMode<M>> {
        &self.inner.db
    }

    fn write(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), StageError> {
        let written = self.inner.db.write_opt(batch, options).map_err(StageError::of_write);
        if written.as_ref().is_err_and(StageError::leaves_doubt) {
            self.inner.failed.set(1);
        }
        written
    }

    /// After a write that failed: whether RocksDB writes again, before another transaction loses its
    /// blocks to find out.
    fn try_out(&self) -> Result<(), StageError> {
        let inner = &*self.inner;
        if inner.failed.get() == 0 {
            return Ok(());
        }
        let family = M::family(&inner.db, &inner.family)
            .ok_or_else(|| StageError::NoFamily { family: inner.family.clone() })?;
        let mut batch = WriteBatch::default();
        batch.delete_cf(&family, scan::PROBE);
        inner.db.write_opt(batch, &open::synced()).map_err(StageError::Refused)?;
        inner.failed.set(0);
        Ok(())
    }

    fn meta(&self) -> MutexGuard<'_, Meta> {
        self.inner.meta.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
