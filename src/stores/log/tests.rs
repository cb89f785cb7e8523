//! Tests that need to see inside the log: the simulated disk and what it does to it.

mod beside;
mod blank;
mod damage;
mod errors;
mod explore;
mod full;
mod hostile;
mod injected;
mod modes;
mod order;
mod regressions;
mod resize;
mod sim;

use std::sync::Arc;

use crate::stores::log::format::{PAGE, Superblock, is_later};
use crate::stores::log::layout::SECOND_PLACE;
use crate::stores::log::{Authority, CreateOptions, LogError, OpenOptions, Opened, SpaceMapLog};
use crate::values::delta::Delta;
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;
use sim::SimDisk;

/// Where superblocks lie.
const SLOTS: [usize; 4] = [0, PAGE, SECOND_PLACE as usize, SECOND_PLACE as usize + PAGE];

/// The intact superblocks, and where each lies.
fn superblocks(bytes: &[u8]) -> Vec<(usize, Superblock)> {
    let slot = |&at: &usize| Some((at, Superblock::from_page(bytes.get(at..at + PAGE)?).ok()?));
    SLOTS.iter().filter_map(slot).collect()
}

fn newest_superblock(bytes: &[u8]) -> Superblock {
    let later = |a: Superblock, b: Superblock| {
        if is_later(b.generation.get(), a.generation.get()) { b } else { a }
    };
    superblocks(bytes).into_iter().map(|(_, slot)| slot).reduce(later).expect("one")
}

/// Changes all superblocks, and makes their checksums right.
fn patch_superblocks(bytes: &mut [u8], change: impl Fn(&mut Superblock)) {
    for (at, mut slot) in superblocks(bytes) {
        change(&mut slot);
        bytes[at..at + PAGE].copy_from_slice(&slot.to_page());
    }
}

/// The smallest log: its ring wraps after three dozen commits.
fn small() -> CreateOptions {
    CreateOptions::new().limit(64 << 10).sector(512).uuid([7; 16]).shards(1)
}

fn create(disk: &Arc<SimDisk>, blocks: u64) -> Opened {
    SpaceMapLog::create(disk.clone(), blocks, &small()).expect("an empty disk")
}

fn open(bytes: Vec<u8>) -> Result<Opened, LogError> {
    SpaceMapLog::open(Arc::new(SimDisk::new(bytes)), &OpenOptions::new())
}

/// Lets images know of everything.
fn all_stable(opened: &Opened) {
    if opened.log.authority() == Authority::Engine {
        opened.log.stable(opened.log.last()).expect("there");
    }
}

/// Commits one transaction that frees and allocates these.
fn commit(opened: &Opened, freed: &[Extent], allocated: &[Extent]) -> Lsn {
    let mut transaction = opened.allocator.begin();
    for &extent in allocated {
        transaction.mark_allocated(extent).expect("free");
    }
    for &extent in freed {
        transaction.free(extent).expect("allocated");
    }
    transaction.commit(&opened.log).expect("nothing is in the way")
}

/// A delta of single blocks, every second one of `blocks`.
fn scattered(opened: &Opened, blocks: std::ops::Range<u64>) -> crate::Frozen {
    let mut transaction = opened.allocator.begin();
    for block in blocks.step_by(2) {
        transaction.mark_allocated(Extent::new(block, 1)).expect("free");
    }
    transaction.freeze()
}

/// The state in short, once nothing waits in the quarantine.
fn bitmap(opened: &Opened) -> (u64, u32) {
    opened.allocator.collect();
    let words = opened.allocator.to_bitmap().expect("memory");
    (opened.allocator.free_blocks(), crc32c::crc32c(zerocopy::IntoBytes::as_bytes(&words[..])))
}

fn encoded(delta: &Delta) -> Vec<u8> {
    let mut bytes = Vec::new();
    delta.encode(&mut bytes);
    bytes
}
