//! Short courses of events for faults that random ones hardly ever meet. Each is an error if the log ends
//! in a wrong state, or holds on to what it does not need.

use std::io::ErrorKind;
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::run;
use super::world::tails;
use crate::held::shrink::ShrinkFailed;
use crate::stores::log::layout::Layout;
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::tests::sim::{Operation, Refusal, SimDisk};
use crate::stores::log::tests::{bitmap, commit, newest_superblock, small};
use crate::stores::log::{Authority, LogError, OpenOptions, Opened, SpaceMapLog};
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

fn create(blocks: u64, authority: Authority) -> Result<(Arc<SimDisk>, Opened), String> {
    let disk = Arc::new(SimDisk::default());
    let opened = SpaceMapLog::create(disk.clone(), blocks, &small().authority(authority))
        .map_err(|error| format!("creating: {error}"))?;
    Ok((disk, opened))
}

/// A right state, or an error.
fn same_or_refused(bytes: Vec<u8>, expected: (u64, u32), what: &str) -> Result<(), String> {
    match SpaceMapLog::open(Arc::new(SimDisk::new(bytes)), &OpenOptions::new()) {
        Ok(opened) if bitmap(&opened) != expected => Err(format!("a wrong state {what}")),
        _ => Ok(()),
    }
}

/// A range changes and gets another image while a page of the directory that names the last one is
/// written. Condensing is cut short after any number of writes, and what a commit writes beside its frames
/// finds no room.
pub(super) fn changes_while_the_directory_is_written() -> Result<(), String> {
    for (first, second) in (0..10).flat_map(|first| (0..10).map(move |second| (first, second))) {
        let (disk, opened) = create(RANGE_BLOCKS, Authority::Log)?;
        for (round, after) in [first, second].into_iter().enumerate() {
            let mut transaction = opened.allocator.begin();
            transaction.mark_allocated(Extent::new(round as u64, 1)).expect("free");
            disk.refuse(Operation::Write, ErrorKind::StorageFull);
            if let Err(failed) = transaction.commit(&opened.log) {
                failed.transaction.commit(&opened.log).map_err(|error| error.to_string())?;
            }
            let (operation, error) = (Operation::Write, ErrorKind::Other);
            disk.refuse_later(Refusal { operation, after, error, arrives: 0 });
            let _cut_short = opened.log.condense();
            disk.calm();
            let (ours, theirs) = tails(&opened, &disk).map_err(|error| error.to_string())?;
            // Unless a window was left half written.
            if ours != theirs && disk.is_settled() {
                return Err(format!(
                    "after {first} and {second} writes: kept from {ours}, needed from {theirs}"
                ));
            }
        }
    }
    Ok(())
}

/// Of a checkpoint that takes two frames only the first arrives.
pub(super) fn a_checkpoint_of_two_frames_is_cut_short() -> Result<(), String> {
    let ranges = 300;
    let (disk, opened) = create(ranges * RANGE_BLOCKS, Authority::Piggyback)?;
    let mut states = Vec::new();
    for position in 1..3 {
        let mut transaction = opened.allocator.begin();
        for range in 0..ranges {
            let new = Extent::new(range * RANGE_BLOCKS + 10 * position, 5);
            transaction.mark_allocated(new).map_err(|error| error.to_string())?;
            if position > 1 {
                let old = Extent::new(new.start - 10, 5);
                transaction.free(old).map_err(|error| error.to_string())?;
            }
        }
        opened.log.absorb(transaction.freeze(), position - 1..position).expect("fits");
        states.push(bitmap(&opened));
        if position == 1 {
            opened.log.checkpoint().map_err(|error| error.to_string())?;
        }
    }
    let bytes = disk.bytes();
    let own_log = |opened: &Opened| bitmap(opened) == states[opened.position as usize - 1];
    drop(opened);
    // The images come first, one write each.
    for (crash, torn) in (1..5).flat_map(|write| (0..=250).step_by(10).map(move |at| (write, at))) {
        let crash = ranges + crash;
        let disk = Arc::new(SimDisk::new(bytes.clone()));
        let opened = SpaceMapLog::open(disk.clone(), &OpenOptions::new()).expect("intact");
        absorb_again(&opened, ranges);
        disk.crash_after(crash, torn);
        let _cut_short = opened.log.checkpoint();
        let disk = Arc::new(SimDisk::new(disk.bytes()));
        let opened = SpaceMapLog::open(disk, &OpenOptions::new())
            .map_err(|error| format!("cut short at {crash}: {error}"))?;
        if !own_log(&opened) {
            return Err(format!("cut short at {crash}: not the state of its position"));
        }
    }
    Ok(())
}

