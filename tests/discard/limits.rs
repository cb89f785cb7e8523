//! Which extents the device is told of, how many, how fast; and crumbs.

use std::time::{Duration, Instant};

use freemap::{Allocator, Batch, DiscardLimits, Discarder, Discarding, Extent, Request};

use super::all;

/// An allocator whose blocks are in use, but for 16384 at the end.
fn used(blocks: u64) -> Allocator {
    let allocator = Allocator::builder(blocks + 16_384).build_allocated().unwrap();
    allocator.free(Extent::new(blocks, 16_384)).unwrap();
    allocator
}

/// The next batch, or the wait until there is one.
fn next(discarder: &mut Discarder, now: Instant) -> Result<Batch, Option<Duration>> {
    match discarder.next(now) {
        Discarding::Batch(batch) => Ok(batch),
        Discarding::Later(pause) => Err(Some(pause)),
        Discarding::Nothing => Err(None),
    }
}

fn extents(start: u64, end: u64, len: u64) -> Vec<Extent> {
    (start..end).step_by(len as usize).map(|start| Extent::new(start, len)).collect()
}

fn skipped(allocator: &Allocator) -> u64 {
    allocator.stats().counters.skipped_discard_blocks
}

#[test]
fn limits_are_kept() {
    let allocator = Allocator::new(1 << 20).unwrap();
    let limits = DiscardLimits::new().waiting(1000).batch(100, 3).shortest(4).blocks_per_second(50);
    let mut discarder = allocator.discarder(limits).unwrap();
    // None of them neighbours, wherever the allocator would have put them.
    let mark = |extent| allocator.mark_allocated(extent).map(|()| extent).unwrap();
    let objects: Vec<Extent> = (0..180).map(|nth| mark(Extent::new(8 * nth, 5))).collect();
    let pairs: Vec<Extent> = (0..25).map(|nth| mark(Extent::new(2000 + 8 * nth, 2))).collect();
    for object in &pairs {
        allocator.free(*object).unwrap();
    }
    objects.iter().for_each(|&object| allocator.free(object).unwrap());
    let waiting = discarder.waiting_blocks();
    assert_eq!(waiting, 50 + 5 * objects.len() as u64);
    let rest = allocator.allocate(2000).unwrap();
    allocator.free(rest).unwrap();
    assert_eq!(discarder.waiting_blocks(), waiting, "beyond the limit nothing waits");

    let (start, mut now, mut blocks) = (Instant::now(), Instant::now(), 0);
    loop {
        match discarder.next(now) {
            Discarding::Batch(batch) => {
                assert!(batch.extents().len() <= 3);
                assert!(batch.extents().iter().all(|extent| extent.len >= 4));
                blocks += batch.extents().iter().map(|extent| extent.len).sum::<u64>();
            }
            Discarding::Later(pause) => now += pause,
            Discarding::Nothing => break,
        }
        let most = 100.0 + 50.0 * (now - start).as_secs_f64();
        assert!(blocks as f64 <= most + 1.0, "{blocks} blocks in {:?}", now - start);
    }
    assert!(now - start >= Duration::from_secs(5), "{blocks} blocks in {:?}", now - start);
    assert_eq!(discarder.waiting_blocks(), 0);
}

/// A device discards whole units and nothing else: a discard that is cut in the middle of one loses it for good.
#[test]
fn batches_of_any_size_cover_every_whole_unit() {
    for (batch, each) in [(64, 64), (1000, 960), (100_000, 4096)] {
        let allocator = used(10_000);
        let limits = DiscardLimits::new().granularity(64).batch(batch, 64);
        let mut discarder = allocator.discarder(limits).unwrap();
        allocator.free(Extent::new(10, 6400)).unwrap();
        let told = all(&mut discarder, Instant::now()).concat();
        // 64..6400, and no more of it at once than a batch, and a quarter of what is free.
        assert!(told.iter().all(|extent| extent.len <= each));
        assert_eq!(
            told,
            extents(64, 6400, each)
                .into_iter()
                .map(|mut extent| {
                    extent.len = extent.len.min(6400 - extent.start);
                    extent
                })
                .collect::<Vec<_>>()
        );
        assert_eq!((discarder.waiting_blocks(), skipped(&allocator)), (0, 64));
    }
}

