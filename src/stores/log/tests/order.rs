//! Engines whose commits become durable in another order than they were made in: parts of the engine's log, and
//! records of transactions.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use super::sim::SimDisk;
use super::{bitmap, commit, encoded, small};
use crate::stores::log::record::RANGE_BLOCKS;
use crate::stores::log::{
    Authority, CommitError, CreateOptions, LogError, OpenOptions, Opened, SpaceMapLog,
};
use crate::transaction::Frozen;
use crate::transaction::store::Store;
use crate::values::delta::Delta;
use crate::values::extent::Extent;
use crate::values::lsn::Lsn;

const BLOCKS: u64 = 2 * RANGE_BLOCKS;

fn engine(authority: Authority) -> (Arc<SimDisk>, Opened) {
    let disk = Arc::new(SimDisk::default());
    let opened = SpaceMapLog::create(disk.clone(), BLOCKS, &small().authority(authority))
        .expect("an empty disk");
    (disk, opened)
}

fn open(disk: &SimDisk) -> Opened {
    super::open(disk.bytes()).expect("intact")
}

fn e(start: u64, len: u64) -> Extent {
    Extent::new(start, len)
}

fn frozen(opened: &Opened, freed: &[Extent], allocated: &[Extent]) -> Frozen {
    let mut transaction = opened.allocator.begin();
    allocated.iter().for_each(|&extent| transaction.mark_allocated(extent).expect("free"));
    freed.iter().for_each(|&extent| transaction.free(extent).expect("allocated"));
    transaction.freeze()
}

/// A delta as an engine reads it from its log.
fn delta(freed: &[Extent], allocated: &[Extent]) -> Delta {
    let (_, scratch) = engine(Authority::Log);
    let mut transaction = scratch.allocator.begin();
    freed.iter().for_each(|&extent| transaction.mark_allocated(extent).expect("free"));
    transaction.commit(&scratch.log).expect("a healthy disk");
    Delta::decode(&encoded(frozen(&scratch, freed, allocated).delta())).expect("ours")
}

fn absorb(opened: &Opened, transaction: Frozen, span: Range<u64>) -> Result<(), CommitError> {
    opened.log.absorb(transaction, span).map_err(|failed| failed.into_error())
}

fn is_order<T>(result: &Result<T, CommitError>, at: u64) -> bool {
    matches!(result, Err(CommitError::Order { mark, .. }) if *mark == at)
}

/// Of two committers, the one whose record came second absorbed first, and a checkpoint came between. It said
/// the later position without the earlier delta, whose blocks were given away after a crash.
#[test]
fn a_checkpoint_between_two_parts_that_come_in_reverse_loses_neither() {
    let (disk, opened) = engine(Authority::Piggyback);
    let (a, b) = (e(0, 5), e(40_000, 5));
    let (first, second) = (frozen(&opened, &[], &[a]), frozen(&opened, &[], &[b]));
    let (one, two) = (first.delta().clone(), second.delta().clone());
    absorb(&opened, second, 10..20).expect("waits");
    assert_eq!((opened.log.position(), opened.log.figures().waiting), (0, 1));
    opened.log.checkpoint().expect("a healthy disk");
    let again = open(&disk);
    assert_eq!((again.position, again.allocator.free_blocks()), (0, BLOCKS));
    // Both are in the engine's log, and fed in from there.
    again.replay(&one, 0..10).expect("the first");
    again.replay(&two, 10..20).expect("the second");
    assert_eq!(again.allocator.free_blocks(), BLOCKS - 10);

    absorb(&opened, first, 0..10).expect("fits");
    assert_eq!((opened.log.position(), opened.log.figures().waiting), (20, 0));
    opened.log.checkpoint().expect("a healthy disk");
    let again = open(&disk);
    assert_eq!(again.position, 20);
    assert_eq!(bitmap(&again), bitmap(&opened));
    again.log.verify().expect("disk and memory agree");
}

