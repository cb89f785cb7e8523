//! The store: a data file, the space-map log that says which of its blocks are in use, and the
//! metadata log that says which object they belong to.
//!
//! # Why the two logs agree after a crash
//!
//! A put, overwrite or delete is one transaction, and goes through these steps:
//!
//! 1. allocate, and write the data to the new blocks: nobody else has them, and nothing durable
//!    names them;
//! 2. commit to the space-map log, which gives the LSN;
//! 3. flush the data file, then append the record with that LSN to the metadata log and flush it.
//!    Records are appended in the order of their LSNs, so that log always ends with *all*
//!    transactions up to some LSN n;
//! 4. replace the object in the index, where readers look it up;
//! 5. let the old version's blocks go ([`Frozen::committed`]), and acknowledge.
//!
//! The metadata log is the authority: [`Store::open`] has the space-map log take back everything
//! behind n. What a crash leaves, then, if it comes
//!
//! - before 2 is durable: neither log has the transaction. The blocks were never durably allocated.
//! - between 2 and 3: the transaction is behind n, and so are all with a greater LSN. It is taken
//!   back: the new blocks are free, and the old version has its own again, with its data, since
//!   nobody gets those before step 5.
//! - after 3: both logs have it, whether it was acknowledged or not, and its data was durable first.
//! - during recovery: cutting the torn tail of the metadata log changes nothing that counts, and
//!   taking back is a transaction of the space-map log behind n, so doing it again comes to the
//!   same. The record [`Change::TakenBack`] then joins the LSNs again.
//! - during creation: there is a store if there is a metadata log, which gets its name last.
//!
//! Readers pin before they look up. An object leaves the index (4) before its blocks are retired
//! (5), so whoever finds the old version has pinned before that and keeps its blocks from reuse.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use freemap::{
    Allocator, Authority, CreateOptions, Extent, Figures, FileDisk, Frozen, Lsn, OpenOptions,
    Opened, SpaceMapLog, Transaction,
};

use super::Failure;
use super::events::Events;
use super::metadata::{MetadataFigures, MetadataLog};
use super::object::Object;
use super::record::{Catalog, Change, MAGIC};
use super::start::Start;

const DATA: &str = "objects.freemap-engine";
const SPACE: &str = "space.freemap-engine";
const METADATA: &str = "metadata.freemap-engine";
const METADATA_NEW: &str = "metadata.freemap-engine.new";

/// Foreign extents in one transaction: far below what the smallest space-map log takes at once.
const FOREIGN_AT_ONCE: usize = 50_000;

pub struct Store {
    opened: Opened,
    metadata: MetadataLog,
    data: Arc<File>,
    objects: RwLock<BTreeMap<u64, Arc<Object>>>,
    foreign: Vec<Extent>,
    next_id: AtomicU64,
    events: Option<Events>,
    /// Transactions whose records may or may not be durable, since a flush failed: nobody may get
    /// their blocks before the store is opened again.
    doubtful: Mutex<Vec<Frozen>>,
}

/// What opening a store came to.
#[derive(Clone, Debug)]
pub struct Recovery {
    pub took: Duration,
    /// Transactions of the space-map log that were replayed.
    pub replayed: u64,
    /// Transactions of the space-map log that the metadata log did not have.
    pub taken_back: u64,
    /// Bytes behind the last whole record of the metadata log.
    pub torn_bytes: u64,
    pub objects: usize,
}

