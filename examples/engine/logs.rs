//! Two logs: the space-map log says which blocks are in use, the metadata log which object they
//! belong to.
//!
//! # Why the two agree after a crash
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
//! 5. let the old version's blocks go ([`Frozen::committed`](freemap::Frozen::committed)), and
//!    acknowledge.
//!
//! The metadata log is the authority: [`Logs::open`] has the space-map log take back everything
//! behind n. What a crash leaves, then, if it comes
//!
//! - before 2 is durable: neither log has the transaction. The blocks were never durably allocated.
//! - between 2 and 3: the transaction is behind n, and so are all with a greater LSN. It is taken
//!   back: the new blocks are free, and the old version has its own again, with its data, since
//!   nobody gets those before step 5.
//! - after 3: both logs have it, whether it was acknowledged or not, and its data was durable first.
//! - during recovery: cutting the torn tail of the metadata log changes nothing that counts, and
//!   taking back is a transaction of the space-map log behind n, so doing it again comes to the
//!   same. The record [`Record::TakenBack`] then joins the LSNs again.
//! - while the device is made longer or shorter: the space-map log has the one size or the other.
//!   Nobody had a block behind the end before it was durable, or has one after it became so.
//! - during creation: there is a store if there is a metadata log, which gets its name last.
//!
//! # If the space-map log is the authority
//!
//! Then nothing is taken back. What the metadata log has at an opening says which blocks are in use: what
//! transactions behind n allocated and freed is found by comparing the two, and repaired
//! ([`Opened::check`]). The old version's blocks still hold its data, since the log keeps what was freed
//! from everybody until it hears that the record is durable
//! ([`hold_until_stable`](CreateOptions::hold_until_stable)).

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use freemap::{
    Allocator, Authority, CreateOptions, Delta, Extent, FileDisk, Lsn, OpenOptions, Opened, Shrink,
    ShrinkFailed, SpaceMapLog, Store,
};

use super::Failure;
use super::durable::{Durable, Figures, Flushes, Found, METADATA, NotDurable, Recovery};
use super::metadata::MetadataLog;
use super::object::Change;
use super::record::{Catalog, MAGIC, Record};
use super::start::Start;

pub const SPACE: &str = "space.freemap-engine";
const METADATA_NEW: &str = "metadata.freemap-engine.new";

/// Foreign extents in one transaction: far below what the smallest space-map log takes at once.
pub const FOREIGN_AT_ONCE: usize = 50_000;

pub struct Logs {
    opened: Opened,
    metadata: MetadataLog,
}

impl Logs {
    pub fn create(
        dir: &Path,
        start: &Start,
        data: &Arc<File>,
        authority: Authority,
    ) -> Result<Box<dyn Durable>, Failure> {
        let disk = FileDisk::open(dir.join(SPACE))?;
        let (blocks, block_size) = (start.allocator.blocks(), start.allocator.block_size());
        let how = CreateOptions::new().authority(authority).block_size(block_size);
        let how = how.hold_until_stable();
        let opened = SpaceMapLog::create(disk, blocks, &how.overwrite())?;
        let file = new_metadata(dir)?;
        let metadata = MetadataLog::new(file, MAGIC.len() as u64, Lsn(1), data.clone());
        let logs = Self { opened, metadata };
        for extents in start.foreign().chunks(FOREIGN_AT_ONCE) {
            let mut transaction = logs.opened.allocator.begin();
            for &extent in extents {
                transaction.mark_allocated(extent)?;
            }
            let frozen = transaction.freeze();
            let committed = logs.append(frozen.delta(), &Record::Foreign(extents.to_vec()));
            committed.map_err(|failed| failed.error)?;
            frozen.committed();
        }
        name_metadata(dir)?;
        Ok(Box::new(logs))
    }

