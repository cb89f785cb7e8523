//! Devices that refuse, and transactions that cannot be: nothing is half done.

use std::io::ErrorKind;
use std::sync::Arc;

use super::sim::{Operation, Refusal, SimDisk};
use super::{bitmap, commit, create, open, scattered};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{CommitError, LogError};
use crate::transaction::store::Store;
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

#[test]
fn a_full_device_fails_the_commit_which_can_be_repeated() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let before = disk.bytes();
    let mut transaction = opened.allocator.begin();
    let extent = transaction.allocate(5).expect("room");
    transaction.free(Extent::new(0, 3)).expect("committed");
    disk.refuse(Operation::Write, ErrorKind::StorageFull);
    let failed = transaction.commit(&opened.log).expect_err("no room");
    assert!(matches!(&failed.error, CommitError::Write(failure)
        if failure.error.kind() == ErrorKind::StorageFull && failure.file == "simulated disk"));
    // The write left nothing that looks like a commit.
    assert_eq!(open(disk.bytes()).expect("intact").log.last(), Lsn(1));
    assert_eq!(disk.bytes().len(), before.len());
    assert_eq!(opened.allocator.is_allocated(extent), Ok(true), "still reserved");
    let lsn = failed.transaction.commit(&opened.log).expect("room again");
    assert_eq!(lsn, Lsn(2));
    let again = open(disk.bytes()).expect("intact");
    assert_eq!(bitmap(&again), bitmap(&opened));
    assert_eq!(again.allocator.free_blocks(), RANGE_BLOCKS - 12);
}

#[test]
fn dropping_what_could_not_be_committed_gives_everything_back() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let mut transaction = opened.allocator.begin();
    transaction.allocate(5).expect("room");
    transaction.free(Extent::new(0, 10)).expect("committed");
    disk.refuse(Operation::Write, ErrorKind::Other);
    drop(transaction.commit(&opened.log).expect_err("refused"));
    assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS - 10);
    assert_eq!(commit(&opened, &[Extent::new(0, 10)], &[]), Lsn(2));
}

#[test]
fn after_a_failed_flush_nothing_is_committed_until_reopened() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    disk.refuse(Operation::Sync, ErrorKind::Other);
    let mut transaction = opened.allocator.begin();
    transaction.allocate(5).expect("room");
    let failed = transaction.commit(&opened.log).expect_err("not flushed");
    assert!(matches!(failed.error, CommitError::Sync(_)));
    assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS - 5);
    // The device is well again, but who knows what it dropped.
    let failed = failed.transaction.commit(&opened.log).expect_err("refused");
    assert!(matches!(failed.error, CommitError::Refused(_)));
    assert!(matches!(opened.log.condense(), Err(CommitError::Refused(_))));
    assert!(matches!(
        opened.log.grow(&opened.allocator, 2 * RANGE_BLOCKS),
        Err(LogError::Commit(_))
    ));
    // Perhaps it is durable: nobody may write over its blocks.
    drop(failed);
    assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS - 5);
    assert!(matches!(opened.log.verify(), Err(LogError::Commit(_))));
    let again = open(disk.bytes()).expect("intact");
    commit(&again, &[], &[Extent::new(100, 1)]);
}

/// A refusal of the next write, of which these sectors arrive.
fn torn(arrives: u64) -> Refusal {
    Refusal { operation: Operation::Write, after: 0, error: ErrorKind::Other, arrives }
}

#[test]
fn a_write_that_cannot_be_undone_is_like_a_failed_flush() {
    let undoing = [
        (Operation::Write, None),
        (Operation::Sync, None),
        (Operation::Read, Some(Operation::Write)),
        (Operation::Read, Some(Operation::Sync)),
    ];
    for (first, second) in undoing {
        let disk = Arc::new(SimDisk::default());
        let opened = create(&disk, RANGE_BLOCKS);
        disk.refuse_later(torn(1));
        disk.refuse(first, ErrorKind::Other);
        second.into_iter().for_each(|second| disk.refuse(second, ErrorKind::Other));
        let mut transaction = opened.allocator.begin();
        transaction.allocate(5).expect("room");
        let failed = transaction.commit(&opened.log).expect_err("refused");
        assert!(matches!(failed.error, CommitError::Sync(_)), "{first:?}: {}", failed.error);
        let failed = failed.transaction.commit(&opened.log).expect_err("refused");
        assert!(matches!(failed.error, CommitError::Refused(_)));
    }
}

