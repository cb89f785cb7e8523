//! The freelist in RocksDB, for engines that keep their metadata there. Feature `rocksdb`.
//!
//! The bitmap of allocated blocks lies in chunks under the keys of a column family, and RocksDB's
//! merge changes it bit by bit. A transaction adds a few bytes per chunk to the engine's own write
//! batch, so that one write commits the engine's metadata and its free space. This is the
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
//! Readers [pin](crate::Allocator::pin), look the object up, read, and drop the guard. The database
//! must come from the same version of the `rocksdb` crate, so this module re-exports it as
//! [`rocks::rocksdb`](rocksdb). The options and reports here are not those of the space-map log,
//! which have the same names at the root of the crate.
//!
//! # What an engine has to keep to
//!
//! - A transaction is committed when its batch is as durable as the engine needs it: written with a
//!   synced write-ahead log, or followed by `flush_wal(true)`. Freed blocks are reused from then
//!   on. With weaker durability, old objects can come back after a power failure with foreign data
//!   in them. Without a write-ahead log the families must be flushed together (`atomic_flush`)
//!   first.
//! - A write error may leave open whether the batch is durable. [`RocksFreelist::commit_with`] and
//!   [`Transaction::commit`](crate::Transaction::commit) keep those blocks from being handed out.
//!   An engine that stages and writes itself asks [`StageError::of_write`] and calls
//!   [`Frozen::in_doubt`](crate::Frozen::in_doubt). A batch that was never written does no harm,
//!   and writing one twice has the same result as once; but while a batch may still be written, do
//!   not drop its frozen transaction nor keep its delta for later.
//! - What a transaction allocated may be freed by another once the first has been written, not
//!   before: if the first is given up, its blocks are handed out again while the second frees them.
//! - The database is always opened with the family's options: [`RocksFreelist::open_database`], or
//!   [`RocksFreelist::family_options`]. If it is opened once without our merge operator, even by a
//!   tool, RocksDB's replay of the write-ahead log stops at the first of our operands, without an
//!   error, and what was committed behind it is lost. Operands that come first in their batch at
//!   least leave no half of it. A time to live (`open_with_ttl`), or a compaction style that drops
//!   old files, drops the freelist.
//! - The device changes its length by [`RocksFreelist::grow`] and
//!   [`shrink`](RocksFreelist::shrink), not by the allocator alone, so that the database knows of
//!   blocks before a transaction does.
//! - While a freelist is open, its family is not dropped and `ignore_missing_column_families` is
//!   not set.
//! - One process, one database, one family: no secondary instances. The transactional databases of
//!   RocksDB have batches of another type and are not supported.
//!
//! # What cannot happen unseen
//!
//! Setting a set bit or clearing a clear one comes from a mistake in the engine: a block freed by
//! two transactions, or allocated or freed without one (freeing committed blocks in that way is
//! refused). The allocator from this module keeps the committed state in memory (a
//! [ledger](crate::Builder::build_with_ledger), 32 MiB per TiB of 4 KiB blocks). Every transaction
//! is compared with it at the freeze, and one that contradicts it is refused
//! ([`StageError::Conflict`]) before anything is in a batch. A foreign write into the column family
//! changes bits only where it says so, never flips any, and [`Opened::check`] finds where the
//! durable state differs from what was committed. A foreign write that sets a set bit changes
//! nothing, so nothing can be found. Nor can, with one bit per block, a stale free of a block that
//! was allocated again since.
//!
//! # Restart
//!
//! [`RocksFreelist::open`] scans the column family, in parallel, on a snapshot. Chunks with pending
//! merge operands cost several times as much as others. RocksDB folds them: a flush makes one
//! operand per chunk of those in memory, and after four flushes a compaction leaves none. With
//! [`RocksFreelist::family_options`] that is every 16 MiB of operands in memory, some 460,000
//! transactions of one block, whatever the rest of the database does. [`RocksFreelist::fold`] does
//! it at once, for example before a shutdown. With `unordered_write` a snapshot may hold half a
//! batch; only checks, inspections and exports beside commits can see that. README has the figures;
//! after a crash, most of the time goes into RocksDB's replay of the write-ahead log.

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
/// Clones share one freelist. The column family must have no other user; as long as a clone lives,
/// no other freelist of this process can be opened there. The database is kept open.
pub struct RocksFreelist<M: Mode = SingleThreaded> {
    inner: Arc<Inner<M>>,
}

