//! One log: the metadata log carries the deltas, too, and the space-map log is a checkpoint of those.
//!
//! A put, overwrite or delete is one transaction, and goes through these steps:
//!
//! 1. allocate, and write the data to the new blocks;
//! 2. draw the next number, flush the data file, then append the delta and the record with that number to
//!    the metadata log and flush it. Records are appended in the order of their numbers;
//! 3. replace the object in the index, where readers look it up;
//! 4. hand the delta to the space-map log ([`SpaceMapLog::absorb`]), in any order; it lets the old version's
//!    blocks go when everything before it has come. Acknowledge.
//!
//! Now and then a checkpoint writes what was absorbed. After a crash, [`Absorbed::open`] feeds in what the
//! metadata log has behind the last one. What a crash leaves, if it comes
//!
//! - before 2 is durable: nothing. Nobody has the blocks.
//! - after 2: the transaction, with its data, whether it was acknowledged or not.
//! - during a checkpoint or recovery: this checkpoint or the one before, and the rest is fed in again.
//! - while the device is made longer or shorter: the one size or the other. A shrink takes a checkpoint, so no
//!   record that is fed in again names a block that is gone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use freemap::{
    Allocator, Authority, CreateOptions, Delta, Extent, FileDisk, Frozen, Lsn, OpenOptions, Opened,
    Shrink, ShrinkFailed, SpaceMapLog,
};

use super::Failure;
use super::durable::{Durable, Figures, Found, METADATA, NotDurable, Recovery};
use super::logs::{self, FOREIGN_AT_ONCE, SPACE};
use super::metadata::MetadataLog;
use super::object::Change;
use super::record::{Catalog, MAGIC, Record};
use super::start::Start;

/// Transactions between two checkpoints.
const CHECKPOINT_EVERY: u64 = 256;

pub struct Absorbed {
    opened: Opened,
    metadata: MetadataLog,
    next: AtomicU64,
    /// Numbers of the changes that are durable and not handed over yet, by object: nobody changes one twice
    /// at a time.
    durable: Mutex<BTreeMap<u64, u64>>,
}

impl Absorbed {
    pub fn create(
        dir: &Path,
        start: &Start,
        data: &Arc<File>,
    ) -> Result<Box<dyn Durable>, Failure> {
        let disk = FileDisk::open(dir.join(SPACE))?;
        let (blocks, block_size) = (start.allocator.blocks(), start.allocator.block_size());
        let how = CreateOptions::new().authority(Authority::Piggyback).block_size(block_size);
        let opened = SpaceMapLog::create(disk, blocks, &how.overwrite())?;
        let file = logs::new_metadata(dir)?;
        let metadata = MetadataLog::new(file, MAGIC.len() as u64, Lsn(1), data.clone());
        let absorbed = Self::new(opened, metadata, 1);
        for extents in start.foreign().chunks(FOREIGN_AT_ONCE) {
            let mut transaction = absorbed.opened.allocator.begin();
            for &extent in extents {
                transaction.mark_allocated(extent)?;
            }
            let frozen = transaction.freeze();
            let number = absorbed
                .append(frozen.delta(), Record::Foreign(extents.to_vec()))
                .map_err(|failed| failed.error)?;
            absorbed.absorb(frozen, number)?;
        }
        logs::name_metadata(dir)?;
        Ok(Box::new(absorbed))
    }

    fn new(opened: Opened, metadata: MetadataLog, next: u64) -> Self {
        Self { opened, metadata, next: AtomicU64::new(next), durable: Mutex::default() }
    }

    pub fn open(dir: &Path, data: &Arc<File>) -> Result<Found, Failure> {
        let path = dir.join(METADATA);
        let disk = FileDisk::open(dir.join(SPACE))?;
        let bytes = fs::read(&path)?;
        let catalog =
            Catalog::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let opened = SpaceMapLog::open(disk, &OpenOptions::new())?;
        let last = catalog.last.0;
        if opened.position > last {
            let position = opened.position;
            return Err(format!("the checkpoint is of {position}, the log ends with {last}").into());
        }
        for (number, delta) in catalog.deltas.iter().filter(|(n, _)| *n > opened.position) {
            let delta = Delta::decode(delta)?;
            opened.replay(&delta, number - 1..*number)?;
        }
        opened.allocator.collect();
        let file = File::options().write(true).open(&path)?;
        let torn_bytes = logs::cut(&file, &bytes, &catalog)?;
        let replayed = last - opened.position;
        let account = format!("{replayed} transactions fed in again, {torn_bytes} torn bytes cut");
        let recovery = Recovery { replayed, torn_bytes, account, ..Default::default() };
        let metadata = MetadataLog::new(file, catalog.whole as u64, Lsn(last + 1), data.clone());
        let durable = Box::new(Self::new(opened, metadata, last + 1));
        Ok(Found { durable, contents: catalog.contents, recovery })
    }

    /// Makes a delta and its record durable; their number.
    fn append(&self, delta: &Delta, record: Record) -> Result<u64, NotDurable> {
        let mut bytes = Vec::new();
        delta.encode(&mut bytes);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let records = [Record::Delta(bytes), record];
        self.metadata.append(Lsn(number), &records).map_err(NotDurable::doubt)?;
        Ok(number)
    }

    fn absorb(&self, frozen: Frozen, number: u64) -> Result<(), Failure> {
        let log = &self.opened.log;
        log.absorb(frozen, number - 1..number).map_err(|failed| failed.into_error())?;
        if number.is_multiple_of(CHECKPOINT_EVERY) {
            log.checkpoint()?;
        }
        Ok(())
    }
}

impl Durable for Absorbed {
    fn allocator(&self) -> &Allocator {
        &self.opened.allocator
    }

    fn commit(&self, delta: &Delta, change: &Change) -> Result<(), NotDurable> {
        let number = self.append(delta, Record::Changed(change.clone()))?;
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        durable.insert(change.id(), number);
        Ok(())
    }

    fn settle(&self, frozen: Frozen, change: &Change) -> Result<(), Failure> {
        let mut durable = self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        let number = durable.remove(&change.id()).ok_or("settled before it was durable")?;
        drop(durable);
        self.absorb(frozen, number)
    }

    fn grow(&self, blocks: u64) -> Result<(), Failure> {
        Ok(self.opened.log.grow(&self.opened.allocator, blocks)?)
    }

    fn shrink(&self, shrink: Shrink) -> Result<(), ShrinkFailed<Failure>> {
        let shrunk = self.opened.log.shrink(shrink);
        shrunk
            .map_err(|ShrinkFailed { shrink, error }| ShrinkFailed { shrink, error: error.into() })
    }

    fn faults(&self, used: Vec<Extent>) -> Vec<String> {
        logs::faults(&self.opened, used)
    }

    fn figures(&self) -> Figures {
        logs::figures(&self.opened, &self.metadata)
    }

    /// Leaves nothing to feed in.
    fn close(&self) -> Result<(), Failure> {
        Ok(self.opened.log.checkpoint()?)
    }
}
