//! Power failures at every write and flush: in commits, groups, images, directory pages, tails,
//! superblocks, ring reuse, growth, shrinking, creation, and in recovery itself.
//!
//! After each: every acknowledged transaction is there, of the others a prefix, each whole; the
//! allocator agrees block by block. A seed that fails is printed; replay it with
//! `FREEMAP_CRASH_SEED=n cargo test crash`. `FREEMAP_CRASH_SEEDS=n` explores more of them.

use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::sim::SimDisk;
use super::{newest_superblock, small, superblocks};
use crate::delta::Delta;
use crate::error::ResizeError;
use crate::extent::Extent;
use crate::log::fault::{Fault, select, select_tight_ring};
use crate::log::format::{DirectoryPage, PAGE};
use crate::log::layout::Layout;
use crate::log::record::RANGE_BLOCKS;
use crate::log::{
    CommitError, CreateOptions, LogError, OpenOptions, Opened, Part, Pending, SpaceMapLog,
};
use crate::request::Request;
use crate::resize::{Shrink, ShrinkFailed};
use crate::words::first_set;

/// Power failures of one seed, one after another on the same disk.
const CRASHES: usize = 4;

/// The state that must be found: as of the last acknowledged transaction, and what was submitted
/// behind it.
struct Model {
    /// One bit per block, 1 = allocated.
    acknowledged: Vec<u64>,
    lsn: u64,
    submitted: Vec<Delta>,
    /// The size before a growth or shrink that was not acknowledged, and after it.
    blocks: (u64, u64),
}

impl Model {
    fn new(blocks: u64) -> Self {
        let words = vec![0; 12 * RANGE_BLOCKS as usize / 64];
        Self { acknowledged: words, lsn: 0, submitted: Vec::new(), blocks: (blocks, blocks) }
    }

    fn advance(&mut self, lsn: u64) {
        let count = (lsn - self.lsn) as usize;
        for delta in self.submitted.drain(..count) {
            for (extents, allocate) in [(delta.allocated(), true), (delta.freed(), false)] {
                for block in extents.iter().flat_map(|e| e.start..e.start + e.len) {
                    let (word, bit) =
                        (&mut self.acknowledged[(block / 64) as usize], 1 << (block % 64));
                    assert_eq!(*word & bit == 0, allocate, "the test itself made a bad delta");
                    *word ^= bit;
                }
            }
        }
        self.lsn = lsn;
    }

    /// What was found must be a prefix that has everything acknowledged.
    fn check(&mut self, opened: &Opened) -> Result<(), String> {
        let found = opened.log.last().0;
        let range = self.lsn..=self.lsn + self.submitted.len() as u64;
        if !range.contains(&found) {
            return Err(format!("transaction {found} found, not one of {range:?}"));
        }
        let blocks = opened.allocator.blocks();
        if blocks != self.blocks.0 && blocks != self.blocks.1 {
            return Err(format!("{blocks} blocks, not one of {:?}", self.blocks));
        }
        self.blocks = (blocks, blocks);
        self.advance(found);
        self.submitted.clear();
        let bitmap = opened.allocator.to_bitmap().map_err(|error| error.to_string())?;
        for (index, (found, expected)) in bitmap.iter().zip(&self.acknowledged).enumerate() {
            if found != expected {
                return Err(format!("blocks from {}: {found:x}, not {expected:x}", 64 * index));
            }
        }
        if let Some(block) = first_set(&self.acknowledged, blocks) {
            return Err(format!("block {block} was cut off"));
        }
        if !opened.allocator.verify().is_clean() {
            return Err("the index has faults".to_string());
        }
        opened.log.verify().map(drop).map_err(|error| format!("verify: {error}"))
    }