/// Records twice, out of order, half of which is there, or of another device; records from before the
/// checkpoint, which fit by chance.
#[test]
fn replaying_takes_each_part_once_and_in_order() {
    let (disk, opened) = engine(Authority::Piggyback);
    let (x, y) = (e(100, 50), e(120, 50));
    opened.replay(&delta(&[], &[x]), 0..10).expect("fits");
    let conflict = |delta: &Delta| {
        let found = opened.replay(delta, 10..20);
        matches!(found, Err(CommitError::Conflict { .. } | CommitError::Foreign))
    };
    assert!(conflict(&delta(&[], &[x])), "twice");
    assert!(conflict(&delta(&[], &[e(10, 1), y])), "half of it is taken");
    assert!(conflict(&delta(&[e(50, 60)], &[])), "half of it is free");
    let mut beyond = delta(&[], &[e(1, 1)]);
    beyond.allocated = [e(1, 1), e(BLOCKS - 5, 10)].into_iter().collect();
    assert!(conflict(&beyond), "beyond the end");
    for span in [0..10, 5..15, 11..20, 20..30, 10..10] {
        assert!(is_order(&opened.replay(&delta(&[x], &[]), span), 10));
    }
    assert_eq!(opened.allocator.free_blocks(), BLOCKS - 50);
    opened.replay(&delta(&[x], &[]), 10..20).expect("object 1 is deleted");
    opened.replay(&delta(&[], &[x]), 20..30).expect("object 2");
    opened.log.checkpoint().expect("a healthy disk");
    let opened = open(&disk);
    assert_eq!(opened.position, 30);
    assert!(is_order(&opened.replay(&delta(&[x], &[]), 10..20), 30));
    assert_eq!(opened.allocator.is_allocated(x), Ok(true), "object 2 keeps its blocks");
}

#[test]
fn two_records_glued_together_name_no_block_twice() {
    let one = encoded(&delta(&[], &[e(10, 5), e(100, 3)]));
    let two = encoded(&delta(&[e(12, 1)], &[]));
    for (first, second) in [(&one, &one), (&one, &two), (&two, &one)] {
        let glued = [first.as_slice(), second.as_slice()].concat();
        assert!(Delta::decode(&glued).is_err());
    }
}

#[test]
fn parts_that_cannot_be_are_refused_and_change_nothing() {
    let (_, opened) = engine(Authority::Piggyback);
    absorb(&opened, frozen(&opened, &[], &[e(0, 1)]), 0..10).expect("fits");
    absorb(&opened, frozen(&opened, &[], &[e(1, 1)]), 20..30).expect("waits");
    opened.log.skip(40..50).expect("waits");
    #[expect(clippy::reversed_empty_ranges, reason = "an engine may pass it")]
    let wrong = [0..10, 9..11, 10..10, 19..21, 29..31, 20..30, 22..25, 15..35, 45..60, 18..12];
    for span in wrong {
        let transaction = frozen(&opened, &[], &[e(100, 7)]);
        let failed = opened.log.absorb(transaction, span.clone()).expect_err("not there");
        assert!(is_order(&Err::<(), _>(failed.error), 10), "{span:?}");
        assert_eq!(failed.transaction.allocated().collect::<Vec<_>>(), [e(100, 7)]);
        drop(failed.transaction);
        assert!(is_order(&opened.log.skip(span), 10));
    }
    assert_eq!(opened.allocator.free_blocks(), BLOCKS - 2, "what was refused is given back");
    // One that does not fit leaves the mark, and the engine can do without it.
    let transaction = frozen(&opened, &[], &[e(100, 7)]);
    opened.log.inner.shared.state().admit(&(10..11), &encoded(transaction.delta())).expect("fits");
    let found = absorb(&opened, transaction, 10..20);
    assert!(matches!(found, Err(CommitError::Conflict { block: 100 })));
    assert_eq!(opened.log.position(), 10);
    opened.log.skip(10..20).expect("the mark");
    assert_eq!((opened.log.position(), opened.log.figures().waiting), (30, 1));
    opened.log.skip(30..40).expect("the mark");
    assert_eq!((opened.log.position(), opened.log.figures().waiting), (50, 0));
}

#[test]
fn what_belongs_to_another_mode_is_refused() {
    for authority in [Authority::Log, Authority::Engine, Authority::Piggyback] {
        let (_, opened) = engine(authority);
        let piggyback = authority == Authority::Piggyback;
        let is_mode = |result: Result<(), CommitError>| matches!(result, Err(CommitError::Mode));
        let absorbed = absorb(&opened, frozen(&opened, &[], &[e(0, 1)]), 0..1);
        assert_eq!(is_mode(absorbed), !piggyback);
        assert_eq!(is_mode(opened.log.skip(1..2)), !piggyback);
        assert_eq!(is_mode(opened.log.checkpoint()), !piggyback);
        assert_eq!(is_mode(opened.replay(&Delta::default(), 2..3)), !piggyback);
        let engine = authority == Authority::Engine;
        assert_eq!(is_mode(opened.log.stable(Lsn(0))), !engine);
        assert_eq!(is_mode(opened.log.recorded(Lsn(0))), !engine);
        assert_eq!(is_mode(opened.log.revoke(Lsn(0)).map(drop)), !engine);
        let committed = frozen(&opened, &[], &[e(10, 1)]);
        assert_eq!(is_mode(opened.log.commit(committed.delta()).map(drop)), piggyback);
        let empty = opened.allocator.begin().freeze();
        assert!(opened.log.commit(empty.delta()).is_ok(), "nothing need be written");
        committed.committed();
    }
}

