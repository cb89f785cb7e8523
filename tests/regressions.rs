//! One test for each fault that was found after the tests beside this one had passed. Each opens
//! with the story of the fault.

use freemap::{Allocator, Extent, Request};

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
