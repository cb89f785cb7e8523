//! Engines whose own log is the authority, checks and repairs.

use std::sync::Arc;

use super::sim::SimDisk;
use super::{bitmap, commit, create, encoded, open, small};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{Authority, CommitError, LogError, OpenOptions, Opened, SpaceMapLog};
use crate::values::delta::Delta;
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

fn until(disk: &Arc<SimDisk>, lsn: u64) -> Result<Opened, LogError> {
    let options = OpenOptions::new().recover_until(Lsn(lsn));
    SpaceMapLog::open(disk.clone(), &options)
}

fn engine(disk: &Arc<SimDisk>, authority: Authority) -> Opened {
    SpaceMapLog::create(disk.clone(), 2 * RANGE_BLOCKS, &small().authority(authority))
        .expect("an empty disk")
}

#[test]
fn recovery_goes_back_to_what_the_engine_knows() {
    let disk = Arc::new(SimDisk::default());
    let opened = engine(&disk, Authority::Engine);
    commit(&opened, &[], &[Extent::new(0, 100)]);
    let expected = bitmap(&opened);
    commit(&opened, &[Extent::new(10, 20)], &[Extent::new(40_000, 5)]);
    opened.allocator.collect();
    assert_eq!(opened.allocator.stats().held_blocks, 20, "for the case that it is taken back");
    commit(&opened, &[], &[Extent::new(150, 3)]);
    drop(opened);
    // As often as it takes: a crash right after changes nothing.
    for round in 0..3 {
        let opened = until(&disk, 1).expect("all in the log");
        assert_eq!(bitmap(&opened), expected);
        // The first time adds the transaction that takes the others back.
        assert_eq!(opened.report.taken_back, if round == 0 { 2 } else { 3 });
        assert!(opened.log.last() > Lsn(3));
        opened.log.verify().expect("disk and memory agree");
    }
    let opened = until(&disk, 1).expect("all in the log");
    let lsn = commit(&opened, &[Extent::new(10, 20)], &[]);
    opened.log.stable(lsn).expect("there");
    let expected = bitmap(&opened);
    drop(opened);
    let opened = until(&disk, lsn.0).expect("all in the log");
    assert_eq!((bitmap(&opened), opened.report.taken_back), (expected, 0));
    assert!(matches!(until(&disk, 99), Err(LogError::Missing { .. })));
}

#[test]
fn what_the_engine_has_not_called_stable_stays_out_of_images() {
    let disk = Arc::new(SimDisk::default());
    let opened = engine(&disk, Authority::Engine);
    commit(&opened, &[], &[Extent::new(0, 100)]);
    let first = bitmap(&opened);
    opened.log.stable(Lsn(1)).expect("there");
    let mut lsn = Lsn(0);
    for round in 0..20 {
        lsn = commit(&opened, &[], &[Extent::new(1000 + round, 1)]);
    }
    // Images as of transaction 1, although the ranges have changed since.
    opened.log.condense().expect("a healthy disk");
    assert!(opened.log.figures().image_bytes > 0);
    let last = bitmap(&opened);
    drop(opened);
    let bytes = disk.bytes();
    let at = |lsn: u64| {
        let disk = Arc::new(SimDisk::new(bytes.clone()));
        until(&disk, lsn).map(|opened| bitmap(&opened))
    };
    assert_eq!(at(1).expect("stable"), first);
    assert_eq!(at(lsn.0).expect("everything"), last);
    assert!(matches!(at(0), Err(LogError::TooOld { .. })));
}

#[test]
fn an_engine_that_never_calls_anything_stable_fills_the_log() {
    let disk = Arc::new(SimDisk::default());
    let opened = engine(&disk, Authority::Engine);
    let mut full = None;
    for block in 0..400 {
        let mut transaction = opened.allocator.begin();
        transaction.mark_allocated(Extent::new(2 * block, 1)).expect("free");
        if let Err(failed) = transaction.commit(&opened.log) {
            full = Some(failed.error.clone());
            break;
        }
    }
    assert!(matches!(full, Some(CommitError::Full { .. })), "{full:?}");
    let last = opened.log.last();
    opened.log.stable(last).expect("there");
    assert_eq!(commit(&opened, &[], &[Extent::new(50_000, 1)]), Lsn(last.0 + 1));
}