/// What waits is in no checkpoint, so what it frees must not be overwritten: the engine's log may turn out to
/// end before it.
#[test]
fn what_a_waiting_part_frees_is_not_reused() {
    let (_, opened) = engine(Authority::Piggyback);
    let all = e(0, BLOCKS);
    absorb(&opened, frozen(&opened, &[], &[all]), 0..1).expect("fits");
    absorb(&opened, frozen(&opened, &[e(0, 10)], &[]), 2..3).expect("waits");
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), 0);
    opened.log.skip(1..2).expect("the mark");
    opened.allocator.collect();
    assert_eq!(opened.allocator.free_blocks(), 10);
}

/// A part may free what an earlier one allocated that has not come.
#[test]
fn a_part_may_need_one_that_comes_later() {
    let (disk, opened) = engine(Authority::Piggyback);
    let first = frozen(&opened, &[], &[e(5, 10)]);
    let second = frozen(&opened, &[e(5, 10)], &[e(50, 1)]);
    let third = frozen(&opened, &[e(50, 1)], &[]);
    absorb(&opened, third, 2..3).expect("waits");
    absorb(&opened, second, 1..2).expect("waits");
    absorb(&opened, first, 0..1).expect("fits, and the others");
    opened.log.checkpoint().expect("a healthy disk");
    let opened = open(&disk);
    assert_eq!((opened.position, opened.allocator.free_blocks()), (3, BLOCKS));
}

/// The engine's log has a delta that contradicts those before it: nothing may go on as if it were not there.
#[test]
fn a_part_that_waited_and_contradicts_stops_the_log() {
    let (disk, opened) = engine(Authority::Piggyback);
    opened.log.checkpoint().expect("a healthy disk");
    absorb(&opened, frozen(&opened, &[], &[e(0, 10)]), 0..1).expect("fits");
    let once = frozen(&opened, &[e(0, 4)], &[]);
    // No transaction has allocated it.
    opened.allocator.mark_allocated(e(20, 1)).expect("free");
    let wrong = frozen(&opened, &[e(20, 1)], &[e(60, 1)]);
    absorb(&opened, wrong, 2..3).expect("waits");
    absorb(&opened, frozen(&opened, &[], &[e(70, 1)]), 3..4).expect("waits");
    absorb(&opened, once, 1..2).expect("fits");
    let stopped = |result: Result<(), CommitError>| {
        let Err(CommitError::Contradicted { from: 2, to: 3, block: 20 }) = result else {
            panic!("{result:?}");
        };
    };
    assert_eq!(opened.log.position(), 2);
    stopped(opened.log.checkpoint());
    stopped(opened.log.skip(4..5));
    let free = opened.allocator.free_blocks();
    stopped(absorb(&opened, frozen(&opened, &[], &[e(80, 5)]), 4..5));
    assert_eq!(opened.allocator.free_blocks(), free - 5, "the engine's log has it");
    let allocator = opened.allocator.clone();
    drop(opened);
    for block in [60, 70, 80] {
        assert_eq!(allocator.is_allocated(e(block, 1)), Ok(true), "the engine's log has it");
    }
    assert_eq!(open(&disk).position, 0);
}

/// Four committers, each absorbing when its own record is durable, beside checkpoints.
#[test]
fn committers_absorb_in_any_order_beside_checkpoints() {
    let (disk, opened) = engine(Authority::Piggyback);
    let own_log = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let mut transaction = opened.allocator.begin();
                    transaction.allocate(1).expect("room");
                    let transaction = transaction.freeze();
                    let position = {
                        let mut log = own_log.lock().expect("no panic");
                        log.push(transaction.delta().clone());
                        log.len() as u64
                    };
                    std::thread::yield_now();
                    absorb(&opened, transaction, position - 1..position).expect("fits or waits");
                }
            });
        }
        for _ in 0..10 {
            opened.log.checkpoint().expect("a healthy disk");
            let found = open(&disk);
            let log = own_log.lock().expect("no panic");
            let used = log[..found.position as usize].iter().flat_map(|d| d.allocated().to_vec());
            assert!(found.check(used).is_clean());
        }
    });
    assert_eq!((opened.log.position(), opened.log.figures().waiting), (200, 0));
}

/// Power failures with parts in random order, skipped ones among them: the checkpoint has exactly what is before
/// its mark, and the rest of the engine's log gives the rest.
#[test]
fn a_checkpoint_has_exactly_what_is_before_its_mark() {
    for seed in 0..150 {
        piggyback_run(seed);
    }
}

