//! The store: a data file, and which object owns which of its blocks.
//!
//! A put, overwrite or delete is one transaction. It allocates, and writes the data to the new
//! blocks, which nobody else has and nothing durable names; is made durable, with its data (`logs`
//! and `rocks` say how, and what a crash leaves); replaces the object in the index, where readers
//! look it up; and lets the old version's blocks go ([`Frozen::committed`]).
//!
//! Readers pin before they look up. An object leaves the index before its blocks are retired, so
//! whoever finds the old version has pinned before that and keeps its blocks from reuse.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Instant;

use freemap::{AllocError, Allocator, Extent, Handle, Request, Shrink, ShrinkFailed, Transaction};

use super::Failure;
use super::durable::{Contents, Durable, Figures, Found, Kind, Recovery, is_store};
use super::events::Events;
use super::object::{Change, Object};
use super::start::Start;

const DATA: &str = "objects.freemap-engine";

/// Objects that can be changed at the same time, at most.
const CHANGES: usize = 1024;

pub struct Store {
    durable: Box<dyn Durable>,
    data: Arc<File>,
    objects: RwLock<BTreeMap<u64, Arc<Object>>>,
    foreign: Vec<Extent>,
    next_id: AtomicU64,
    events: Option<Events>,
    /// Who changes an object holds one of them, which its id chooses: the worker that owns the object, or
    /// who moves it.
    changes: Vec<Mutex<()>>,
}

/// What came of moving an object.
pub enum Relocated {
    /// So many blocks were moved.
    Moved(u64),
    /// It is not there any more, or has nothing in the region any more.
    Gone,
    /// There are not enough free blocks elsewhere.
    NoRoom,
}

impl Store {
    /// A new store in `dir`, with the blocks in use that `start` has in use.
    pub fn create(
        kind: Kind,
        dir: &Path,
        start: &Start,
        events: Option<Events>,
    ) -> Result<Self, Failure> {
        fs::create_dir_all(dir)?;
        let data = lock(dir, true)?;
        if is_store(dir) {
            return Err(format!("{}: holds a store; try --reopen", dir.display()).into());
        }
        data.set_len(0)?;
        data.set_len(start.allocator.blocks() * u64::from(start.allocator.block_size()))?;
        data.sync_all()?;
        let durable = kind.create(dir, start, &data)?;
        let contents = Contents { foreign: start.foreign(), ..Contents::default() };
        Ok(Self::new(durable, data, contents, events))
    }

    /// The store in `dir`, with every transaction that was acknowledged.
    pub fn open(
        kind: Kind,
        dir: &Path,
        events: Option<Events>,
    ) -> Result<(Self, Recovery), Failure> {
        if !kind.is_store(dir) {
            return Err(format!("{}: holds no store of this kind", dir.display()).into());
        }
        let started = Instant::now();
        let data = lock(dir, false)?;
        let Found { durable, contents, mut recovery } = kind.open(dir, &data)?;
        recovery.objects = contents.objects.len();
        recovery.took = started.elapsed();
        // A crash may have come between the change of the device's length and the file's.
        let allocator = durable.allocator();
        data.set_len(allocator.blocks() * u64::from(allocator.block_size()))?;
        Ok((Self::new(durable, data, contents, events), recovery))
    }

    fn new(
        durable: Box<dyn Durable>,
        data: Arc<File>,
        contents: Contents,
        events: Option<Events>,
    ) -> Self {
        Self {
            durable,
            data,
            objects: RwLock::new(contents.objects),
            foreign: contents.foreign,
            next_id: AtomicU64::new(contents.next_id),
            events,
            changes: (0..CHANGES).map(|_| Mutex::default()).collect(),
        }
    }

    /// Keeps others from changing the object.
    fn change(&self, id: u64) -> MutexGuard<'_, ()> {
        let lock = &self.changes[(id % CHANGES as u64) as usize];
        lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes `change` durable with the blocks that `transaction` allocated and frees.
    fn commit(&self, transaction: Transaction<'_>, change: &Change) -> Result<(), Failure> {
        let frozen = transaction.freeze();
        if let Err(failed) = self.durable.commit(frozen.delta(), change) {
            if failed.doubt {
                frozen.in_doubt();
            }
            return Err(failed.error);
        }
        self.enter(change);
        self.durable.settle(frozen, change)
    }