/// Units lie where the device says, not where the allocator's blocks begin. What lies before the first border, and
/// behind the last, is in no unit.
#[test]
fn units_begin_at_the_alignment() {
    let allocator = Allocator::builder(20_000).build_allocated().unwrap();
    allocator.free(Extent::new(5000, 10_000)).unwrap();
    let limits = DiscardLimits::new().granularity(30).alignment(70);
    let mut discarder = allocator.discarder(limits).unwrap();
    allocator.free(Extent::new(0, 130)).unwrap();
    allocator.free(Extent::new(19_930, 70)).unwrap();
    let told = all(&mut discarder, Instant::now()).concat();
    assert_eq!(told, [Extent::new(10, 120), Extent::new(19_930, 60)]);
    assert_eq!(skipped(&allocator), 20);
}

/// Where a quarter of the free space is less than the device needs at once, nothing waits for it.
#[test]
fn what_waits_is_free_where_space_is_short() {
    let allocator = Allocator::builder(1000).build_allocated().unwrap();
    let limits = DiscardLimits::new().granularity(30);
    let mut discarder = allocator.discarder(limits).unwrap();
    allocator.free(Extent::new(0, 119)).unwrap();
    assert!(next(&mut discarder, Instant::now()).is_err());
    assert_eq!((allocator.free_blocks(), skipped(&allocator)), (119, 119));
    allocator.free(Extent::new(119, 1)).unwrap();
    assert!(next(&mut discarder, Instant::now()).is_err());
    allocator.free(Extent::new(300, 60)).unwrap();
    assert_eq!(next(&mut discarder, Instant::now()).unwrap().extents(), [Extent::new(300, 30)]);
}

/// A rest of a unit waits for its neighbours, and is discarded with them, however many calls come between.
#[test]
fn crumbs_wait_for_their_neighbours() {
    let allocator = used(1000);
    let mut discarder = allocator.discarder(DiscardLimits::new().granularity(16)).unwrap();
    let mut now = Instant::now();
    for (start, len) in [(32, 10), (45, 3), (42, 2)] {
        allocator.free(Extent::new(start, len)).unwrap();
        now += Duration::from_secs(1);
        assert!(
            matches!(next(&mut discarder, now), Err(Some(_))),
            "{start}+{len} completes nothing"
        );
    }
    allocator.free(Extent::new(44, 1)).unwrap();
    assert_eq!(next(&mut discarder, now).unwrap().extents(), [Extent::new(32, 16)]);
    assert_eq!((discarder.waiting_blocks(), skipped(&allocator)), (0, 0));
}

/// What no neighbour completes leaves undiscarded when it has lingered: not before, and not the units beside it.
#[test]
fn crumbs_leave_after_a_while() {
    let allocator = used(1000);
    let linger = Duration::from_secs(10);
    let limits =
        DiscardLimits::new().granularity(16).linger(linger).blocks_per_second(1).batch(16, 1);
    let mut discarder = allocator.discarder(limits).unwrap();
    let mut now = Instant::now();
    allocator.free(Extent::new(100, 40)).unwrap(); // a unit between two crumbs
    let first = next(&mut discarder, now).unwrap();
    assert_eq!(first.extents(), [Extent::new(112, 16)]);
    assert_eq!(next(&mut discarder, now).unwrap_err(), Some(linger));
    allocator.free(Extent::new(200, 50)).unwrap();
    now += linger - Duration::from_nanos(1);
    assert_eq!(next(&mut discarder, now).unwrap_err(), Some(Duration::from_nanos(6_000_000_001)));
    assert_eq!((discarder.waiting_blocks(), skipped(&allocator)), (74, 0));
    now += Duration::from_nanos(1);
    drop(next(&mut discarder, now));
    assert_eq!((discarder.waiting_blocks(), skipped(&allocator)), (32, 42));
    assert_eq!(all(&mut discarder, now).concat(), extents(208, 240, 16));
}

