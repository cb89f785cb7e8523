//! Devices that become larger and smaller.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::sim::{Operation, SimDisk};
use super::{all_stable, bitmap, commit, create, encoded, open, small};
use crate::allocator::Allocator;
use crate::held::shrink::{Shrink, ShrinkFailed};
use crate::stores::log::fault::{Fault, select};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{
    Authority, CommitError, LogError, OpenOptions, Opened, Part, SpaceMapLog,
};
use crate::values::delta::Delta;
use crate::values::error::ResizeError;
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

/// What has to be moved: without what only waits in the quarantine.
fn live(opened: &Opened, shrink: &Shrink) -> Vec<Extent> {
    opened.allocator.collect();
    shrink.live_extents().collect()
}

/// Frees what is behind the first `blocks` blocks, and cuts it off.
fn shrink(opened: &Opened, blocks: u64) -> Result<(), LogError> {
    let shrink = opened.allocator.shrink(blocks).expect("a tail");
    let live = live(opened, &shrink);
    if !live.is_empty() {
        commit(opened, &live, &[]);
    }
    opened.log.shrink(shrink).map_err(ShrinkFailed::into_error)
}

/// A log with images and directory pages of ranges that have changed since, also of those behind
/// `3 * RANGE_BLOCKS`.
fn aged(disk: &Arc<SimDisk>, authority: Authority) -> Opened {
    let options = small().authority(authority);
    let opened = SpaceMapLog::create(disk.clone(), OLD, &options).expect("an empty disk");
    if authority != Authority::Piggyback {
        for range in 0..5 {
            commit(&opened, &[], &[Extent::new(range * RANGE_BLOCKS + 10, RANGE_BLOCKS / 2)]);
        }
        all_stable(&opened);
        opened.log.condense().expect("a healthy disk");
        commit(&opened, &[Extent::new(20, 5)], &[Extent::new(5 * RANGE_BLOCKS, 100)]);
        commit(&opened, &[Extent::new(4 * RANGE_BLOCKS + 10, 1)], &[]);
        all_stable(&opened);
    }
    opened
}

#[test]
fn a_device_can_grow_and_shrink_while_it_is_open() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS + 100);
    commit(&opened, &[], &[Extent::new(0, RANGE_BLOCKS + 100)]);
    let blocks = 200 * RANGE_BLOCKS + 50;
    opened.log.grow(&opened.allocator, blocks).expect("a healthy disk");
    assert_eq!((opened.log.blocks(), opened.allocator.blocks()), (blocks, blocks));
    commit(&opened, &[Extent::new(0, 1)], &[Extent::new(RANGE_BLOCKS + 100, 150 * RANGE_BLOCKS)]);
    opened.log.condense().expect("a healthy disk");
    opened.log.verify().expect("disk and memory agree");
    let expected = bitmap(&opened);
    assert_eq!(bitmap(&open(disk.bytes()).expect("intact")), expected);

    shrink(&opened, 3000).expect("nobody is there");
    assert_eq!((opened.log.blocks(), opened.allocator.blocks()), (3000, 3000));
    assert_eq!(opened.allocator.free_blocks(), 1);
    opened.log.verify().expect("disk and memory agree");
    // What was cut off is free when it comes back, before and after its ranges are condensed.
    for condensed in [false, true] {
        if condensed {
            opened.log.condense().expect("a healthy disk");
        }
        let again = open(disk.bytes()).expect("intact");
        assert_eq!(bitmap(&again), bitmap(&opened));
        again.log.grow(&again.allocator, 202 * RANGE_BLOCKS).expect("a healthy disk");
        assert_eq!(again.allocator.free_blocks(), 202 * RANGE_BLOCKS - 2999);
        again.log.verify().expect("disk and memory agree");
        commit(&again, &[], &[Extent::new(3000, 100 * RANGE_BLOCKS)]);
    }
    // Room for that many ranges was there.
    let before = disk.bytes().len();
    opened.log.grow(&opened.allocator, blocks).expect("a healthy disk");
    assert_eq!(disk.bytes().len(), before);
}

