//! Transactions, guards and the quarantine through the public face.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use freemap::{AllocError, Allocator, Delta, Extent, FreeError, Lsn, Request, Store};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// A store that says yes or no.
struct Answer(bool);

impl Store for Answer {
    type Error = std::fmt::Error;

    fn commit(&self, _: &Delta) -> Result<Lsn, std::fmt::Error> {
        if self.0 { Ok(Lsn(7)) } else { Err(std::fmt::Error) }
    }
}

const YES: Answer = Answer(true);
const NO: Answer = Answer(false);

#[test]
fn a_dropped_transaction_leaves_no_trace() {
    let allocator = Allocator::new(1000).expect("a small one");
    let old = allocator.allocate(100).expect("room");
    let mut transaction = allocator.begin();
    transaction.allocate(50).expect("room");
    transaction.free(old).expect("allocated");
    let own = transaction.allocate(10).expect("room");
    transaction.free(own).expect("our own");
    assert_eq!(allocator.free_blocks(), 850, "its own are free at once");
    drop(transaction);
    assert_eq!((allocator.free_blocks(), allocator.quarantined_blocks()), (900, 0));
    assert_eq!(allocator.is_allocated(old), Ok(true));
    assert!(allocator.verify().is_clean());
}

#[test]
fn whoever_commits_knows_what_comes_out_of_the_quarantine() {
    let allocator = Allocator::builder(1 << 16).build_allocated().expect("a small one");
    let mut handle = allocator.handle();
    // The first three are let out by the commits of the others.
    for (start, len) in [(1000, 100), (2000, 31), (3000, 30), (50_000, 1), (50_002, 1), (50_004, 1)]
    {
        let mut transaction = handle.begin();
        transaction.free(Extent::new(start, len)).expect("allocated");
        transaction.commit(&YES).expect("it says yes");
    }
    let mut allocate = |len| handle.allocate(len).expect("room").start;
    assert_eq!([allocate(30), allocate(31), allocate(90)], [3000, 2000, 1000]);
    assert!(allocator.verify().is_clean());
}

#[test]
fn unwinding_is_dropping() {
    let allocator = Allocator::new(1000).expect("a small one");
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut handle = allocator.handle();
        let mut transaction = handle.begin();
        transaction.allocate(50).expect("room");
        std::panic::resume_unwind(Box::new(()));
    }));
    assert!(result.is_err());
    assert_eq!(allocator.free_blocks(), 1000);
}

#[test]
fn a_refused_commit_gives_the_transaction_back() {
    let allocator = Allocator::new(1000).expect("a small one");
    let old = allocator.allocate(100).expect("room");
    let mut handle = allocator.handle();
    let mut transaction = handle.begin();
    let new = transaction.allocate(20).expect("room");
    transaction.free(old).expect("allocated");
    let mut transaction = transaction.commit(&NO).expect_err("it says no").transaction;
    assert_eq!(transaction.allocated().collect::<Vec<_>>(), [new]);
    let more = transaction.allocate(5).expect("room");
    assert_eq!(transaction.commit(&YES).expect("it says yes"), Lsn(7));
    allocator.collect();
    assert_eq!(allocator.free_blocks(), 1000 - 25);
    assert_eq!(allocator.is_allocated(more), Ok(true));
}

