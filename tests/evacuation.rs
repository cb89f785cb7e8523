//! Plans for emptying regions, against a planner that counts blocks one by one, and by doing what they say.

use std::sync::atomic::{AtomicBool, Ordering};

use freemap::{Allocator, DiscardLimits, Evacuation, EvacuationRequest, Extent, Region, Request};
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

const LEAF: u64 = 512;

/// What is known of a region: extent; cost, extents, blocks; the run.
type Window = (Extent, [u64; 3], Extent);

fn window(found: &Evacuation) -> Window {
    let costs = [found.cost, found.extents_to_move, found.blocks_to_move];
    (found.extent, costs, found.run)
}

/// First what is preferred.
fn preference(window: &Window) -> (u64, u64, u64) {
    (window.1[0], window.1[1], window.0.start)
}

/// A device, block by block.
struct Naive<'a> {
    live: &'a [bool],
    /// Leaf by leaf.
    closed: &'a [bool],
    run_blocks: u64,
    extent_cost: u64,
}

impl Naive<'_> {
    fn end(&self, leaf: u64) -> u64 {
        ((leaf + 1) * LEAF).min(self.live.len() as u64)
    }

    fn used(&self, from: u64, to: u64) -> u64 {
        self.live[from as usize..to as usize].iter().filter(|&&live| live).count() as u64
    }

    fn is_free(&self, block: u64) -> bool {
        !self.live[block as usize] && !self.closed[(block / LEAF) as usize]
    }

    /// How many runs are there already, and all windows that could be emptied.
    fn windows(&self) -> (u64, Vec<Window>) {
        let (count, width) = (self.closed.len() as u64, self.run_blocks.div_ceil(LEAF));
        let short =
            |leaf: u64| (width - 1) * LEAF + (self.end(leaf) - leaf * LEAF) < self.run_blocks;
        let mut barred: Vec<bool> =
            (0..count).map(|leaf| self.closed[leaf as usize] || short(leaf)).collect();
        let (mut ready, mut unused) = (0, 0);
        for leaf in 0..count {
            let free = !barred[leaf as usize] && self.used(leaf * LEAF, self.end(leaf)) == 0;
            unused = if free { unused + 1 } else { 0 };
            if unused == width {
                barred[(leaf + 1 - width) as usize..=leaf as usize].fill(true);
                (ready, unused) = (ready + 1, 0);
            }
        }
        let firsts = (0..(count + 1).saturating_sub(width))
            .filter(|&first| !barred[first as usize..(first + width) as usize].contains(&true));
        (ready, firsts.map(|first| self.window(first, width)).collect())
    }

    fn window(&self, first: u64, width: u64) -> Window {
        let (from, to) = (first * LEAF, self.end(first + width - 1));
        let begins = |&block: &u64| {
            self.live[block as usize] && (block == from || !self.live[block as usize - 1])
        };
        let (blocks, extents) = (self.used(from, to), (from..to).filter(begins).count() as u64);
        let (mut start, mut behind) = (from, to);
        while start > 0 && from - start < width * LEAF && self.is_free(start - 1) {
            start -= 1;
        }
        let device = self.live.len() as u64;
        while behind < device && behind - to < width * LEAF && self.is_free(behind) {
            behind += 1;
        }
        let cost = blocks + self.extent_cost * extents;
        (Extent::new(from, to - from), [cost, extents, blocks], Extent::new(start, behind - start))
    }
}

/// Blocks in use by `lens`, used and free in turn.
fn striped(blocks: u64, lens: &[u64]) -> Vec<bool> {
    let stripes = lens.iter().cycle().enumerate();
    let live = stripes.flat_map(|(n, &len)| (0..len).map(move |_| n % 2 == 0));
    live.take(blocks as usize).collect()
}

fn allocator(live: &[bool]) -> Allocator {
    let word = |bits: &[bool]| bits.iter().rev().fold(0, |word, &bit| word << 1 | u64::from(bit));
    let words: Vec<u64> = live.chunks(64).map(word).collect();
    Allocator::from_bitmap(live.len() as u64, &words).expect("a device")
}

fn run_len() -> impl Strategy<Value = u64> {
    prop_oneof![
        3 => 1..70u64,
        3 => 1..700u64,
        2 => 1..5000u64,
        1 => prop::sample::select(vec![64, LEAF - 1, LEAF, LEAF + 1, 2 * LEAF, 3 * LEAF]),
    ]
}

