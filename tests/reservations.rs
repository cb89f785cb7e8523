//! Promises of space, alone and under traffic.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use freemap::{AllocError, Allocator, Extent, Request, RequestError};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

fn any(len: u64) -> Request {
    Request::new(len).scattered()
}

fn clean(allocator: &Allocator) {
    let found = allocator.verify();
    assert!(found.is_clean(), "{:?}", found.differences);
}

#[test]
fn a_promise_is_kept_when_everything_else_is_taken() {
    let allocator = Allocator::new(10_000).unwrap();
    let mut first = allocator.reserve(1).unwrap();
    let mut second = allocator.reserve(3000).unwrap();
    assert_eq!(allocator.free_blocks(), 10_000 - 3001);
    let others = allocator.allocate_with(&any(10_000 - 3001)).unwrap();
    let no_space = AllocError::NoSpace { requested: 1, free: 0 };
    assert_eq!(allocator.allocate(1), Err(no_space.clone()));
    assert_eq!(allocator.reserve(1).unwrap_err(), no_space);
    let mut all: Vec<Extent> = others.to_vec();
    for _ in 0..300 {
        all.extend(second.allocate(&any(10)).unwrap().iter());
    }
    all.extend(first.allocate(&Request::new(1)).unwrap().iter());
    assert_eq!((first.blocks(), second.blocks()), (0, 0));
    all.sort_unstable();
    assert!(all.windows(2).all(|two| two[0].end().unwrap() <= two[1].start), "no block twice");
    assert_eq!(all.iter().map(|extent| extent.len).sum::<u64>(), 10_000);
    allocator.free_many(&mut all).unwrap();
    assert_eq!(allocator.free_blocks(), 10_000);
    clean(&allocator);
}

#[test]
fn what_is_not_used_is_free_again() {
    let allocator = Allocator::new(2000).unwrap();
    let mut reservation = allocator.reserve(1500).unwrap();
    let part = reservation.split(500).unwrap();
    assert!(reservation.split(1001).is_none());
    assert_eq!((reservation.blocks(), part.blocks()), (1000, 500));
    drop(part);
    assert_eq!(allocator.free_blocks(), 1000);
    let object = reservation.allocate(&Request::new(600)).unwrap();
    assert_eq!(allocator.free_blocks(), 1000);
    drop(reservation);
    assert_eq!(allocator.free_blocks(), 1400);
    allocator.free(object[0]).unwrap();
    assert_eq!(allocator.allocate(2000), Ok(Extent::new(0, 2000)), "spare blocks are given back");
    clean(&allocator);
}

#[test]
fn mistakes_change_nothing() {
    let allocator = Allocator::new(100).unwrap();
    let invalid = |error: RequestError| AllocError::InvalidRequest(error);
    assert_eq!(allocator.reserve(0).unwrap_err(), invalid(RequestError::ZeroLength));
    let too_long = RequestError::TooLong { len: 101, blocks: 100 };
    assert_eq!(allocator.reserve(101).unwrap_err(), invalid(too_long));
    let mut reservation = allocator.reserve(50).unwrap();
    let beyond = RequestError::BeyondReservation { len: 51, reserved: 50 };
    assert_eq!(reservation.allocate(&any(51)), Err(invalid(beyond)));
    let other = Allocator::new(100).unwrap();
    let foreign = other.begin().allocate_reserved(&mut reservation, &any(1));
    assert_eq!(foreign, Err(invalid(RequestError::Foreign)));
    // A promise of blocks is none of runs.
    let taken = allocator.allocate_with(&any(50)).unwrap();
    let run = reservation.allocate(&any(10).min_extent(5));
    assert_eq!(run, Err(AllocError::NoSpace { requested: 10, free: 0 }));
    assert_eq!(reservation.blocks(), 50);
    assert_eq!(reservation.allocate(&any(50)).unwrap().blocks() + taken.blocks(), 100);
}

#[test]
fn blocks_kept_for_promises_are_nobodys() {
    let allocator = Allocator::new(512).unwrap();
    let reservation = allocator.reserve(512).unwrap();
    let block = Extent::new(5, 1);
    assert_eq!(allocator.is_free(block), Ok(false));
    assert_eq!(allocator.is_allocated(block), Ok(false));
    assert!(allocator.begin().free(block).is_err());
    assert_eq!(allocator.to_bitmap().unwrap(), [0; 8]);
    drop(reservation);
}

#[test]
fn a_region_becomes_empty_although_its_blocks_were_promised() {
    let allocator = Allocator::new(8 * 512).unwrap();
    let mut reservation = allocator.reserve(512).unwrap();
    let kept: Vec<u64> =
        (0..8 * 512).filter(|&block| !allocator.is_free(Extent::new(block, 1)).unwrap()).collect();
    let region = allocator.close(Extent::new(kept[0], 512)).unwrap();
    assert_eq!(region.live_blocks(), 512);
    let run = region.take().expect("other blocks are free");
    assert_eq!(run.start, kept[0] / 512 * 512);
    assert_eq!(allocator.free_blocks(), 6 * 512);
    let _others = allocator.allocate_with(&any(6 * 512)).unwrap();
    assert_eq!(reservation.allocate(&any(512)).unwrap().blocks(), 512);
    clean(&allocator);
}

#[test]
fn promises_survive_growth() {
    let allocator = Allocator::new(100).unwrap();
    let mut reservation = allocator.reserve(100).unwrap();
    allocator.grow(5000).unwrap();
    let mut more = allocator.reserve(4900).unwrap();
    assert_eq!(allocator.free_blocks(), 0);
    let both = reservation.allocate(&any(100)).unwrap().blocks()
        + more.allocate(&any(4900)).unwrap().blocks();
    assert_eq!(both, 5000);
}

/// Threads that promise and use, and threads that take whatever they get, on a device that is always full.
#[test]
fn no_promise_is_broken_under_traffic() {
    let blocks = 20_000;
    let allocator = Allocator::new(blocks).unwrap();
    let (stop, used) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (allocator, stop, used) = (&allocator, &stop, &used);
            scope.spawn(move || {
                let mut random = Pcg64::seed_from_u64(thread);
                let mut owned = Vec::new();
                while !stop.load(SeqCst) {
                    if thread % 2 == 0 {
                        let len = random.random_range(1..1500);
                        match allocator.reserve(len) {
                            Ok(mut reservation) => {
                                let part = random.random_range(1..=len);
                                let extents = reservation.allocate(&any(part));
                                owned.extend(extents.expect("it was promised"));
                                used.fetch_add(1, SeqCst);
                            }
                            Err(AllocError::NoSpace { requested, free }) => {
                                assert!(free < requested)
                            }
                            Err(error) => panic!("{error}"),
                        }
                    } else {
                        let len = random.random_range(1..100);
                        owned.extend(allocator.allocate_with(&any(len).partial()).iter().flatten());
                    }
                    let free = allocator.free_blocks() < blocks / 20;
                    while owned.len() > 40 || (free && thread % 2 == 0 && !owned.is_empty()) {
                        let extent = owned.swap_remove(random.random_range(0..owned.len()));
                        allocator.free(extent).unwrap();
                    }
                }
                owned.into_iter().for_each(|extent| allocator.free(extent).unwrap());
            });
        }
        while used.load(SeqCst) < 3000 {
            std::thread::yield_now();
        }
        stop.store(true, SeqCst);
    });
    assert_eq!(allocator.free_blocks(), blocks);
    assert!(allocator.allocate(blocks).is_ok());
    clean(&allocator);
}
