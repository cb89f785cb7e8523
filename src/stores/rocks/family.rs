//! The freelist's column family: its options, its lookup, its lease.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rocksdb::{
    AsColumnFamilyRef, BlockBasedOptions, BoundColumnFamily, ColumnFamily, ColumnFamilyDescriptor,
    DBWithThreadMode, MultiThreaded, Options, SingleThreaded, ThreadMode,
};

use crate::stores::rocks::error::RocksError;
use crate::stores::rocks::merge;

/// The two kinds of database of the `rocksdb` crate: [`SingleThreaded`], where column families are
/// created and dropped through `&mut`, and [`MultiThreaded`]. Sealed.
pub trait Mode: ThreadMode + sealed::Sealed + Send + Sync + Sized + 'static {
    /// The handle of a column family in such a database.
    #[doc(hidden)]
    type Family<'a>: AsColumnFamilyRef + Send + Sync;

    /// The column family `name` of `db`.
    #[doc(hidden)]
    fn family<'a>(db: &'a DBWithThreadMode<Self>, name: &str) -> Option<Self::Family<'a>>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for rocksdb::SingleThreaded {}
    impl Sealed for rocksdb::MultiThreaded {}
}

impl Mode for SingleThreaded {
    type Family<'a> = &'a ColumnFamily;

    fn family<'a>(db: &'a DBWithThreadMode<Self>, name: &str) -> Option<Self::Family<'a>> {
        db.cf_handle(name)
    }
}

impl Mode for MultiThreaded {
    type Family<'a> = Arc<BoundColumnFamily<'a>>;

    fn family<'a>(db: &'a DBWithThreadMode<Self>, name: &str) -> Option<Self::Family<'a>> {
        db.cf_handle(name)
    }
}

/// The column family `name`, or [`RocksError::NoFamily`].
pub(super) fn find<'a, M: Mode>(
    db: &'a DBWithThreadMode<M>,
    name: &str,
) -> Result<M::Family<'a>, RocksError> {
    M::family(db, name).ok_or_else(|| RocksError::NoFamily { family: name.to_string() })
}

/// The options of a column family for a freelist.
pub(super) fn options() -> Options {
    let mut options = Options::default();
    merge::install(&mut options);
    // Pending operands make a scan slow: this bounds their number. A flush folds those of a chunk
    // into one, and after four flushes a compaction leaves none.
    options.set_write_buffer_size(WRITE_BUFFER);
    options.set_level_zero_file_num_compaction_trigger(4);
    let mut table = BlockBasedOptions::default();
    // Only scans read it: few large blocks, and no filters, since there are no lookups.
    table.set_block_size(64 << 10);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(rocksdb::DBCompressionType::None);
    options
}

/// Bytes of operands in memory before a flush: README has the resulting figures.
const WRITE_BUFFER: usize = 16 << 20;

/// Opens a database with the column family `name` for a freelist, and with `others`, which must be
/// all its other families. Missing families are created.
pub(super) fn open_database<M: Mode>(
    path: &Path,
    options: &Options,
    name: &str,
    others: Vec<ColumnFamilyDescriptor>,
) -> Result<DBWithThreadMode<M>, RocksError> {
    let refuse = |reason| RocksError::Name { family: name.to_string(), reason };
    if name.contains('\0') {
        return Err(refuse("a name has no zero bytes"));
    }
    if others.iter().any(|other| other.name() == name) {
        return Err(refuse("named twice"));
    }
    let mut options = options.clone();
    options.create_missing_column_families(true);
    let families = others.into_iter().chain([ColumnFamilyDescriptor::new(name, self::options())]);
    DBWithThreadMode::open_cf_descriptors(&options, path, families).map_err(|error| {
        // RocksDB has no code for this: its file lock answers so.
        let locked = error.kind() == rocksdb::ErrorKind::IOError
            && (error.as_ref().contains("lock hold by current process")
                || error.as_ref().contains("While lock file"));
        if locked {
            return RocksError::Locked { path: path.to_path_buf() };
        }
        RocksError::of(error, "open the database", name)
    })
}

/// The right to change a column family, for one part of this process at a time: two freelists in
/// one family would hand out the same blocks. RocksDB itself keeps other processes out, and a
/// second opening of the database in this one, so the database's address identifies it.
#[derive(Debug)]
pub(super) struct Lease {
    database: usize,
    family: String,
}

static LEASES: Mutex<BTreeSet<(usize, String)>> = Mutex::new(BTreeSet::new());

fn leases() -> MutexGuard<'static, BTreeSet<(usize, String)>> {
    LEASES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease {
    /// The lease, unless it is taken. Must not outlive `db`.
    pub(super) fn take<M: Mode>(
        db: &DBWithThreadMode<M>,
        family: &str,
    ) -> Result<Self, RocksError> {
        let database = std::ptr::from_ref(db).addr();
        if leases().insert((database, family.to_string())) {
            Ok(Self { database, family: family.to_string() })
        } else {
            Err(RocksError::InUse { family: family.to_string() })
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        leases().remove(&(self.database, std::mem::take(&mut self.family)));
    }
}