/// Moves everything out of a region, but for the moving.
fn empty(allocator: &Allocator, region: &Region) {
    let live: Vec<Extent> = region.live_extents().collect();
    live.into_iter().for_each(|extent| allocator.free(extent).expect("in use"));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn a_plan_is_what_counting_comes_to(
        blocks in 1..40 * LEAF,
        lens in prop::collection::vec(run_len(), 2..20),
        closed in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        run_blocks in prop_oneof![1..7 * LEAF, (1..7u64).prop_map(|leaves| leaves * LEAF)],
        extent_cost in prop_oneof![Just(0u64), 1..100u64],
        most in 1..6usize,
        step in prop_oneof![Just(0u64), 1..5000u64, Just(u64::MAX)],
    ) {
        let live = striped(blocks, &lens);
        let allocator = allocator(&live);
        let mut marks = vec![false; blocks.div_ceil(LEAF) as usize];
        let mut regions = Vec::new();
        for index in closed {
            let leaf = index.index(marks.len());
            if !std::mem::replace(&mut marks[leaf], true) {
                regions.push(allocator.close(Extent::new(leaf as u64 * LEAF, 1)).unwrap());
            }
        }
        let naive = Naive { live: &live, closed: &marks, run_blocks, extent_cost };
        let (ready, windows) = naive.windows();

        let request = EvacuationRequest::new(run_blocks).extent_cost(extent_cost);
        let mut planner = allocator.plan_evacuation(&request.candidates(usize::MAX));
        let mut position = 0;
        while planner.step(step) {
            prop_assert!(planner.position() > position);
            position = planner.position();
        }
        let plan = planner.finish();
        let found: Vec<Window> = plan.candidates.iter().map(window).collect();
        prop_assert_eq!(plan.ready, ready);
        prop_assert!(found.is_sorted_by_key(preference));
        for (n, one) in found.iter().enumerate() {
            prop_assert!(windows.contains(one), "{:?}", one);
            prop_assert!(found[..n].iter().all(|other| !other.0.overlaps(&one.0)));
            prop_assert!(one.0.len >= run_blocks && one.1[2] > 0);
        }
        prop_assert_eq!(found.first(), windows.iter().min_by_key(|one| preference(one)));
        // Every one that is cheaper than all that overlap it.
        for one in &windows {
            let cheaper = |other: &&Window| preference(other) < preference(one);
            if !windows.iter().filter(cheaper).any(|other| other.0.overlaps(&one.0)) {
                prop_assert!(found.contains(one), "{:?} is missing", one);
            }
        }
        let few = allocator.plan_evacuation(&request.candidates(most)).finish();
        prop_assert_eq!(&few.candidates[..], &plan.candidates[..most.min(found.len())]);
        prop_assert!(allocator.plan_evacuation(&request.candidates(0)).finish().candidates.is_empty());
    }

    #[test]
    fn an_emptied_region_is_the_run_that_was_promised(
        blocks in LEAF..40 * LEAF,
        lens in prop::collection::vec(run_len(), 2..20),
        run_blocks in 1..5 * LEAF,
    ) {
        let allocator = allocator(&striped(blocks, &lens));
        let request = EvacuationRequest::new(run_blocks);
        let plan = allocator.plan_evacuation(&request).finish();
        let emptied = plan.candidates.len() as u64;
        for candidate in plan.candidates {
            let region = allocator.close(candidate.extent).unwrap();
            prop_assert_eq!(region.extent(), candidate.extent);
            prop_assert_eq!(region.live_blocks(), candidate.blocks_to_move);
            prop_assert_eq!(region.live_extents().count() as u64, candidate.extents_to_move);
            empty(&allocator, &region);
            prop_assert_eq!(allocator.free(region.take().expect("it is empty")), Ok(()));
            prop_assert_eq!(allocator.is_free(candidate.run), Ok(true));
        }
        let again = allocator.plan_evacuation(&request).finish();
        prop_assert!(again.ready >= plan.ready + emptied);
    }
}