fn piggyback_run(seed: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let (mut disk, mut opened) = engine(Authority::Piggyback);
    // The engine's log, which loses nothing. What it freed is free for later parts.
    let mut own_log: Vec<(Range<u64>, Option<Delta>)> = Vec::new();
    let mut live: Vec<Extent> = Vec::new();
    for _ in 0..4 {
        let mut coming: Vec<(Range<u64>, Option<Frozen>)> = Vec::new();
        disk.crash_after(rng.random_range(5..80), rng.random());
        while !disk.has_crashed() {
            if rng.random_ratio(2, 3) {
                let start = own_log.last().map_or(0, |(span, _)| span.end);
                let span = start..start + rng.random_range(1..100);
                let transaction = rng.random_ratio(4, 5).then(|| {
                    let mut transaction = opened.allocator.begin();
                    for _ in 0..rng.random_range(0..3) {
                        let len = rng.random_range(1..200);
                        live.extend(transaction.allocate(len));
                    }
                    if !live.is_empty() && rng.random() {
                        let extent = live.swap_remove(rng.random_range(0..live.len()));
                        transaction.free(extent).expect("live");
                    }
                    transaction.freeze()
                });
                own_log.push((span.clone(), transaction.as_ref().map(|t| t.delta().clone())));
                coming.push((span, transaction));
            }
            if rng.random() {
                coming.shuffle(&mut rng);
                match coming.pop() {
                    Some((span, Some(transaction))) => {
                        absorb(&opened, transaction, span).expect("fits or waits");
                    }
                    Some((span, None)) => opened.log.skip(span).expect("fits or waits"),
                    None => {}
                }
            }
            if rng.random_ratio(1, 6) {
                let mark = opened.log.position();
                let done = opened.log.checkpoint();
                assert!(done.is_ok() || disk.has_crashed(), "{done:?}");
                assert!(done.is_err() || open(&disk).position == mark);
            }
        }
        coming.into_iter().filter_map(|(_, part)| part).for_each(Frozen::in_doubt);
        drop(opened);
        disk = Arc::new(SimDisk::new(disk.after_crash(&mut rng)));
        opened = SpaceMapLog::open(disk.clone(), &OpenOptions::new()).expect("a torn tail");
        let before = own_log.iter().filter(|(span, _)| span.end <= opened.position);
        expect_state(&opened, before.filter_map(|(_, delta)| delta.as_ref()), seed);
        for (span, delta) in own_log.iter().filter(|(span, _)| span.start >= opened.position) {
            match delta {
                Some(delta) => opened.replay(delta, span.clone()).expect("as it happened"),
                None => opened.log.skip(span.clone()).expect("as it happened"),
            }
        }
        opened.allocator.collect();
        expect_state(&opened, own_log.iter().filter_map(|(_, delta)| delta.as_ref()), seed);
    }
}

/// The state must be that after exactly these.
fn expect_state<'a>(opened: &Opened, deltas: impl Iterator<Item = &'a Delta>, seed: u64) {
    let state = apply(vec![false; BLOCKS as usize], deltas).expect("the test's own order");
    expect_blocks(opened, &state, seed);
}

/// `None` if a delta does not fit.
fn apply<'a>(mut state: Vec<bool>, deltas: impl Iterator<Item = &'a Delta>) -> Option<Vec<bool>> {
    for delta in deltas {
        for (extents, now) in [(delta.allocated(), true), (delta.freed(), false)] {
            for block in extents.iter().flat_map(|extent| extent.start..extent.start + extent.len) {
                if std::mem::replace(&mut state[block as usize], now) == now {
                    return None;
                }
            }
        }
    }
    Some(state)
}

fn expect_blocks(opened: &Opened, state: &[bool], seed: u64) {
    let words = opened.allocator.to_bitmap().expect("memory");
    for (block, &allocated) in state.iter().enumerate() {
        let found = words[block / 64] >> (block % 64) & 1 == 1;
        assert_eq!(found, allocated, "seed {seed}: block {block}");
    }
    opened.log.verify().unwrap_or_else(|error| panic!("seed {seed}: {error}"));
}

fn known(disk: &SimDisk, until: u64, also: &[u64]) -> Result<Opened, LogError> {
    let also = also.iter().map(|&lsn| Lsn(lsn));
    let options = OpenOptions::new().recover_until(Lsn(until)).recover_also(also);
    SpaceMapLog::open(Arc::new(SimDisk::new(disk.bytes())), &options)
}