struct Inner<M: Mode> {
    /// Released before the database can be closed.
    _lease: Lease,
    db: Arc<DBWithThreadMode<M>>,
    family: String,
    /// The description as it is on disk. Locked while it is changed; commits lock it only after a
    /// change of it has failed.
    meta: Mutex<Meta>,
    /// The device's number of blocks.
    blocks: Counter,
    chunk: chunk::ChunkOrder,
    /// The allocator whose transactions this freelist takes.
    allocator: u64,
    /// 1 after a write failed, until one succeeds.
    failed: Counter,
    /// 1 after a write of the description failed, until one succeeds: the device may have another
    /// size on disk than here.
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
    /// You may change sizes, triggers, compression, tables and caches. Do not change merge
    /// operator, compaction filter and comparator, and use no compaction style or time to live that
    /// drops files, and no user-defined timestamps. Write buffer and compaction trigger decide how
    /// long a restart can take. There is no compression, which pays where free space is in long
    /// runs.
    pub fn family_options() -> Options {
        family::options()
    }

    /// Opens the database in the folder `path` with the column family `family` for a freelist, and
    /// with `others`, which must be all other families of the database (the default one is opened
    /// anyway). Missing families are created. `options` are those of the database and of the
    /// default family; a new database needs `create_if_missing`. The type that the result is
    /// assigned to chooses the [`Mode`]: as a rule `Arc<rocksdb::DB>`.
    ///
    /// # Errors
    /// [`RocksError::Locked`] if another process, or another part of this one, has the database
    /// open; [`RocksError::Name`], [`RocksError::Database`].
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

    /// Writes the delta alone, with a synced write-ahead log, for engines that keep nothing else in
    /// the database. RocksDB writes and flushes concurrent committers as one group.
    ///
    /// Returns a sequence number of the database at which the transaction is durable, not a count
    /// of transactions: concurrent transactions may get the same number, and there are gaps.
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
    /// Writes a transaction in one batch with what `add` appends, and with the engine's `options`:
    /// as a rule synced, since freed blocks are reused as soon as this returns. To sync later, or
    /// to retry after an error, use [`RocksFreelist::stage`]. RocksDB writes and flushes concurrent
    /// committers as one group. `add` runs before the write, under no lock.
    ///
    /// Returns the same number as [`Store::commit`] here.
    ///
    /// # Errors
    /// [`StageError`], and the transaction is given up: rolled back, or after [`StageError::Doubt`]
    /// its blocks are not handed out.
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
    /// Call [`Frozen::committed`](crate::Frozen::committed) if the write succeeded (until then the
    /// freed blocks are not handed out), and [`Frozen::in_doubt`](crate::Frozen::in_doubt) if it
    /// did not. A batch must not be written any more when the freelist has been closed.
    ///
    /// One merge operand for each chunk that the delta touches: two to four bytes for a single
    /// block of a chunk of the default size (plus RocksDB's own 16 in the batch), and never more
    /// bytes than a quarter of the chunk's blocks. O(extents), no lock (a database in mode
    /// [`MultiThreaded`](rocksdb::MultiThreaded) has one around the names of its column families).
    /// Only after [`RocksFreelist::grow`] or [`shrink`](RocksFreelist::shrink) failed, the device's
    /// size is written again first, so that nothing is staged for blocks that a restart might not
    /// know.
    ///
    /// # Errors
    /// [`StageError`]; the batch is unchanged then, and the transaction may be dropped.
    pub fn stage(&self, batch: &mut WriteBatch, delta: &Delta) -> Result<(), StageError> {
        let inner = &*self.inner;
        if delta.origin != Some(inner.allocator) {
            return Err(StageError::Foreign);
        }
        if let Some(block) = delta.conflict() {
            return Err(StageError::Conflict { block });
        }
        // The engine may have grown the allocator without the freelist.
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

    /// Flushes all pending operands and folds them into the chunks, so that the next opening is as
    /// fast as possible; chunks that are all free lose their keys. Runs beside commits; rewrites up
    /// to the whole column family, 32 MiB per TiB of 4 KiB blocks.
    ///
    /// # Errors
    /// [`RocksError::Database`] if the flush fails, [`RocksError::NoFamily`]. The `rocksdb` crate
    /// does not report a failed compaction; nothing is lost then, and RocksDB's log says why.
    pub fn fold(&self) -> Result<(), RocksError> {
        let family = family::find(&self.inner.db, &self.inner.family)?;
        let failed = |error| RocksError::of(error, "flush the freelist", &self.inner.family);
        self.inner.db.flush_cf(&family).map_err(failed)?;
        let mut options = CompactOptions::default();
        // Also compacts what has just been compacted: the filter does not see the result of a
        // merge.
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        let all = None::<&[u8]>;
        self.inner.db.compact_range_cf_opt(&family, all, all, &options);
        Ok(())
    }

    /// Blocks of a chunk.
    pub fn chunk_blocks(&self) -> u64 {
        self.inner.chunk.blocks()
    }

    /// The device's UUID, as chosen or drawn at creation.
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

    /// After a failed write, checks whether RocksDB writes again, so that another transaction does
    /// not lose its blocks to find out.
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
