//! Which blocks wait in the quarantine, for which guards, and what letting them out costs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use freemap::{
    AllocError, Allocator, Delta, Extent, Extents, FreeError, Lsn, ReadGuard, Request, Store,
};
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any as arbitrary, prop, prop_assert, prop_assert_eq,
    prop_oneof, proptest,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Blocks of the largest piece in which an extent is let out.
const PIECE: u64 = 4096;

fn any(len: u64) -> Request {
    Request::new(len).scattered()
}

/// Frees `extent` by a transaction that is durable at once.
fn free(allocator: &Allocator, extent: Extent) {
    let mut transaction = allocator.begin();
    transaction.free(extent).expect("allocated");
    transaction.freeze().committed();
}

/// cberner/redb 830: a read that began after a free was durable holds the freed pages all the same.
#[test]
fn a_reader_that_came_after_the_free_holds_nothing_of_it() {
    let allocator = Allocator::new(64).unwrap();
    let all = allocator.allocate(64).unwrap();
    free(&allocator, all);
    let _later = allocator.pin();
    assert_eq!(allocator.allocate_with(&any(64)).unwrap().blocks(), 64);
}

/// Of two readers that overlap, the second held what was freed during all of the first.
#[test]
fn a_later_reader_does_not_go_on_holding_what_an_earlier_one_held() {
    let allocator = Allocator::new(1000).unwrap();
    let all = allocator.allocate(500).unwrap();
    let (one, _rest) = (allocator.allocate(1).unwrap(), allocator.allocate(499).unwrap());
    let first = allocator.pin();
    free(&allocator, one);
    let second = allocator.pin();
    free(&allocator, all);
    let later = allocator.pin();
    drop((first, second));
    allocator.collect();
    assert_eq!(allocator.quarantined_blocks(), 0);
    assert!(allocator.allocate_with(&any(500)).is_ok());
    drop(later);
}

/// Backups that overlap, for ever, while small reads and commits go on: each holds what was freed while it
/// was there, and nothing else, however many commits and reads there are in its time.
#[test]
fn overlapping_backups_hold_what_was_freed_in_their_time() {
    const COMMITS: u64 = 300;
    let allocator = Allocator::builder(1 << 20).build_allocated().unwrap();
    let mut next = 0;
    let mut work = || {
        for _ in 0..COMMITS {
            let read = allocator.pin();
            free(&allocator, Extent::new(2 * next, 1));
            drop(read);
            free(&allocator, Extent::new(2 * next + 1, 1));
            next += 1;
        }
        2 * COMMITS
    };
    let mut backups = VecDeque::from([allocator.pin()]);
    let mut held = VecDeque::new();
    for _ in 0..50 {
        held.push_back(work());
        backups.push_back(allocator.pin());
        if backups.len() > 3 {
            backups.pop_front();
            held.pop_front();
        }
        allocator.collect();
        assert_eq!(allocator.quarantined_blocks(), held.iter().sum::<u64>());
    }
    drop(backups);
    allocator.collect();
    assert_eq!(allocator.quarantined_blocks(), 0);
    assert_eq!(allocator.free_blocks(), 50 * 2 * COMMITS);
}

/// More readers of different times than are told apart: some count as one, none is passed over, and the times
/// are told apart again when they are fewer.
#[test]
fn any_number_of_readers_of_different_times_is_safe() {
    let allocator = Allocator::builder(4096).build_allocated().unwrap();
    let mut readers = VecDeque::new();
    for block in 0..300 {
        readers.push_back(allocator.pin());
        free(&allocator, Extent::new(block, 1));
    }
    for block in 0..300 {
        allocator.collect();
        // The oldest reader that is left came just before this block was freed.
        assert_eq!(allocator.is_free(Extent::new(block, 1)), Ok(false), "block {block}");
        assert!(block > 60 || allocator.quarantined_blocks() == 300 - block, "block {block}");
        readers.pop_front();
    }
    allocator.collect();
    assert_eq!((allocator.quarantined_blocks(), allocator.free_blocks()), (0, 300));
    let first = allocator.pin();
    free(&allocator, Extent::new(1000, 1));
    let second = allocator.pin();
    drop(first);
    allocator.collect();
    assert_eq!(allocator.quarantined_blocks(), 0, "a reader that came later holds it");
    drop(second);
}