    fn free(&self, rng: &mut Pcg64Mcg) -> Option<Extent> {
        let blocks = self.blocks.0;
        let from = rng.random_range(0..blocks);
        let taken = |block: u64| self.acknowledged[(block / 64) as usize] >> (block % 64) & 1 == 1;
        let start = (from..blocks.min(from + 3000)).find(|&block| taken(block))?;
        let longest = 1 << rng.random_range(0..13);
        let len = (start..blocks).take(longest).take_while(|&block| taken(block)).count() as u64;
        Some(Extent::new(start, len))
    }
}

/// One transaction, queued. `None` if the random choice came to nothing.
fn submit(
    opened: &Opened,
    model: &mut Model,
    rng: &mut Pcg64Mcg,
    claimed: &mut Vec<Extent>,
) -> Option<Pending> {
    let mut transaction = opened.allocator.begin();
    let large = rng.random_ratio(1, 40);
    let full = opened.allocator.free_blocks() < opened.allocator.blocks() / 8;
    for _ in 0..rng.random_range(0..5) {
        let longest = 1u64 << rng.random_range(0..14);
        let len = rng.random_range(1..=longest);
        if !full {
            drop(transaction.allocate_with(&Request::new(len).scattered().partial()));
        }
    }
    if large {
        // More records than one frame holds.
        for block in (0..opened.allocator.blocks()).step_by(41).take(2500) {
            let _taken = transaction.mark_allocated(Extent::new(block, 1));
        }
    }
    for _ in 0..rng.random_range(0..4) {
        if let Some(extent) = model.free(rng)
            && !claimed.iter().any(|other| other.overlaps(&extent))
        {
            claimed.push(extent);
            transaction.free(extent).expect("committed, and freed only here");
        }
    }
    let frozen = transaction.freeze();
    let delta = frozen.delta().clone();
    if delta.is_empty() {
        return None;
    }
    let pending = opened.log.submit(frozen).ok()?;
    model.submitted.push(delta);
    Some(pending)
}

/// Works until the power fails.
fn work(
    opened: &Opened,
    disk: &SimDisk,
    model: &mut Model,
    rng: &mut Pcg64Mcg,
) -> Result<(), String> {
    let mut shrink = None;
    while !disk.has_crashed() {
        match rng.random_range(0..60) {
            0 => drop(opened.log.condense()),
            1..5 => drop(opened.log.idle()),
            5..8 if model.blocks.0 < 10 * RANGE_BLOCKS => {
                let blocks = model.blocks.0 + rng.random_range(1..RANGE_BLOCKS);
                model.blocks.1 = blocks;
                let grown = opened.log.grow(&opened.allocator, blocks);
                resized(disk, model, grown.is_ok());
            }
            8..16 => match shrink.take() {
                None => {
                    let blocks = model.blocks.0;
                    let less = rng.random_range(0..blocks.min(RANGE_BLOCKS));
                    shrink = opened.allocator.shrink(blocks - less).ok();
                }
                Some(_) if rng.random_ratio(1, 8) => {} // given up
                Some(begun) => shrink = move_out(opened, disk, model, rng, begun)?,
            },
            _ => group(opened, disk, model, rng)?,
        }
    }
    Ok(())
}

/// The device has its new size, or if not, then perhaps after the crash.
fn resized(disk: &SimDisk, model: &mut Model, done: bool) {
    if done {
        model.blocks.0 = model.blocks.1;
    } else if !disk.has_crashed() {
        model.blocks.1 = model.blocks.0;
    }
}

