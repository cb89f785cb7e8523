//! What makes changes durable, in one of three ways: `logs`, `absorbed` or `rocks`. This is what the rest of
//! the store sees of each.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use freemap::{Allocator, Authority, Delta, Extent, Frozen, Shrink, ShrinkFailed};

use super::Failure;
use super::absorbed::Absorbed;
use super::logs::Logs;
use super::object::{Change, Object};
#[cfg(feature = "rocksdb")]
use super::rocks::Rocks;
use super::start::Start;

/// One of these is in the folder of a store once its creation is complete, and only then.
pub const METADATA: &str = "metadata.freemap-engine";
pub const DATABASE: &str = "rocksdb.freemap-engine";

/// Whether there is a store in `dir`, also one that this was not built for.
pub fn is_store(dir: &Path) -> bool {
    [METADATA, DATABASE].iter().any(|name| dir.join(name).exists())
}

/// Which way.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Kind {
    /// A space-map log beside a log of objects, which is the authority
    Log,
    /// The same, and the space-map log is the authority: compared with the log of objects at an opening
    Checked,
    /// A log of objects that carries what they allocate and free, and a space-map log as its checkpoint
    Piggyback,
    /// A freelist beside the objects in a RocksDB database
    #[cfg(feature = "rocksdb")]
    Rocksdb,
}

impl Kind {
    /// Whether there is a store of this kind in `dir`.
    pub fn is_store(self, dir: &Path) -> bool {
        match self {
            Self::Log | Self::Checked | Self::Piggyback => dir.join(METADATA).exists(),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => dir.join(DATABASE).exists(),
        }
    }

    /// Makes what `start` has in use durable in `dir`, where there is no store. What a crash during
    /// an earlier creation left is nobody's.
    pub fn create(
        self,
        dir: &Path,
        start: &Start,
        data: &Arc<File>,
    ) -> Result<Box<dyn Durable>, Failure> {
        match self {
            Self::Log => Logs::create(dir, start, data, Authority::Engine),
            Self::Checked => Logs::create(dir, start, data, Authority::Log),
            Self::Piggyback => Absorbed::create(dir, start, data),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => Rocks::create(dir, start, data),
        }
    }

    /// Finds everything that was made durable in `dir`, where there is a store of this kind.
    pub fn open(self, dir: &Path, data: &Arc<File>) -> Result<Found, Failure> {
        match self {
            Self::Log => Logs::open(dir, data, Authority::Engine),
            Self::Checked => Logs::open(dir, data, Authority::Log),
            Self::Piggyback => Absorbed::open(dir, data),
            #[cfg(feature = "rocksdb")]
            Self::Rocksdb => Rocks::open(dir, data),
        }
    }
}

/// The face of all.
pub trait Durable: Sync {
    fn allocator(&self) -> &Allocator;

    /// Makes `change` durable together with `delta`, after the data that was written for it.
    fn commit(&self, delta: &Delta, change: &Change) -> Result<(), NotDurable>;

    /// Lets the blocks go that `change` freed: it is durable, and readers see it.
    fn settle(&self, frozen: Frozen, change: &Change) -> Result<(), Failure> {
        let _ = change;
        frozen.committed();
        Ok(())
    }

    /// Makes the device longer, durably: `blocks` blocks in all.
    fn grow(&self, blocks: u64) -> Result<(), Failure>;

    /// Makes it shorter, durably, if nobody lives behind the new end.
    fn shrink(&self, shrink: Shrink) -> Result<(), ShrinkFailed<Failure>>;

    /// What differs between disk, memory and `used`, the blocks that somebody owns. Only while
    /// nothing runs.
    fn faults(&self, used: Vec<Extent>) -> Vec<String>;

    fn figures(&self) -> Figures;

    /// Before a shutdown: leaves as little as possible to do for the next opening.
    fn close(&self) -> Result<(), Failure>;
}

/// A change that is not durable, or of which nobody knows.
pub struct NotDurable {
    pub error: Failure,
    /// It may be durable after all: nobody may get its blocks before the store is opened again.
    pub doubt: bool,
}

impl NotDurable {
    pub fn doubt(error: impl Into<Failure>) -> Self {
        Self { error: error.into(), doubt: true }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for NotDurable {
    fn from(error: E) -> Self {
        Self { error: error.into(), doubt: false }
    }
}

/// What opening a store found.
pub struct Found {
    pub durable: Box<dyn Durable>,
    pub contents: Contents,
    pub recovery: Recovery,
}

/// What a store holds.
#[derive(Debug, Default)]
pub struct Contents {
    pub objects: BTreeMap<u64, Arc<Object>>,
    /// Blocks that were in use before the store was created.
    pub foreign: Vec<Extent>,
    /// Greater than every id that an object ever had.
    pub next_id: u64,
}

impl Contents {
    /// The blocks that somebody owns.
    pub fn used(&self) -> Vec<Extent> {
        let of_objects = self.objects.values().flat_map(|object| object.extents.iter().copied());
        self.foreign.iter().copied().chain(of_objects).collect()
    }
}

/// What had to be done to open a store.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    pub took: Duration,
    pub objects: usize,
    /// Transactions of the space-map log that were replayed.
    pub replayed: u64,
    /// Transactions of the space-map log that the metadata log did not have.
    pub taken_back: u64,
    /// Bytes behind the last whole record of the metadata log.
    pub torn_bytes: u64,
    /// All that but the objects, in words.
    pub account: String,
}

/// What was made durable so far, and what that took.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    pub commits: u64,
    /// In the two places that are flushed.
    pub flushes: [Flushes; 2],
}

/// Flushes of one place, which threads share.
#[derive(Clone, Copy, Debug)]
pub struct Flushes {
    /// For those who read the report.
    pub place: &'static str,
    /// For programs that do.
    pub key: &'static str,
    /// Who asked for one.
    pub asked: u64,
    pub made: u64,
}

impl Figures {
    /// What was done between two looks.
    pub fn since(&self, before: &Self) -> Self {
        let mut between = *self;
        between.commits -= before.commits;
        for (flushes, before) in between.flushes.iter_mut().zip(&before.flushes) {
            flushes.asked -= before.asked;
            flushes.made -= before.made;
        }
        between
    }
}