/// A deletes X (2), B puts Y (3), and B's record reaches the engine's log first. `recover_until(3)` left X free
/// although the engine has it, and `recover_until(1)` took Y back.
#[test]
fn exactly_the_known_transactions_stay() {
    let (disk, opened) = engine(Authority::Engine);
    let (x, y) = (e(0, 8), e(40_000, 8));
    let first = commit(&opened, &[], &[x]);
    opened.log.stable(first).expect("there");
    let (delete, put) = (frozen(&opened, &[x], &[]), frozen(&opened, &[], &[y]));
    let a = opened.log.commit(delete.delta()).expect("a healthy disk");
    let b = opened.log.commit(put.delta()).expect("a healthy disk");
    opened.log.recorded(b).expect("there");
    assert_eq!(opened.log.mark(), first);
    // Images must not know of either.
    opened.log.condense().expect("a healthy disk");
    let found = known(&disk, first.0, &[b.0]).expect("both can be");
    assert!(found.check([x, y]).is_clean());
    assert_eq!(found.report.taken_back, 1);
    let options = OpenOptions::new().recover_until(first).recover_also([b]);
    let (inspected, report) =
        SpaceMapLog::inspect(SimDisk::new(disk.bytes()), &options).expect("the same");
    assert_eq!((inspected.free_blocks(), report.taken_back), (BLOCKS - 16, 1));
    opened.log.recorded(a).expect("there");
    assert_eq!(opened.log.mark(), b);
    put.committed();
    delete.committed();
}

#[test]
fn a_known_transaction_that_needs_an_unknown_one_is_named() {
    let (disk, opened) = engine(Authority::Engine);
    commit(&opened, &[], &[e(0, 10)]);
    commit(&opened, &[], &[e(100, 10)]);
    commit(&opened, &[e(100, 5)], &[e(200, 1)]);
    let bytes = disk.bytes();
    let found = known(&disk, 1, &[3]);
    assert!(
        matches!(
            &found,
            Err(LogError::Dependent { known: Lsn(3), unknown: Lsn(2), block: 100, .. })
        ),
        "{found:?}"
    );
    assert_eq!(disk.bytes(), bytes, "nothing is written");
    assert_eq!(known(&disk, 1, &[3, 2]).expect("both").allocator.free_blocks(), BLOCKS - 16);
    assert_eq!(known(&disk, 1, &[2]).expect("one").allocator.free_blocks(), BLOCKS - 20);
    assert!(matches!(known(&disk, 1, &[2, 4]), Err(LogError::Missing { expected: Lsn(4), .. })));
}

/// A block that an unknown one allocated and another freed is as before both.
#[test]
fn unknown_transactions_that_come_to_nothing_are_in_nobodys_way() {
    // Where no frees are held.
    let (disk, opened) = engine(Authority::Log);
    commit(&opened, &[], &[e(0, 10)]);
    commit(&opened, &[], &[e(300, 4)]);
    commit(&opened, &[e(300, 4)], &[]);
    opened.allocator.collect();
    commit(&opened, &[], &[e(302, 2)]);
    assert_eq!(known(&disk, 1, &[4]).expect("fits").allocator.free_blocks(), BLOCKS - 12);
    let found = known(&disk, 1, &[2, 4]);
    assert!(
        matches!(
            &found,
            Err(LogError::Dependent { known: Lsn(4), unknown: Lsn(3), block: 302, .. })
        ),
        "{found:?}"
    );
}

/// `stable` with a number that was not there yet called every later transaction stable.
#[test]
fn only_what_is_there_can_be_stable() {
    let (disk, opened) = engine(Authority::Engine);
    let first = commit(&opened, &[], &[e(0, 10)]);
    for lsn in [2, 99_999, u64::MAX] {
        let wrong = [opened.log.stable(Lsn(lsn)), opened.log.recorded(Lsn(lsn))];
        for found in wrong.into_iter().chain([opened.log.revoke(Lsn(lsn)).map(drop)]) {
            assert!(matches!(found, Err(CommitError::Unknown { last, .. }) if last == first));
        }
    }
    opened.log.stable(first).expect("there");
    commit(&opened, &[], &[e(20, 10)]);
    opened.log.condense().expect("a healthy disk");
    assert_eq!(known(&disk, 1, &[]).expect("kept").allocator.free_blocks(), BLOCKS - 10);
}