    /// The same for changes that somebody is told of.
    fn commit_told(&self, transaction: Transaction<'_>, change: &Change) -> Result<(), Failure> {
        self.tell("begin", change)?;
        self.commit(transaction, change)?;
        self.tell("done", change)
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
    /// blocks are freed. Nobody else may do so with the same object meanwhile, but move it.
    pub fn put(
        &self,
        mut transaction: Transaction<'_>,
        object: Object,
        buffer: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        object.write(&self.data, self.allocator().block_size(), buffer)?;
        let _alone = self.change(object.id);
        if let Some(old) = self.find(object.id) {
            free_all(&mut transaction, &old)?;
        }
        self.commit_told(transaction, &Change::Put(object))
    }

    /// Deletes the object, if there is one. Nobody else may change it meanwhile, but move it.
    pub fn delete(&self, mut transaction: Transaction<'_>, id: u64) -> Result<(), Failure> {
        let _alone = self.change(id);
        let Some(old) = self.find(id) else { return Ok(()) };
        free_all(&mut transaction, &old)?;
        self.commit_told(transaction, &Change::Delete { id, version: old.version })
    }

    /// Moves what the object has in `region`, which is closed, elsewhere. To everybody else it is the same
    /// object as before, of the same version.
    pub fn relocate(
        &self,
        handle: &mut Handle,
        id: u64,
        region: Extent,
        buffer: &mut Vec<u8>,
    ) -> Result<Relocated, Failure> {
        let _alone = self.change(id);
        let guard = self.allocator().pin();
        let Some(old) = self.find(id) else { return Ok(Relocated::Gone) };
        let (inside, mut extents): (Vec<Extent>, Vec<Extent>) =
            old.extents.iter().partition(|extent| extent.overlaps(&region));
        if inside.is_empty() {
            return Ok(Relocated::Gone);
        }
        let (blocks, block_size) =
            (inside.iter().map(|extent| extent.len).sum(), self.allocator().block_size());
        let part = |extents| Object { id, version: old.version, extents };
        let corrupt = part(inside.clone()).corrupt_blocks(&self.data, block_size, buffer)?;
        if corrupt > 0 {
            return Err(format!("object {id}: {corrupt} blocks held other data").into());
        }
        drop(guard);
        let mut transaction = handle.begin();
        let new = match transaction.allocate_with(&Request::new(blocks).scattered()) {
            Ok(new) => new.to_vec(),
            Err(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. }) => {
                return Ok(Relocated::NoRoom);
            }
            Err(error) => return Err(error.into()),
        };
        inside.iter().try_for_each(|&extent| transaction.free(extent))?;
        part(new.clone()).write(&self.data, block_size, buffer)?;
        extents.extend(new);
        self.commit(transaction, &Change::Put(part(extents)))?;
        Ok(Relocated::Moved(blocks))
    }

    /// The objects with blocks in `region`.
    pub fn objects_in(&self, region: Extent) -> Vec<u64> {
        let objects = self.objects();
        objects.values().filter(|object| object.overlaps(&region)).map(|object| object.id).collect()
    }

    /// Whether there are blocks in `region` that nobody can move.
    pub fn has_foreign(&self, region: Extent) -> bool {
        self.foreign.iter().any(|extent| extent.overlaps(&region))
    }

    /// Where the last of those ends.
    pub fn foreign_end(&self) -> u64 {
        self.foreign.iter().filter_map(Extent::end).max().unwrap_or(0)
    }

    /// Makes the device longer: `blocks` blocks in all. The file first, so that all of the device is there.
    pub fn grow(&self, blocks: u64) -> Result<(), Failure> {
        self.data.set_len(blocks * u64::from(self.allocator().block_size()))?;
        self.durable.grow(blocks)
    }

    /// Makes the device shorter, if nobody lives behind the new end, and then the file.
    pub fn shrink(&self, shrink: Shrink) -> Result<(), ShrinkFailed<Failure>> {
        let bytes = shrink.blocks() * u64::from(self.allocator().block_size());
        self.durable.shrink(shrink)?;
        // Too long a file does no harm, and is cut when the store is opened. On ext4 all who write to the file
        // wait for this, up to a second here: the price of a file in place of a device.
        let _ = self.data.set_len(bytes);
        Ok(())
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
    /// count that is not exact, an index or a disk that differs. Only while nothing runs.
    pub fn faults(&self) -> Vec<String> {
        let allocator = self.allocator();
        let mut used = self.foreign.clone();
        used.extend(self.objects().values().flat_map(|object| object.extents.iter().copied()));
        let owned: u64 = used.iter().map(|extent| extent.len).sum();
        let mut faults = self.durable.faults(used);
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
        faults
    }

    /// Before a shutdown: leaves as little as possible to do for the next opening.
    pub fn close(&self) -> Result<(), Failure> {
        self.durable.close()
    }

    pub fn allocator(&self) -> &Allocator {
        self.durable.allocator()
    }

    /// The file with the objects' bytes.
    pub fn data(&self) -> &File {
        &self.data
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

    pub fn figures(&self) -> Figures {
        self.durable.figures()
    }
}

/// The data file, which keeps other processes out of the store as long as it is open.
fn lock(dir: &Path, create: bool) -> Result<Arc<File>, Failure> {
    let mut options = File::options();
    let file =
        options.read(true).write(true).create(create).truncate(false).open(dir.join(DATA))?;
    match file.try_lock() {
        Ok(()) => Ok(Arc::new(file)),
        Err(TryLockError::WouldBlock) => {
            Err(format!("{}: in use by another process", dir.display()).into())
        }
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn free_all(transaction: &mut Transaction<'_>, object: &Object) -> Result<(), Failure> {
    Ok(object.extents.iter().try_for_each(|&extent| transaction.free(extent))?)
}