#[test]
fn checks_and_repairs_go_by_the_size_there_is() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let beyond = Extent::new(2 * RANGE_BLOCKS - 1, 2);
    opened.log.grow(&opened.allocator, 2 * RANGE_BLOCKS + 1).expect("a healthy disk");
    let found = opened.check([Extent::new(0, 10), beyond]);
    assert_eq!((&found.unprotected[..], &found.outside[..]), (&[beyond][..], &[][..]));
    opened.repair(&found).expect("a healthy disk");
    assert!(opened.check([Extent::new(0, 10), beyond]).is_clean());
    let found = opened.check([Extent::new(0, 10)]);
    assert_eq!(found.leaked, [beyond]);
    opened.repair(&found).expect("a healthy disk");
    shrink(&opened, 2 * RANGE_BLOCKS).expect("nobody is there");
    let found = opened.check([Extent::new(0, 10), beyond]);
    assert_eq!((&found.unprotected[..], &found.outside[..]), (&[][..], &[beyond][..]));
    assert!(open(disk.bytes()).expect("intact").check([Extent::new(0, 10)]).is_clean());
}

#[test]
fn a_device_grows_in_any_number_of_steps() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, 1);
    let max = opened.log.max_blocks();
    for step in 0..300 {
        let blocks = if step == 299 { max } else { 1 + step * RANGE_BLOCKS };
        opened.log.grow(&opened.allocator, blocks).expect("a healthy disk");
    }
    let beyond = opened.log.grow(&opened.allocator, max + 1);
    assert!(matches!(beyond, Err(LogError::Option { name: "blocks", .. })), "{beyond:?}");
    assert_eq!(open(disk.bytes()).expect("intact").allocator.free_blocks(), max);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let disk = Arc::new(SimDisk::default());
    let options = small().allow_plain_frees();
    let opened = SpaceMapLog::create(disk.clone(), 3 * RANGE_BLOCKS, &options).expect("empty");
    commit(&opened, &[], &[Extent::new(RANGE_BLOCKS, 100), Extent::new(2 * RANGE_BLOCKS, 3)]);
    let before = disk.bytes();
    let other = Allocator::new(3 * RANGE_BLOCKS).expect("memory");
    let foreign = opened.log.grow(&other, 4 * RANGE_BLOCKS);
    assert!(matches!(foreign, Err(LogError::Commit(CommitError::Foreign))), "{foreign:?}");
    let foreign = opened.log.shrink(other.shrink(5).expect("a tail")).expect_err("not ours");
    assert!(matches!(foreign.error, LogError::Commit(CommitError::Foreign)), "{foreign}");
    assert_eq!(foreign.shrink.blocks(), 5);
    for (blocks, too_many) in [(0, false), (3 * RANGE_BLOCKS - 1, false), (u64::MAX, true)] {
        let error = opened.log.grow(&opened.allocator, blocks).expect_err("impossible");
        let LogError::Resize(error) = error else { panic!("{error}") };
        assert_eq!(matches!(error, ResizeError::TooManyBlocks { .. }), too_many, "{error}");
    }
    let in_use = opened.allocator.shrink(2 * RANGE_BLOCKS).expect("a tail");
    let failed = opened.log.shrink(in_use).expect_err("three blocks");
    assert!(matches!(failed.error, LogError::Resize(ResizeError::InUse { live: 3 })), "{failed}");
    // Given up, the tail is open again.
    drop(failed);
    assert_eq!(disk.bytes(), before);
    commit(&opened, &[], &[Extent::new(3 * RANGE_BLOCKS - 1, 1)]);
    assert_eq!(open(disk.bytes()).expect("intact").allocator.blocks(), 3 * RANGE_BLOCKS);

    // Freed, but without a transaction: the log knows better.
    let tail = opened.allocator.shrink(2 * RANGE_BLOCKS).expect("a tail");
    for extent in tail.live_extents() {
        opened.allocator.free(extent).expect("allocated");
    }
    let failed = opened.log.shrink(tail).expect_err("allocated in the log");
    let LogError::Occupied { block } = failed.error else { panic!("{failed}") };
    assert_eq!(block, 2 * RANGE_BLOCKS);
}

#[test]
fn a_growth_behind_a_shrink_that_has_begun_ends_it() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, 2 * RANGE_BLOCKS);
    let begun = opened.allocator.shrink(RANGE_BLOCKS).expect("a tail");
    opened.log.grow(&opened.allocator, 3 * RANGE_BLOCKS).expect("a healthy disk");
    let failed = opened.log.shrink(begun).expect_err("longer than it was");
    assert!(matches!(failed.error, LogError::Resize(ResizeError::Length { .. })), "{failed}");
    drop(failed);
    assert_eq!(opened.allocator.free_blocks(), 3 * RANGE_BLOCKS);
    assert_eq!(open(disk.bytes()).expect("intact").allocator.blocks(), 3 * RANGE_BLOCKS);
}