/// openzfs 12697, 14276, 18043: blocks that were freed together come back in one go, in another caller's call. A
/// call lets out as much as it needs, and a bit. Work is counted, by what is left.
#[test]
fn one_block_does_not_pay_for_a_million_others() {
    let allocator = Allocator::builder(1 << 20).build_allocated().unwrap();
    let guard = allocator.pin();
    (0..200_000).for_each(|n| free(&allocator, Extent::new(4 * n, 1)));
    assert_eq!(allocator.quarantined_blocks(), 200_000);
    drop(guard);
    let mut left = 200_000;
    let mut let_out = |most: u64| {
        let (before, now) = (left, allocator.quarantined_blocks());
        assert!(now < before && before - now <= most, "a call let out {} blocks", before - now);
        left = now;
    };
    allocator.allocate(1).unwrap();
    let_out(64);
    free(&allocator, Extent::new(1, 1));
    let_out(10);
    // Blocks that were let out before are taken first.
    allocator.allocate_with(&any(1000)).unwrap();
    let_out(1100);
    // The whole is there for a request that needs it.
    let rest = allocator.free_blocks() + allocator.quarantined_blocks();
    assert_eq!(allocator.allocate_with(&any(rest)).unwrap().blocks(), rest);
    assert_eq!(allocator.quarantined_blocks(), 0);
}

/// The same where they are one extent, or one transaction.
#[test]
fn one_block_does_not_pay_for_an_extent_of_a_million() {
    let allocator = Allocator::builder(1 << 21).build_allocated().unwrap();
    let guard = allocator.pin();
    free(&allocator, Extent::new(1, (1 << 20) - 1));
    let mut transaction = allocator.begin();
    (0..100_000).for_each(|n| transaction.free(Extent::new((1 << 20) + 4 * n, 1)).unwrap());
    transaction.freeze().committed();
    let all = (1 << 20) - 1 + 100_000;
    assert_eq!(allocator.quarantined_blocks(), all);
    drop(guard);
    allocator.allocate(1).unwrap();
    assert!(allocator.quarantined_blocks() >= all - PIECE);
    let before = allocator.quarantined_blocks();
    free(&allocator, Extent::new((1 << 20) + 1, 1));
    assert!(allocator.quarantined_blocks() >= before - 5 * PIECE);
    // Those who ask for what is in one piece only when many have come out.
    assert_eq!(allocator.allocate((1 << 20) - 2 * PIECE).unwrap().len, (1 << 20) - 2 * PIECE);
    allocator.collect();
    assert_eq!(allocator.quarantined_blocks(), 0);
    assert!(allocator.verify().is_clean());
}

/// "No" is said only when nothing can be let out that would make it wrong.
#[test]
fn what_no_guard_holds_is_found_by_every_request() {
    for (request, fits) in [
        (Request::new(1024), true),
        (Request::new(1024).near(500), true),
        (any(1024).min_extent(512).max_extent(512), true),
        (Request::new(512).align(512), true),
        (Request::new(1025), false),
    ] {
        let allocator = Allocator::builder(2048).build_allocated().unwrap();
        let guard = allocator.pin();
        // The run is whole when the last piece of it is out.
        (0..1024).for_each(|n| free(&allocator, Extent::new(512 + n * 5 % 1024, 1)));
        assert!(matches!(allocator.allocate_with(&request), Err(AllocError::NoSpace { .. })));
        drop(guard);
        assert_eq!(allocator.allocate_with(&request).is_ok(), fits, "{request:?}");
        assert!(fits || allocator.quarantined_blocks() == 0);
    }
}

/// libmdbx 158, rkv 47: a reader that is never gone. The figures say that there is one, since when what it
/// holds waits, and what the waiting costs in memory.
#[test]
fn a_reader_that_never_goes_is_seen_in_the_figures() {
    let allocator = Allocator::builder(1 << 20).build_allocated().unwrap();
    let before = allocator.memory().quarantine;
    std::mem::forget(allocator.pin());
    (0..100_000).for_each(|n| free(&allocator, Extent::new(4 * n, 1)));
    let stats = allocator.stats();
    assert_eq!((stats.guards, stats.quarantined_blocks), (1, 100_000));
    assert!(stats.quarantine_age.is_some());
    assert!(allocator.memory().quarantine > before + 100_000);
    // The age is that of the oldest: others come and go beside it.
    let first = stats.quarantine_age;
    let guard = allocator.pin();
    free(&allocator, Extent::new(1, 1));
    drop(guard);
    allocator.collect();
    assert!(allocator.stats().quarantine_age >= first);
}