/// Whatever part of a window of two frames arrives before the error, also where the ring begins anew,
/// and whatever of it a crash keeps: nothing of it comes back, whether the first transaction is
/// repeated or not. A sector that cannot be read may be a frame's.
#[test]
fn nothing_of_a_failed_window_comes_back() {
    let mut voided = 0;
    for case in 0..96 {
        let (arrives, unreadable, again) = (case % 16, case / 16 % 2 == 1, case / 32 % 3);
        // Sectors 0 and 16 begin frames.
        let arrives = [0, 1, 1 << 16, 1 | 1 << 16][arrives % 4]
            | [0, 0xFFFE, 0xFFFE << 16, 0xFFFE_FFFE][arrives / 4];
        let disk = Arc::new(SimDisk::default());
        let opened = create(&disk, 4 * RANGE_BLOCKS);
        commit(&opened, &[], &[Extent::new(100_000, 10)]);
        for _ in 0..case / 4 * 23 {
            commit(&opened, &[], &[Extent::new(110_000, 1)]);
            commit(&opened, &[Extent::new(110_000, 1)], &[]);
            opened.allocator.collect();
        }
        let before = (opened.log.last(), bitmap(&opened));
        let first = opened.log.submit(scattered(&opened, 0..2040)).expect("fits");
        let mut second = scattered(&opened, 40_000..42_000).reopen();
        second.free(Extent::new(100_000, 10)).expect("committed");
        let second = opened.log.submit(second.freeze()).expect("fits");
        disk.refuse_later(torn(arrives));
        if unreadable {
            disk.refuse(Operation::Read, ErrorKind::Other);
        }
        let syncs = opened.log.figures().syncs;
        opened.log.flush();
        let first = first.wait().expect_err("half a write");
        let given_up = second.wait().expect_err("half a write");
        assert!(matches!(given_up.error, CommitError::Write(_)), "{case}: {}", given_up.error);
        assert!(matches!(first.error, CommitError::Write(_)), "{case}: {}", first.error);
        drop(given_up);
        voided += opened.log.figures().syncs - syncs;
        let found = |survive: &dyn Fn(usize) -> bool| {
            let again = open(disk.after_losing(survive)).expect("a torn tail at worst");
            (again.log.last(), bitmap(&again))
        };
        let everything = |_| true;
        for survive in [&everything as &dyn Fn(usize) -> bool, &|_| false, &|s| s % 2 == 0] {
            assert_eq!(found(survive), before, "{case}");
        }
        match again {
            0 => drop(first),
            1 => drop(first.transaction.commit(&opened.log).expect("a healthy disk")),
            _ => {
                drop(first);
                commit(&opened, &[Extent::new(100_000, 5)], &[]);
            }
        }
        let expected = (opened.log.last(), bitmap(&opened));
        assert_eq!(found(&everything), expected, "{case}");
        assert_eq!(found(&|_| false), expected, "{case}");
    }
    assert!((1..96).contains(&voided), "{voided} were made void");
}