/// Blocks of the device that [`aged`] makes.
const OLD: u64 = 5 * RANGE_BLOCKS + 100;

/// The power fails at the `crash`-th write or flush of a change to `new` blocks. Afterwards there must be
/// the old size or the new one, the same state, and the call can be repeated. Whether the change was done
/// before.
fn cut_short(authority: Authority, new: u64, crash: u64) -> Result<bool, LogError> {
    let disk = Arc::new(SimDisk::default());
    let opened = aged(&disk, authority);
    let moved = match opened.allocator.shrink(new) {
        Ok(shrink) => live(&opened, &shrink),
        Err(_) => Vec::new(),
    };
    if !moved.is_empty() {
        commit(&opened, &moved, &[]);
        all_stable(&opened);
    }
    let change = |opened: &Opened| match new > OLD {
        true => opened.log.grow(&opened.allocator, new),
        false => shrink(opened, new),
    };
    let before = bitmap(&opened).0;
    disk.crash_after(crash, 100);
    let done = change(&opened).is_ok();
    let mut rng = Pcg64Mcg::seed_from_u64(crash);
    for _ in 0..20 {
        let opened = open(disk.after_crash(&mut rng))?;
        let blocks = opened.allocator.blocks();
        assert!(blocks == new || (blocks == OLD && !done), "{blocks} after {crash}");
        assert_eq!(opened.allocator.free_blocks(), before + blocks - OLD, "after {crash}");
        opened.log.verify()?;
        if blocks == OLD {
            change(&opened)?;
            assert_eq!(opened.allocator.free_blocks(), before + new - OLD);
        }
        let one = if new > OLD { new - 1 } else { 5 };
        commit(&opened, &[], &[Extent::new(one, 1)]);
        opened.log.verify()?;
    }
    Ok(done && !disk.has_crashed())
}

/// Growth within the room there is, growth that needs more, and shrinks.
#[test]
fn every_write_of_a_change_can_be_the_last() {
    for authority in [Authority::Log, Authority::Engine] {
        for (new, writes) in
            [(OLD + 1000, 4), (8 * RANGE_BLOCKS, 9), (3 * RANGE_BLOCKS + 7, 4), (64, 4)]
        {
            let mut done = false;
            for crash in 1..=writes {
                assert!(!done, "{new}: fewer than {writes} writes and flushes");
                done = cut_short(authority, new, crash).expect("a torn tail at worst");
            }
            assert!(cut_short(authority, new, writes + 1).expect("a healthy disk"));
        }
    }
}

#[test]
fn an_engine_cannot_go_back_to_blocks_that_are_gone() {
    let disk = Arc::new(SimDisk::default());
    let opened = aged(&disk, Authority::Engine);
    let stable = opened.log.last();
    // Moved, but the engine may still ask for the old place.
    let tail = opened.allocator.shrink(4 * RANGE_BLOCKS).expect("a tail");
    let moved = commit(&opened, &live(&opened, &tail), &[]);
    commit(&opened, &[], &[Extent::new(RANGE_BLOCKS - 1, 1)]);
    let failed = opened.log.shrink(tail).expect_err("not stable, so the old place is held");
    assert!(matches!(failed.error, LogError::Resize(ResizeError::InUse { .. })), "{failed}");
    opened.log.stable(moved).expect("there");
    opened.allocator.collect();
    opened.log.shrink(failed.shrink).expect("the other transaction is elsewhere");
    let expected = {
        let (blocks, words) = opened.log.committed();
        assert_eq!(blocks, 4 * RANGE_BLOCKS);
        words
    };
    drop(opened);
    let until = |lsn: Lsn| {
        let options = OpenOptions::new().recover_until(lsn);
        SpaceMapLog::open(Arc::new(SimDisk::new(disk.bytes())), &options)
    };
    let gone = until(stable);
    assert!(matches!(gone, Err(LogError::TooOld { oldest, .. }) if oldest == moved), "{gone:?}");
    let opened = until(moved).expect("from there on");
    assert_eq!(opened.report.taken_back, 1);
    let (_, mut words) = opened.log.committed();
    words[(RANGE_BLOCKS - 1) as usize / 64] |= 1 << 63;
    assert!(words == expected);
}