#[test]
fn what_waits_cannot_be_freed_again() {
    let allocator = Allocator::new(1024).unwrap();
    let all = allocator.allocate(1024).unwrap();
    let guard = allocator.pin();
    free(&allocator, Extent::new(100, 50));
    let twice = |block| FreeError::DoubleFree { block };
    for (extent, block) in
        [((100, 50), 100), ((0, 1024), 100), ((90, 11), 100), ((149, 1), 149), ((120, 500), 120)]
    {
        let extent = Extent::new(extent.0, extent.1);
        let mut transaction = allocator.begin();
        assert_eq!(transaction.free(extent), Err(twice(block)), "{extent}");
        assert!(transaction.is_empty());
        assert_eq!(allocator.free(extent), Err(twice(block)), "{extent}");
        assert_eq!(allocator.mark_free(extent), Err(twice(block)), "{extent}");
        let mut handle = allocator.handle();
        assert_eq!(handle.free(extent), Err(twice(block)), "{extent}");
        let failed = handle.free_many(&mut [extent]).unwrap_err();
        assert_eq!((failed.freed, failed.error), (0, twice(block)), "{extent}");
    }
    let mut list = [Extent::new(10, 1), Extent::new(101, 1), Extent::new(12, 1)];
    let failed = allocator.free_many(&mut list).unwrap_err();
    assert_eq!((failed.freed, failed.error), (0, twice(101)));
    assert_eq!((allocator.quarantined_blocks(), allocator.free_blocks()), (50, 0));
    // What is beside it can.
    allocator.free(Extent::new(0, 100)).unwrap();
    let mut transaction = allocator.begin();
    transaction.free(Extent::new(150, 874)).unwrap();
    transaction.freeze().committed();
    drop(guard);
    assert_eq!(allocator.collect(), 924);
    assert_eq!(allocator.free_blocks(), 1024);
    // And in its next life it can be freed again.
    assert_eq!(allocator.allocate(1024), Ok(all));
    let _guard = allocator.pin();
    free(&allocator, all);
    assert_eq!((allocator.quarantined_blocks(), allocator.stats().conflicting_frees), (1024, 0));
}

/// A store that takes everything.
struct Yes;

impl Store for Yes {
    type Error = std::convert::Infallible;

    fn commit(&self, _: &Delta) -> Result<Lsn, Self::Error> {
        Ok(Lsn(1))
    }
}

/// Two transactions free the same blocks, which is a mistake of the engine, and a store commits both: the
/// blocks come out once, when the first says, and the second free is counted.
#[test]
fn blocks_that_two_transactions_free_come_out_once() {
    for (first, second, common) in
        [((0, 1024), (0, 1024), 1024), ((100, 100), (150, 700), 50), ((70, 300), (100, 1), 1)]
    {
        let allocator = Allocator::builder(1024).build_allocated().unwrap();
        let (first, second) = (Extent::new(first.0, first.1), Extent::new(second.0, second.1));
        let begun = [first, second].map(|extent| {
            let mut transaction = allocator.begin();
            transaction.free(extent).unwrap();
            transaction
        });
        let guard = allocator.pin();
        for transaction in begun {
            transaction.commit(&Yes).unwrap();
        }
        let waiting = first.len + second.len - common;
        assert_eq!(allocator.quarantined_blocks(), waiting);
        assert_eq!(allocator.stats().conflicting_frees, common);
        drop(guard);
        assert_eq!(allocator.collect(), waiting);
        assert_eq!((allocator.free_blocks(), allocator.quarantined_blocks()), (waiting, 0));
        assert!(allocator.verify().is_clean());
    }
}

/// The same where the guard goes in between, and the first of them is still to be let out.
#[test]
fn a_second_free_finds_what_is_ripe_and_still_waits() {
    let allocator = Allocator::builder(1024).build_allocated().unwrap();
    let guard = allocator.pin();
    (0..10).for_each(|block| free(&allocator, Extent::new(2 * block, 1)));
    let mut transaction = allocator.begin();
    transaction.free(Extent::new(101, 1)).unwrap();
    free(&allocator, Extent::new(100, 3));
    drop(guard);
    transaction.commit(&Yes).unwrap();
    assert_eq!(allocator.stats().conflicting_frees, 1);
    allocator.collect();
    assert_eq!((allocator.free_blocks(), allocator.quarantined_blocks()), (13, 0));
}

