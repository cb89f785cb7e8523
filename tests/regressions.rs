//! One test for each fault that was found after the tests beside this one had passed. Each opens
//! with the story of the fault.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use freemap::{Allocator, Extent, Handle, Request};

/// A device of which only `free` is free.
fn only(blocks: u64, free: &[Extent]) -> Allocator {
    let allocator = Allocator::builder(blocks).build_allocated().unwrap();
    for &extent in free {
        allocator.mark_free(extent).unwrap();
    }
    allocator
}

/// A search that begins inside a run looks at the whole device twice: from there to the end, then
/// from the beginning to where it began. The second pass used to end with the leaf it began in. A
/// run that starts before that point and ends in a later leaf may have the aligned group by which
/// the summary knows it in the later leaf only: the first pass cut the run short, the second never
/// came to it, and the request was refused, and refused again from memory.
#[test]
fn a_run_around_the_beginning_of_the_search_is_found_through_a_later_leaf() {
    let run = Extent::new(509, 7);
    let allocator = only(4096, &[run]);
    let near = allocator.allocate_with(&Request::new(7).near(510));
    assert_eq!(near.as_deref(), Ok(&[run][..]));
    allocator.free(run).unwrap();
    assert_eq!(allocator.allocate(7), Ok(run));
}

/// The same with the beginning of the search left behind by an earlier allocation.
#[test]
fn a_run_around_the_last_allocation_is_found_through_a_later_leaf() {
    for run in [Extent::new(400, 255), Extent::new(100, 2000)] {
        let block = Extent::new(448, 1);
        let allocator = only(8192, &[block]);
        let mut handle = allocator.handle();
        assert_eq!(handle.allocate(1), Ok(block));
        allocator.mark_free(block).unwrap();
        allocator.mark_free(Extent::new(run.start, 448 - run.start)).unwrap();
        allocator.mark_free(Extent::new(449, run.start + run.len - 449)).unwrap();
        assert_eq!(handle.allocate(run.len), Ok(run));
    }
}

/// Claims and frees `extent` over and over while `work` runs on this thread. A claim that comes too
/// late because `work` has the blocks is no matter.
fn while_flickering(allocator: &Allocator, extent: Extent, work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if allocator.mark_allocated(extent).is_ok() {
                    allocator.mark_free(extent).unwrap();
                }
            }
        });
        // Also if `work` panics, or the test would hang instead of failing.
        let _stop = Stop(&stop);
        work();
    });
}

struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The search looks into the first leaf of a node, follows a run down into the node before, and loses
/// it there because somebody claims its beginning. It then went on from where it stood, which was
/// before the node it was in: an overflow where those are checked, and where not, the rest of the
/// node was left out and a request refused although another run there had been free all along.
#[test]
fn a_run_that_vanishes_across_a_node_border_hides_nothing_behind_it() {
    let border = 64 * 512;
    let other = Extent::new(border + 1000, 3);
    let allocator = only(2 * border, &[Extent::new(border - 1, 3), other]);
    let mut handle = allocator.handle();
    while_flickering(&allocator, Extent::new(border - 1, 1), || {
        for _ in 0..300_000 {
            let extents = handle.allocate_with(&Request::new(3).near(0)).unwrap();
            handle.free(extents[0]).unwrap();
        }
    });
    assert!(allocator.verify().is_clean());
}

/// A request that would take more of a run than it must found 700 free blocks, and the last of them
/// gone when it came to claim them. It went on behind that block, as if nothing before it could be
/// enough, and answered "no" although 699 free blocks would have done.
#[test]
fn a_run_that_becomes_shorter_is_still_taken_if_it_is_long_enough() {
    let run = Extent::new(0, 700);
    // At least 600 blocks in one extent: too many for the quick ways, which would find them first.
    let request = Request::new(run.len).scattered().partial().min_extent(600).near(0);
    let allocator = only(4096, &[run]);
    let mut handle = allocator.handle();
    while_flickering(&allocator, Extent::new(run.len - 1, 1), || {
        for _ in 0..200_000 {
            for extent in handle.allocate_with(&request).unwrap() {
                handle.free(extent).unwrap();
            }
        }
    });
    assert!(allocator.verify().is_clean());
}