#[test]
fn frees_are_checked_when_they_are_recorded() {
    let allocator = Allocator::new(1000).expect("a small one");
    allocator.mark_allocated(Extent::new(100, 100)).expect("free");
    let mut transaction = allocator.begin();
    let free = |transaction: &mut freemap::Transaction<'_>, start, len| {
        transaction.free(Extent::new(start, len))
    };
    assert_eq!(free(&mut transaction, 90, 20), Err(FreeError::DoubleFree { block: 90 }));
    assert_eq!(free(&mut transaction, 190, 20), Err(FreeError::DoubleFree { block: 200 }));
    assert!(matches!(free(&mut transaction, 990, 20), Err(FreeError::Range(_))));
    assert!(matches!(free(&mut transaction, 0, 0), Err(FreeError::Range(_))));
    assert!(matches!(free(&mut transaction, u64::MAX, 2), Err(FreeError::Range(_))));
    free(&mut transaction, 120, 10).expect("allocated");
    assert_eq!(free(&mut transaction, 110, 15), Err(FreeError::DoubleFree { block: 120 }));
    // Across blocks that this transaction allocated itself: those are no part of the delta.
    transaction.mark_allocated(Extent::new(200, 10)).expect("free");
    free(&mut transaction, 195, 10).expect("allocated, by whomever");
    assert_eq!(free(&mut transaction, 202, 1), Err(FreeError::DoubleFree { block: 202 }));
    let frozen = transaction.freeze();
    assert_eq!(frozen.delta().allocated(), [Extent::new(205, 5)]);
    assert_eq!(frozen.delta().freed(), [Extent::new(120, 10), Extent::new(195, 5)]);
    frozen.committed();
    allocator.collect();
    assert_eq!(allocator.free_blocks(), 900 + 15 - 5);
}

#[test]
fn a_thousand_extents_in_one_transaction() {
    let allocator = Allocator::new(1 << 16).expect("a small one");
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut transaction = allocator.begin();
    let mut held = Vec::new();
    for _ in 0..1000 {
        let start = rng.random_range(0..(1 << 16) - 8);
        if transaction.mark_allocated(Extent::new(start, 1 + start % 8)).is_ok() {
            held.push(Extent::new(start, 1 + start % 8));
        }
    }
    for extent in held.iter().skip(500) {
        transaction.free(*extent).expect("our own");
    }
    let frozen = transaction.freeze();
    let expected: u64 = held[..500].iter().map(|extent| extent.len).sum();
    let found: u64 = frozen.delta().allocated().iter().map(|extent| extent.len).sum();
    assert_eq!(found, expected);
    let mut bytes = Vec::new();
    frozen.delta().encode(&mut bytes);
    let decoded = Delta::decode(&bytes).expect("what was encoded");
    assert_eq!(decoded.allocated(), frozen.delta().allocated());
    frozen.committed();
    allocator.collect();
    assert_eq!(allocator.free_blocks(), (1 << 16) - expected);
}

/// Frees `extent` by a transaction that is durable at once.
fn free(allocator: &Allocator, extent: Extent) {
    let mut transaction = allocator.begin();
    transaction.free(extent).expect("allocated");
    transaction.commit(&YES).expect("it says yes");
}

#[test]
fn a_guard_keeps_what_is_freed_after_it() {
    let allocator = Allocator::new(64).expect("a small one");
    let whole = allocator.allocate(64).expect("room");
    let guard = allocator.pin();
    free(&allocator, whole);
    assert_eq!((allocator.quarantined_blocks(), allocator.free_blocks()), (64, 0));
    assert_eq!(allocator.stats().guards, 1);
    assert!(matches!(allocator.allocate(1), Err(AllocError::NoSpace { .. })));
    // Later guards do not matter, however many there are.
    let later: Vec<_> = (0..1000).map(|_| allocator.pin_owned()).collect();
    drop(guard);
    assert_eq!(allocator.allocate(1).map(|extent| extent.len), Ok(1), "pushed out on demand");
    assert_eq!(allocator.quarantined_blocks(), 0);
    assert_eq!(allocator.stats().guards, 1000);
    drop(later);
    assert_eq!(allocator.stats().guards, 0);
}