impl Store {
    /// A new store in `dir`, with the blocks in use that `start` has in use.
    pub fn create(dir: &Path, start: &Start, events: Option<Events>) -> Result<Self, Failure> {
        fs::create_dir_all(dir)?;
        // Locked from here on.
        let disk = FileDisk::open(dir.join(SPACE))?;
        if dir.join(METADATA).exists() {
            return Err(format!("{}: holds a store; try --reopen", dir.display()).into());
        }
        let (blocks, block_size) = (start.allocator.blocks(), start.allocator.block_size());
        let data = options().create(true).truncate(true).open(dir.join(DATA))?;
        data.set_len(blocks * u64::from(block_size))?;
        data.sync_all()?;
        let data = Arc::new(data);
        let how = CreateOptions::new().authority(Authority::Engine).block_size(block_size);
        // What a crash during an earlier creation left is nobody's.
        let opened = SpaceMapLog::create(disk, blocks, &how.overwrite())?;
        let file = options().create(true).truncate(true).open(dir.join(METADATA_NEW))?;
        file.write_all_at(&MAGIC, 0)?;
        file.sync_all()?;
        let metadata = MetadataLog::new(file, MAGIC.len() as u64, Lsn(1), data.clone());
        let foreign = start.foreign();
        let catalog = Catalog { foreign: foreign.clone(), ..Catalog::default() };
        let store = Self::new(opened, metadata, data, catalog, events);
        for extents in foreign.chunks(FOREIGN_AT_ONCE) {
            let mut transaction = store.allocator().begin();
            for &extent in extents {
                transaction.mark_allocated(extent)?;
            }
            store.commit(transaction, Change::Foreign(extents.to_vec()))?;
        }
        fs::rename(dir.join(METADATA_NEW), dir.join(METADATA))?;
        File::open(dir)?.sync_all()?;
        Ok(store)
    }

    /// The store in `dir`, with every transaction that was acknowledged.
    pub fn open(dir: &Path, events: Option<Events>) -> Result<(Self, Recovery), Failure> {
        let path = dir.join(METADATA);
        if !path.exists() {
            return Err(format!("{}: holds no store", dir.display()).into());
        }
        let started = Instant::now();
        // Locked from here on.
        let disk = FileDisk::open(dir.join(SPACE))?;
        let bytes = fs::read(&path)?;
        let catalog =
            Catalog::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let opened = SpaceMapLog::open(disk, &OpenOptions::new().recover_until(catalog.last))?;
        let data = Arc::new(options().open(dir.join(DATA))?);
        let file = options().open(&path)?;
        let torn_bytes = (bytes.len() - catalog.whole) as u64;
        if torn_bytes > 0 {
            file.set_len(catalog.whole as u64)?;
            file.sync_all()?;
        }
        let recovery = Recovery {
            took: Duration::ZERO,
            replayed: opened.report.replayed,
            taken_back: opened.report.taken_back,
            torn_bytes,
            objects: catalog.objects.len(),
        };
        let (known, last) = (catalog.last, opened.log.last());
        let next = if last > known { last } else { Lsn(known.0 + 1) };
        let metadata = MetadataLog::new(file, catalog.whole as u64, next, data.clone());
        if last > known {
            metadata.append(last, &Change::TakenBack)?;
        }
        opened.log.stable(last);
        let store = Self::new(opened, metadata, data, catalog, events);
        Ok((store, Recovery { took: started.elapsed(), ..recovery }))
    }

    fn new(
        opened: Opened,
        metadata: MetadataLog,
        data: Arc<File>,
        catalog: Catalog,
        events: Option<Events>,
    ) -> Self {
        Self {
            opened,
            metadata,
            data,
            objects: RwLock::new(catalog.objects),
            foreign: catalog.foreign,
            next_id: AtomicU64::new(catalog.next_id),
            events,
            doubtful: Mutex::default(),
        }
    }

