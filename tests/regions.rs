//! Closed regions, growing and shrinking, alone and under traffic.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

use freemap::{
    AllocError, Allocator, CloseError, Extent, FreeError, MarkError, RangeError, Request,
    ResizeError,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

fn allocator(blocks: u64) -> Allocator {
    Allocator::new(blocks).expect("memory")
}

fn clean(allocator: &Allocator) {
    let found = allocator.verify();
    assert!(found.is_clean(), "{:?}", found.differences);
    assert_eq!(found.free_blocks, allocator.free_blocks());
}

#[test]
fn nobody_gets_blocks_of_a_closed_region() {
    let allocator = allocator(4 * 512);
    let region = allocator.close(Extent::new(700, 400)).unwrap();
    assert_eq!(region.extent(), Extent::new(512, 1024));
    assert_eq!(allocator.free_blocks(), 1024);
    let mut handle = allocator.handle();
    let mut singles = vec![Extent::new(0, 0); 512];
    handle.allocate_many(1, &mut singles).unwrap();
    let rest = handle.allocate_with(&Request::new(512).scattered()).unwrap();
    let all = || singles.iter().chain(rest.iter());
    assert!(all().all(|extent| !extent.overlaps(&region.extent())));
    assert_eq!(allocator.allocate(1), Err(AllocError::NoSpace { requested: 1, free: 0 }));
    assert!(region.is_empty());
    drop(region);
    assert_eq!(allocator.free_blocks(), 1024);
    assert_eq!(allocator.allocate(1024), Ok(Extent::new(512, 1024)));
    clean(&allocator);
}

#[test]
fn what_is_freed_in_a_closed_region_is_set_aside() {
    let allocator = allocator(4096);
    let object = allocator.allocate(1000).unwrap();
    let across = allocator.allocate(1000).unwrap();
    let region = allocator.close(Extent::new(0, 1024)).unwrap();
    assert_eq!(region.live_blocks(), 1024);
    allocator.free(Extent::new(object.start, 500)).unwrap();
    assert_eq!(region.live_extents().collect::<Vec<_>>(), [Extent::new(500, 524)]);
    assert_eq!(allocator.free_blocks(), 4096 - 2000);

    // Set aside: neither free nor allocated, and not to be freed again.
    let aside = Extent::new(10, 20);
    assert_eq!(allocator.is_free(aside), Ok(false));
    assert_eq!(allocator.is_allocated(aside), Ok(false));
    assert_eq!(allocator.free(aside), Err(FreeError::DoubleFree { block: 10 }));
    assert_eq!(allocator.mark_allocated(aside), Err(MarkError::Closed { block: 10 }));
    assert_eq!(allocator.begin().free(aside), Err(FreeError::DoubleFree { block: 10 }));
    let bitmap = allocator.to_bitmap().unwrap();
    assert_eq!(bitmap[..8], [0, 0, 0, 0, 0, 0, 0, !0 << (500 - 448)]);

    // Half of it in the region.
    allocator.free(across).unwrap();
    assert_eq!(allocator.free_blocks(), 4096 - 2000 + 976);
    let mut rest = [Extent::new(500, 100), Extent::new(600, 7), Extent::new(607, 393)];
    allocator.free_many(&mut rest).unwrap();
    assert!(region.is_empty());
    assert_eq!(allocator.free_blocks(), 4096 - 1024);
    let run = region.take().unwrap();
    assert_eq!(run, Extent::new(0, 1024));
    assert_eq!(allocator.is_allocated(run), Ok(true));
    allocator.free(run).unwrap();
    assert_eq!(allocator.free_blocks(), 4096);
    clean(&allocator);
}

#[test]
fn a_region_in_use_is_handed_back() {
    let allocator = allocator(2048);
    let object = allocator.allocate(1).unwrap();
    let region = allocator.close(Extent::new(0, 2048)).unwrap();
    let region = region.take().expect_err("a block is in use");
    // Freed durably, but somebody may read it.
    let guard = allocator.pin();
    let mut transaction = allocator.begin();
    transaction.free(object).unwrap();
    transaction.freeze().committed();
    let region = region.take().expect_err("a reader is there");
    drop(guard);
    assert_eq!(region.take().unwrap(), Extent::new(0, 2048));
    assert_eq!(allocator.free_blocks(), 0);
}

#[test]
fn regions_do_not_overlap() {
    let allocator = allocator(10 * 512 + 100);
    let end = allocator.close(Extent::new(5000, 220)).unwrap();
    assert_eq!(end.extent(), Extent::new(4608, 612));
    let overlap = allocator.close(Extent::new(0, 4609)).unwrap_err();
    assert_eq!(overlap, CloseError::Closed { block: 4608 });
    assert_eq!(allocator.free_blocks(), 4608, "nothing else is closed");
    let begin = allocator.close(Extent::new(0, 4608)).unwrap();
    assert_eq!(allocator.free_blocks(), 0);
    assert!(matches!(
        allocator.close(Extent::new(5219, 2)),
        Err(CloseError::Range(RangeError::OutOfRange { block: 5220, .. }))
    ));
    drop(begin);
    drop(end);
    assert_eq!(allocator.free_blocks(), 5220);
    clean(&allocator);
}

#[test]
fn lengths_that_make_no_sense_are_refused() {
    let allocator = allocator(1000);
    let length = |wanted| ResizeError::Length { blocks: 1000, wanted };
    assert_eq!(allocator.grow(999), Err(length(999)));
    assert_eq!(allocator.grow(1000), Ok(()));
    assert_eq!(allocator.shrink(1000).unwrap_err(), length(1000));
    assert_eq!(allocator.shrink(0).unwrap_err(), length(0));
    assert!(matches!(allocator.grow(u64::MAX), Err(ResizeError::TooManyBlocks { .. })));
    let shrink = allocator.shrink(10).unwrap();
    assert!(matches!(
        allocator.shrink(20),
        Err(ResizeError::Close(CloseError::Closed { block: 0 }))
    ));
    allocator.grow(1100).unwrap();
    let failed = shrink.finish().unwrap_err();
    assert_eq!(failed.error, ResizeError::Length { blocks: 1100, wanted: 10 });
    drop(failed);
    assert_eq!(allocator.free_blocks(), 1100);
    clean(&allocator);
}

#[test]
fn the_device_becomes_longer_and_shorter_by_any_length() {
    let mut random = Pcg64::seed_from_u64(6);
    for first in [1, 63, 512, 513, 40_000] {
        let allocator = allocator(first);
        let mut owned: Vec<Extent> = Vec::new();
        for _ in 0..60 {
            let blocks = allocator.blocks();
            if random.random_bool(0.5) {
                allocator.grow(blocks + random.random_range(1..3000)).unwrap();
            } else if blocks > 1 {
                let wanted = random.random_range(blocks.saturating_sub(5000).max(1)..blocks);
                let mut shrink = allocator.shrink(wanted).unwrap();
                if random.random_bool(0.8) {
                    owned.retain(|&extent| {
                        let stays = extent.start + extent.len <= wanted;
                        if !stays {
                            allocator.free(extent).unwrap();
                        }
                        stays
                    });
                    shrink.finish().unwrap();
                    assert_eq!(allocator.blocks(), wanted);
                } else {
                    let live: u64 = shrink.live_extents().map(|extent| extent.len).sum();
                    assert_eq!(live, shrink.live_blocks());
                    if live > 0 {
                        let failed = shrink.finish().unwrap_err();
                        assert_eq!(failed.error, ResizeError::InUse { live });
                        shrink = failed.shrink;
                    }
                    drop(shrink);
                    assert_eq!(allocator.blocks(), blocks);
                }
            }
            for _ in 0..random.random_range(0..20) {
                owned.extend(allocator.allocate(random.random_range(1..200)));
            }
            let used: u64 = owned.iter().map(|extent| extent.len).sum();
            assert_eq!(allocator.free_blocks(), allocator.blocks() - used);
            clean(&allocator);
            let outside = Extent::new(allocator.blocks(), 1);
            assert!(matches!(allocator.free(outside), Err(FreeError::Range(_))));
        }
        for extent in owned {
            allocator.free(extent).unwrap();
        }
        let all = allocator.allocate(allocator.blocks()).unwrap();
        assert_eq!(all.len, allocator.blocks());
    }
}

/// Threads allocate and free while regions are closed and opened, and the device grows and shrinks.
/// Everyone writes their name on what they own; what a region or a shrink has is nobody's.
#[test]
fn ownership_holds_while_the_device_changes() {
    const MOST: usize = 1 << 16;
    let allocator = allocator(MOST as u64 / 2);
    let owners: Vec<AtomicU8> = (0..MOST).map(|_| AtomicU8::new(0)).collect();
    let stop = AtomicBool::new(false);
    let taken = AtomicU64::new(0);
    let own = |extent: Extent, from: u8, to: u8| {
        for block in extent.start..extent.start + extent.len {
            let owner = owners[block as usize].compare_exchange(from, to, SeqCst, SeqCst);
            assert_eq!(owner, Ok(from), "block {block}");
        }
    };
    std::thread::scope(|scope| {
        for thread in 1..=4 {
            let (allocator, own, stop) = (&allocator, &own, &stop);
            scope.spawn(move || {
                let mut random = Pcg64::seed_from_u64(thread.into());
                let mut handle = allocator.handle();
                let mut owned: Vec<Extent> = Vec::new();
                while !stop.load(SeqCst) {
                    let len = random.random_range(1..200);
                    let request = Request::new(len);
                    let request = if len % 2 == 0 { request.scattered() } else { request };
                    for &extent in handle.allocate_with(&request).iter().flatten() {
                        own(extent, 0, thread);
                        owned.push(extent);
                    }
                    let mut several = vec![Extent::new(0, 0); len as usize % 25];
                    if handle.allocate_many(1 + len % 4, &mut several).is_ok() {
                        several.iter().for_each(|&extent| own(extent, 0, thread));
                        owned.append(&mut several);
                    }
                    while owned.len() > 60 {
                        let extent = owned.swap_remove(random.random_range(0..owned.len()));
                        own(extent, thread, 0);
                        handle.free(extent).unwrap();
                    }
                }
                for extent in owned {
                    own(extent, thread, 0);
                    handle.free(extent).unwrap();
                }
            });
        }
        let mut random = Pcg64::seed_from_u64(99);
        for _ in 0..400 {
            let blocks = allocator.blocks();
            let start = random.random_range(0..blocks);
            let len = random.random_range(1..=(blocks - start).min(4096));
            match random.random_range(0..4) {
                0 => drop(allocator.close(Extent::new(start, len)).unwrap()),
                1 => {
                    let mut region = allocator.close(Extent::new(start, len)).unwrap();
                    for _ in 0..200 {
                        match region.take() {
                            Ok(extent) => {
                                own(extent, 0, 9);
                                own(extent, 9, 0);
                                allocator.free(extent).unwrap();
                                taken.fetch_add(1, SeqCst);
                                break;
                            }
                            Err(again) => region = again,
                        }
                        std::thread::yield_now();
                    }
                }
                2 => allocator.grow((blocks + len).min(MOST as u64).max(blocks)).unwrap(),
                _ if blocks > MOST as u64 / 4 => {
                    let mut shrink = allocator.shrink(blocks - len.min(blocks / 8)).unwrap();
                    for _ in 0..200 {
                        match shrink.finish() {
                            Ok(()) => {
                                taken.fetch_add(1, SeqCst);
                                break;
                            }
                            Err(failed) => shrink = failed.shrink,
                        }
                        std::thread::yield_now();
                    }
                }
                _ => {}
            }
        }
        stop.store(true, SeqCst);
    });
    assert!(taken.into_inner() > 0, "some became empty");
    assert_eq!(allocator.free_blocks(), allocator.blocks());
    clean(&allocator);
    assert!(allocator.allocate(allocator.blocks()).is_ok());
}

/// `free_many` looked at the free space alone before it began, and met what was set aside half way.
#[test]
fn freeing_many_of_what_is_set_aside_changes_nothing() {
    let allocator = allocator(2048);
    let (one, two) = (allocator.allocate(5).unwrap(), allocator.allocate(5).unwrap());
    let (near, far) = (Extent::new(60, 1), Extent::new(1000, 3));
    allocator.mark_allocated(near).unwrap();
    allocator.mark_allocated(far).unwrap();
    let region = allocator.close(Extent::new(0, 2048)).unwrap();
    for aside in [near, far] {
        allocator.free(aside).unwrap();
        let error = allocator.free_many(&mut [one, two, aside]).unwrap_err();
        assert_eq!((error.freed, error.error), (0, FreeError::DoubleFree { block: aside.start }));
        assert_eq!(region.live_blocks(), if aside == near { 13 } else { 10 });
    }
    allocator.free_many(&mut [two, one]).unwrap();
    assert!(region.is_empty());
}

/// Whoever walks, marks or copies the bitmap while the device becomes shorter and longer read its length
/// more than once, and went wrong in between.
#[test]
fn readers_stand_a_changing_length() {
    let allocator = allocator(5000);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                assert!(allocator.to_bitmap().unwrap().len() <= 79);
                for extent in allocator.free_extents() {
                    assert!(extent.len > 0 && extent.start + extent.len <= 5000, "{extent}");
                }
                let _ = allocator.next_free(4000);
            }
        });
        scope.spawn(|| {
            while !stop.load(SeqCst) {
                if let Ok(extent) = allocator.allocate(4990) {
                    allocator.free(extent).unwrap();
                }
                if allocator.mark_allocated(Extent::new(4980, 15)).is_ok() {
                    allocator.free(Extent::new(4980, 15)).unwrap();
                }
            }
        });
        for _ in 0..3000 {
            if let Ok(shrink) = allocator.shrink(550) {
                let _ = shrink.finish();
            }
            allocator.grow(5000).unwrap();
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(allocator.free_blocks(), 5000);
    clean(&allocator);
}