/// An empty commit answered with the number of somebody else's transaction, which the engine then took for
/// recorded.
#[test]
fn an_empty_transaction_has_a_number_of_its_own_where_the_engine_records_it() {
    let (_, opened) = engine(Authority::Engine);
    let first = commit(&opened, &[], &[e(0, 10)]);
    let empty = opened.allocator.begin().commit(&opened.log).expect("a healthy disk");
    assert_eq!((first, empty), (Lsn(1), Lsn(2)));
    opened.log.recorded(empty).expect("there");
    assert_eq!(opened.log.mark(), Lsn(0));
    let (_, opened) = engine(Authority::Log);
    let first = commit(&opened, &[], &[e(0, 10)]);
    assert_eq!(opened.allocator.begin().commit(&opened.log).ok(), Some(first));
}

/// After an opening that took something back, the mark stays until the engine has said that it knows.
#[test]
fn what_was_taken_back_is_decided_when_the_engine_says_so() {
    let (disk, opened) = engine(Authority::Engine);
    commit(&opened, &[], &[e(0, 10)]);
    commit(&opened, &[], &[e(20, 10)]);
    commit(&opened, &[], &[e(40, 10)]);
    drop(opened);
    let mut bytes = disk.bytes();
    for _ in 0..3 {
        let disk = Arc::new(SimDisk::new(bytes));
        let options = OpenOptions::new().recover_until(Lsn(1)).recover_also([Lsn(3)]);
        let opened = SpaceMapLog::open(disk.clone(), &options).expect("can be taken back");
        assert_eq!(opened.allocator.free_blocks(), BLOCKS - 20);
        assert_eq!(opened.log.mark(), Lsn(1));
        opened.log.condense().expect("a healthy disk");
        bytes = disk.bytes();
    }
    let disk = Arc::new(SimDisk::new(bytes));
    let opened = known(&disk, 1, &[3]).expect("as often as it takes");
    let last = opened.log.last();
    opened.log.stable(last).expect("there");
    assert_eq!(opened.log.mark(), last);
    let next = commit(&opened, &[e(0, 10)], &[]);
    opened.log.recorded(next).expect("there");
    assert_eq!(opened.log.mark(), next);
}

/// Whether the engine has still its hold on what it freed, or has lost that before or after.
#[test]
fn what_a_revoked_transaction_freed_can_be_freed_again() {
    for when in 0..3 {
        let (_, opened) = engine(Authority::Engine);
        commit(&opened, &[], &[e(0, 10)]);
        let mut transaction = opened.allocator.begin();
        transaction.free(e(0, 10)).expect("allocated");
        let (lsn, held) = transaction.commit_holding(&opened.log).expect("a healthy disk");
        let mut held = Some(held);
        if when == 0 {
            drop(held.take());
        }
        let undo = opened.log.revoke(lsn).expect("nothing depends on it");
        match when {
            1 => drop(held.take()),
            2 => held.take().expect("kept").release(),
            _ => {}
        }
        assert_eq!(opened.allocator.stats().held_blocks, 0, "{when}");
        opened.log.stable(undo).expect("there");
        let again = commit(&opened, &[e(0, 10)], &[]);
        opened.log.stable(again).expect("there");
        opened.allocator.collect();
        assert_eq!(opened.allocator.is_free(e(0, 10)), Ok(true), "{when}");
    }
}

/// A transaction that is about to free what another has allocated depends on it. If it could be revoked all the
/// same, two would own the same free, and what the first gave up later would be a block's next life.
#[test]
fn what_a_frozen_transaction_depends_on_is_not_revoked() {
    let (_, opened) = engine(Authority::Engine);
    let put = commit(&opened, &[], &[e(0, 10)]);
    let waits = frozen(&opened, &[e(0, 10)], &[]);
    assert!(matches!(opened.log.revoke(put), Err(CommitError::Conflict { block: 0 })));
    drop(waits);
    let undo = opened.log.revoke(put).expect("nothing depends on it");
    opened.log.stable(undo).expect("there");
    opened.allocator.collect();
    assert_eq!(opened.allocator.is_free(e(0, 10)), Ok(true));
    assert_eq!(opened.allocator.mark_allocated(e(0, 10)), Ok(()));
    assert_eq!(opened.allocator.free(e(0, 10)), Ok(()));
}

