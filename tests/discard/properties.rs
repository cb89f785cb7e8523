//! Whatever callers, discarder and device do, in any order, with any limits.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use freemap::{Allocator, Batch, Discarder, Discarding, Extent, FreeError, Request};
use proptest::prelude::*;

use super::wish::{Wish, wishes};

#[derive(Clone, Copy, Debug)]
enum Step {
    Allocate {
        len: u64,
        pieces: bool,
    },
    Free {
        pick: usize,
    },
    /// Frees a part of an extent, the rest of which stays.
    FreePart {
        pick: usize,
        from: u64,
        len: u64,
    },
    /// Frees a block that may have no owner.
    FreeWild {
        block: u64,
    },
    Next,
    /// Waits as the discarder said.
    Follow,
    Pass {
        milliseconds: u64,
    },
    Complete {
        pick: usize,
    },
    Stop,
    Start {
        wish: Wish,
    },
}

fn steps() -> impl Strategy<Value = Step> {
    let pick = any::<usize>;
    prop_oneof![
        5 => (1..300u64, any::<bool>()).prop_map(|(len, pieces)| Step::Allocate { len, pieces }),
        4 => pick().prop_map(|pick| Step::Free { pick }),
        4 => (pick(), 0..100u64, 1..50u64)
            .prop_map(|(pick, from, len)| Step::FreePart { pick, from, len }),
        2 => (0..3000u64).prop_map(|block| Step::FreeWild { block }),
        6 => Just(Step::Next),
        1 => Just(Step::Follow),
        1 => (0..5000u64).prop_map(|milliseconds| Step::Pass { milliseconds }),
        3 => pick().prop_map(|pick| Step::Complete { pick }),
        1 => Just(Step::Stop),
        2 => wishes().prop_map(|wish| Step::Start { wish }),
    ]
}

/// Where a block is, as far as callers and the device can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Owned,
    /// Free, or waiting.
    Freed,
    /// Being discarded: what is written here is lost.
    WithDevice,
}

/// A discarder that runs, and what it has told the device.
struct Running {
    discarder: Discarder,
    wish: Wish,
    started: Instant,
    told: u64,
}

struct World {
    allocator: Allocator,
    places: Vec<Place>,
    owned: Vec<Extent>,
    running: Option<Running>,
    batches: Vec<Batch>,
    now: Instant,
    pause: Duration,
    /// Blocks that waited, all together.
    waited: u64,
}

fn blocks(extent: Extent) -> std::ops::Range<usize> {
    extent.start as usize..extent.end().expect("an end") as usize
}

impl World {
    fn new(blocks: u64) -> Self {
        Self {
            allocator: Allocator::new(blocks).expect("memory"),
            places: vec![Place::Freed; blocks as usize],
            owned: Vec::new(),
            running: None,
            batches: Vec::new(),
            now: Instant::now(),
            pause: Duration::ZERO,
            waited: 0,
        }
    }

    fn becomes(&mut self, extent: Extent, from: Place, to: Place) {
        for place in &mut self.places[blocks(extent)] {
            assert_eq!(*place, from, "a block of {extent} was to become {to:?}");
            *place = to;
        }
    }

    fn free(&mut self, extent: Extent) {
        self.becomes(extent, Place::Owned, Place::Freed);
        let before = self.allocator.stats().discard_waiting_blocks;
        self.allocator.free(extent).expect("it is ours");
        self.waited += self.allocator.stats().discard_waiting_blocks - before;
    }

    /// A block without an owner cannot be freed, wherever it is.
    fn free_wild(&self, block: u64) {
        let place = self.places.get(block as usize);
        if place.is_some_and(|place| *place != Place::Owned) {
            let freed = self.allocator.free(Extent::new(block, 1));
            assert_eq!(freed, Err(FreeError::DoubleFree { block }), "{place:?}");
        }
    }

    fn take(&mut self, pick: usize) -> Option<Extent> {
        let count = self.owned.len();
        (count > 0).then(|| self.owned.swap_remove(pick % count))
    }