#[test]
fn every_kind_of_allocation_pushes_the_quarantine_forward() {
    let allocator = Allocator::new(1024).expect("a small one");
    let mut handle = allocator.handle();
    for kind in 0..4 {
        let whole = handle.allocate(1024).expect("everything is free");
        free(&allocator, whole);
        let extents = match kind {
            0 => handle.allocate(700).map(|extent| vec![extent]),
            1 => handle.allocate_with(&Request::new(700).scattered()).map(|list| list.to_vec()),
            2 => handle.allocate_with(&Request::new(7).near(50)).map(|list| list.to_vec()),
            _ => handle.begin().allocate(1).map(|_| Vec::new()),
        };
        for extent in extents.expect("nobody is pinned") {
            handle.free(extent).expect("ours");
        }
    }
}

#[test]
fn guards_that_overlap_for_ever_do_not_hold_up_reuse() {
    let allocator = Allocator::new(100).expect("a small one");
    let mut guard = allocator.pin();
    let mut extent = allocator.allocate(10).expect("room");
    for _ in 0..1000 {
        let next = allocator.pin();
        drop(std::mem::replace(&mut guard, next));
        let new = allocator.allocate(10).expect("at most a few wait at a time");
        free(&allocator, extent);
        extent = new;
    }
    assert!(allocator.quarantined_blocks() <= 40);
}

#[test]
fn a_leaked_guard_delays_and_corrupts_nothing() {
    let allocator = Allocator::new(1000).expect("a small one");
    let before = allocator.allocate(10).expect("room");
    free(&allocator, before);
    std::mem::forget(allocator.pin());
    let after = allocator.allocate(20).expect("room");
    free(&allocator, after);
    for _ in 0..10 {
        allocator.collect();
    }
    let waiting = allocator.quarantined_blocks();
    assert!((20..=30).contains(&waiting));
    assert_eq!(allocator.free_blocks(), 1000 - waiting);
}

#[test]
fn a_guard_may_end_on_another_thread() {
    let allocator = Allocator::new(64).expect("a small one");
    let whole = allocator.allocate(64).expect("room");
    let guard = allocator.pin_owned();
    free(&allocator, whole);
    std::thread::spawn(move || drop(guard)).join().expect("no panic");
    assert!(allocator.allocate(64).is_ok());
}