/// The second passes the allocator's check: the block is allocated, but by no transaction.
#[test]
fn a_transaction_that_contradicts_the_state_is_refused_alone() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let (mut first, mut second) = (opened.allocator.begin(), opened.allocator.begin());
    first.free(Extent::new(0, 6)).expect("allocated");
    opened.allocator.mark_allocated(Extent::new(15, 1)).expect("free");
    second.free(Extent::new(6, 4)).expect("allocated");
    second.free(Extent::new(15, 1)).expect("allocated");
    let kept = second.allocate(3).expect("room");
    let (first, second) = (first.freeze(), second.freeze());
    let mut other = opened.allocator.begin();
    let third = other.allocate(7).expect("room");
    let first = opened.log.submit(first).expect("fits");
    let second = opened.log.submit(second).expect("fits");
    let other = opened.log.submit(other.freeze()).expect("fits");
    opened.log.flush();
    assert_eq!(first.wait().ok(), Some(Lsn(2)));
    assert_eq!(other.wait().ok(), Some(Lsn(3)), "its neighbours in the group are not affected");
    let failed = second.wait().expect_err("block 15 is free");
    assert!(matches!(failed.error, CommitError::Conflict { block: 15 }));
    drop(failed);
    assert_eq!(opened.allocator.is_free(kept), Ok(true));
    assert_eq!(opened.allocator.is_allocated(third), Ok(true));
    opened.allocator.collect();
    opened.allocator.free(Extent::new(15, 1)).expect("ours again");
    assert_eq!(bitmap(&open(disk.bytes()).expect("intact")), bitmap(&opened));
}

/// It is known when the second is frozen, and whichever comes first to the log: one of them owns the free.
#[test]
fn the_second_of_two_transactions_that_free_a_block_is_refused() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let (mut first, mut second) = (opened.allocator.begin(), opened.allocator.begin());
    first.free(Extent::new(0, 6)).expect("allocated");
    second.free(Extent::new(5, 5)).expect("allocated");
    let (first, second) = (first.freeze(), second.freeze());
    let failed = opened.log.submit(second).expect_err("block 5 is the first one's to free");
    assert!(matches!(failed.error, CommitError::Conflict { block: 5 }));
    assert_eq!(Store::commit(&opened.log, first.delta()).ok(), Some(Lsn(2)));
    let failed = failed.transaction.commit(&opened.log).expect_err("not settled yet");
    assert!(matches!(failed.error, CommitError::Conflict { block: 5 }));
    first.committed();
    drop(failed);
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS - 4);
    assert_eq!(bitmap(&open(disk.bytes()).expect("intact")), bitmap(&opened));
}

#[test]
fn transactions_of_another_allocator_and_too_large_ones_are_refused() {
    let (a, b) = (Arc::new(SimDisk::default()), Arc::new(SimDisk::default()));
    let (mine, theirs) = (create(&a, 2 * RANGE_BLOCKS), create(&b, RANGE_BLOCKS));
    let mut transaction = theirs.allocator.begin();
    transaction.allocate(1).expect("room");
    let failed = transaction.commit(&mine.log).expect_err("not ours");
    assert!(matches!(failed.error, CommitError::Foreign));
    failed.transaction.commit(&theirs.log).expect("theirs");

    let large = scattered(&mine, 0..2 * RANGE_BLOCKS).reopen();
    let failed = large.commit(&mine.log).expect_err("16384 items of 4 bytes");
    assert!(matches!(failed.error, CommitError::TooLarge { max, .. } if max == 16 << 10));
    drop(failed);
    assert_eq!(mine.allocator.free_blocks(), 2 * RANGE_BLOCKS);
    assert_eq!(mine.log.last(), Lsn(0));
}

#[test]
fn a_dropped_ticket_is_committed_all_the_same() {
    let disk = Arc::new(SimDisk::default());
    let opened = create(&disk, RANGE_BLOCKS);
    commit(&opened, &[], &[Extent::new(0, 10)]);
    let mut transaction = opened.allocator.begin();
    transaction.free(Extent::new(0, 10)).expect("committed");
    drop(opened.log.submit(transaction.freeze()).expect("fits"));
    opened.log.flush();
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), RANGE_BLOCKS);
    // One whose log goes away uncommitted gives back what it had.
    let mut transaction = opened.allocator.begin();
    transaction.allocate(10).expect("room");
    drop(opened.log.submit(transaction.freeze()).expect("fits"));
    let allocator = opened.allocator.clone();
    drop(opened);
    assert_eq!(allocator.free_blocks(), RANGE_BLOCKS);
}