/// Every way to free a block, once another transaction has.
fn assert_freed_already(allocator: &Allocator, block: u64, when: &str) {
    let (extent, twice) = (Extent::new(block, 1), FreeError::DoubleFree { block });
    assert_eq!(allocator.free(extent), Err(twice), "{when}");
    assert_eq!(allocator.mark_free(extent), Err(twice), "{when}");
    assert_eq!(allocator.begin().free(extent), Err(twice), "{when}");
    let failed = allocator.free_many(&mut [extent]).unwrap_err();
    assert_eq!((failed.freed, failed.error), (0, twice), "{when}");
    assert_eq!(allocator.is_allocated(extent), Ok(true), "{when}");
}

/// From when it is frozen until its blocks may be reused, what a transaction frees is freed; and is not when the
/// transaction was given up.
#[test]
fn what_a_transaction_frees_is_its_own_to_free() {
    let allocator = Allocator::builder(1024).build_allocated().unwrap();
    let start = |block: u64| {
        let mut transaction = allocator.begin();
        transaction.free(Extent::new(block, 60)).unwrap();
        transaction
    };
    // Begun earlier, and late.
    let late: Vec<_> = (0..3).map(|number| start(200 * number + 30)).collect();
    let frozen = start(0).freeze();
    assert_freed_already(&allocator, 59, "frozen");
    let held = start(200).commit_holding(&Yes).unwrap().1;
    assert_freed_already(&allocator, 259, "held");
    let guard = allocator.pin();
    start(400).commit(&Yes).unwrap();
    assert_freed_already(&allocator, 459, "waiting for a reader");
    let refused: Vec<_> = late.into_iter().map(freemap::Transaction::freeze).collect();
    for (number, refused) in (0..).zip(refused) {
        assert_eq!(refused.delta().conflict(), Some(200 * number + 30));
        assert_freed_already(&allocator, 200 * number + 75, "another's in part");
        drop(refused);
        // What the others do not free can be freed when it is given up.
        allocator.free(Extent::new(200 * number + 75, 1)).unwrap();
    }
    drop(frozen);
    let mut freed = 3;
    for block in [0, 59] {
        allocator.free(Extent::new(block, 1)).unwrap();
        freed += 1;
    }
    held.release();
    assert_freed_already(&allocator, 200, "released, and waiting for a reader");
    drop(guard);
    freed += allocator.collect();
    assert_eq!((allocator.free_blocks(), freed), (125, 125));
    // Held until a restart.
    drop(start(600).commit_holding(&Yes).unwrap().1);
    assert_freed_already(&allocator, 600, "kept by nobody");
    assert_eq!((allocator.stats().conflicting_frees, allocator.quarantined_blocks()), (0, 0));
    assert!(allocator.verify().is_clean());
}

/// An engine with a log of its own may have written what has a conflict, and call it committed: then it is.
#[test]
fn a_conflict_takes_nothing_from_who_is_committed() {
    let allocator = Allocator::new(64).unwrap();
    allocator.mark_allocated(Extent::new(0, 8)).unwrap();
    let (mut first, mut second) = (allocator.begin(), allocator.begin());
    first.free(Extent::new(0, 4)).unwrap();
    second.free(Extent::new(2, 6)).unwrap();
    let new = second.allocate(10).unwrap();
    let (first, second) = (first.freeze(), second.freeze());
    assert_eq!((first.delta().conflict(), second.delta().conflict()), (None, Some(2)));
    first.committed();
    // Somebody has the common blocks again.
    allocator.mark_allocated(Extent::new(0, 4)).unwrap();
    second.committed();
    assert_eq!(allocator.is_allocated(new), Ok(true));
    assert_eq!(allocator.is_allocated(Extent::new(0, 4)), Ok(true));
    assert_eq!(allocator.is_free(Extent::new(4, 4)), Ok(true));
    assert_eq!(allocator.stats().conflicting_frees, 2);
}