/// Crumbs that linger for ever leave when the queue is full, and not before; what is whole stays.
#[test]
fn crumbs_make_room_in_a_full_queue() {
    let allocator = used(1000);
    let limits = DiscardLimits::new().granularity(16).waiting(100).linger(Duration::MAX);
    let limits = limits.blocks_per_second(1).batch(32, 2);
    let mut discarder = allocator.discarder(limits).unwrap();
    let (now, mut batches) = (Instant::now(), Vec::new());
    allocator.free(Extent::new(16, 32)).unwrap();
    batches.extend(next(&mut discarder, now));
    allocator.free(Extent::new(64, 32)).unwrap();
    extents(100, 168, 2).iter().for_each(|&extent| {
        let half = Extent::new(extent.start, 1);
        allocator.free(half).unwrap();
    });
    assert_eq!(discarder.waiting_blocks(), 66);
    assert!(next(&mut discarder, now).is_err());
    assert_eq!((discarder.waiting_blocks(), skipped(&allocator)), (66, 0), "there is room");
    allocator.free(Extent::new(300, 35)).unwrap();
    assert_eq!(discarder.waiting_blocks(), 66, "there was no room");
    assert!(next(&mut discarder, now).is_err());
    assert_eq!((discarder.waiting_blocks(), skipped(&allocator)), (32, 34));
    allocator.free(Extent::new(335, 68)).unwrap();
    assert_eq!(discarder.waiting_blocks(), 100);
}

/// More is freed than the device can discard, and every block is too short for it: the queue holds what it may, and
/// runs empty in calls of bounded length.
#[test]
fn a_queue_of_crumbs_runs_empty() {
    for full in [true, false] {
        let allocator = used(180_000);
        let limits = DiscardLimits::new().waiting(50_000).shortest(8);
        let mut discarder = allocator.discarder(limits).unwrap();
        let freed = if full { 90_000 } else { 40_000 };
        (0..freed).for_each(|nth| allocator.free(Extent::new(2 * nth, 1)).unwrap());
        let waited = discarder.waiting_blocks();
        assert_eq!(waited, freed.min(50_000));
        let (mut now, mut calls) = (Instant::now(), 0);
        while discarder.waiting_blocks() > 0 {
            let before = discarder.waiting_blocks();
            match next(&mut discarder, now) {
                // A full queue does not wait for the time to pass.
                Err(pause) if !full => now += pause.unwrap_or_default(),
                Err(_) => {}
                Ok(batch) => panic!("{:?} are shorter than the shortest", batch.extents()),
            }
            assert!(before - discarder.waiting_blocks() <= 4096);
            calls += 1;
            assert!(calls < 100, "{} wait", discarder.waiting_blocks());
        }
        assert_eq!((allocator.free_blocks(), skipped(&allocator)), (16_384 + freed, waited));
    }
}

/// The speed limit does not cut extents below what the device needs: the discarder says how long to wait for the rest.
#[test]
fn a_speed_limit_cuts_nothing_too_short() {
    for pause in [1, 50, 70, 1000] {
        let allocator = used(10_000);
        let limits = DiscardLimits::new().shortest(64).batch(256, 64).blocks_per_second(640);
        let mut discarder = allocator.discarder(limits).unwrap();
        allocator.free(Extent::new(5, 4096)).unwrap();
        let (mut now, mut told) = (Instant::now(), Vec::new());
        while discarder.waiting_blocks() > 0 {
            match next(&mut discarder, now) {
                Ok(batch) => told.extend_from_slice(batch.extents()),
                Err(wait) => assert!(wait <= Some(Duration::from_millis(100)), "{wait:?}"),
            }
            now += Duration::from_millis(pause);
        }
        assert_eq!(told.iter().map(|extent| extent.len).sum::<u64>(), 4096);
        assert!(told.iter().all(|extent| extent.len >= 64), "every {pause} ms: {told:?}");
    }
}