#[test]
fn a_checkpoint_and_the_engines_own_log_give_the_state() {
    let disk = Arc::new(SimDisk::default());
    let opened = engine(&disk, Authority::Piggyback);
    let mut own_log: Vec<(u64, Vec<u8>)> = Vec::new();
    let absorb = |opened: &Opened,
                  own_log: &mut Vec<(u64, Vec<u8>)>,
                  freed: &[Extent],
                  allocated: &[Extent]| {
        let mut transaction = opened.allocator.begin();
        allocated.iter().for_each(|&e| transaction.mark_allocated(e).expect("free"));
        freed.iter().for_each(|&e| transaction.free(e).expect("allocated"));
        let frozen = transaction.freeze();
        let position = own_log.len() as u64 + 1;
        own_log.push((position, encoded(frozen.delta())));
        opened.log.absorb(frozen, position - 1..position).expect("fits");
    };
    absorb(&opened, &mut own_log, &[], &[Extent::new(0, 100), Extent::new(33_000, 7)]);
    absorb(&opened, &mut own_log, &[Extent::new(5, 5)], &[]);
    let syncs = opened.log.figures().syncs;
    opened.log.checkpoint().expect("a healthy disk");
    assert!(opened.log.figures().syncs > syncs);
    absorb(&opened, &mut own_log, &[Extent::new(50, 10)], &[Extent::new(60_000, 8)]);
    opened.log.verify().expect("disk and memory agree");
    opened.allocator.collect();
    let expected = bitmap(&opened);
    drop(opened);

    let opened = SpaceMapLog::open(disk.clone(), &OpenOptions::new()).expect("intact");
    assert_eq!(opened.position, 2);
    for (position, bytes) in own_log.iter().filter(|(position, _)| *position > opened.position) {
        let delta = Delta::decode(bytes).expect("what we encoded");
        let span = position - 1..*position;
        opened.replay(&delta, span.clone()).expect("follows the checkpoint");
        assert!(matches!(opened.replay(&delta, span), Err(CommitError::Order { .. })));
        let next = *position..position + 1;
        assert!(matches!(opened.replay(&delta, next), Err(CommitError::Conflict { .. })));
    }
    opened.allocator.collect();
    assert_eq!(bitmap(&opened), expected);
    let mut transaction = opened.allocator.begin();
    transaction.allocate(1).expect("room");
    let failed = transaction.commit(&opened.log).expect_err("the engine's log is the log");
    assert!(matches!(failed.error, CommitError::Mode));
}

/// Power failures at every operation of a checkpoint: all of it or nothing.
#[test]
fn a_checkpoint_is_all_or_nothing() {
    for crash in 1..12 {
        let disk = Arc::new(SimDisk::default());
        let opened = engine(&disk, Authority::Piggyback);
        let mut states = Vec::new();
        for position in 1..3 {
            let mut transaction = opened.allocator.begin();
            for range in 0..2 {
                let start = range * RANGE_BLOCKS + 100 * position;
                transaction.mark_allocated(Extent::new(start, 10)).expect("free");
            }
            opened.log.absorb(transaction.freeze(), position - 1..position).expect("fits");
            states.push(bitmap(&opened));
            if position == 1 {
                opened.log.checkpoint().expect("a healthy disk");
            }
        }
        disk.crash_after(crash, 100);
        let done = opened.log.checkpoint().is_ok();
        for lost in 0..3 {
            let opened = open(disk.after_losing(|sector| sector % 3 != lost)).expect("a torn tail");
            assert_eq!(bitmap(&opened), states[opened.position as usize - 1]);
            assert!(opened.position == 2 || !done);
        }
    }
}

#[test]
fn check_finds_what_differs_and_repair_corrects_it() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, 2 * RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(10, 100), Extent::new(32_700, 200)]);
    let used = [Extent::new(10, 50), Extent::new(60, 50), Extent::new(32_700, 200)];
    assert!(opened.check(used).is_clean());
    let used = [
        Extent::new(10, 40),
        Extent::new(32_690, 100),
        Extent::new(32_750, 100),
        Extent::new(5, 0),
        Extent::new(2 * RANGE_BLOCKS - 1, 2),
    ];
    let found = opened.check(used);
    assert_eq!(found.leaked, [Extent::new(50, 60), Extent::new(32_850, 50)]);
    assert_eq!(found.unprotected, [Extent::new(32_690, 10)]);
    assert_eq!(found.overlapping, [Extent::new(32_750, 40)]);
    assert_eq!(found.outside, [Extent::new(5, 0), Extent::new(2 * RANGE_BLOCKS - 1, 2)]);
    opened.repair(&found).expect("a healthy disk");
    let again = open(disk.bytes()).expect("intact");
    let found = again.check(used);
    assert!(found.leaked.is_empty() && found.unprotected.is_empty());
    assert_eq!(again.allocator.free_blocks(), 2 * RANGE_BLOCKS - 40 - 160);
}

#[test]
fn a_log_begins_with_the_bitmap_of_a_device_in_use() {
    let blocks = 4 * RANGE_BLOCKS + 100;
    let mut words = vec![0u64; blocks.div_ceil(64) as usize];
    words[..512].fill(u64::MAX);
    words[512 + 7] = 0xF0F0;
    let last = words.len() - 1;
    words[last] = u64::MAX; // 36 blocks, and bits beyond the device
    let disk = SimDisk::default();
    let opened = SpaceMapLog::create_from_bitmap(disk, blocks, &words, &small()).expect("empty");
    assert_eq!(opened.allocator.free_blocks(), blocks - RANGE_BLOCKS - 8 - 36);
    commit(&opened, &[Extent::new(0, 1)], &[Extent::new(RANGE_BLOCKS, 1)]);
    opened.log.verify().expect("disk and memory agree");
    opened.log.condense().expect("a healthy disk");
    opened.log.verify().expect("disk and memory agree");
    let short = SpaceMapLog::create_from_bitmap(SimDisk::default(), blocks, &words[1..], &small());
    assert!(matches!(short, Err(LogError::Config(_))));
}
