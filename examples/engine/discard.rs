//! Tells the data file which blocks hold nothing any more: punches holes, before the blocks are reused.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use freemap::{DiscardLimits, Discarding, Extent};
use serde_json::{Value, json};

use super::Failure;
use super::store::Store;

/// Blocks of a batch.
const BATCH: u64 = 64;
/// When nothing waits.
const PAUSE: Duration = Duration::from_millis(5);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Discarded {
    /// Extents and blocks that the file was told of, and of which the file system said that it cannot.
    extents: u64,
    blocks: u64,
    unsupported: u64,
    /// Blocks that waited and were needed before.
    skipped: u64,
    /// Blocks that waited at the end.
    waiting: u64,
    /// Bytes that the file occupies, and its length.
    occupied: u64,
    length: u64,
}

/// Works until `stop`.
pub fn run(store: &Store, stop: &AtomicBool) -> Result<Discarded, Failure> {
    let allocator = store.allocator();
    let limits = DiscardLimits::new().batch(BATCH, BATCH as usize);
    let mut discarder = allocator.discarder(limits).ok_or("somebody else discards")?;
    let mut done = Discarded::default();
    while !stop.load(Ordering::Relaxed) {
        match discarder.next(Instant::now()) {
            Discarding::Batch(batch) => {
                for &extent in batch.extents() {
                    let done_by_file = punch(store.data(), extent, allocator.block_size())?;
                    done.extents += u64::from(done_by_file);
                    let blocks =
                        if done_by_file { &mut done.blocks } else { &mut done.unsupported };
                    *blocks += extent.len;
                }
            }
            Discarding::Later(pause) => std::thread::sleep(pause.min(PAUSE)),
            Discarding::Nothing => std::thread::sleep(PAUSE),
        }
    }
    done.waiting = discarder.waiting_blocks();
    drop(discarder);
    done.skipped = allocator.stats().counters.skipped_discard_blocks;
    (done.occupied, done.length) = size(store.data())?;
    Ok(done)
}

/// Whether the file system can do it. On a block device the kernel makes a discard of it.
#[cfg(target_os = "linux")]
fn punch(data: &File, extent: Extent, block_size: u32) -> io::Result<bool> {
    use rustix::fs::{FallocateFlags, fallocate};
    use rustix::io::Errno;

    let bytes = u64::from(block_size);
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(data, flags, extent.start * bytes, extent.len * bytes) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn punch(_: &File, _: Extent, _: u32) -> io::Result<bool> {
    Ok(false)
}

fn size(data: &File) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;

    let metadata = data.metadata()?;
    Ok((metadata.blocks() * 512, metadata.len()))
}

impl Discarded {
    pub fn rows(&self) -> Vec<(&'static str, String)> {
        let Self { extents, blocks, unsupported, skipped, waiting, occupied, length } = self;
        let mib = |bytes: &u64| *bytes as f64 / f64::from(1 << 20);
        vec![
            (
                "discarded",
                format!("{blocks} blocks in {extents} extents, {unsupported} blocks in vain"),
            ),
            (
                "not discarded",
                format!("{skipped} blocks needed before, {waiting} waiting at the end"),
            ),
            ("data file", format!("{:.1} MiB occupied of {:.1} MiB", mib(occupied), mib(length))),
        ]
    }

    pub fn json(&self) -> Value {
        json!({
            "extents": self.extents,
            "blocks": self.blocks,
            "unsupported_blocks": self.unsupported,
            "skipped_blocks": self.skipped,
            "waiting_blocks": self.waiting,
            "occupied_bytes": self.occupied,
            "length_bytes": self.length,
        })
    }
}