    fn run(&mut self, step: &Step) {
        match *step {
            Step::Allocate { len, pieces } => {
                let request = Request::new(len);
                let request = if pieces { request.scattered() } else { request };
                for extent in self.allocator.allocate_with(&request).unwrap_or_default() {
                    self.becomes(extent, Place::Freed, Place::Owned);
                    self.owned.push(extent);
                }
            }
            Step::Free { pick } => {
                self.take(pick).into_iter().for_each(|extent| self.free(extent));
            }
            Step::FreePart { pick, from, len } => {
                if let Some(Extent { start, len: all }) = self.take(pick) {
                    let from = from % all;
                    let to = all.min(from + len);
                    self.free(Extent::new(start + from, to - from));
                    let rest = [Extent::new(start, from), Extent::new(start + to, all - to)];
                    self.owned.extend(rest.into_iter().filter(|extent| extent.len > 0));
                }
            }
            Step::FreeWild { block } => self.free_wild(block),
            Step::Next => self.next(),
            Step::Follow => self.now += self.pause,
            Step::Pass { milliseconds } => self.now += Duration::from_millis(milliseconds),
            Step::Complete { pick } => self.complete(pick),
            Step::Stop => self.running = None,
            Step::Start { wish } => {
                let discarder = self.allocator.discarder(wish.limits());
                assert_eq!(discarder.is_none(), self.running.is_some(), "one at a time");
                let started = self.now;
                let running =
                    discarder.map(|discarder| Running { discarder, wish, started, told: 0 });
                self.running = self.running.take().or(running);
            }
        }
    }

    fn next(&mut self) {
        let Some(running) = &mut self.running else { return };
        match running.discarder.next(self.now) {
            Discarding::Batch(batch) => {
                running.told += batch.blocks();
                self.begin(batch);
            }
            Discarding::Later(pause) => self.pause = pause.min(Duration::from_secs(1 << 32)),
            Discarding::Nothing => {}
        }
    }

    /// The device is told of `batch`.
    fn begin(&mut self, batch: Batch) {
        let Some(Running { wish, started, told, .. }) = &self.running else { return };
        let (wish, count) = (*wish, batch.extents().len());
        for extent in batch.extents() {
            let end = extent.end().expect("an end");
            assert!(wish.is_border(extent.start) && wish.is_border(end), "{extent} {wish:?}");
            assert!(extent.len >= wish.least(), "{extent} {wish:?}");
        }
        assert!(batch.blocks() <= wish.most() && (1..=wish.batch.1.max(1)).contains(&count));
        let seconds = (self.now - *started).as_nanos();
        let earned = u128::from(wish.per_second).saturating_mul(seconds) / 1_000_000_000;
        let allowed = u128::from(wish.most()) + earned;
        assert!(wish.per_second == u64::MAX || u128::from(*told) <= allowed, "{told} {wish:?}");
        for &extent in batch.extents() {
            self.becomes(extent, Place::Freed, Place::WithDevice);
        }
        self.batches.push(batch);
        let (free, discarding) = (self.allocator.free_blocks(), self.with_device());
        assert!(discarding <= (free + discarding) / 4, "{discarding} beside {free}");
    }

    fn with_device(&self) -> u64 {
        self.batches.iter().map(Batch::blocks).sum()
    }

    fn complete(&mut self, pick: usize) {
        if !self.batches.is_empty() {
            let batch = self.batches.swap_remove(pick % self.batches.len());
            for &extent in batch.extents() {
                self.becomes(extent, Place::WithDevice, Place::Freed);
            }
        }
    }

    fn check(&self) {
        let stats = self.allocator.stats();
        let (waiting, discarding) = (stats.discard_waiting_blocks, stats.discarding_blocks);
        assert_eq!(discarding, self.with_device());
        let owned: u64 = self.owned.iter().map(|extent| extent.len).sum();
        assert_eq!(stats.free_blocks + waiting + discarding + owned, stats.blocks);
        let counters = stats.counters;
        let left = counters.discarded_blocks + counters.skipped_discard_blocks;
        assert_eq!(left + waiting, self.waited, "each block that waited leaves once");
        let found = self.allocator.verify();
        assert!(found.is_clean(), "{:?}", found.differences);
        let bitmap = self.allocator.to_bitmap().expect("memory");
        for (block, place) in self.places.iter().enumerate() {
            let in_use = bitmap[block / 64] >> (block % 64) & 1 == 1;
            assert_eq!(in_use, *place == Place::Owned, "block {block} is {place:?}");
        }
    }