/// What was taken back is in the log, and so is what takes it back.
#[test]
fn what_was_taken_back_is_not_cut_off_before_the_engine_has_heard_of_it() {
    let disk = Arc::new(SimDisk::default());
    let options = small().authority(Authority::Engine);
    let opened = SpaceMapLog::create(disk.clone(), OLD, &options).expect("empty");
    let stable = commit(&opened, &[], &[Extent::new(0, 1)]);
    commit(&opened, &[], &[Extent::new(4 * RANGE_BLOCKS + 5, 3)]);
    drop(opened);
    let options = OpenOptions::new().recover_until(stable);
    let opened = SpaceMapLog::open(disk.clone(), &options).expect("intact");
    let tail = opened.allocator.shrink(4 * RANGE_BLOCKS).expect("a tail");
    let failed = opened.log.shrink(tail).expect_err("not stable");
    let last = opened.log.last();
    assert!(matches!(failed.error, LogError::Unstable { lsn } if lsn == last), "{failed}");
    opened.log.stable(last).expect("there");
    opened.log.shrink(failed.shrink).expect("stable");
}

#[test]
fn a_shrink_takes_a_checkpoint_where_the_engines_log_names_what_is_cut_off() {
    let disk = Arc::new(SimDisk::default());
    let opened = aged(&disk, Authority::Piggyback);
    let mut own_log: Vec<(u64, Vec<u8>)> = Vec::new();
    let absorb =
        |own_log: &mut Vec<(u64, Vec<u8>)>, opened: &Opened, freed: &[Extent], new: &[Extent]| {
            let mut transaction = opened.allocator.begin();
            new.iter().for_each(|&extent| transaction.mark_allocated(extent).expect("free"));
            freed.iter().for_each(|&extent| transaction.free(extent).expect("allocated"));
            let frozen = transaction.freeze();
            let position = own_log.len() as u64 + 1;
            own_log.push((position, encoded(frozen.delta())));
            opened.log.absorb(frozen, position - 1..position).expect("fits");
        };
    let far = Extent::new(5 * RANGE_BLOCKS, 10);
    absorb(&mut own_log, &opened, &[], &[far]);
    absorb(&mut own_log, &opened, &[far], &[Extent::new(0, 10)]);
    // Power failures at every write and flush on the way.
    let bytes = disk.bytes();
    for crash in 1.. {
        let disk = Arc::new(SimDisk::new(bytes.clone()));
        let opened = open_again(&disk, &own_log);
        disk.crash_after(crash, 100);
        let done = shrink(&opened, RANGE_BLOCKS).is_ok();
        let mut rng = Pcg64Mcg::seed_from_u64(crash);
        for _ in 0..20 {
            let disk = Arc::new(SimDisk::new(disk.after_crash(&mut rng)));
            let opened = open_again(&disk, &own_log);
            let blocks = opened.allocator.blocks();
            assert!(blocks == RANGE_BLOCKS || (blocks == OLD && !done));
            assert_eq!(opened.allocator.free_blocks(), blocks - 10);
        }
        if done {
            break;
        }
    }
    opened.allocator.collect();
    shrink(&opened, RANGE_BLOCKS).expect("a healthy disk");
    absorb(&mut own_log, &opened, &[], &[Extent::new(100, 10)]);
    drop(opened);
    let opened = open_again(&disk, &own_log);
    assert_eq!((opened.position, opened.allocator.blocks()), (2, RANGE_BLOCKS));
    assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS - 20);
}

/// Opens, and feeds in what the engine's own log has behind the checkpoint.
fn open_again(disk: &Arc<SimDisk>, own_log: &[(u64, Vec<u8>)]) -> Opened {
    let opened = SpaceMapLog::open(disk.clone(), &OpenOptions::new()).expect("intact");
    for (position, bytes) in own_log.iter().filter(|(position, _)| *position > opened.position) {
        let delta = Delta::decode(bytes).expect("ours");
        opened.replay(&delta, position - 1..*position).expect("on the device");
    }
    opened.allocator.collect();
    opened
}

