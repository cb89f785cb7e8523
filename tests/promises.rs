//! Promises and requests at the same time. As long as all that is asked for at any moment and all
//! that is held fit on the device, nothing may be refused, whatever the others are doing.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use freemap::{AllocError, Allocator, Class, Extent, Placement, Request};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

/// An allocator of which `free` single blocks are free, none next to another.
fn crumbs(free: u64) -> Allocator {
    let words = vec![0xAAAA_AAAA_AAAA_AAAA; (2 * free).div_ceil(64) as usize];
    let mut words: Vec<u64> = words;
    if !(2 * free).is_multiple_of(64) {
        let last = words.len() - 1;
        words[last] |= u64::MAX << (2 * free % 64);
    }
    Allocator::from_bitmap(2 * free, &words).expect("one bit per block")
}

fn pieces(len: u64) -> Request {
    Request::new(len).scattered()
}

fn free_all(allocator: &Allocator, extents: &[Extent]) {
    extents.iter().for_each(|&extent| allocator.free(extent).expect("ours"));
}

/// Each thread takes a share of a budget before it asks for as much, and gives it back when it has
/// freed all: so at every moment there is room for everything.
#[test]
fn what_fits_together_is_never_refused() {
    const BLOCKS: u64 = 1000;
    for round in 0..20 {
        let allocator =
            if round % 2 == 0 { crumbs(BLOCKS) } else { Allocator::new(BLOCKS).unwrap() };
        let budget = AtomicU64::new(BLOCKS);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (allocator, budget) = (&allocator, &budget);
                let mut random = Pcg64::seed_from_u64(100 * round + thread);
                scope.spawn(move || {
                    for _ in 0..400 {
                        let len = random.random_range(1..[10, 100, 400, 900][thread as usize]);
                        let what = random.random_range(0..4);
                        // While it is used, a promise has its blocks in escrow and those elsewhere.
                        let asked = if (1..3).contains(&what) { 2 * len } else { len };
                        if budget
                            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(asked))
                            .is_err()
                        {
                            continue;
                        }
                        match what {
                            0 => drop(allocator.reserve(len).expect("there is room")),
                            1 => {
                                let mut promise = allocator.reserve(len).expect("there is room");
                                let got = promise.allocate(&pieces(len)).expect("it was promised");
                                free_all(allocator, &got);
                            }
                            2 => {
                                let mut promise = allocator.reserve(len).expect("there is room");
                                let part = promise.split(len / 2).expect("a part");
                                let first = pieces(promise.blocks().max(1));
                                if promise.blocks() > 0 {
                                    let got = promise.allocate(&first).expect("it was promised");
                                    free_all(allocator, &got);
                                }
                                drop((promise, part));
                            }
                            _ => {
                                let got = allocator.allocate_with(&pieces(len));
                                free_all(allocator, &got.expect("there is room"));
                            }
                        }
                        budget.fetch_add(asked, SeqCst);
                    }
                });
            }
        });
        assert_eq!(allocator.allocate_with(&pieces(BLOCKS)).unwrap().blocks(), BLOCKS);
        assert!(allocator.verify().is_clean());
    }
}

/// Of two promises of which each fits, but not both, one is kept.
#[test]
fn of_promises_that_do_not_fit_together_one_is_kept() {
    let allocator = crumbs(1000);
    let start = Barrier::new(2);
    let one = || {
        let mut kept = 0;
        for _ in 0..500 {
            start.wait();
            let promise = allocator.reserve(600);
            if let Err(error) = &promise {
                assert!(
                    matches!(error, AllocError::NoSpace { requested: 600, free: ..600 }),
                    "{error}"
                );
            }
            kept += u64::from(promise.is_ok());
            start.wait();
            drop(promise);
        }
        kept
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(one);
        let kept = one() + other.join().expect("no panic");
        assert_eq!(kept, 500, "one in each round");
    });
}

/// The error says what there was.
#[test]
fn a_promise_that_cannot_be_made_says_how_much_there_is() {
    let reserve = Placement::new().reserve(100);
    let allocator = Allocator::builder(1000).placement(Class::METADATA, reserve).build().unwrap();
    let _promise = allocator.reserve(200).unwrap();
    let held = allocator.allocate_with(&pieces(300)).unwrap();
    let refused = |requested| Err(AllocError::NoSpace { requested, free: 400 });
    assert_eq!(allocator.reserve(401).map(drop), refused(401));
    assert_eq!(allocator.reserve(1000).map(drop), refused(1000));
    assert_eq!(allocator.allocate_with(&pieces(401)).map(drop), refused(401));
    assert_eq!((allocator.free_blocks(), held.blocks()), (400, 300));
    drop(allocator.reserve(400).unwrap());
    assert_eq!(allocator.free_blocks(), 400);
}
