//! Many threads at once: an owner array catches every block that is owned twice.

use std::sync::atomic::{AtomicU32, Ordering};

use freemap::{AllocError, Allocator, Extent, FreeError, Handle, Request};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const THREADS: u32 = 8;
const STEPS: u32 = 100_000;

struct Owners(Vec<AtomicU32>);

impl Owners {
    fn take(&self, extent: Extent, thread: u32) {
        for block in extent.start..extent.start + extent.len {
            let before = self.0[block as usize].swap(thread, Ordering::AcqRel);
            assert_eq!(before, 0, "block {block} belongs to {before} and {thread}");
        }
    }

    fn give(&self, extent: Extent, thread: u32) {
        for block in extent.start..extent.start + extent.len {
            let before = self.0[block as usize].swap(0, Ordering::AcqRel);
            assert_eq!(before, thread, "block {block} was {before}'s, not {thread}'s");
        }
    }
}

fn request(rng: &mut Pcg64Mcg, blocks: u64) -> Request {
    let longest = 1u64 << rng.random_range(0..11);
    let len = rng.random_range(1..=longest).min(blocks);
    match rng.random_range(0..5) {
        0 => Request::new(len).scattered(),
        1 => Request::new(len).scattered().partial().min_extent(1 + len / 8),
        2 => Request::new(len).near(rng.random_range(0..blocks)),
        3 => Request::new(len).align(1 << rng.random_range(0..6)),
        _ => Request::new(len),
    }
}

/// Takes many small extents at once; gives back as many of those held, in one call too.
fn batch(
    handle: &mut Handle,
    owners: &Owners,
    thread: u32,
    rng: &mut Pcg64Mcg,
    held: &mut Vec<Extent>,
) -> i64 {
    let mut extents = vec![Extent::new(0, 0); rng.random_range(1..40)];
    let len = 1 << rng.random_range(0..4);
    let mut more = 0;
    match handle.allocate_many(len, &mut extents) {
        Ok(()) => {
            extents.iter().for_each(|&extent| owners.take(extent, thread));
            more += len as i64 * extents.len() as i64;
        }
        Err(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. }) => extents.clear(),
        Err(error) => panic!("{error}"),
    }
    let mut given: Vec<Extent> = (0..extents.len().max(1).min(held.len()))
        .map(|_| held.swap_remove(rng.random_range(0..held.len())))
        .collect();
    given.iter().for_each(|&extent| owners.give(extent, thread));
    more -= given.iter().map(|extent| extent.len as i64).sum::<i64>();
    handle.free_many(&mut given).unwrap();
    held.extend(extents);
    more
}

fn work(allocator: &Allocator, owners: &Owners, thread: u32, limit: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(u64::from(thread));
    let mut handle = allocator.handle();
    let mut held: Vec<Extent> = Vec::new();
    let mut held_blocks: u64 = 0;
    for step in 0..STEPS {
        if held_blocks < limit && step % 8 == 7 {
            let more = batch(&mut handle, owners, thread, &mut rng, &mut held);
            held_blocks = held_blocks.checked_add_signed(more).expect("what it holds");
        } else if held_blocks < limit && rng.random_bool(0.6) {
            let request = request(&mut rng, allocator.blocks());
            // Every other allocation goes the way without a handle.
            let result = match step % 2 {
                0 => handle.allocate_with(&request),
                _ => allocator.allocate_with(&request),
            };
            match result {
                Ok(extents) => {
                    for extent in extents {
                        owners.take(extent, thread);
                        held_blocks += extent.len;
                        held.push(extent);
                    }
                }
                Err(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        } else if !held.is_empty() {
            let pick = rng.random_range(0..held.len());
            let whole = held.swap_remove(pick);
            let len = rng.random_range(1..=whole.len);
            let (part, rest) =
                (Extent::new(whole.start, len), Extent::new(whole.start + len, whole.len - len));
            if rest.len > 0 {
                held.push(rest);
            }
            owners.give(part, thread);
            handle.free(part).unwrap();
            held_blocks -= part.len;
        }
    }
    for extent in held {
        owners.give(extent, thread);
        allocator.free(extent).unwrap();
    }
}

fn stress(blocks: u64, limit: u64) {
    let allocator = Allocator::builder(blocks).shards(4).build().unwrap();
    let owners = Owners((0..blocks).map(|_| AtomicU32::new(0)).collect());
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            let (allocator, owners) = (&allocator, &owners);
            scope.spawn(move || work(allocator, owners, thread, limit));
        }
    });
    let found = allocator.verify();
    assert!(found.is_clean(), "{:?}", found.differences);
    assert_eq!((found.free_blocks, allocator.free_blocks()), (blocks, blocks));
    assert_eq!(allocator.free_extents().collect::<Vec<_>>(), [Extent::new(0, blocks)]);
    assert_eq!(allocator.allocate(blocks), Ok(Extent::new(0, blocks)));
}

#[test]
fn no_block_is_owned_twice_in_a_crowd() {
    stress(3001, 1000);
}

#[test]
fn no_block_is_owned_twice_across_nodes() {
    stress(150_001, 15_000);
}

#[test]
fn of_many_frees_of_one_extent_one_wins() {
    for len in [1, 64, 65, 3000] {
        let allocator = Allocator::new(4096).unwrap();
        for _ in 0..200 {
            let extent = allocator.allocate(len).unwrap();
            let won: usize = std::thread::scope(|scope| {
                let frees: Vec<_> = (0..4)
                    .map(|_| {
                        scope.spawn(|| match allocator.free(extent) {
                            Ok(()) => 1,
                            Err(FreeError::DoubleFree { block }) => {
                                assert!(extent.contains(block));
                                0
                            }
                            Err(error) => panic!("{error}"),
                        })
                    })
                    .collect();
                frees.into_iter().map(|free| free.join().unwrap()).sum()
            });
            assert_eq!(won, 1);
            assert_eq!(allocator.free_blocks(), 4096);
        }
        assert!(allocator.verify().is_clean());
    }
}

#[test]
fn leaked_and_dropped_handles_lose_nothing() {
    let allocator = Allocator::new(100_000).unwrap();
    for round in 0..200 {
        let mut handle = allocator.handle();
        let extent = handle.allocate(7).unwrap();
        if round % 2 == 0 {
            std::mem::forget(handle);
        }
        allocator.free(extent).unwrap();
    }
    assert_eq!(allocator.free_blocks(), 100_000);
    assert!(allocator.verify().is_clean());
}
