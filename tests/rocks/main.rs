//! The freelist in RocksDB, from outside: what is committed is there after a restart, what is wrong
//! is a typed error that changes nothing.
#![cfg(feature = "rocksdb")]

mod damage;
mod lifecycle;
mod mistakes;
mod processes;
mod rechunk;
mod resize;
mod threads;
mod torn;
mod transfer;

use std::path::Path;
use std::sync::Arc;

use freemap::rocks::{CreateOptions, OpenOptions, Opened};
use freemap::{Allocator, Extent, RocksFreelist};
use rocksdb::{DB, IteratorMode, Options, SingleThreaded};
use tempfile::TempDir;

/// The column family of every freelist here.
const FAMILY: &str = "free";

type Freelist = RocksFreelist<SingleThreaded>;

/// A folder with a database that can be opened again.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn database(&self) -> Arc<DB> {
        Arc::new(open_database(self.path()))
    }

    fn create(&self, blocks: u64, options: &CreateOptions) -> Opened<SingleThreaded> {
        RocksFreelist::create(self.database(), FAMILY, blocks, options).unwrap()
    }

    fn open(&self) -> Opened<SingleThreaded> {
        RocksFreelist::open(self.database(), FAMILY, &OpenOptions::new()).unwrap()
    }
}

fn open_database(path: &Path) -> DB {
    let mut options = Options::default();
    options.create_if_missing(true);
    RocksFreelist::open_database(path, &options, FAMILY, vec![]).unwrap()
}

/// Chunks of 64 blocks, so that small devices have many.
fn small_chunks() -> CreateOptions {
    CreateOptions::new().chunk_blocks(64)
}

/// Every key and value of the freelist.
fn contents(db: &DB) -> Vec<(Vec<u8>, Vec<u8>)> {
    let family = db.cf_handle(FAMILY).unwrap();
    db.iterator_cf(&family, IteratorMode::Start)
        .map(|item| item.unwrap())
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect()
}

/// Gives a description that was changed the right checksum.
fn resum(meta: &mut [u8]) {
    let (rest, sum) = meta.split_at_mut(60);
    sum.copy_from_slice(&crc32c::crc32c(rest).to_le_bytes());
}

/// Numbers of the chunks that have a key.
fn chunks(db: &DB) -> Vec<u64> {
    let numbers = contents(db).into_iter().filter_map(|(key, _)| key.try_into().ok());
    numbers.map(u64::from_be_bytes).collect()
}

fn bitmap(allocator: &Allocator) -> Vec<u64> {
    allocator.collect();
    allocator.to_bitmap().unwrap()
}

/// Commits the allocation of exactly these extents.
fn allocate(opened: &Opened<SingleThreaded>, extents: &[Extent]) {
    let mut transaction = opened.allocator.begin();
    for &extent in extents {
        transaction.mark_allocated(extent).unwrap();
    }
    transaction.commit(&opened.freelist).unwrap();
}

fn free(opened: &Opened<SingleThreaded>, extents: &[Extent]) {
    let mut transaction = opened.allocator.begin();
    for &extent in extents {
        transaction.free(extent).unwrap();
    }
    transaction.commit(&opened.freelist).unwrap();
    opened.allocator.collect();
}

/// Nothing is wrong, and the three states agree, if what is allocated is what the engine uses.
#[track_caller]
fn assert_clean(opened: &Opened<SingleThreaded>) {
    let committed = opened.allocator.committed_bitmap().unwrap().unwrap();
    let mut used: Vec<Extent> = Vec::new();
    for block in (0..opened.allocator.blocks()).filter(|&block| is_set(&committed, block)) {
        match used.last_mut() {
            Some(last) if last.start + last.len == block => last.len += 1,
            _ => used.push(Extent::new(block, 1)),
        }
    }
    let found = opened.check(used).unwrap();
    assert!(found.is_clean(), "{found:?}");
    assert!(opened.allocator.verify().is_clean());
}

fn is_set(words: &[u64], block: u64) -> bool {
    words[(block / 64) as usize] >> (block % 64) & 1 == 1
}