/// Allocates by `exchange(None)` and changes one block for another by `exchange(Some(..))`; answers
/// with the number of blocks held in the end.
fn churn(begin: &Barrier, mut exchange: impl FnMut(Option<Extent>) -> Extent) -> u64 {
    let mut held: Vec<Extent> = (0..2000).map(|_| exchange(None)).collect();
    begin.wait();
    for round in 0..200_000 {
        let pick = round % held.len();
        held[pick] = exchange(Some(held[pick]));
    }
    held.len() as u64
}

fn churn_by(begin: &Barrier, handle: &mut Handle) -> u64 {
    churn(begin, |old| {
        old.into_iter().for_each(|extent| handle.free(extent).unwrap());
        handle.allocate(1).unwrap()
    })
}

fn churn_without_handle(begin: &Barrier, allocator: &Allocator) -> u64 {
    churn(begin, |old| {
        old.into_iter().for_each(|extent| allocator.free(extent).unwrap());
        allocator.allocate(1).unwrap()
    })
}

/// Threads that allocate without a handle counted in the lanes that handles own, and so did handles
/// beyond the 64th. An owner counts without a locked instruction, so what the others added at that
/// moment was lost, and the number of free blocks was wrong from then on.
#[test]
fn nothing_is_lost_that_is_counted_in_a_lane_of_another() {
    const BLOCKS: u64 = 1 << 20;
    // Two at a time, so that they run at the same moment on the smallest machine.
    let begin = &Barrier::new(2);
    for _ in 0..10 {
        let allocator = &Allocator::new(BLOCKS).unwrap();
        // The 65th handle shares the lane of the first, the thread that comes next that of the
        // second.
        let mut handles: Vec<_> = (0..65).map(|_| allocator.handle()).collect();
        let [first, second, .., last] = &mut handles[..] else { unreachable!() };
        let held: u64 = std::thread::scope(|scope| {
            let sharer = scope.spawn(|| churn_by(begin, last));
            churn_by(begin, first) + sharer.join().unwrap()
        }) + std::thread::scope(|scope| {
            let sharer = scope.spawn(|| churn_without_handle(begin, allocator));
            churn_by(begin, second) + sharer.join().unwrap()
        });
        assert_eq!(allocator.survey().finish().blocks(), BLOCKS - held);
        assert_eq!(allocator.free_blocks(), BLOCKS - held);
    }
}

/// No fault, but a step that nothing would have missed: a request whose length cannot be made up of its
/// extents must not be remembered as one for which there is no run.
#[test]
fn a_request_that_cannot_be_made_up_says_nothing_about_its_shortest_run() {
    // Runs of four, and nothing longer.
    let allocator = Allocator::from_bitmap(512, &[0xF0F0_F0F0_F0F0_F0F0; 8]).unwrap();
    let mut handle = allocator.handle();
    let request = Request::new(10).scattered().min_extent(4).max_extent(5);
    assert!(handle.allocate_with(&request).is_err());
    assert!(handle.allocate(4).is_ok());
}

/// Likewise: of several extents of one word that a batch frees, each is looked at for the run that it
/// completes.
#[test]
fn many_frees_of_one_word_are_all_looked_at() {
    let allocator = only(512, &[Extent::new(4, 1), Extent::new(6, 1)]);
    let mut handle = allocator.handle();
    assert!(handle.allocate(3).is_err());
    handle.free_many(&mut [Extent::new(1, 1), Extent::new(5, 1)]).unwrap();
    assert_eq!(handle.allocate(3), Ok(Extent::new(4, 3)));
}
