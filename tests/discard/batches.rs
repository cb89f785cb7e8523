//! From a free to a batch, and back.

use std::time::Instant;

use freemap::{
    Allocator, Batch, DiscardLimits, Discarding, Extent, FreeError, Request, ResizeError,
};

use super::all;

#[test]
fn what_is_freed_is_discarded_once_joined_and_then_free() {
    let allocator = Allocator::new(100_000).unwrap();
    let mut discarder = allocator.discarder(DiscardLimits::new()).unwrap();
    assert!(allocator.discarder(DiscardLimits::new()).is_none(), "one at a time");
    let objects: Vec<Extent> = (0..10).map(|_| allocator.allocate(700).unwrap()).collect();
    for &object in objects.iter().skip(1).step_by(2).chain(objects.iter().step_by(2)) {
        allocator.free(object).unwrap();
    }
    assert_eq!(allocator.free_blocks(), 93_000);
    assert_eq!(discarder.waiting_blocks(), 7000);
    let block = objects[3].start;
    assert_eq!(allocator.free(objects[3]), Err(FreeError::DoubleFree { block }));
    assert_eq!(allocator.is_allocated(objects[3]), Ok(false));
    let batches = all(&mut discarder, Instant::now());
    // Neighbours across objects are one extent.
    let mut seen: Vec<Extent> = batches.concat();
    seen.sort_unstable();
    assert_eq!(seen.iter().map(|extent| extent.len).sum::<u64>(), 7000);
    assert!(seen.windows(2).all(|two| two[0].end().unwrap() < two[1].start), "{seen:?}");
    assert_eq!((allocator.free_blocks(), discarder.waiting_blocks()), (100_000, 0));
    assert!(allocator.verify().is_clean());
}

#[test]
fn a_batch_keeps_its_blocks_until_it_is_dropped() {
    let allocator = Allocator::new(1000).unwrap();
    let mut discarder = allocator.discarder(DiscardLimits::new().batch(64, 1)).unwrap();
    let object = allocator.allocate(100).unwrap();
    allocator.free(object).unwrap();
    let Discarding::Batch(batch) = discarder.next(Instant::now()) else {
        panic!("100 blocks wait")
    };
    assert_eq!(batch.extents(), [Extent::new(object.start, 64)]);
    // The rest is had; this is not.
    let rest = allocator.allocate_with(&Request::new(936).scattered()).unwrap();
    assert_eq!(rest.blocks(), 936);
    assert!(allocator.allocate(1).is_err());
    drop(batch);
    assert_eq!(allocator.free_blocks(), 64);
}

/// Sixteen discards under way, as an engine with io_uring has them: completed in any order, by other
/// threads, some beside the next discarder, and the last after everything else is gone.
#[test]
fn batches_outlive_their_discarder_and_return_in_any_order() {
    fn moves_freely<T: Send + Sync + 'static>(value: T) -> T {
        value
    }
    let allocator = Allocator::new(10_000).unwrap();
    let limits = DiscardLimits::new().batch(50, 1);
    let mut discarder = allocator.discarder(limits).unwrap();
    let object = allocator.allocate(2000).unwrap();
    allocator.free(object).unwrap();
    let mut batches: Vec<Batch> = Vec::new();
    while batches.len() < 16 {
        let Discarding::Batch(batch) = discarder.next(Instant::now()) else { panic!("more waits") };
        batches.push(moves_freely(batch));
    }
    let with_device = |batches: &[Batch]| batches.iter().map(Batch::blocks).sum::<u64>();
    assert_eq!(allocator.stats().discarding_blocks, 800);
    drop(discarder);
    assert_eq!((allocator.free_blocks(), allocator.stats().discarding_blocks), (9200, 800));
    let mut next = allocator.discarder(limits).unwrap();
    allocator.free(allocator.allocate(100).unwrap()).unwrap();
    let Discarding::Batch(batch) = next.next(Instant::now()) else { panic!("100 blocks wait") };
    batches.push(batch);
    for pick in [7, 0, 12, 3, 11] {
        let batch = batches.swap_remove(pick);
        std::thread::spawn(move || drop(batch)).join().unwrap();
        assert_eq!(allocator.stats().discarding_blocks, with_device(&batches));
        assert!(allocator.verify().is_clean());
    }
    drop(next);
    let (free, discarding) = (allocator.free_blocks(), allocator.stats().discarding_blocks);
    assert_eq!((free + discarding, discarding), (10_000, with_device(&batches)));
    let last = batches.pop();
    drop(batches);
    assert_eq!(allocator.free_blocks(), 9950);
    assert!(allocator.verify().is_clean());
    drop(allocator);
    drop(last);
}