#[test]
fn a_revoked_transaction_comes_to_nothing() {
    let (disk, opened) = engine(Authority::Engine);
    let first = commit(&opened, &[], &[e(0, 10), e(40_000, 3)]);
    opened.log.stable(first).expect("there");
    let lost = frozen(&opened, &[e(40_000, 3)], &[e(100, 20)]);
    let two = opened.log.commit(lost.delta()).expect("a healthy disk");
    let three = commit(&opened, &[], &[e(200, 1)]);
    // Before and after the allocator was told, the frees of both are held.
    lost.committed();
    assert_eq!(opened.allocator.stats().held_blocks, 3);
    let undo = opened.log.revoke(two).expect("nothing depends on it");
    assert_eq!(opened.allocator.stats().held_blocks, 20);
    let used = [e(0, 10), e(40_000, 3), e(200, 1)];
    assert!(opened.check(used).is_clean());
    assert_eq!(opened.log.mark(), first);
    opened.log.recorded(three).expect("there");
    // Whether or not the record of the two came before the crash.
    assert!(known(&disk, 1, &[3]).expect("fits").check(used).is_clean());
    assert!(known(&disk, undo.0, &[]).expect("fits").check(used).is_clean());
    opened.log.recorded(two).expect("there");
    opened.log.recorded(undo).expect("there");
    assert_eq!(opened.log.mark(), undo);
    opened.allocator.collect();
    assert_eq!(opened.allocator.is_free(e(100, 20)), Ok(true));
    assert_eq!(opened.allocator.is_allocated(e(40_000, 3)), Ok(true));
    assert!(matches!(opened.log.revoke(three), Err(CommitError::Stable { lsn: Lsn(3), .. })));
    // One on which another depends stays.
    let put = commit(&opened, &[], &[e(300, 4)]);
    commit(&opened, &[e(302, 1)], &[]);
    assert!(matches!(opened.log.revoke(put), Err(CommitError::Conflict { block: 302 })));
    assert_eq!(opened.log.last(), Lsn(put.0 + 1));
}

/// Committers whose records become durable in any order, revoked ones, images in between, and power failures:
/// what is found is the state of exactly the transactions that the engine's log has.
#[test]
fn random_committers_are_found_as_the_engine_knows_them() {
    let (mut opened, mut dependent) = (0, 0);
    for seed in 0..150 {
        let (a, b) = Engine::new(seed).run();
        (opened, dependent) = (opened + a, dependent + b);
    }
    assert!(opened > 100 && dependent > 5, "{opened} states, {dependent} dependent ones");
}

/// An engine with a log of its own, which loses nothing once it is there.
struct Engine {
    seed: u64,
    rng: Pcg64Mcg,
    disk: Arc<SimDisk>,
    /// The state that everything up to `decided` came to.
    base: Vec<bool>,
    decided: u64,
    /// Acknowledged transactions after that.
    committed: Vec<(u64, Delta)>,
    /// Of these the ones in the engine's log.
    recorded: BTreeSet<u64>,
    /// Of the others those whose record is on its way: their numbers and deltas.
    coming: Vec<(Vec<u64>, Delta)>,
    live: Vec<Extent>,
    /// Objects may be deleted before the record of their creation is there.
    hasty: bool,
}