/// Writers move objects from place to place; readers look up where one lies and read it there. While a
/// reader has a guard, no block of what it found may be written again.
#[test]
fn no_block_is_reused_under_a_reader() {
    const OBJECTS: usize = 64;
    const LEN: u64 = 4;
    let allocator = Allocator::new(1000).expect("a small one");
    // The first word of an object's place; the content of each block.
    let places: Vec<AtomicU64> = (0..OBJECTS).map(|_| AtomicU64::new(u64::MAX)).collect();
    let data: Vec<AtomicU64> = (0..1000).map(|_| AtomicU64::new(0)).collect();
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let write = |start: u64, stamp: u64| {
        data[start as usize..][..LEN as usize]
            .iter()
            .for_each(|b| b.store(stamp, Ordering::Relaxed));
    };
    for (object, place) in places.iter().enumerate() {
        let extent = allocator.allocate(LEN).expect("room");
        write(extent.start, object as u64);
        place.store(extent.start, Ordering::Release);
    }
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2usize)
            .map(|writer| {
                let (allocator, places, write) = (&allocator, &places, &write);
                scope.spawn(move || {
                    let mut rng = Pcg64Mcg::seed_from_u64(writer as u64);
                    let mut handle = allocator.handle();
                    for version in 1..60_000u64 {
                        // Each writer has half of the objects.
                        let object = rng.random_range(0..OBJECTS / 2) * 2 + writer;
                        let mut transaction = handle.begin();
                        let Ok(new) = transaction.allocate(LEN) else { continue };
                        write(new.start, version << 8 | object as u64);
                        let old = places[object].swap(new.start, Ordering::AcqRel);
                        transaction.free(Extent::new(old, LEN)).expect("committed");
                        transaction.commit(&YES).expect("it says yes");
                    }
                })
            })
            .collect();
        for reader in 0..2 {
            let (allocator, places, data, stop, reads) =
                (&allocator, &places, &data, &stop, &reads);
            scope.spawn(move || {
                let mut rng = Pcg64Mcg::seed_from_u64(100 + reader);
                while !stop.load(Ordering::Relaxed) {
                    let object = rng.random_range(0..OBJECTS);
                    let guard = allocator.pin();
                    let start = places[object].load(Ordering::Acquire);
                    let blocks = &data[start as usize..][..LEN as usize];
                    let first = blocks[0].load(Ordering::Relaxed);
                    for _ in 0..20 {
                        for block in blocks {
                            let stamp = block.load(Ordering::Relaxed);
                            assert_eq!(stamp & 0xFF, object as u64, "another object's data");
                            assert_eq!(stamp, first, "written under our eyes");
                        }
                    }
                    drop(guard);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for writer in writers {
            writer.join().expect("no panic");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
    allocator.collect();
    assert_eq!(allocator.free_blocks(), 1000 - OBJECTS as u64 * LEN);
    assert_eq!(allocator.stats().conflicting_frees, 0);
    assert!(allocator.verify().is_clean());
}

/// What had become ripe under an earlier guard, but was not let out in its time, stayed in the
/// quarantine as long as a later guard kept the epoch from advancing.
#[test]
fn a_later_guard_does_not_hold_what_an_earlier_one_held() {
    for commits in 2..8 {
        let allocator = Allocator::new(4096).expect("a small one");
        let held: Vec<Extent> = (0..4096).map(|_| allocator.allocate(1).expect("room")).collect();
        let earlier = allocator.pin();
        held[..3000].iter().for_each(|&extent| free(&allocator, extent));
        drop(earlier);
        held[3000..3000 + commits].iter().for_each(|&extent| free(&allocator, extent));
        let later = allocator.pin();
        for _ in 0..3 {
            allocator.collect();
        }
        assert!(allocator.quarantined_blocks() <= commits as u64);
        drop(later);
    }
}

#[test]
fn nobody_gets_the_blocks_of_a_transaction_in_doubt() {
    let allocator = Allocator::new(100).unwrap();
    let old = allocator.allocate(10).unwrap();
    let mut transaction = allocator.begin();
    let new = transaction.allocate(20).unwrap();
    transaction.free(old).unwrap();
    transaction.freeze().in_doubt();
    allocator.collect();
    assert_eq!(allocator.free_blocks(), 70);
    assert_eq!(allocator.is_allocated(old), Ok(true));
    assert_eq!(allocator.is_allocated(new), Ok(true));
}

/// A store that does what the list says, call by call.
struct Says(RefCell<Vec<Say>>);

#[derive(Clone, Copy, Debug)]
enum Say {
    No,
    Panic,
}

impl Says {
    fn once(say: Say) -> Self {
        Self(RefCell::new(vec![say]))
    }
}

impl Store for Says {
    type Error = std::fmt::Error;

    fn commit(&self, _: &Delta) -> Result<Lsn, std::fmt::Error> {
        match self.0.borrow_mut().pop().expect("asked once") {
            Say::No => Err(std::fmt::Error),
            Say::Panic => std::panic::resume_unwind(Box::new("the disk is on fire")),
        }
    }
}

fn with_ledger(words: Vec<u64>) -> Allocator {
    Allocator::builder(64 * words.len() as u64).build_with_ledger(words).expect("a small one")
}

#[test]
fn a_ledger_grows_with_its_device() {
    let allocator = with_ledger(vec![0]);
    allocator.grow(10_000).expect("memory");
    let mut transaction = allocator.begin();
    transaction.allocate(9_000).expect("room");
    let frozen = transaction.freeze();
    assert_eq!(frozen.delta().conflict(), None);
    frozen.committed();
}

#[test]
fn a_panic_in_a_commit_lets_nothing_out() {
    let allocator = Allocator::new(64).expect("a small one");
    let store = Says::once(Say::Panic);
    let mut transaction = allocator.begin();
    transaction.allocate(10).expect("room");
    let commit = AssertUnwindSafe(|| drop(transaction.commit(&store)));
    assert!(catch_unwind(commit).is_err());
    assert_eq!(allocator.free_blocks(), 54);
}

#[test]
fn what_a_panicking_commit_would_have_freed_can_be_freed_again() {
    let allocator = with_ledger(vec![0b1111]);
    let store = Says::once(Say::Panic);
    let mut transaction = allocator.begin();
    transaction.free(Extent::new(0, 2)).expect("committed");
    let commit = AssertUnwindSafe(|| drop(transaction.commit(&store)));
    assert!(catch_unwind(commit).is_err());
    let mut transaction = allocator.begin();
    transaction.free(Extent::new(0, 2)).expect("still allocated");
    assert_eq!(transaction.freeze().delta().conflict(), None);
}

#[test]
fn a_commit_that_failed_can_be_repeated_with_a_ledger() {
    let allocator = with_ledger(vec![0b1111]);
    let store = Says::once(Say::No);
    let mut transaction = allocator.begin();
    transaction.free(Extent::new(0, 2)).expect("committed");
    transaction.allocate(3).expect("room");
    let transaction = transaction.commit(&store).expect_err("it says no").transaction;
    let frozen = transaction.freeze();
    assert_eq!(frozen.delta().conflict(), None);
    frozen.committed();
}

/// A compaction takes and gives back scratch space in one transaction, more than the device has.
#[test]
fn what_a_transaction_takes_and_gives_back_it_can_take_again() {
    let allocator = Allocator::new(64).unwrap();
    let mut transaction = allocator.begin();
    let kept = transaction.allocate(8).unwrap();
    for _ in 0..100 {
        let scratch = transaction.allocate(50).unwrap();
        transaction.free(scratch).unwrap();
        assert!(matches!(transaction.free(scratch), Err(FreeError::DoubleFree { .. })));
    }
    let others = allocator.allocate(56).unwrap();
    // Its last scratch space is another caller's now.
    assert!(matches!(transaction.free(others), Err(FreeError::DoubleFree { .. })));
    let frozen = transaction.freeze();
    assert_eq!((frozen.delta().allocated(), frozen.delta().freed()), (&[kept][..], &[][..]));
    frozen.committed();
    assert!(allocator.verify().is_clean());
}

/// A reader may have been told where the scratch space is.
#[test]
fn what_a_transaction_gives_back_waits_for_the_readers_of_its_time() {
    let allocator = Allocator::new(64).unwrap();
    let mut transaction = allocator.begin();
    let scratch = transaction.allocate(40).unwrap();
    let guard = allocator.pin();
    transaction.free(scratch).unwrap();
    assert_eq!(allocator.quarantined_blocks(), 40);
    assert!(transaction.allocate(40).is_err());
    drop(guard);
    assert_eq!(transaction.allocate(40), Ok(scratch));
    drop(transaction);
    assert_eq!(allocator.free_blocks(), 64);
    assert!(allocator.verify().is_clean());
}

/// Partial answers take what waits, too.
#[test]
fn a_partial_request_takes_what_waits() {
    let allocator = Allocator::new(1000).unwrap();
    let all = allocator.allocate(900).unwrap();
    let guard = allocator.pin();
    let mut transaction = allocator.begin();
    transaction.free(Extent::new(all.start, 300)).unwrap();
    transaction.freeze().committed();
    drop(guard);
    drop(allocator.reserve(50).unwrap());
    assert_eq!(allocator.quarantined_blocks(), 300);
    let partial = Request::new(1000).scattered().partial();
    assert_eq!(allocator.allocate_with(&partial).unwrap().blocks(), 400);
    assert!(allocator.allocate_with(&partial).is_err());
    assert!(allocator.verify().is_clean());
}