/// What the device is discarding has no owner: a free of it is refused, also when the discarder has ended.
#[test]
fn what_the_device_discards_cannot_be_freed() {
    let allocator = Allocator::new(1000).unwrap();
    let mut discarder = allocator.discarder(DiscardLimits::new()).unwrap();
    let object = allocator.allocate(100).unwrap();
    allocator.free(object).unwrap();
    let Discarding::Batch(batch) = discarder.next(Instant::now()) else { panic!("it waits") };
    assert_eq!(batch.extents(), [object]);
    drop(discarder);
    let double_free = Err(FreeError::DoubleFree { block: object.start });
    assert_eq!(allocator.free(object), double_free);
    assert!(allocator.free_many(&mut [object]).is_err());
    assert_eq!(allocator.begin().free(object), double_free);
    assert_eq!((allocator.is_free(object), allocator.is_allocated(object)), (Ok(false), Ok(false)));
    let again = Allocator::from_bitmap(1000, &allocator.to_bitmap().unwrap()).unwrap();
    assert_eq!(again.free_blocks(), 1000);
    drop(batch);
    assert_eq!(allocator.is_free(object), Ok(true));
    assert!(allocator.verify().is_clean());
}

/// However many batches an engine asks for, the device never has more than a quarter of what is free.
#[test]
fn all_batches_together_leave_most_of_the_space() {
    let allocator = Allocator::new(10_000).unwrap();
    let limits = DiscardLimits::new().batch(50, 1);
    let mut discarder = allocator.discarder(limits).unwrap();
    let object = allocator.allocate(8000).unwrap();
    allocator.free(object).unwrap();
    let mut batches = Vec::new();
    while let Discarding::Batch(batch) = discarder.next(Instant::now()) {
        batches.push(batch);
    }
    assert_eq!(allocator.stats().discarding_blocks, 666, "a quarter of 2666");
    assert!(discarder.waiting_blocks() > 0);
    drop(batches);
    assert!(matches!(discarder.next(Instant::now()), Discarding::Batch(_)));
}

/// A region or a tail in which the device is at work is not empty before the device is done.
#[test]
fn regions_and_lengths_wait_for_batches() {
    let allocator = Allocator::new(4096).unwrap();
    let mut discarder = allocator.discarder(DiscardLimits::new()).unwrap();
    let mut batch = |extent| {
        allocator.mark_allocated(extent).unwrap();
        allocator.free(extent).unwrap();
        let Discarding::Batch(batch) = discarder.next(Instant::now()) else { panic!("it waits") };
        assert_eq!(batch.extents(), [extent]);
        batch
    };
    let (early, late) = (batch(Extent::new(10, 100)), batch(Extent::new(4000, 50)));
    let region = allocator.close(Extent::new(0, 512)).unwrap();
    assert_eq!((region.is_empty(), region.live_blocks()), (false, 100));
    let region = region.take().unwrap_err();
    drop(early);
    assert!(region.is_empty());
    assert_eq!(region.take().unwrap(), Extent::new(0, 512));

    let shrink = allocator.shrink(3000).unwrap();
    let failed = shrink.finish().unwrap_err();
    assert_eq!(failed.error, ResizeError::InUse { live: 50 });
    allocator.grow(5000).unwrap();
    let failed = failed.shrink.finish().unwrap_err();
    assert_eq!(failed.error, ResizeError::Length { blocks: 5000, wanted: 3000 });
    drop(failed);
    let shrink = allocator.shrink(3000).unwrap();
    drop((late, discarder));
    shrink.finish().unwrap();
    allocator.grow(6000).unwrap();
    assert_eq!(allocator.free_blocks(), 6000 - 512);
    assert!(allocator.verify().is_clean());
}

#[test]
fn space_is_never_short_for_want_of_discards() {
    let allocator = Allocator::new(4096).unwrap();
    let mut discarder = allocator.discarder(DiscardLimits::new().batch(64, 8)).unwrap();
    let all_of_it = allocator.allocate(4096).unwrap();
    allocator.free(all_of_it).unwrap();
    assert_eq!(allocator.free_blocks(), 0);
    // Nobody discards, and yet:
    assert_eq!(allocator.allocate(4096), Ok(all_of_it));
    allocator.free(Extent::new(0, 100)).unwrap();
    // Too little is free for the device to be kept busy.
    assert!(matches!(discarder.next(Instant::now()), Discarding::Nothing));
    assert_eq!(allocator.free_blocks(), 100);
    // In transactions, too.
    let mut transaction = allocator.begin();
    transaction.free(Extent::new(100, 3900)).unwrap();
    transaction.freeze().committed();
    assert_eq!(allocator.allocate_with(&Request::new(4000).scattered()).unwrap().blocks(), 4000);
}

#[test]
fn without_a_discarder_everything_is_free() {
    let allocator = Allocator::new(5000).unwrap();
    let discarder = allocator.discarder(DiscardLimits::new()).unwrap();
    let object = allocator.allocate(3000).unwrap();
    allocator.free(object).unwrap();
    let region = allocator.close(Extent::new(0, 1024)).unwrap();
    assert!(region.is_empty(), "what waits is no hindrance");
    drop(discarder);
    assert_eq!(allocator.free_blocks(), 5000 - 1024);
    drop(region);
    assert_eq!(allocator.free_blocks(), 5000);
    assert!(allocator.discarder(DiscardLimits::new()).is_some());
}
