//! Where requests go: what is left of the free space depends on it.

#[path = "../benches/space/baseline.rs"]
mod baseline;
#[path = "../benches/space/trace.rs"]
mod trace;

use baseline::{FirstFit, RangeTree, Space};
use freemap::{Allocator, Extent, Handle, Request};
use trace::{Freemap, Objects};

fn mean_run_after_ageing(mut space: impl Space, blocks: u64) -> f64 {
    let mut objects = Objects::new(blocks);
    objects.fill(&mut space, 900);
    objects.overwrite(&mut space, 5, 900);
    assert_eq!(objects.failures, 0);
    assert!((80.0..=90.0).contains(&objects.fill_percent()));
    assert!(objects.split().0 < 5.0, "hardly any object is split");
    let runs = space.runs();
    runs.iter().sum::<u64>() as f64 / runs.len() as f64
}

#[test]
fn an_aged_device_has_runs_nearly_as_long_as_under_best_fit() {
    const BLOCKS: u64 = 1 << 18;
    let best_fit = mean_run_after_ageing(RangeTree::new(BLOCKS), BLOCKS);
    let first_fit = mean_run_after_ageing(FirstFit::new(BLOCKS), BLOCKS);
    let ours = mean_run_after_ageing(Freemap::new(BLOCKS), BLOCKS);
    assert!(ours > first_fit && ours > 0.8 * best_fit, "{ours} {first_fit} {best_fit}");
}

#[test]
fn a_request_takes_the_shortest_run_that_the_handle_has_freed() {
    let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
    let mut handle = allocator.handle();
    for (start, len) in [(1000, 100), (2000, 31), (3000, 30), (4000, 500), (9000, 30)] {
        handle.free(Extent::new(start, len)).unwrap();
    }
    let mut allocate = |len| handle.allocate(len).unwrap().start;
    assert_eq!([allocate(30), allocate(30), allocate(30)], [3000, 9000, 2000]);
    assert_eq!([allocate(101), allocate(90), allocate(10)], [4000, 1000, 1090]);
}

#[test]
fn a_single_block_goes_where_a_longer_request_has_left_one() {
    let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
    let mut handle = allocator.handle();
    for (start, len) in [(3000, 10), (5000, 101)] {
        handle.free(Extent::new(start, len)).unwrap();
    }
    let mut allocate = |len| handle.allocate(len).unwrap().start;
    assert_eq!([allocate(1), allocate(100), allocate(1)], [3000, 5000, 5100]);
    assert_eq!(allocate(1), 3001, "then where the last one was");
}

#[test]
fn beside_longer_requests_single_blocks_fill_the_lowest_holes_and_spare_the_runs() {
    let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
    let mut handle = allocator.handle();
    handle.free(Extent::new(3000, 10)).unwrap();
    assert_eq!(handle.allocate(2).unwrap().start, 3000);
    for hole in [9000, 5000, 7000] {
        handle.free(Extent::new(hole, 1)).unwrap();
    }
    let mut allocate = |len| handle.allocate(len).unwrap().start;
    assert_eq!([allocate(1), allocate(1), allocate(1)], [5000, 7000, 9000]);
    // A single block that makes a run longer is noticed.
    handle.free(Extent::new(3010, 1)).unwrap();
    assert_eq!(handle.allocate(9).unwrap().start, 3002);
    assert_eq!(allocator.free_blocks(), 0);
}

#[test]
fn small_requests_leave_whole_shards_alone() {
    // Of four shards the first is full, the second whole, the others have every second block, the
    // fourth more of them.
    const SHARD: u64 = 1 << 15;
    let mut bitmap = vec![0u64; (4 * SHARD / 64) as usize];
    bitmap[..(SHARD / 64) as usize].fill(u64::MAX);
    bitmap[(2 * SHARD / 64) as usize..].fill(0x5555_5555_5555_5555);
    bitmap[(2 * SHARD / 64) as usize..][..100].fill(u64::MAX);
    let allocator = Allocator::builder(4 * SHARD).shards(4).build_from_bitmap(&bitmap).unwrap();
    assert_eq!((allocator.shards(), allocator.shard_blocks()), (4, SHARD));
    let free: Vec<u64> = (0..4).filter_map(|shard| allocator.shard_free_blocks(shard)).collect();
    assert_eq!(free, [0, SHARD, SHARD / 2 - 3200, SHARD / 2]);
    assert_eq!(allocator.shard_free_blocks(4), None);

    let mut handle = allocator.handle();
    assert_eq!(handle.allocate(1).unwrap().start / SHARD, 3);
    // One that only the whole shard can meet goes there.
    assert_eq!(handle.allocate(300).unwrap().start / SHARD, 1);
    assert_eq!(allocator.shard_free_blocks(1), Some(SHARD - 300));
    assert_eq!(allocator.shard_free_blocks(3), Some(SHARD / 2 - 1));
}

#[test]
fn pieces_are_the_longest_until_the_effort_is_spent() {
    // One block in each of 100 leaves, then runs of 40.
    let allocator = Allocator::builder(1 << 17).build_allocated().unwrap();
    for leaf in 0..100 {
        allocator.mark_free(Extent::new(512 * leaf + 7, 1)).unwrap();
    }
    for leaf in 100..110 {
        allocator.mark_free(Extent::new(512 * leaf + 20, 40)).unwrap();
    }
    let request = Request::new(80).scattered().near(0);
    let (extents, effort) = allocator.allocate_reported(&request).unwrap();
    assert_eq!(extents.iter().map(|extent| extent.len).collect::<Vec<_>>(), [40, 40]);
    assert!(!effort.gave_up && effort.leaves < 10, "{effort:?}");
    for &extent in &extents {
        allocator.free(extent).unwrap();
    }

    let (extents, effort) = allocator.allocate_reported(&request.effort(0)).unwrap();
    assert_eq!(extents.len(), 80);
    assert!(effort.gave_up);
}