#[test]
fn a_disk_that_refuses_leaves_the_size_or_doubt() {
    let blocks = OLD;
    // The first write of a growth that needs room: nothing has happened.
    let disk = Arc::new(SimDisk::default());
    let opened = aged(&disk, Authority::Log);
    disk.refuse(Operation::Write, ErrorKind::StorageFull);
    let refused = opened.log.grow(&opened.allocator, 300 * RANGE_BLOCKS);
    assert!(matches!(refused, Err(LogError::Commit(CommitError::Write(_)))), "{refused:?}");
    assert_eq!((opened.log.blocks(), opened.allocator.blocks()), (blocks, blocks));
    commit(&opened, &[], &[Extent::new(0, 1)]);
    opened.log.grow(&opened.allocator, 300 * RANGE_BLOCKS).expect("room again");

    // The first write of a superblock.
    for (operation, grow) in
        [(Operation::Write, false), (Operation::Sync, false), (Operation::Sync, true)]
    {
        let disk = Arc::new(SimDisk::default());
        let opened = aged(&disk, Authority::Log);
        let error = if grow {
            disk.refuse(operation, ErrorKind::Other);
            opened.log.grow(&opened.allocator, blocks + 1).expect_err("refused")
        } else {
            let tail = opened.allocator.shrink(5 * RANGE_BLOCKS + 99).expect("a tail");
            commit(&opened, &[Extent::new(5 * RANGE_BLOCKS + 99, 1)], &[]);
            disk.refuse(operation, ErrorKind::Other);
            opened.log.shrink(tail).map_err(ShrinkFailed::into_error).expect_err("refused")
        };
        assert!(matches!(error, LogError::Commit(CommitError::Sync(_))), "{error}");
        // The tail is open again, but nobody can commit to it.
        assert_eq!(opened.allocator.blocks(), blocks);
        let mut transaction = opened.allocator.begin();
        transaction.allocate(1).expect("room");
        let failed = transaction.commit(&opened.log).expect_err("in doubt");
        assert!(matches!(failed.error, CommitError::Refused(_)));
        open(disk.bytes()).expect("intact").log.verify().expect("disk and memory agree");
    }
}

/// After a shrink whose flush failed, a restart may find either size. An engine with a log of its own went on to
/// allocate what was to be cut off, and its log named blocks behind the end.
#[test]
fn nobody_gets_what_a_shrink_in_doubt_may_have_cut_off() {
    let disk = Arc::new(SimDisk::default());
    let opened = aged(&disk, Authority::Piggyback);
    let tail = opened.allocator.shrink(RANGE_BLOCKS).expect("a tail");
    disk.refuse(Operation::Sync, ErrorKind::Other);
    let error = opened.log.shrink(tail).map_err(ShrinkFailed::into_error).expect_err("in doubt");
    assert!(matches!(error, LogError::Commit(CommitError::Sync(_))), "{error}");
    assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS);
    let mut transaction = opened.allocator.begin();
    assert!(transaction.mark_allocated(Extent::new(RANGE_BLOCKS, 1)).is_err());
    transaction.allocate(RANGE_BLOCKS).expect("what is on the device in any case");
    opened.log.absorb(transaction.freeze(), 0..1).expect("fits");
    assert!(opened.allocator.verify().is_clean());
}

/// The deliberate faults that random power failures do not show, or hardly ever.
#[test]
fn a_change_without_its_checks_is_noticed() {
    select(Some(Fault::GrowthWithoutFlush));
    let found = (1..20).find_map(|crash| cut_short(Authority::Log, 8 * RANGE_BLOCKS, crash).err());
    select(None);
    // The new length of the file, or a page of the directory.
    let noticed = matches!(
        found,
        Some(
            LogError::Truncated { .. }
                | LogError::Damaged { part: Part::DirectoryPage | Part::Directory, .. }
        )
    );
    assert!(noticed, "{found:?}");

    let disk = Arc::new(SimDisk::default());
    let opened = aged(&disk, Authority::Log);
    select(Some(Fault::ShrinkWithoutLook));
    let done = opened.log.inner.resize(3 * RANGE_BLOCKS);
    select(None);
    done.expect("nobody looks");
    let found = open(disk.bytes());
    assert!(matches!(found, Err(LogError::Damaged { part: Part::Beyond, .. })), "{found:?}");

    let disk = Arc::new(SimDisk::default());
    let opened = aged(&disk, Authority::Engine);
    let stable = opened.log.last();
    let moved = commit(&opened, &[Extent::new(5 * RANGE_BLOCKS, 100)], &[]);
    opened.log.stable(moved).expect("there");
    select(Some(Fault::ShrinkWithoutFloor));
    let done = opened.log.inner.resize(5 * RANGE_BLOCKS);
    select(None);
    done.expect("all is free");
    let options = OpenOptions::new().recover_until(stable);
    let found = SpaceMapLog::open(Arc::new(SimDisk::new(disk.bytes())), &options);
    assert!(matches!(found, Err(LogError::Commit(CommitError::Foreign))), "{found:?}");
}

