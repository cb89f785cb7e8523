//! Mistakes of promises, reserves, classes, streams and discards, each with the story of how it showed.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use freemap::{
    AllocError, Allocator, Class, DiscardLimits, Discarding, Extent, Placement, Request,
};

fn reserve(blocks: u64) -> Placement {
    Placement::new().reserve(blocks)
}

fn any(len: u64) -> Request {
    Request::new(len).scattered()
}

/// Filling the escrow by a round number failed, and had given back what was spare in it; filling it by what
/// had been missing before was not enough then, and so on in a circle.
#[test]
fn a_promise_that_needs_everything_that_is_spare_ends() {
    let allocator = Allocator::new(1000).unwrap();
    let first = allocator.reserve(100).unwrap();
    allocator.allocate_with(&any(428)).unwrap();
    let (sender, receiver) = mpsc::channel();
    let other = allocator.clone();
    std::thread::spawn(move || sender.send(other.reserve(460).map(|kept| kept.blocks())));
    let kept = receiver.recv_timeout(Duration::from_secs(30)).expect("it ends");
    assert_eq!(kept, Ok(460));
    drop(first);
}

/// What fills the escrow is a request, too, of the class of bulk, and drew on that class's reserve.
#[test]
fn promises_do_not_draw_on_reserves() {
    let allocator = Allocator::builder(1000)
        .placement(Class::BULK, reserve(600))
        .placement(Class::METADATA, reserve(400))
        .build()
        .unwrap();
    assert_eq!(allocator.free_blocks(), 0);

    let allocator = Allocator::builder(2000).placement(Class::BULK, reserve(1024)).build().unwrap();
    allocator.allocate_with(&any(876).class(Class::METADATA)).unwrap();
    let kept = allocator.reserve(10).unwrap();
    assert_eq!(allocator.free_blocks(), 90);
    drop(kept);
    assert_eq!(allocator.free_blocks(), 100);
}

/// So did what takes the place of blocks in escrow that lie in a closed region.
#[test]
fn closing_a_region_does_not_draw_on_reserves() {
    let allocator = Allocator::builder(2048).placement(Class::BULK, reserve(512)).build().unwrap();
    let others = allocator.allocate_with(&any(1536).class(Class::METADATA)).unwrap();
    let leaf = (0..4).map(|leaf| Extent::new(leaf * 512, 512));
    let kept = leaf.clone().find(|leaf| !others.iter().any(|extent| extent.overlaps(leaf)));
    let region = allocator.close(kept.expect("the reserve is one leaf")).unwrap();
    assert!(!region.is_empty(), "nothing else is free");
    drop(region);
    assert_eq!(allocator.free_blocks(), 0);
    assert!(allocator.allocate_with(&any(1).class(Class::METADATA)).is_err());
}

/// A handle of a device that is all region began behind the end.
#[test]
fn a_region_may_be_the_whole_device() {
    let region = Placement::new().region(Extent::new(0, 1024));
    let build = || Allocator::builder(1024).placement(Class::METADATA, region).build().unwrap();
    let mut pages = [Extent::new(0, 0); 4];
    let allocator = build();
    allocator.handle().allocate_many(1, &mut pages).unwrap();
    allocator.allocate(1).unwrap();
    allocator.stream(Class::BULK).allocate(1).unwrap();
    assert_eq!(allocator.allocate_with(&any(1018)).unwrap().blocks(), 1018);
}

/// A stream took what lies behind it in one piece, however long a piece was allowed.
#[test]
fn streams_keep_to_the_longest_extent_allowed() {
    let allocator = Allocator::new(4096).unwrap();
    let extents = allocator.stream(Class::BULK).allocate_with(&any(100).max_extent(10)).unwrap();
    assert!(extents.blocks() == 100 && extents.iter().all(|extent| extent.len <= 10));
}

/// Where a handle was last for metadata was where it went on for bulk.
#[test]
fn bulk_keeps_out_after_a_request_for_metadata() {
    let region = Placement::new().region(Extent::new(0, 8192));
    let allocator = Allocator::builder(1 << 16).placement(Class::METADATA, region).build().unwrap();
    let mut handle = allocator.handle();
    for request in [Request::new(1), any(3)] {
        handle.allocate_with(&request.class(Class::METADATA)).unwrap();
        assert!(handle.allocate(1).unwrap().start >= 8192);
    }
}