    /// Makes `change` durable with the blocks that `transaction` allocated and frees.
    fn commit(&self, transaction: Transaction<'_>, change: Change) -> Result<(), Failure> {
        self.tell("begin", &change)?;
        let frozen = transaction.freeze();
        let lsn = freemap::Store::commit(&self.opened.log, frozen.delta())?;
        if let Err(error) = self.metadata.append(lsn, &change) {
            self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).push(frozen);
            return Err(error);
        }
        self.enter(&change);
        frozen.committed();
        self.tell("done", &change)?;
        self.opened.log.stable(lsn);
        Ok(())
    }

    /// Lets readers see `change`.
    fn enter(&self, change: &Change) {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Put(object) => {
                objects.insert(object.id, Arc::new(object.clone()));
            }
            Change::Delete { id, .. } => {
                objects.remove(id);
            }
            Change::Foreign(_) | Change::TakenBack => {}
        }
    }

    fn tell(&self, stage: &str, change: &Change) -> Result<(), Failure> {
        Ok(self.events.iter().try_for_each(|events| events.tell(stage, change))?)
    }

    /// Tells whoever follows the events what there is.
    pub fn tell_ready(&self) -> Result<(), Failure> {
        let objects = self.objects();
        let found = || objects.values().map(|object| &**object);
        Ok(self.events.iter().try_for_each(|events| events.ready(found()))?)
    }

    /// Writes `object` to the blocks that `transaction` allocated, and commits. An older version's
    /// blocks are freed. Nobody else may change the same object meanwhile.
    pub fn put(
        &self,
        mut transaction: Transaction<'_>,
        object: Object,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        object.write(&self.data, self.allocator().block_size(), buffer)?;
        if let Some(old) = self.find(object.id) {
            free_all(&mut transaction, &old)?;
        }
        self.commit(transaction, Change::Put(object))
    }

    /// Deletes the object, if there is one. Nobody else may change it meanwhile.
    pub fn delete(&self, mut transaction: Transaction<'_>, id: u64) -> Result<(), Failure> {
        let Some(old) = self.find(id) else { return Ok(()) };
        free_all(&mut transaction, &old)?;
        self.commit(transaction, Change::Delete { id, version: old.version })
    }

    /// Reads the first object with at least this id, or the first of all, and counts the blocks
    /// with wrong bytes. `None` if there is no object.
    pub fn read(&self, id: u64, buffer: &mut Vec<u8>) -> Result<Option<u64>, Failure> {
        // Before looking it up, and until its bytes are verified.
        let _guard = self.allocator().pin();
        let found = {
            let objects = self.objects();
            objects.range(id..).next().or(objects.first_key_value()).map(|(_, found)| found.clone())
        };
        let block_size = self.allocator().block_size();
        let Some(object) = found else { return Ok(None) };
        Ok(Some(object.corrupt_blocks(&self.data, block_size, buffer)?))
    }

    /// Reads every object, and counts the blocks with wrong bytes.
    pub fn read_all(&self) -> Result<u64, Failure> {
        let _guard = self.allocator().pin();
        let all: Vec<Arc<Object>> = self.objects().values().cloned().collect();
        let mut buffer = Vec::new();
        let block_size = self.allocator().block_size();
        let mut corrupt = 0;
        for object in all {
            corrupt += object.corrupt_blocks(&self.data, block_size, &mut buffer)?;
        }
        Ok(corrupt)
    }

    /// What is wrong with the bookkeeping: blocks owned twice, lost, or free though owned, a free
    /// count that is not exact, an index or a log on disk that differs. Only while nothing runs.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let allocator = self.allocator();
        let mut used = self.foreign.clone();
        used.extend(self.objects().values().flat_map(|object| object.extents.iter().copied()));
        let owned: u64 = used.iter().map(|extent| extent.len).sum();
        let found = self.opened.check(used);
        if !found.is_clean() {
            faults.push(format!("the logs disagree: {found:?}"));
        }
        allocator.collect();
        let (free, waiting) = (allocator.free_blocks(), allocator.quarantined_blocks());
        if owned + free != allocator.blocks() || waiting > 0 {
            let blocks = allocator.blocks();
            faults.push(format!("{owned} owned, {free} free, {waiting} waiting of {blocks}"));
        }
        let index = allocator.verify();
        if !index.is_clean() || index.free_blocks != free {
            let count = index.differences.iter().filter(|difference| difference.is_fault()).count();
            faults.push(format!("{count} faults in the index, {} free bits", index.free_blocks));
        }
        if let Err(error) = self.opened.log.verify() {
            faults.push(error.to_string());
        }
        faults
    }

    /// Before a shutdown: leaves nothing to replay.
    pub fn close(&self) -> Result<(), Failure> {
        self.opened.log.stable(self.opened.log.last());
        Ok(self.opened.log.condense()?)
    }

    pub fn allocator(&self) -> &Allocator {
        &self.opened.allocator
    }

    /// An id that no object ever had.
    pub fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// All ids are below.
    pub fn ids(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    pub fn find(&self, id: u64) -> Option<Arc<Object>> {
        self.objects().get(&id).cloned()
    }

    pub fn objects(&self) -> RwLockReadGuard<'_, BTreeMap<u64, Arc<Object>>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn figures(&self) -> (Figures, MetadataFigures) {
        (self.opened.log.figures(), self.metadata.figures())
    }
}

fn options() -> fs::OpenOptions {
    let mut options = File::options();
    options.read(true).write(true);
    options
}

fn free_all(transaction: &mut Transaction<'_>, object: &Object) -> Result<(), Failure> {
    Ok(object.extents.iter().try_for_each(|&extent| transaction.free(extent))?)
}