/// Moves some of what is behind the new end, then tries to make the device shorter.
fn move_out(
    opened: &Opened,
    disk: &SimDisk,
    model: &mut Model,
    rng: &mut Pcg64Mcg,
    shrink: Shrink,
) -> Result<Option<Shrink>, String> {
    opened.allocator.collect();
    let mut transaction = opened.allocator.begin();
    for extent in shrink.live_extents().take(rng.random_range(1..500)) {
        transaction.free(extent).map_err(|error| format!("moving {extent}: {error}"))?;
        if opened.allocator.free_blocks() > opened.allocator.blocks() / 8 {
            drop(transaction.allocate_with(&Request::new(extent.len).scattered().partial()));
        }
    }
    let frozen = transaction.freeze();
    let delta = frozen.delta().clone();
    if !delta.is_empty() {
        match opened.log.submit(frozen) {
            Ok(pending) => {
                model.submitted.push(delta);
                finish(disk, model, vec![pending])?;
            }
            Err(failed) if matches!(failed.error, CommitError::TooLarge { .. }) => {}
            Err(failed) => return Err(format!("refused: {failed}")),
        }
    }
    if disk.has_crashed() {
        return Ok(None);
    }
    model.blocks.1 = shrink.blocks();
    let done = opened.log.shrink(shrink);
    resized(disk, model, done.is_ok());
    match done {
        Err(ShrinkFailed { shrink, error: LogError::Resize(ResizeError::InUse { .. }) }) => {
            Ok(Some(shrink))
        }
        // It has grown meanwhile.
        Err(ShrinkFailed { error: LogError::Resize(ResizeError::Length { .. }), .. }) | Ok(()) => {
            Ok(None)
        }
        Err(_) if disk.has_crashed() => Ok(None),
        Err(failed) => Err(failed.to_string()),
    }
}

/// Commits a few transactions with one flush.
fn group(
    opened: &Opened,
    disk: &SimDisk,
    model: &mut Model,
    rng: &mut Pcg64Mcg,
) -> Result<(), String> {
    let mut claimed = Vec::new();
    let count = rng.random_range(1..4);
    let pending: Vec<Pending> =
        (0..count).filter_map(|_| submit(opened, model, rng, &mut claimed)).collect();
    opened.log.flush();
    finish(disk, model, pending)
}

/// Waits for transactions, in the order in which they were submitted.
fn finish(disk: &SimDisk, model: &mut Model, pending: Vec<Pending>) -> Result<(), String> {
    let mut last = None;
    for pending in pending {
        match pending.wait() {
            Ok(lsn) => last = Some(lsn.0),
            Err(failed) if disk.has_crashed() => drop(failed),
            Err(failed) => return Err(format!("refused: {failed}")),
        }
    }
    if let Some(last) = last {
        model.advance(last);
    }
    Ok(())
}

/// Everything that one seed does. Answers with the number of power failures survived.
fn run(seed: u64) -> Result<usize, String> {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let blocks = rng.random_range(1..6) * RANGE_BLOCKS + rng.random_range(1..RANGE_BLOCKS);
    // Half of the time commits have to wait for condensing.
    select_tight_ring(rng.random());
    let options = small().sector(if rng.random() { 512 } else { 4096 });
    let mut disk = Arc::new(SimDisk::default());
    let mut model = Model::new(blocks);
    let mut opened = match first(&mut disk, blocks, &options, &mut rng)? {
        Some(opened) => opened,
        None => reopen(&mut disk, false, &mut rng)?
            .map_or_else(
                || SpaceMapLog::create(disk.clone(), blocks, &options.clone().overwrite()),
                Ok,
            )
            .map_err(|error| format!("creating again: {error}"))?,
    };
    for _ in 0..CRASHES {
        disk.crash_after(rng.random_range(1..400), rng.random());
        work(&opened, &disk, &mut model, &mut rng)?;
        drop(opened);
        let mut bytes = disk.after_crash(&mut rng);
        flip_a_spare(&mut bytes, &mut rng);
        disk = Arc::new(SimDisk::new(bytes));
        opened = reopen(&mut disk, true, &mut rng)?.ok_or("the log is gone")?;
        model.check(&opened)?;
    }
    Ok(CRASHES)
}