/// The second transaction of the engine's log, behind the first checkpoint.
fn absorb_again(opened: &Opened, ranges: u64) {
    let mut transaction = opened.allocator.begin();
    for range in 0..ranges {
        let start = range * RANGE_BLOCKS;
        transaction.mark_allocated(Extent::new(start + 20, 5)).expect("free");
        transaction.free(Extent::new(start + 10, 5)).expect("allocated");
    }
    opened.log.absorb(transaction.freeze(), 1..2).expect("fits");
}

/// The log names an image that is older than its tail, since the engine's word came late; and the newest
/// image of that range is damaged.
pub(super) fn a_stale_image_beside_a_damaged_one() -> Result<(), String> {
    let (disk, opened) = create(2 * RANGE_BLOCKS, Authority::Engine)?;
    let stable = |lsn: Lsn| opened.log.stable(lsn).map_err(|error| error.to_string());
    let advance =
        |until: u64| opened.log.inner.writer().advance(until).map_err(|error| error.to_string());
    let end = || opened.log.inner.writer().head.position;
    let first = commit(&opened, &[], &[Extent::new(0, 10)]);
    stable(first)?;
    // As many blocks as before, others.
    commit(&opened, &[Extent::new(0, 5)], &[Extent::new(100, 5)]);
    let before_last = end();
    let last = commit(&opened, &[], &[Extent::new(RANGE_BLOCKS, 10)]);
    advance(end())?;
    stable(last)?;
    advance(before_last)?;
    let expected = {
        let opened = SpaceMapLog::open(Arc::new(SimDisk::new(disk.bytes())), &OpenOptions::new());
        bitmap(&opened.map_err(|error| error.to_string())?)
    };
    let layout = Layout::from_superblock(&newest_superblock(&disk.bytes())).expect("ours");
    for slot in 0..2 {
        let mut bytes = disk.bytes();
        bytes[layout.image_offset(0, slot) as usize] ^= 1;
        same_or_refused(bytes, expected, "from a stale image")?;
    }
    Ok(())
}

/// The last frame but one is damaged.
pub(super) fn the_last_frame_but_one_is_damaged() -> Result<(), String> {
    let mut rng = Pcg64Mcg::seed_from_u64(2);
    let (disk, opened) = create(RANGE_BLOCKS, Authority::Log)?;
    let mut frames = Vec::new();
    for block in 0..5 {
        frames.push(opened.log.inner.writer().head.position);
        commit(&opened, &[], &[Extent::new(2 * block, 1)]);
    }
    let layout = Layout::from_superblock(&newest_superblock(&disk.bytes())).expect("ours");
    let expected = bitmap(&opened);
    for frame in &frames[..4] {
        let mut bytes = disk.bytes();
        bytes[layout.ring_offset(*frame) as usize + rng.random_range(0..80)] ^= 1;
        same_or_refused(bytes, expected, "without the last frames")?;
    }
    Ok(())
}

/// The engine says nothing of its own log for as long as there is room, and then knows of nothing.
pub(super) fn everything_is_taken_back() -> Result<(), String> {
    let (disk, opened) = create(4 * RANGE_BLOCKS, Authority::Engine)?;
    let before = bitmap(&opened);
    for round in 0.. {
        let mut transaction = opened.allocator.begin();
        // They fill a frame.
        for block in (round * 3800..(round + 1) * 3800).step_by(2) {
            transaction.mark_allocated(Extent::new(block, 1)).map_err(|error| error.to_string())?;
        }
        if transaction.commit(&opened.log).is_err() {
            break;
        }
    }
    drop(opened);
    let opened = SpaceMapLog::open(disk, &OpenOptions::new().recover_until(Lsn(0)))
        .map_err(|error| format!("taking back: {error}"))?;
    if bitmap(&opened) == before { Ok(()) } else { Err("not taken back".to_string()) }
}

/// What may happen before an engine goes back to the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// A transaction without a change.
    Nothing,
    /// One at the beginning of the device.
    Near,
    /// One at its end.
    Far,
    Condense,
    /// By a range, unless the last has what cannot be called free yet.
    Shrink,
    Reopen,
}

/// Events before the last opening.
const COURSE: u32 = 4;