impl Engine {
    fn new(seed: u64) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        let hasty = rng.random_ratio(1, 4);
        Self {
            seed,
            rng,
            disk: Arc::default(),
            base: vec![false; BLOCKS as usize],
            decided: 0,
            committed: Vec::new(),
            recorded: BTreeSet::new(),
            coming: Vec::new(),
            live: Vec::new(),
            hasty,
        }
    }

    /// How often it was opened, and how often that was refused.
    fn run(mut self) -> (u32, u32) {
        let options: CreateOptions = small().authority(Authority::Engine);
        let mut opened = SpaceMapLog::create(self.disk.clone(), BLOCKS, &options).expect("empty");
        for life in 1..4 {
            self.disk.crash_after(self.rng.random_range(5..150), self.rng.random());
            while !self.disk.has_crashed() {
                self.step(&opened);
            }
            self.coming.clear();
            drop(opened);
            match self.reopen() {
                Some(again) => opened = again,
                None => return (life, 1),
            }
        }
        (4, 0)
    }

    fn step(&mut self, opened: &Opened) {
        match self.rng.random_range(0..20) {
            0 => drop(opened.log.condense()),
            1..4 => drop(opened.log.idle()),
            4 => self.revoke(opened),
            5..11 => self.record(opened),
            _ => self.commit(opened),
        }
    }

    fn commit(&mut self, opened: &Opened) {
        let count = self.rng.random_range(1..3);
        let transactions: Vec<Frozen> = (0..count).map(|_| self.transaction(opened)).collect();
        let results: Vec<_> = std::thread::scope(|scope| {
            let log = &opened.log;
            let threads: Vec<_> = transactions
                .iter()
                .map(|transaction| scope.spawn(move || log.commit(transaction.delta())))
                .collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for (transaction, result) in transactions.into_iter().zip(results) {
            match result {
                Ok(lsn) => {
                    let delta = Delta::decode(&encoded(transaction.delta())).expect("ours");
                    self.committed.push((lsn.0, delta.clone()));
                    self.live.extend_from_slice(delta.allocated());
                    self.coming.push((vec![lsn.0], delta));
                    transaction.committed();
                }
                Err(CommitError::Full { .. }) => {}
                Err(error) => {
                    assert!(self.disk.has_crashed(), "seed {}: {error}", self.seed);
                    transaction.in_doubt();
                }
            }
        }
        self.committed.sort_by_key(|(lsn, _)| *lsn);
    }

    fn transaction(&mut self, opened: &Opened) -> Frozen {
        let mut transaction = opened.allocator.begin();
        for _ in 0..self.rng.random_range(0..3) {
            drop(transaction.allocate(self.rng.random_range(1..300)));
        }
        let unrecorded: Vec<Extent> =
            self.coming.iter().flat_map(|(_, delta)| delta.allocated().to_vec()).collect();
        if !self.live.is_empty() && self.rng.random() {
            let index = self.rng.random_range(0..self.live.len());
            let extent = self.live[index];
            if self.hasty || !unrecorded.iter().any(|other| other.overlaps(&extent)) {
                self.live.swap_remove(index);
                transaction.free(extent).expect("live");
            }
        }
        transaction.freeze()
    }

    /// A record becomes durable in the engine's log, and the space-map log is told or not.
    fn record(&mut self, opened: &Opened) {
        if !self.coming.is_empty() {
            let index = self.rng.random_range(0..self.coming.len());
            self.recorded.extend(self.coming.swap_remove(index).0);
        }
        if self.rng.random_ratio(3, 4) {
            for &lsn in &self.recorded {
                opened.log.recorded(Lsn(lsn)).expect("there");
            }
        }
        opened.allocator.collect();
    }

    /// The record of a transaction will not come.
    fn revoke(&mut self, opened: &Opened) {
        let Some(index) = self.coming.iter().position(|(lsns, _)| lsns.len() == 1) else { return };
        let (lsn, delta) = (self.coming[index].0[0], self.coming[index].1.clone());
        match opened.log.revoke(Lsn(lsn)) {
            Ok(undo) => {
                let (allocated, freed) = (delta.freed.clone(), delta.allocated.clone());
                let inverse = Delta { allocated, freed, ..Delta::default() };
                self.committed.push((undo.0, inverse));
                self.coming[index] = (vec![lsn, undo.0], Delta::default());
                self.live.retain(|extent| !delta.allocated().iter().any(|o| o.overlaps(extent)));
                self.live.extend_from_slice(delta.freed());
            }
            Err(CommitError::Conflict { .. } | CommitError::Full { .. }) => {}
            Err(error) => assert!(self.disk.has_crashed(), "seed {}: {error}", self.seed),
        }
    }

    /// After a power failure. `None` if what the engine knows cannot be.
    fn reopen(&mut self) -> Option<Opened> {
        let mut bytes = self.disk.after_crash(&mut self.rng);
        let known = self.committed.iter().filter(|(lsn, _)| self.recorded.contains(lsn));
        let wanted = apply(self.base.clone(), known.map(|(_, delta)| delta));
        let also: Vec<Lsn> = self.recorded.iter().map(|&lsn| Lsn(lsn)).collect();
        let options = OpenOptions::new().recover_until(Lsn(self.decided)).recover_also(also);
        for attempt in 0..3 {
            self.disk = Arc::new(SimDisk::new(bytes));
            if attempt < 2 && self.rng.random() {
                self.disk.crash_after(self.rng.random_range(1..6), self.rng.random());
            }
            let found = SpaceMapLog::open(self.disk.clone(), &options);
            match (found, &wanted) {
                (Err(LogError::Dependent { .. }), None) => return None,
                (Ok(opened), Some(wanted)) => {
                    expect_blocks(&opened, wanted, self.seed);
                    if !self.disk.has_crashed() && (attempt == 2 || self.rng.random()) {
                        self.decide(&opened, wanted.clone());
                        return Some(opened);
                    }
                }
                (found, _) => assert!(
                    self.disk.has_crashed(),
                    "seed {}: {found:?}, can be: {}",
                    self.seed,
                    wanted.is_some()
                ),
            }
            bytes = self.disk.after_crash(&mut self.rng);
        }
        None
    }

    /// The engine's log says that everything so far is decided.
    fn decide(&mut self, opened: &Opened, state: Vec<bool>) {
        self.decided = opened.log.last().0;
        opened.log.stable(opened.log.last()).expect("there");
        self.committed.clear();
        self.recorded.clear();
        let mut live = Vec::new();
        for (block, _) in state.iter().enumerate().filter(|&(_, &allocated)| allocated) {
            live.push(e(block as u64, 1));
        }
        live.shuffle(&mut self.rng);
        live.truncate(50);
        self.live = live;
        self.base = state;
    }
}