/// The wait is the one that is needed, to the nanosecond.
#[test]
fn after_the_wait_there_is_a_batch() {
    let allocator = used(10_000);
    let limits =
        DiscardLimits::new().granularity(10).shortest(25).batch(30, 64).blocks_per_second(7);
    let mut discarder = allocator.discarder(limits).unwrap();
    allocator.free(Extent::new(0, 300)).unwrap();
    let mut now = Instant::now();
    for _ in 0..10 {
        assert_eq!(next(&mut discarder, now).unwrap().extents()[0].len, 30);
        let Err(Some(wait)) = next(&mut discarder, now) else { break };
        let early = now + wait - Duration::from_nanos(1);
        assert_eq!(next(&mut discarder, early).unwrap_err(), Some(Duration::from_millis(1)));
        now += wait;
    }
    assert_eq!((discarder.waiting_blocks(), skipped(&allocator)), (0, 0));
}

/// Limits that contradict each other are raised to the least with which they work.
#[test]
fn impossible_limits_work() {
    let limits = DiscardLimits::new().granularity(64).shortest(65).batch(0, 0).waiting(0);
    let limits = limits.blocks_per_second(0).alignment(u64::MAX);
    let allocator = used(10_000);
    let mut discarder = allocator.discarder(limits).unwrap();
    allocator.free(Extent::new(0, 128)).unwrap(); // 63 and 65 blocks of two units
    allocator.free(Extent::new(200, 1)).unwrap();
    assert_eq!(discarder.waiting_blocks(), 128);
    assert!(all(&mut discarder, Instant::now()).is_empty());
    allocator.free(Extent::new(255, 128)).unwrap();
    assert_eq!(all(&mut discarder, Instant::now()), [[Extent::new(255, 128)]]);
    drop(discarder);
    // No extent can be as long as that: nothing is discarded, and nothing stays.
    for limits in [
        DiscardLimits::new().granularity(u64::MAX),
        DiscardLimits::new().shortest(u64::MAX),
        DiscardLimits::new().granularity(10_000).alignment(9_000).batch(u64::MAX, usize::MAX),
    ] {
        let mut discarder = allocator.discarder(limits.linger(Duration::ZERO)).unwrap();
        allocator.free(allocator.allocate(300).unwrap()).unwrap();
        assert!(all(&mut discarder, Instant::now()).is_empty());
        assert_eq!(discarder.waiting_blocks(), 0);
    }
    assert!(allocator.verify().is_clean());
}

/// An allocation takes what waits and leaves what is with the device. All counts follow, and so do later discards.
#[test]
fn counts_are_right_after_an_allocation_took_what_waits() {
    let allocator = Allocator::new(4000).unwrap();
    let limits = DiscardLimits::new().granularity(10).batch(100, 1);
    let mut discarder = allocator.discarder(limits).unwrap();
    let object = Extent::new(1000, 995);
    allocator.mark_allocated(object).unwrap();
    allocator.free(object).unwrap();
    let now = Instant::now();
    let batches: Vec<Batch> = (0..3).map(|_| next(&mut discarder, now).unwrap()).collect();
    let counts = || {
        let stats = allocator.stats();
        let waits = (stats.discard_waiting_blocks, stats.discarding_blocks);
        (waits, stats.counters.discarded_blocks, stats.counters.skipped_discard_blocks)
    };
    assert_eq!(counts(), ((695, 300), 300, 0));
    let request = Request::new(3700).scattered();
    let taken = allocator.allocate_with(&request).unwrap();
    assert_eq!((counts(), allocator.free_blocks()), (((0, 300), 300, 695), 0));
    assert!(allocator.allocate(1).is_err(), "the rest is with the device");
    drop(batches);
    assert_eq!((counts(), allocator.free_blocks()), (((0, 0), 300, 695), 300));
    assert!(allocator.verify().is_clean());
    taken.iter().for_each(|&extent| allocator.free(extent).unwrap());
    assert_eq!(counts(), ((3700, 0), 300, 695));
    let told: u64 = all(&mut discarder, now).concat().iter().map(|extent| extent.len).sum();
    let skipped = 3700 - told;
    assert_eq!(counts(), ((0, 0), 300 + told, 695 + skipped));
    assert!(skipped < 10 * 2 * 3, "{skipped} of 3700 were crumbs");
    assert_eq!(allocator.free_blocks(), 4000);
}