#[test]
fn the_last_piece_comes_of_the_shortest_run_that_is_long_enough() {
    let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
    let mut handle = allocator.handle();
    for (start, len) in [(1000, 12), (2000, 6), (3000, 11), (4000, 5), (5000, 3), (6000, 1)] {
        handle.free(Extent::new(start, len)).unwrap();
    }
    let mut pieces = |len| {
        let extents = handle.allocate_with(&Request::new(len).scattered()).unwrap();
        extents.iter().map(|extent| (extent.start, extent.len)).collect::<Vec<_>>()
    };
    assert_eq!(pieces(16), [(1000, 12), (4000, 4)]);
    assert_eq!(pieces(14), [(3000, 11), (5000, 3)]);
    assert_eq!(pieces(8), [(2000, 6), (4004, 1), (6000, 1)]);
}

#[test]
fn pieces_that_others_freed_come_before_shorter_ones_that_are_remembered() {
    let allocator = Allocator::builder(1 << 16).build_allocated().unwrap();
    let mut handle = allocator.handle();
    for start in [1000, 2000, 3000] {
        handle.free(Extent::new(start, 3)).unwrap();
    }
    allocator.mark_free(Extent::new(60_000, 8)).unwrap();
    let extents = handle.allocate_with(&Request::new(9).scattered()).unwrap();
    let lens: Vec<u64> = extents.iter().map(|extent| extent.len).collect();
    assert_eq!((extents.len(), lens.iter().max()), (2, Some(&8)));
}

#[test]
fn a_handle_that_looked_in_vain_looks_again_in_time() {
    // The summary shows runs of 2, of 4 and of 8 blocks; of each a single block is left.
    let allocator = Allocator::builder(1 << 19).build_allocated().unwrap();
    for leaf in 0..1000 {
        let len = [2, 4, 8][leaf as usize % 3];
        allocator.mark_free(Extent::new(512 * leaf + 8, len)).unwrap();
        allocator.mark_allocated(Extent::new(512 * leaf + 9, len - 1)).unwrap();
    }
    let mut handle = allocator.handle();
    let request = Request::new(8).scattered();
    let extents = |handle: &mut Handle| handle.allocate_with(&request).unwrap().len();
    assert_eq!(extents(&mut handle), 8);
    allocator.mark_free(Extent::new((1 << 19) - 100, 8)).unwrap();
    let before = (0..).take_while(|_| extents(&mut handle) == 8).count();
    assert!((1..=64).contains(&before), "as documented of `Request::effort`: {before}");
    assert!(allocator.verify().is_clean());
}

#[test]
fn what_is_longer_than_the_largest_order_is_found_whole_with_each_request() {
    // A run of 412 in each leaf, and one of 100 leaves.
    for long in [0u64, 500, 924] {
        let allocator = Allocator::builder(1 << 19).build_allocated().unwrap();
        for leaf in 0..1024 {
            allocator.mark_free(Extent::new(512 * leaf + 100, 412)).unwrap();
        }
        let rest = (long..long + 100).map(|leaf| Extent::new(512 * leaf, 100));
        rest.for_each(|extent| allocator.mark_free(extent).unwrap());
        let mut handle = allocator.handle();
        let request = Request::new(4096).scattered();
        let extents: Vec<usize> =
            (0..10).map(|_| handle.allocate_with(&request).unwrap().len()).collect();
        assert!(extents.iter().all(|&count| count <= 2), "{long} {extents:?}");
    }
}

#[test]
fn where_space_is_short_single_blocks_come_back_as_they_were_freed() {
    let allocator = Allocator::builder(1 << 20).build_allocated().unwrap();
    let mut handle = allocator.handle();
    // A search finds a neighbourhood that has little.
    for block in [7, 70_007] {
        handle.free(Extent::new(block, 1)).unwrap();
        handle.allocate(1).unwrap();
    }
    let blocks: Vec<u64> = (1..=500).map(|n| n * 1237).collect();
    blocks.iter().for_each(|&block| handle.free(Extent::new(block, 1)).unwrap());
    let again: Vec<u64> = blocks.iter().map(|_| handle.allocate(1).unwrap().start).collect();
    assert!(again.iter().eq(blocks.iter().rev()), "the last one first, all of 500");

    let mut batch: Vec<Extent> =
        (1..=64).flat_map(|n| (0..4).map(move |i| Extent::new(n * 1024 + 16 * i, 1))).collect();
    handle.free_many(&mut batch).unwrap();
    allocator.mark_free(Extent::new(1 << 19, 4096)).unwrap();
    let again = (0..256).map(|_| handle.allocate(1).unwrap().start);
    assert!(again.into_iter().all(|block| block < 1 << 19), "a batch, too");
    assert!(allocator.verify().is_clean());
}

#[test]
fn a_limit_fails_no_request_that_can_be_met() {
    let allocator = Allocator::from_bitmap(1 << 16, &[!0x1000_0000_0001_0000; 1 << 10]).unwrap();
    let all = Request::new(allocator.free_blocks()).scattered().effort(1);
    let (extents, _) = allocator.allocate_reported(&all).unwrap();
    assert_eq!((extents.len(), extents.blocks()), (2048, 2048));
    assert_eq!(allocator.free_blocks(), 0);
    for &extent in &extents {
        allocator.free(extent).unwrap();
    }
    let more = Request::new(2049).scattered().effort(1);
    assert!(allocator.allocate_with(&more).is_err());
    assert_eq!(allocator.allocate_with(&more.partial()).unwrap().blocks(), 2048);
}