/// What a call for many gives back when it fails became free to everybody.
#[test]
fn what_many_give_back_goes_to_the_reserve_it_came_from() {
    let allocator = Allocator::builder(100).placement(Class::BULK, reserve(50)).build().unwrap();
    allocator.allocate_with(&any(50).class(Class::METADATA)).unwrap();
    let mut pages = [Extent::new(0, 0); 60];
    allocator.allocate_many(1, &mut pages).unwrap_err();
    assert_eq!(allocator.free_blocks(), 0);
    assert!(allocator.allocate_with(&any(1).class(Class::METADATA)).is_err());
    assert!(allocator.allocate_with(&any(50)).is_ok());
}

/// A request was met from the free space or from the reserve, and not from both.
#[test]
fn a_reserve_adds_to_what_is_free() {
    let allocator =
        Allocator::builder(100).placement(Class::METADATA, reserve(50)).build().unwrap();
    let metadata = |len| any(len).class(Class::METADATA);
    let most = allocator.allocate_with(&metadata(80)).unwrap();
    assert_eq!((most.blocks(), allocator.free_blocks()), (80, 0));
    let beyond = allocator.allocate_with(&metadata(21));
    assert_eq!(beyond, Err(AllocError::NoSpace { requested: 21, free: 0 }));
    assert_eq!(allocator.allocate_with(&metadata(30).partial()).unwrap().blocks(), 20);
    most.iter().for_each(|&extent| allocator.free(extent).unwrap());
    assert_eq!(allocator.free_blocks(), 30);
}

/// Time since the last batch times the speed did not fit.
#[test]
fn a_discarder_stands_any_time_and_speed() {
    let allocator = Allocator::new(1 << 16).unwrap();
    let now = Instant::now();
    for per_second in [1, 1999, u64::MAX] {
        let limits = DiscardLimits::new().blocks_per_second(per_second);
        let mut discarder = allocator.discarder(limits).unwrap();
        for later in [0, 1, 1 << 50] {
            let extent = allocator.allocate(10).unwrap();
            allocator.free(extent).unwrap();
            let now = now.checked_add(Duration::from_secs(later)).unwrap_or(now);
            drop(discarder.next(now));
        }
    }
    assert_eq!(allocator.free_blocks(), 1 << 16);
}

/// Fractions of a block that were earned between two calls were lost: at half the speed allowed.
#[test]
fn a_discarder_goes_as_fast_as_it_may() {
    let allocator = Allocator::new(1 << 20).unwrap();
    let limits = DiscardLimits::new().batch(64, 64).blocks_per_second(1999);
    let mut discarder = allocator.discarder(limits).unwrap();
    let object = allocator.allocate(100_000).unwrap();
    allocator.free(object).unwrap();
    let (start, mut blocks) = (Instant::now(), 0);
    for milliseconds in 0..10_000 {
        let now = start + Duration::from_millis(milliseconds);
        if let Discarding::Batch(batch) = discarder.next(now) {
            blocks += batch.extents().iter().map(|extent| extent.len).sum::<u64>();
        }
    }
    assert!((19_900..=19_990 + 64).contains(&blocks), "{blocks} blocks in ten seconds");
}

/// A run that reached one block into the word of a single hole was taken for the hole.
#[test]
fn a_single_hole_is_not_the_end_of_a_longer_run() {
    let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
    let mut handle = allocator.handle();
    for (start, len) in [(3000, 10), (5000, 101)] {
        handle.free(Extent::new(start, len)).unwrap();
    }
    assert_eq!([1, 100].map(|len| handle.allocate(len).unwrap().start), [3000, 5000]);
    // The last of these is the first of the word in which block 5100 is the hole.
    handle.free(Extent::new(5046, 11)).unwrap();
    assert_eq!(handle.allocate(1).unwrap().start, 5100);
}

