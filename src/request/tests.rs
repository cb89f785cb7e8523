//! Every way to blocks asks whether it may keep them.

use crate::base::sync::meanwhile;
use crate::request::thread_cursor;
use crate::{Allocator, Class, DiscardLimits, Extent, Extents, Handle, Region, Request};

const BLOCKS: u64 = 1024;
/// The leaf that is closed.
const LEAF: Extent = Extent { start: 0, len: 512 };

/// A way to blocks, and what is free on a device for which it needs that way.
struct Way {
    about: &'static str,
    /// Start and length of each run.
    free: &'static [(u64, u64)],
    allocate: fn(&Allocator, &mut Handle) -> Vec<Extent>,
}

/// What `request` gets.
fn get(handle: &mut Handle, request: &Request) -> Vec<Extent> {
    handle.allocate_with(request).map_or(Vec::new(), |extents| extents.to_vec())
}

fn name(allocator: &Allocator, extent: Extent) -> Vec<Extent> {
    allocator.mark_allocated(extent).map_or(Vec::new(), |()| vec![extent])
}

const WAYS: &[Way] = &[
    Way {
        about: "one block of the current word",
        free: &[(0, 64)],
        allocate: |_, handle| handle.allocate(1).into_iter().collect(),
    },
    Way {
        about: "one block by a search",
        free: &[(300, 10)],
        allocate: |_, handle| handle.allocate(1).into_iter().collect(),
    },
    Way {
        about: "a run within a word",
        free: &[(65, 25), (130, 60)],
        allocate: |_, handle| handle.allocate(7).into_iter().collect(),
    },
    Way {
        about: "a run of which half is in the closed leaf",
        free: &[(500, 30)],
        allocate: |_, handle| handle.allocate(25).into_iter().collect(),
    },
    Way {
        about: "a run of more than a leaf",
        free: &[(10, 690)],
        allocate: |_, handle| handle.allocate(600).into_iter().collect(),
    },
    Way {
        about: "a run near by",
        free: &[(65, 25), (130, 60)],
        allocate: |_, handle| get(handle, &Request::new(7).near(100)),
    },
    Way {
        about: "many runs of one word",
        free: &[(0, 64)],
        allocate: |_, handle| {
            let mut extents = [LEAF; 8];
            handle.allocate_many(2, &mut extents).map_or(Vec::new(), |()| extents.to_vec())
        },
    },
    Way {
        about: "a stream",
        free: &[(100, 40)],
        allocate: |allocator, _| {
            let request = Request::new(5).near(100);
            let extents = allocator.stream(Class::BULK).allocate_with(&request);
            extents.map_or(Vec::new(), |extents| extents.to_vec())
        },
    },
    Way {
        about: "a stream in pieces",
        free: &[(100, 3), (110, 30)],
        allocate: |allocator, _| {
            let request = Request::new(9).near(100).scattered();
            let extents = allocator.stream(Class::BULK).allocate_with(&request);
            extents.map_or(Vec::new(), |extents| extents.to_vec())
        },
    },
    Way {
        about: "by name",
        free: &[(60, 30)],
        allocate: |allocator, _| name(allocator, Extent::new(62, 20)),
    },
    Way {
        about: "by name, while some of it waits to be discarded",
        free: &[(70, 20)],
        allocate: |allocator, handle| {
            let discarder = allocator.discarder(DiscardLimits::new()).expect("the only one");
            handle.free(Extent::new(60, 10)).expect("in use");
            let extents = name(allocator, Extent::new(60, 30));
            drop(discarder);
            extents
        },
    },
    Way {
        about: "in pieces",
        free: &[(3, 3), (70, 10), (126, 5), (600, 3)],
        allocate: |_, handle| get(handle, &Request::new(17).scattered()),
    },
    Way {
        about: "what there is, in pieces",
        free: &[(3, 3), (70, 10), (126, 5), (600, 3)],
        allocate: |_, handle| get(handle, &Request::new(100).scattered().partial()),
    },
    Way {
        about: "in pieces with bounds, by passes",
        free: &[(3, 3), (70, 10), (126, 5)],
        allocate: |_, handle| get(handle, &Request::new(8).scattered().min_extent(3).max_extent(5)),
    },
    Way {
        about: "in pieces with bounds, by a plan",
        free: &[(1, 6), (10, 3)],
        allocate: |_, handle| get(handle, &Request::new(9).scattered().min_extent(3).max_extent(5)),
    },
];

/// Closes the leaf. Frees that began before that arrive after it: what was free in the leaf is free
/// in the bitmap again. Returns that, too.
fn close_before_late_frees(allocator: &Allocator) -> (Region, Extents) {
    let space = &allocator.core().space;
    let region = allocator.close(LEAF).expect("nothing else is closed");
    let mut late = Extents::new();
    let mut at = space.closed.held_in(0, LEAF.len);
    while at < LEAF.len {
        let next = (at..LEAF.len).find(|&block| space.closed.held_in(block, block + 1) != block);
        let run = at..next.unwrap_or(LEAF.len);
        assert!(space.closed.take(run.clone()));
        let extent = Extent::new(run.start, run.end - run.start);
        assert_eq!(space.bitmap.release(extent.start, extent.len), Ok(()));
        thread_cursor::with_lane(allocator.core(), |lane| space.count_freed(lane, extent));
        late.push(extent);
        at = space.closed.held_in(run.end, LEAF.len);
    }
    (region, late)
}

/// Takes `way` while another thread closes the leaf after the next `moment` accesses; `false` if it
/// has fewer.
fn take(way: &Way, moment: u32) -> bool {
    let allocator = Allocator::builder(BLOCKS).build_allocated().expect("memory");
    for &(start, len) in way.free {
        allocator.mark_free(Extent::new(start, len)).expect("in use");
    }
    let mut handle = allocator.handle();
    for len in [1, 2] {
        // Now it is where the free blocks are.
        let extent = handle.allocate(len).expect("there are some");
        handle.free(extent).expect("it has just been allocated");
    }
    let other = allocator.clone();
    let meanwhile = meanwhile::after(moment, move || close_before_late_frees(&other));
    let extents = (way.allocate)(&allocator, &mut handle);
    let Some((region, late)) = meanwhile.result() else { return false };
    for (got, late) in extents.iter().flat_map(|got| late.iter().map(move |late| (got, late))) {
        assert!(!got.overlaps(late), "{}: {got} of {late}, which is closed", way.about);
    }
    extents.iter().for_each(|&extent| handle.free(extent).expect("allocated"));
    drop(region);
    let used_first = if way.about.contains("discarded") { 10 } else { 0 };
    let free: u64 = way.free.iter().map(|(_, len)| len).sum::<u64>() + used_first;
    let found = allocator.verify();
    assert!(found.is_clean(), "{}: {found:?}", way.about);
    assert_eq!((found.free_blocks, allocator.free_blocks()), (free, free), "{}", way.about);
    true
}

#[test]
fn no_way_to_blocks_keeps_any_of_a_closed_leaf() {
    for way in WAYS {
        let moments = (0..).take_while(|&moment| take(way, moment)).count();
        assert!(moments > 2, "{}: {moments}", way.about);
    }
}

#[test]
fn each_way_to_blocks_finds_what_it_is_about() {
    for way in WAYS {
        let allocator = Allocator::builder(BLOCKS).build_allocated().expect("memory");
        for &(start, len) in way.free {
            allocator.mark_free(Extent::new(start, len)).expect("in use");
        }
        assert!(!(way.allocate)(&allocator, &mut allocator.handle()).is_empty(), "{}", way.about);
    }
}