    pub fn open(dir: &Path, data: &Arc<File>, authority: Authority) -> Result<Found, Failure> {
        let path = dir.join(METADATA);
        let disk = FileDisk::open(dir.join(SPACE))?;
        let bytes = fs::read(&path)?;
        let catalog =
            Catalog::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut options = OpenOptions::new().hold_until_stable();
        if authority == Authority::Engine {
            options = options.recover_until(catalog.last);
        }
        let opened = SpaceMapLog::open(disk, &options)?;
        if authority == Authority::Log {
            // What comes behind the end of the metadata log, by what it names.
            opened.repair(&opened.check(catalog.contents.used()))?;
        }
        let file = File::options().write(true).open(&path)?;
        let torn_bytes = cut(&file, &bytes, &catalog)?;
        let (replayed, taken_back) = (opened.report.replayed, opened.report.taken_back);
        let account = format!(
            "{replayed} transactions replayed, {taken_back} taken back, {torn_bytes} torn bytes cut"
        );
        let recovery = Recovery { replayed, taken_back, torn_bytes, account, ..Default::default() };
        let (known, last) = (catalog.last, opened.log.last());
        let next = if last > known { last } else { Lsn(known.0 + 1) };
        let metadata = MetadataLog::new(file, catalog.whole as u64, next, data.clone());
        if last > known {
            metadata.append(last, &[Record::TakenBack])?;
        }
        opened.log.stable(last)?;
        let durable = Box::new(Self { opened, metadata });
        Ok(Found { durable, contents: catalog.contents, recovery })
    }

    fn append(&self, delta: &Delta, record: &Record) -> Result<(), NotDurable> {
        let log = &self.opened.log;
        let failed = |error| NotDurable { doubt: log.leaves_doubt(&error), error: error.into() };
        let lsn = log.commit(delta).map_err(failed)?;
        let records = std::slice::from_ref(record);
        self.metadata.append(lsn, records).map_err(NotDurable::doubt)?;
        self.opened.log.stable(lsn).map_err(NotDurable::doubt)?;
        Ok(())
    }
}

impl Durable for Logs {
    fn allocator(&self) -> &Allocator {
        &self.opened.allocator
    }

    fn commit(&self, delta: &Delta, change: &Change) -> Result<(), NotDurable> {
        self.append(delta, &Record::Changed(change.clone()))
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
        faults(&self.opened, used)
    }

    fn figures(&self) -> Figures {
        figures(&self.opened, &self.metadata)
    }

    /// Leaves nothing to replay.
    fn close(&self) -> Result<(), Failure> {
        self.opened.log.stable(self.opened.log.last())?;
        Ok(self.opened.log.condense()?)
    }
}

/// A metadata log without a record, and without its name.
pub fn new_metadata(dir: &Path) -> Result<File, Failure> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true);
    let file = options.open(dir.join(METADATA_NEW))?;
    file.write_all_at(&MAGIC, 0)?;
    file.sync_all()?;
    Ok(file)
}

/// From here on, there is a store.
pub fn name_metadata(dir: &Path) -> Result<(), Failure> {
    fs::rename(dir.join(METADATA_NEW), dir.join(METADATA))?;
    Ok(File::open(dir)?.sync_all()?)
}

/// Cuts off what follows the last whole record of a metadata log; how much that was.
pub fn cut(file: &File, bytes: &[u8], catalog: &Catalog) -> Result<u64, Failure> {
    let torn = (bytes.len() - catalog.whole) as u64;
    if torn > 0 {
        file.set_len(catalog.whole as u64)?;
        file.sync_all()?;
    }
    Ok(torn)
}

/// What differs between disk, memory and `used`.
pub fn faults(opened: &Opened, used: Vec<Extent>) -> Vec<String> {
    let mut faults = Vec::new();
    let found = opened.check(used);
    if !found.is_clean() {
        faults.push(format!("the logs disagree: {found:?}"));
    }
    faults.extend(opened.log.verify().err().map(|error| error.to_string()));
    faults
}

pub fn figures(opened: &Opened, metadata: &MetadataLog) -> Figures {
    let (space, metadata) = (opened.log.figures(), metadata.figures());
    let in_space = Flushes {
        place: "in the space-map log",
        key: "commits_per_sync",
        asked: space.commits,
        made: space.syncs,
    };
    let in_metadata = Flushes {
        place: "in the metadata log",
        key: "metadata_records_per_sync",
        asked: metadata.records,
        made: metadata.groups,
    };
    Figures { commits: space.commits, flushes: [in_space, in_metadata] }
}