/// The hint of a run that was too long to be measured outlived the run: the last claim went beyond the end of
/// the device, and panicked.
#[test]
fn a_run_that_was_long_ends_with_the_device() {
    // With these the hint was the last that was left; it depends on when the handle looks for others.
    for (blocks, len) in [(1 << 18, 11), (1 << 18, 500), ((1 << 16) + 300, 7)] {
        let allocator = Allocator::new(blocks).unwrap();
        let mut handle = allocator.handle();
        let mut taken = 0;
        while let Ok(extent) = handle.allocate(len) {
            assert!(extent.start + extent.len <= blocks);
            taken += len;
        }
        assert_eq!(allocator.free_blocks(), blocks - taken);
        let longest = allocator.free_extents().map(|extent| extent.len).max();
        assert!(longest.unwrap_or(0) < len, "{longest:?} {len}");
    }
}

/// A request for a run let out a few thousand blocks, and was refused although more waited that no reader held.
#[test]
fn a_long_snapshot_that_ends_leaves_no_run_behind() {
    const BLOCKS: u64 = 1 << 18;
    for request in [Request::new(512), any(512).min_extent(256), any(512).min_extent(512).partial()]
    {
        let allocator = Allocator::builder(BLOCKS).build_allocated().unwrap();
        let guard = allocator.pin();
        let singles = (0..40_000).map(|n| Extent::new(4 * n, 1));
        for extent in singles.chain([Extent::new(200_000, 1024)]) {
            let mut transaction = allocator.begin();
            transaction.free(extent).unwrap();
            transaction.freeze().committed();
        }
        drop(guard);
        assert_eq!(allocator.allocate_with(&request).unwrap().blocks(), 512, "{request:?}");
    }
}

/// The same for what promises left behind.
#[test]
fn a_run_is_found_beside_what_promises_left_behind() {
    let singles: Vec<Extent> = (0..1900).map(|n| Extent::new(2 * n, 1)).collect();
    let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
    for &extent in singles.iter().chain(&[Extent::new(50_000, 100)]) {
        allocator.mark_free(extent).unwrap();
    }
    drop(allocator.reserve(2000).unwrap());
    assert_eq!(allocator.allocate(64).map(|extent| extent.len), Ok(64));
}

/// And for what waits to be discarded; what would not help goes on waiting.
#[test]
fn a_run_of_waiting_discards_is_found_behind_many_that_do_not_help() {
    let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
    let discarder = allocator.discarder(freemap::DiscardLimits::new()).unwrap();
    (0..1000).for_each(|n| allocator.free(Extent::new(4 * n, 1)).unwrap());
    assert!(allocator.allocate(512).is_err());
    allocator.free(Extent::new(50_000, 500)).unwrap();
    assert!(allocator.allocate(512).is_err());
    assert_eq!(discarder.waiting_blocks(), 1500);
    allocator.free(Extent::new(50_500, 524)).unwrap();
    assert_eq!(allocator.allocate(512).map(|extent| extent.len), Ok(512));
    assert_eq!(discarder.waiting_blocks(), 1000 + 1024 - 512, "as much as it needs");
}

/// The blocks on both sides of a batch wait or are free. A handle that was refused the whole run
/// remembered it although the batch had ended.
#[test]
fn a_run_that_a_batch_completes_is_found_by_who_missed_it() {
    for (before, wait, behind) in [(3, true, 3), (9000, false, 1000), (5000, true, 5000)] {
        let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
        let mut handle = allocator.handle();
        // The device may have a quarter of what is free.
        (0..20).for_each(|n| allocator.free(Extent::new(60_000 + 2 * n, 1)).unwrap());
        let before = Extent::new(20_000 - before, before);
        if !wait {
            allocator.free(before).unwrap();
        }
        let mut discarder = allocator.discarder(DiscardLimits::new()).unwrap();
        allocator.free(Extent::new(20_000, 2)).unwrap();
        let Discarding::Batch(batch) = discarder.next(Instant::now()) else { panic!("no batch") };
        if wait {
            allocator.free(before).unwrap();
        }
        allocator.free(Extent::new(20_002, behind)).unwrap();
        let run = before.len + 2 + behind;
        assert!(handle.allocate(run).is_err());
        drop(batch);
        assert_eq!(handle.allocate(run), Ok(Extent::new(before.start, run)));
    }
}
