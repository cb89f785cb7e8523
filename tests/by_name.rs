//! Blocks that are had by name: all that no caller owns, wherever they are kept, and nothing else.

use std::time::Instant;

use freemap::{
    Allocator, Authority, Class, CreateOptions, Delta, DiscardLimits, Discarder, Extent, MarkError,
    OpenOptions, Placement, ReadGuard, Request, Reservation, SpaceMapLog,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Block {
    Owned,
    /// Freed by a transaction while the guard was there.
    Guarded,
    Unowned,
}

/// What is known of each block, and what keeps blocks.
struct World {
    allocator: Allocator,
    blocks: Vec<Block>,
    held: Vec<Extent>,
    promises: Vec<Reservation>,
    guard: Option<ReadGuard<'static>>,
    discarder: Option<Discarder>,
}

impl World {
    fn new(blocks: u64, reserve: u64) -> Self {
        let placement = Placement::new().reserve(reserve);
        let builder = Allocator::builder(blocks).placement(Class::METADATA, placement);
        let allocator = builder.build().expect("memory");
        let (held, promises) = (Vec::new(), Vec::new());
        let blocks = vec![Block::Unowned; blocks as usize];
        Self { allocator, blocks, held, promises, guard: None, discarder: None }
    }

    fn of(&mut self, extent: Extent) -> &mut [Block] {
        &mut self.blocks[extent.start as usize..(extent.start + extent.len) as usize]
    }

    fn took(&mut self, extent: Extent) {
        assert!(self.of(extent).iter().all(|&block| block == Block::Unowned), "{extent}");
        self.of(extent).fill(Block::Owned);
        self.held.push(extent);
    }

    fn step(&mut self, random: &mut Pcg64) {
        match random.random_range(0..12) {
            0..=2 => {
                let request = Request::new(random.random_range(1..40)).scattered();
                let extents = self.allocator.allocate_with(&request).unwrap_or_default();
                extents.iter().for_each(|&extent| self.took(extent));
            }
            3 | 4 if !self.held.is_empty() => {
                let extent = self.held.swap_remove(random.random_range(0..self.held.len()));
                self.allocator.free(extent).expect("ours");
                self.of(extent).fill(Block::Unowned);
            }
            5 | 6 if !self.held.is_empty() => {
                let extent = self.held.swap_remove(random.random_range(0..self.held.len()));
                let mut transaction = self.allocator.begin();
                transaction.free(extent).expect("ours");
                transaction.freeze().committed();
                let guarded = self.guard.is_some();
                self.of(extent).fill(if guarded { Block::Guarded } else { Block::Unowned });
            }
            7 => self.promises.extend(self.allocator.reserve(random.random_range(1..100))),
            8 if !self.promises.is_empty() => {
                let mut promise =
                    self.promises.swap_remove(random.random_range(0..self.promises.len()));
                let request = Request::new(promise.blocks().div_ceil(2)).scattered();
                let extents = promise.allocate(&request).expect("it was promised");
                extents.iter().for_each(|&extent| self.took(extent));
            }
            9 if self.guard.is_none() => self.guard = Some(self.allocator.pin_owned()),
            9 => {
                self.guard = None;
                let guarded = |block: &&mut Block| **block == Block::Guarded;
                self.blocks.iter_mut().filter(guarded).for_each(|block| *block = Block::Unowned);
            }
            10 if self.discarder.is_none() => {
                self.discarder = self.allocator.discarder(DiscardLimits::new());
            }
            10 => self.discarder = None,
            _ => {
                if let Some(discarder) = &mut self.discarder {
                    drop(discarder.next(Instant::now()));
                }
            }
        }
    }

    /// Names `extent`, which must be had if and only if all of it is unowned, and enough is left
    /// for the promises.
    fn name(&mut self, extent: Extent) {
        let first = self.of(extent).iter().position(|&block| block != Block::Unowned);
        let unowned = self.blocks.iter().filter(|&&block| block == Block::Unowned).count() as u64;
        let promised: u64 = self.promises.iter().map(Reservation::blocks).sum();
        match self.allocator.mark_allocated(extent) {
            Ok(()) => {
                assert_eq!(first, None, "{extent}");
                assert!(unowned - extent.len >= promised);
                self.took(extent);
            }
            Err(MarkError::AlreadyAllocated { block }) => {
                let mut first = |what| self.of(extent).iter().position(|&block| block == what);
                let first = [first(Block::Owned), first(Block::Guarded)];
                assert!(first.contains(&Some((block - extent.start) as usize)), "{extent}");
            }
            Err(MarkError::Promised { block }) => {
                assert!(extent.contains(block) && first.is_none(), "{extent}");
                assert!(unowned - extent.len < promised, "{unowned} {promised} {extent}");
            }
            Err(error) => panic!("{error}"),
        }
        let found = self.allocator.verify();
        assert!(found.is_clean(), "{:?}", found.differences);
    }
}

#[test]
fn what_no_caller_owns_can_be_had_by_name_and_nothing_else() {
    let mut random = Pcg64::seed_from_u64(19);
    for round in 0..400 {
        let blocks = random.random_range(100..900);
        let mut world = World::new(blocks, [0, 50][round % 2]);
        for _ in 0..60 {
            world.step(&mut random);
            let start = random.random_range(0..blocks);
            let len = [1, 1 + random.random_range(0..20), 1 + random.random_range(0..blocks)];
            let len = len[random.random_range(0..3)].min(blocks - start);
            world.name(Extent::new(start, len));
            if let Some(extent) = world.held.last().copied().filter(|_| random.random_bool(0.5)) {
                world.held.pop();
                world.allocator.free(extent).expect("ours");
                world.of(extent).fill(Block::Unowned);
            }
        }
        world.promises.clear();
        world.discarder = None;
        world.guard = None;
        world.allocator.collect();
        world.allocator.free_many(&mut world.held).expect("ours");
        let reserved = world.allocator.stats().reserved_blocks;
        assert_eq!(world.allocator.free_blocks() + reserved, blocks, "round {round}");
    }
}

/// A promise or a reserve is a number of blocks and no place.
#[test]
fn a_reserve_never_stands_in_the_way_of_a_replay() {
    let placement = Placement::new().reserve(100);
    let allocator = Allocator::builder(4096).placement(Class::METADATA, placement).build().unwrap();
    for at in 0..64 {
        allocator.mark_allocated(Extent::new(at * 64, 60)).unwrap();
    }
    assert_eq!((allocator.free_blocks(), allocator.stats().reserved_blocks), (156, 100));
    // Down to less than the reserve: it gets what is freed next.
    for at in 0..64 {
        allocator.mark_allocated(Extent::new(at * 64 + 60, 4)).unwrap();
    }
    assert_eq!((allocator.free_blocks(), allocator.stats().reserved_blocks), (0, 0));
    allocator.free(Extent::new(0, 200)).unwrap();
    assert_eq!((allocator.free_blocks(), allocator.stats().reserved_blocks), (100, 100));
}

/// An engine that keeps a reserve for metadata replays its log at the start.
#[test]
fn an_engine_with_a_reserve_replays_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let disk = || freemap::FileDisk::open(folder.path().join("log")).unwrap();
    let options = CreateOptions::new().authority(Authority::Piggyback).limit(64 << 10);
    drop(SpaceMapLog::create(disk(), 4096, &options).unwrap());
    let reserve = Placement::new().reserve(100);
    let options = OpenOptions::new().placement(Class::METADATA, reserve);
    let opened = SpaceMapLog::open(disk(), &options).unwrap();
    let whole: Vec<Extent> = (0..64).map(|at| Extent::new(at * 64, 60)).collect();
    let delta = {
        let allocator = Allocator::new(4096).unwrap();
        let mut transaction = allocator.begin();
        whole.iter().for_each(|&extent| transaction.mark_allocated(extent).unwrap());
        let mut bytes = Vec::new();
        transaction.freeze().delta().encode(&mut bytes);
        Delta::decode(&bytes).unwrap()
    };
    opened.replay(&delta, 0..1).unwrap();
    assert_eq!(opened.allocator.free_blocks(), 4096 - 3840 - 100);
    assert!(opened.check(whole).is_clean());
}