/// Transactions on several threads while the device grows and shrinks: nothing that is committed is lost,
/// and nobody is refused.
#[test]
fn transactions_go_on_while_the_size_changes() {
    let disk = Arc::new(SimDisk::default());
    let options = small().limit(1 << 20);
    let opened =
        SpaceMapLog::create(disk.clone(), 2 * RANGE_BLOCKS, &options).expect("an empty disk");
    let stop = AtomicBool::new(false);
    let (stop, opened_by_all) = (&stop, &opened);
    // What each thread owns; the extents of the tail are moved by their owners.
    std::thread::scope(|scope| {
        for seed in 0..3 {
            scope.spawn(move || {
                let opened = opened_by_all;
                let mut rng = Pcg64Mcg::seed_from_u64(seed);
                let mut owned: Vec<Extent> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let mut transaction = opened.allocator.begin();
                    if let Ok(new) = transaction.allocate(rng.random_range(1..60)) {
                        owned.push(new);
                    }
                    if owned.len() > 50 {
                        let last = (0..owned.len()).max_by_key(|&index| owned[index].start);
                        let old = match rng.random() {
                            true => last.unwrap_or(0),
                            false => rng.random_range(0..owned.len()),
                        };
                        transaction.free(owned.swap_remove(old)).expect("owned");
                    }
                    transaction.commit(&opened.log).expect("a healthy disk");
                }
            });
        }
        let mut rng = Pcg64Mcg::seed_from_u64(77);
        let mut shrunk = 0;
        while shrunk < 30 {
            let blocks = opened.allocator.blocks();
            if blocks < 4 * RANGE_BLOCKS {
                let more = blocks + rng.random_range(1..RANGE_BLOCKS);
                opened.log.grow(&opened.allocator, more).expect("a healthy disk");
            }
            let less = opened.allocator.blocks() - rng.random_range(1..RANGE_BLOCKS);
            let mut shrink = opened.allocator.shrink(less.max(RANGE_BLOCKS)).expect("a tail");
            for _ in 0..200 {
                match opened.log.shrink(shrink) {
                    Ok(()) => {
                        shrunk += 1;
                        break;
                    }
                    Err(failed) => {
                        let LogError::Resize(ResizeError::InUse { .. }) = failed.error else {
                            panic!("{failed}")
                        };
                        shrink = failed.shrink;
                        std::thread::yield_now();
                    }
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    opened.log.verify().expect("disk and memory agree");
    let expected = bitmap(&opened);
    let again = open(disk.bytes()).expect("intact");
    assert_eq!(again.allocator.blocks(), opened.allocator.blocks());
    assert_eq!(bitmap(&again), expected);
}

/// The allocator was resized, and not through the log.
#[test]
fn what_the_log_has_no_room_for_is_refused() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, 1000);
    opened.allocator.grow(2000).expect("memory");
    let mut transaction = opened.allocator.begin();
    transaction.mark_allocated(Extent::new(990, 20)).expect("free");
    let refused = transaction.commit(&opened.log).expect_err("not on the device");
    assert!(matches!(refused.error, CommitError::Foreign), "{refused}");
    // Told of it, it takes the same transaction.
    opened.log.grow(&opened.allocator, 2000).expect("a healthy disk");
    refused.transaction.commit(&opened.log).expect("a healthy disk");
    // And the other way round.
    let shrink = opened.allocator.shrink(1500).expect("a tail");
    shrink.finish().expect("nobody is there");
    assert_eq!(opened.log.blocks(), 2000);
    opened.log.grow(&opened.allocator, 1500).expect("what the allocator has");
    assert_eq!(opened.log.blocks(), 1500);
    assert_eq!(open(disk.bytes()).expect("intact").allocator.free_blocks(), 1480);
}