/// An engine that never says that anything is durable can go back to the beginning, whatever short course
/// of events came before, openings among them.
pub(super) fn the_beginning_is_never_out_of_reach() -> Result<(), String> {
    use Event::*;
    let all = [Nothing, Near, Far, Condense, Shrink, Reopen];
    for course in 0..all.len().pow(COURSE) {
        let event = |place| all[course / all.len().pow(place) % all.len()];
        let events: Vec<Event> = (0..COURSE).map(event).collect();
        went_back(&events).map_err(|error| format!("{events:?}: {error}"))?;
    }
    Ok(())
}

fn went_back(events: &[Event]) -> Result<(), String> {
    let (disk, mut opened) = create(6 * RANGE_BLOCKS, Authority::Engine)?;
    for (event, place) in events.iter().copied().chain([Event::Reopen]).zip(0..) {
        let blocks = opened.log.blocks();
        match event {
            Event::Nothing => drop(commit(&opened, &[], &[])),
            Event::Near => drop(commit(&opened, &[], &[Extent::new(10 * place, 5)])),
            Event::Far => drop(commit(&opened, &[], &[Extent::new(blocks - 10 * (place + 1), 5)])),
            Event::Condense => opened.log.condense().map_err(|error| error.to_string())?,
            Event::Shrink => {
                let shrink = opened.allocator.shrink(blocks - RANGE_BLOCKS).expect("a tail");
                if shrink.live_extents().next().is_some() {
                    continue;
                }
                match opened.log.shrink(shrink).map_err(ShrinkFailed::into_error) {
                    Ok(()) | Err(LogError::Unstable { .. }) => {}
                    Err(error) => return Err(format!("shrinking: {error}")),
                }
            }
            Event::Reopen => {
                drop(opened);
                let options = OpenOptions::new().recover_until(Lsn(0));
                opened = SpaceMapLog::open(disk.clone(), &options)
                    .map_err(|error| format!("opening: {error}"))?;
                opened.allocator.collect();
                if opened.allocator.free_blocks() != opened.log.blocks() {
                    return Err("not taken back".to_string());
                }
            }
        }
    }
    Ok(())
}

/// A write fails below three transactions of which each frees what the one before allocates; then they
/// are repeated.
pub(super) fn a_window_of_dependent_transactions_fails() -> Result<(), String> {
    let (disk, opened) = create(RANGE_BLOCKS, Authority::Log)?;
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let mut pending = Vec::new();
    for round in 0..3 {
        let mut transaction = opened.allocator.begin();
        transaction.mark_allocated(Extent::new(100 * (round + 1), 10)).expect("free");
        transaction.free(Extent::new(100 * round, 5)).expect("allocated");
        pending.push(opened.log.submit(transaction.freeze()).expect("fits"));
    }
    disk.refuse(Operation::Write, ErrorKind::Other);
    opened.log.flush();
    let failed: Vec<_> = pending.into_iter().filter_map(|pending| pending.wait().err()).collect();
    for failed in failed {
        failed.transaction.commit(&opened.log).map_err(|error| format!("repeated: {error}"))?;
    }
    opened.log.verify().map_err(|error| format!("verify: {error}"))?;
    same_or_refused(disk.bytes(), bitmap(&opened), "after the repetition")
}

/// All of them, without a fault: nothing is wrong.
#[test]
fn scenarios_end_well() {
    for (name, scenario) in ALL {
        scenario().unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

type Scenario = fn() -> Result<(), String>;

const ALL: [(&str, Scenario); 7] = [
    ("changes while the directory is written", changes_while_the_directory_is_written),
    ("a checkpoint of two frames is cut short", a_checkpoint_of_two_frames_is_cut_short),
    ("a stale image beside a damaged one", a_stale_image_beside_a_damaged_one),
    ("the last frame but one is damaged", the_last_frame_but_one_is_damaged),
    ("everything is taken back", everything_is_taken_back),
    ("the beginning is never out of reach", the_beginning_is_never_out_of_reach),
    ("a window of dependent transactions fails", a_window_of_dependent_transactions_fails),
];

/// Seeds by which long runs found something. The log begins inside a transaction, since the ranges that this changed
/// first have newer images; the engine asks for a state before such an image.
pub(super) fn a_transaction_loses_its_beginning() -> Result<(), String> {
    for seed in [11331, 13063] {
        run(Authority::Engine, seed).map_err(|error| format!("seed {seed}: {error}"))?;
    }
    Ok(())
}