#[test]
fn runs_that_are_there_are_no_candidates() {
    let allocator = Allocator::builder(100 * LEAF).build_allocated().unwrap();
    allocator.free(Extent::new(10 * LEAF, 7 * LEAF)).unwrap();
    let plan = |run| allocator.plan_evacuation(&EvacuationRequest::new(run)).finish();
    let three = plan(3 * LEAF);
    assert_eq!((three.ready, three.candidates[0].blocks_to_move), (2, 2 * LEAF));
    // The seventh leaf of the run is not needed by the other two.
    assert_eq!(three.candidates[0].extent, Extent::new(16 * LEAF, 3 * LEAF));
    assert_eq!(three.candidates[0].run, Extent::new(13 * LEAF, 6 * LEAF));
    assert_eq!(plan(1).ready, 7);
    assert_eq!(plan(100 * LEAF).candidates[0].blocks_to_move, 93 * LEAF);
    assert_eq!(plan(100 * LEAF + 1), Default::default());
    assert_eq!(plan(0), plan(1));
    assert_eq!(plan(u64::MAX), Default::default());
}

#[test]
fn blocks_that_nobody_owns_cost_nothing() {
    let allocator = Allocator::new(8 * LEAF).unwrap();
    let all = allocator.allocate(8 * LEAF).unwrap();
    let promised = {
        allocator.free(Extent::new(LEAF, LEAF)).unwrap();
        allocator.reserve(LEAF).unwrap()
    };
    let mut discarder = allocator.discarder(DiscardLimits::new()).unwrap();
    allocator.free(Extent::new(2 * LEAF, 200)).unwrap();
    assert_eq!((discarder.waiting_blocks(), promised.blocks()), (200, LEAF));
    assert_eq!(allocator.free_blocks(), 0);
    let request = EvacuationRequest::new(2 * LEAF);
    let plan = allocator.plan_evacuation(&request).finish();
    let first = plan.candidates[0];
    assert_eq!(first.extent, Extent::new(LEAF, 2 * LEAF));
    assert_eq!((first.blocks_to_move, first.extents_to_move), (LEAF - 200, 1));
    assert_eq!(first.run, first.extent);

    // The promise is kept elsewhere.
    allocator.free(Extent::new(6 * LEAF, 2 * LEAF)).unwrap();
    let region = allocator.close(first.extent).unwrap();
    assert!(!region.is_empty());
    empty(&allocator, &region);
    assert!(region.is_empty());
    drop(region);
    while let freemap::Discarding::Batch(_) = discarder.next(std::time::Instant::now()) {}
    drop((discarder, promised));
    assert_eq!(allocator.free_blocks(), all.len - 4 * LEAF);
    assert!(allocator.verify().is_clean());
}

#[test]
fn planners_go_along_with_traffic_and_other_lengths() {
    let allocator = Allocator::new(64 * LEAF).unwrap();
    let stop = AtomicBool::new(false);
    /// Ends the threads, also if this one panics.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _stop = Stop(&stop);
        for seed in 0..2 {
            let (allocator, stop) = (&allocator, &stop);
            scope.spawn(move || {
                let mut rng = Pcg64Mcg::seed_from_u64(seed);
                let mut own = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    if own.len() < 300
                        && let Ok(extents) = allocator
                            .allocate_with(&Request::new(rng.random_range(1..60)).scattered())
                    {
                        own.extend(extents.iter().copied());
                    } else if !own.is_empty() {
                        let last = own.swap_remove(rng.random_range(0..own.len()));
                        allocator.free(last).unwrap();
                    }
                }
                own.into_iter().for_each(|extent| allocator.free(extent).unwrap());
            });
        }
        for round in 0..300u64 {
            let request = EvacuationRequest::new(1 + round * 7 % (5 * LEAF));
            let mut planner = allocator.plan_evacuation(&request);
            planner.step(20 * LEAF);
            match round % 3 {
                0 => allocator.grow(allocator.blocks() + 4 * LEAF + 7).unwrap(),
                1 => {
                    let shrink = allocator.shrink(allocator.blocks() - 4 * LEAF);
                    drop(shrink.unwrap().finish());
                }
                _ => {}
            }
            let device = Extent::new(0, allocator.blocks());
            for found in planner.finish().candidates {
                for extent in [found.extent, found.run] {
                    assert!(device.contains(extent.start + extent.len - 1), "{found:?}");
                }
                assert!(found.blocks_to_move > 0 && found.extents_to_move > 0);
                drop(allocator.close(found.extent).unwrap());
            }
        }
    });
    assert_eq!(allocator.free_blocks(), allocator.blocks());
    assert!(allocator.verify().is_clean());
}