#[test]
fn a_device_that_grew_has_a_quarantine_as_long() {
    let allocator = Allocator::builder(100).build_allocated().unwrap();
    let guard = allocator.pin();
    free(&allocator, Extent::new(0, 100));
    allocator.grow(100_000).unwrap();
    let added = Extent::new(100, 99_900);
    allocator.mark_allocated(added).unwrap();
    free(&allocator, added);
    assert_eq!(
        allocator.free(Extent::new(99_999, 1)),
        Err(FreeError::DoubleFree { block: 99_999 })
    );
    drop(guard);
    assert_eq!(allocator.collect(), 100_000);
    assert_eq!(allocator.free_blocks(), 100_000);
}

/// A step of the model.
#[derive(Clone, Debug)]
enum Step {
    Pin,
    /// Drops one of the guards.
    Unpin(usize),
    /// Frees so many blocks from so many places, by one transaction.
    Free(usize, u64),
    Collect,
    /// Allocates so many blocks, wherever they are.
    Allocate(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => Just(Step::Pin),
        3 => arbitrary::<usize>().prop_map(Step::Unpin),
        6 => (1..6usize, 1..70u64).prop_map(|(extents, len)| Step::Free(extents, len)),
        1 => Just(Step::Collect),
        2 => (1..200u64).prop_map(Step::Allocate),
    ]
}

/// What must be true at each moment: when each block was freed, and which guards were there at that time.
struct Model {
    allocator: Allocator,
    now: u64,
    guards: Vec<(u64, ReadGuard<'static>)>,
    /// For each block: when it was freed, if it was and nobody allocated it since.
    freed: Vec<Option<u64>>,
    next: usize,
}

impl Model {
    fn new(blocks: usize) -> Self {
        let allocator = Allocator::builder(blocks as u64).build_allocated().unwrap();
        Self { allocator, now: 0, guards: Vec::new(), freed: vec![None; blocks], next: 0 }
    }

    fn is_held(&self, freed: u64) -> bool {
        self.guards.iter().any(|&(pinned, _)| pinned < freed)
    }

    fn free(&mut self, extents: usize, len: u64) {
        let mut transaction = self.allocator.begin();
        for _ in 0..extents {
            let (from, blocks) = (self.next, self.freed.len());
            self.next = (self.next + 3 * len as usize + 1) % blocks;
            let end = (from + len as usize).min(blocks);
            // As long as all are allocated.
            let count = self.freed[from..end].iter().take_while(|freed| freed.is_none()).count();
            if count > 0 {
                transaction.free(Extent::new(from as u64, count as u64)).unwrap();
                self.freed[from..from + count].fill(Some(self.now));
            }
        }
        transaction.freeze().committed();
    }

    fn took(&mut self, extents: &Extents) {
        for block in extents.iter().flat_map(|extent| extent.start..extent.start + extent.len) {
            let freed = self.freed[block as usize].take();
            let freed = freed.unwrap_or_else(|| panic!("block {block} was not free"));
            assert!(!self.is_held(freed), "block {block} is reused under a guard");
        }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        match *step {
            Step::Pin => self.guards.push((self.now, self.allocator.pin_owned())),
            Step::Unpin(which) => {
                if !self.guards.is_empty() {
                    drop(self.guards.swap_remove(which % self.guards.len()));
                }
            }
            Step::Free(extents, len) => self.free(extents, len),
            Step::Collect => {
                self.allocator.collect();
                self.compare();
            }
            Step::Allocate(len) => {
                let there = |held: bool| {
                    let blocks = self.freed.iter().flatten();
                    blocks.filter(|&&freed| self.is_held(freed) == held).count() as u64
                };
                let ripe = there(false);
                match self.allocator.allocate_with(&any(len.min(self.freed.len() as u64))) {
                    Ok(extents) => self.took(&extents),
                    Err(error) => assert!(ripe < len, "{error}, but {ripe} blocks are ripe"),
                }
            }
        }
        for (block, freed) in self.freed.iter().enumerate() {
            let free = self.allocator.is_free(Extent::new(block as u64, 1)).unwrap();
            let may = freed.is_some_and(|freed| !self.is_held(freed));
            assert!(may || !free, "block {block} is free under a guard");
        }
    }