    fn end(mut self) {
        self.running = None;
        self.check();
        let free = self.allocator.free_blocks();
        assert_eq!(self.allocator.allocate_with(&Request::new(free + 1).scattered()).ok(), None);
        while !self.batches.is_empty() {
            self.complete(0);
        }
        while let Some(extent) = self.take(0) {
            self.free(extent);
        }
        self.check();
        assert_eq!(self.allocator.free_blocks(), self.allocator.blocks());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    #[test]
    fn nothing_is_discarded_that_a_caller_owns_and_nothing_is_lost(
        blocks in 200..3000u64,
        script in prop::collection::vec(steps(), 1..150),
    ) {
        let mut world = World::new(blocks);
        for step in &script {
            world.run(step);
            world.check();
        }
        world.end();
    }

    /// Everything that can be discarded is, once, and the rest leaves the queue, however it was freed and whatever
    /// cuts the batches.
    #[test]
    fn the_device_is_told_of_every_whole_unit_once(
        wish in wishes(),
        cuts in prop::collection::btree_set(1..3000u64, 1..60),
        order in any::<u64>(),
        under_way in 1..5usize,
    ) {
        let batch = (wish.batch.0.max(2 * wish.least()), wish.batch.1);
        let linger = wish.linger.min(Duration::from_secs(60));
        let wish = Wish { batch, linger, waiting: 10_000, ..wish };
        let allocator = Allocator::builder(20_000).build_allocated().expect("memory");
        allocator.free(Extent::new(5000, 15_000)).expect("it is in use");
        let mut discarder = allocator.discarder(wish.limits()).expect("the first");
        // Every other extent between two cuts, and often its neighbour.
        let cuts: Vec<u64> = cuts.into_iter().collect();
        let mut freed: Vec<Extent> = cuts
            .windows(2)
            .enumerate()
            .filter(|(nth, _)| nth % 2 == 0 || order >> (nth % 64) & 1 == 1)
            .map(|(_, two)| Extent::new(two[0], two[1] - two[0]))
            .collect();
        let runs = joined(&freed);
        freed.sort_by_key(|extent| extent.start.wrapping_mul(order | 1));
        freed.iter().for_each(|&extent| allocator.free(extent).expect("it is in use"));
        let (mut told, mut now, mut calls) = (BTreeSet::new(), Instant::now(), 0);
        let mut batches = Vec::new();
        loop {
            match discarder.next(now) {
                Discarding::Batch(batch) => {
                    for block in batch.extents().iter().flat_map(|&extent| blocks(extent)) {
                        assert!(told.insert(block), "{block} is discarded twice");
                    }
                    batches.push(batch);
                }
                Discarding::Later(pause) => now += pause,
                Discarding::Nothing => break,
            }
            if batches.len() >= under_way {
                drop(batches.remove(0));
            }
            calls += 1;
            assert!(calls < 10_000);
        }
        let expected = runs.into_iter().filter_map(|run| wish.inside(run)).flat_map(blocks);
        assert_eq!(told, expected.collect::<BTreeSet<_>>());
        assert_eq!(discarder.waiting_blocks(), 0);
        drop(batches);
        let all: u64 = freed.iter().map(|extent| extent.len).sum();
        assert_eq!(allocator.free_blocks(), 15_000 + all);
        let skipped = allocator.stats().counters.skipped_discard_blocks;
        assert_eq!(skipped, all - told.len() as u64);
        assert!(allocator.verify().is_clean());
    }
}

/// Ascending extents, joined where they meet.
fn joined(extents: &[Extent]) -> Vec<Extent> {
    let mut runs: Vec<Extent> = Vec::new();
    for &extent in extents {
        match runs.last_mut().filter(|last| last.end() == Some(extent.start)) {
            Some(last) => last.len += extent.len,
            None => runs.push(extent),
        }
    }
    runs
}