/// Flips a bit in a page of which there is a second, intact copy: of the superblock or the directory.
/// It must make no difference, whatever the power failure left.
fn flip_a_spare(bytes: &mut [u8], rng: &mut Pcg64Mcg) {
    let slots = superblocks(bytes);
    let Some((_, last)) = slots.last() else { return };
    let newest = newest_superblock(bytes);
    let layout = Layout::from_superblock(last).expect("ours");
    let mut spares: Vec<[u64; 2]> = Vec::new();
    if let [(a, _), (b, _), ..] = slots[..] {
        spares.push([a as u64, b as u64]);
    }
    for (index, place) in layout.directory().into_iter().enumerate() {
        let intact = |&at: &u64| {
            let page = &bytes[at as usize..][..PAGE];
            DirectoryPage::from_bytes(page, newest.identity(), index as u32, place.count).is_some()
        };
        if place.copies.iter().all(intact) {
            spares.push(place.copies);
        }
    }
    if rng.random() && !spares.is_empty() {
        let page = spares[rng.random_range(0..spares.len())][rng.random_range(0..2)] as usize;
        bytes[page + rng.random_range(0..PAGE)] ^= 1 << rng.random_range(0..8);
    }
}

/// Creates the log, in one case of three with a power failure on the way.
fn first(
    disk: &mut Arc<SimDisk>,
    blocks: u64,
    options: &CreateOptions,
    rng: &mut Pcg64Mcg,
) -> Result<Option<Opened>, String> {
    if rng.random_ratio(1, 3) {
        disk.crash_after(rng.random_range(1..30), rng.random());
    }
    match SpaceMapLog::create(disk.clone(), blocks, options) {
        Ok(opened) if !disk.has_crashed() => Ok(Some(opened)),
        Err(error) if !disk.has_crashed() => Err(format!("creating: {error}")),
        _ => {
            *disk = Arc::new(SimDisk::new(disk.after_crash(rng)));
            Ok(None)
        }
    }
}

/// Opens, with power failures while doing so. `None` if there is no log yet, which only a creation cut
/// short can leave.
fn reopen(
    disk: &mut Arc<SimDisk>,
    created: bool,
    rng: &mut Pcg64Mcg,
) -> Result<Option<Opened>, String> {
    loop {
        if rng.random_ratio(1, 3) {
            disk.crash_after(rng.random_range(1..5), rng.random());
        }
        let before = disk.bytes();
        match SpaceMapLog::open(disk.clone(), &OpenOptions::new()) {
            Ok(opened) if !disk.has_crashed() => {
                disk.crash_after(u64::MAX / 2, 0);
                return Ok(Some(opened));
            }
            Err(LogError::Foreign { .. } | LogError::Damaged { part: Part::Superblocks, .. })
                if !created && !disk.has_crashed() =>
            {
                disk.crash_after(u64::MAX / 2, 0);
                return Ok(None);
            }
            Err(error) if !disk.has_crashed() => {
                assert_eq!(before, disk.bytes(), "a log that cannot be opened is left as it is");
                return Err(format!("opening: {error}"));
            }
            _ => *disk = Arc::new(SimDisk::new(disk.after_crash(rng))),
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_acknowledged_transaction_is_lost_and_none_is_half_there() {
    let seeds = match number("FREEMAP_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FREEMAP_CRASH_SEEDS").unwrap_or(1500),
    };
    let mut crashes = 0;
    for seed in seeds {
        crashes += run(seed).unwrap_or_else(|error| panic!("FREEMAP_CRASH_SEED={seed}: {error}"));
    }
    println!("{crashes} power failures survived");
}

/// The checks above would notice each ordering rule being broken.
#[test]
fn every_ordering_fault_is_caught() {
    use Fault::*;
    let faults = [
        ImageInPlace,
        DirectoryBeforeImage,
        TailBeforeDirectory,
        RingBeforeSuperblock,
        DirectoryBothCopies,
        NoFlush,
        SizeWithoutFlush,
        ShrinkForgetsImages,
    ];
    let mut missed = Vec::new();
    for fault in faults {
        select(Some(fault));
        let caught = (0..5_000).find_map(|seed| Some((seed, run(seed).err()?)));
        select(None);
        match caught {
            Some((seed, error)) => println!("{fault:?}: seed {seed}: {error}"),
            None => missed.push(fault),
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