    /// After a collection, exactly those wait that a guard holds.
    fn compare(&self) {
        for (block, freed) in self.freed.iter().enumerate() {
            let free = self.allocator.is_free(Extent::new(block as u64, 1)).unwrap();
            assert_eq!(free, freed.is_some_and(|freed| !self.is_held(freed)), "block {block}");
        }
        let waiting = self.freed.iter().flatten().filter(|&&freed| self.is_held(freed)).count();
        assert_eq!(self.allocator.quarantined_blocks(), waiting as u64);
        assert_eq!(self.allocator.stats().guards, self.guards.len() as u64);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Exactly what a guard holds waits: nothing comes out too early, and nothing is left.
    #[test]
    fn blocks_wait_for_the_guards_of_their_time(steps in prop::collection::vec(step(), 1..120)) {
        let mut model = Model::new(1500);
        for step in &steps {
            model.step(step);
            let found = model.allocator.verify();
            prop_assert!(found.is_clean(), "after {step:?}: {:?}", found.differences);
        }
        model.allocator.collect();
        model.compare();
        model.guards.clear();
        model.allocator.collect();
        model.compare();
        prop_assert_eq!(model.allocator.quarantined_blocks(), 0);
        prop_assert_eq!(model.allocator.stats().conflicting_frees, 0);
        prop_assert!(model.allocator.verify().is_clean());
    }
}

/// Writers move objects; readers hold several guards that overlap, and what each of them found must be as it was
/// until it goes. Nothing is lost and nothing is reused too early.
#[test]
fn overlapping_readers_beside_writers_and_collectors() {
    const OBJECTS: usize = 32;
    const BLOCKS: u64 = 4096;
    let allocator = Allocator::new(BLOCKS).unwrap();
    let places: Vec<AtomicU64> = (0..OBJECTS).map(|_| AtomicU64::new(0)).collect();
    let data: Vec<AtomicU64> = (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
    for (object, place) in places.iter().enumerate() {
        let start = allocator.allocate(1).unwrap().start;
        data[start as usize].store(object as u64, Ordering::Relaxed);
        place.store(start, Ordering::Release);
    }
    let stop = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (allocator, places, data) = (&allocator, &places, &data);
                scope.spawn(move || {
                    let mut rng = Pcg64Mcg::seed_from_u64(writer);
                    let mut handle = allocator.handle();
                    let mut moved = 0;
                    while moved < 20_000u64 {
                        // Each writer has half of the objects.
                        let object = rng.random_range(0..OBJECTS / 2) * 2 + writer as usize;
                        let Ok(new) = handle.allocate(1) else {
                            std::thread::yield_now(); // the readers hold all of it
                            continue;
                        };
                        moved += 1;
                        let content = moved << 8 | object as u64;
                        data[new.start as usize].store(content, Ordering::Relaxed);
                        let old = places[object].swap(new.start, Ordering::AcqRel);
                        let mut transaction = handle.begin();
                        transaction.free(Extent::new(old, 1)).expect("it is committed");
                        transaction.freeze().committed();
                    }
                })
            })
            .collect();
        for reader in 0..3 {
            let (allocator, places, data, stop, reads) =
                (&allocator, &places, &data, &stop, &reads);
            scope.spawn(move || {
                let mut rng = Pcg64Mcg::seed_from_u64(10 + reader);
                let mut held = VecDeque::new();
                while !stop.load(Ordering::Relaxed) {
                    let guard = allocator.pin();
                    let object = rng.random_range(0..OBJECTS);
                    let place = places[object].load(Ordering::Acquire);
                    let content = data[place as usize].load(Ordering::Relaxed);
                    assert_eq!(content & 0xFF, object as u64, "another object's data");
                    held.push_back((guard, place, content));
                    if held.len() > rng.random_range(0..8) {
                        let (_guard, place, content) = held.pop_front().expect("one at least");
                        let now = data[place as usize].load(Ordering::Relaxed);
                        assert_eq!(now, content, "written under a guard");
                        reads.fetch_add(1, Ordering::Relaxed);
                    }
                    if rng.random_range(0..64) == 0 {
                        allocator.collect();
                    }
                }
            });
        }
        writers.into_iter().for_each(|writer| writer.join().expect("no panic"));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(reads.load(Ordering::Relaxed) > 0);
    allocator.collect();
    assert_eq!(allocator.free_blocks(), BLOCKS - OBJECTS as u64);
    assert_eq!((allocator.stats().conflicting_frees, allocator.quarantined_blocks()), (0, 0));
    assert!(allocator.verify().is_clean());
}
