//! Tells the data file which blocks hold nothing any more: punches holes, before the blocks are reused.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use freemap::{Batch, DiscardLimits, Discarding, Extent};
use serde_json::{Value, json};

use super::Failure;
use super::store::Store;

/// Blocks of a batch.
const BATCH: u64 = 64;
/// Batches that the device has at once.
const UNDER_WAY: usize = 16;
/// When nothing waits.
const PAUSE: Duration = Duration::from_millis(5);

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Discarded {
    /// Extents and blocks that the file was told of, and of which the file system said that it cannot.
    extents: u64,
    blocks: u64,
    unsupported: u64,
    /// Blocks that waited and were needed before, or were too few for the device.
    skipped: u64,
    /// Blocks that waited at the end.
    waiting: u64,
    /// Bytes that the file occupies, and its length.
    occupied: u64,
    length: u64,
}

/// Works until `stop`.
pub fn run(store: &Store, stop: &AtomicBool) -> Result<Discarded, Failure> {
    let (allocator, data) = (store.allocator(), store.data());
    let block_size = allocator.block_size();
    let limits = DiscardLimits::new()
        .granularity((data.metadata()?.blksize() / u64::from(block_size)).max(1))
        .batch(BATCH, BATCH as usize);
    let mut discarder = allocator.discarder(limits).ok_or("somebody else discards")?;
    let mut done = std::thread::scope(|scope| -> Result<Discarded, Failure> {
        // Stands for a queue of the device: batches wait in it, and are done in its own time.
        let (submit, submitted) = sync_channel(UNDER_WAY);
        let device = scope.spawn(move || punch_all(data, submitted, block_size));
        while !stop.load(Ordering::Relaxed) {
            match discarder.next(Instant::now()) {
                Discarding::Batch(batch) => {
                    if submit.send(batch).is_err() {
                        break; // the device has failed
                    }
                }
                Discarding::Later(pause) => std::thread::sleep(pause.min(PAUSE)),
                Discarding::Nothing => std::thread::sleep(PAUSE),
            }
        }
        let waiting = discarder.waiting_blocks();
        let skipped = allocator.stats().counters.skipped_discard_blocks;
        // Before the last batches are done.
        drop((discarder, submit));
        let done = device.join().map_err(|_| "the device panicked")??;
        Ok(Discarded { waiting, skipped, ..done })
    })?;
    (done.occupied, done.length) = size(data)?;
    Ok(done)
}

/// Punches holes for all batches. A batch that is dropped is done.
fn punch_all(data: &File, batches: Receiver<Batch>, block_size: u32) -> io::Result<Discarded> {
    let mut done = Discarded::default();
    for batch in batches {
        for &extent in batch.extents() {
            let by_file = punch(data, extent, block_size)?;
            done.extents += u64::from(by_file);
            let blocks = if by_file { &mut done.blocks } else { &mut done.unsupported };
            *blocks += extent.len;
        }
    }
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
                format!("{blocks} blocks in {extents} extents, {unsupported} blocks unsupported"),
            ),
            (
                "not discarded",
                format!("{skipped} blocks needed before or too few, {waiting} waiting at the end"),
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
