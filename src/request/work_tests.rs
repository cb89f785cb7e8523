//! No call pays for what others left behind: its work depends on what it asks for, and not on how
//! much waits, is closed, or was freed by others. Work is counted in accesses to the index and its
//! like.

use std::cell::Cell;

use crate::base::sync::work;
use crate::{
    Allocator, DiscardLimits, Discarder, Extent, Handle, ReadGuard, Region, Request, Reservation,
};

const BLOCKS: u64 = 1 << 20;

/// An allocator in some state, and what keeps it there.
struct World {
    allocator: Allocator,
    _regions: Vec<Region>,
    _promises: Vec<Reservation>,
    _discarder: Option<Discarder>,
    _guard: Option<ReadGuard<'static>>,
}

impl World {
    fn new(allocator: Allocator) -> Self {
        let (_regions, _promises) = (Vec::new(), Vec::new());
        Self { allocator, _regions, _promises, _discarder: None, _guard: None }
    }
}

/// Blocks in use that calls may free: every second one of the upper half, none next to another.
fn used() -> impl Iterator<Item = Extent> {
    (0..).map(|n| Extent::new(BLOCKS / 2 + 2 * n, 1))
}

/// All of the lower half is in use, and every second block of the upper half.
fn crumbs() -> Allocator {
    let words = BLOCKS / 64;
    let word = |word| if word < words / 2 { u64::MAX } else { 0x5555_5555_5555_5555 };
    let words: Vec<u64> = (0..words).map(word).collect();
    Allocator::from_bitmap(BLOCKS, &words).expect("one bit per block")
}

fn free_by_transactions(allocator: &Allocator, count: u64) {
    for n in 0..count {
        let mut transaction = allocator.begin();
        transaction.free(Extent::new(4 * n, 1)).expect("in use");
        transaction.freeze().committed();
    }
}

/// So many blocks wait in the quarantine, and nothing holds them any more.
fn ripe(count: u64) -> World {
    let allocator = crumbs();
    let guard = allocator.pin_owned();
    free_by_transactions(&allocator, count);
    drop(guard);
    World::new(allocator)
}

/// The same, beside a discarder for which nothing waits yet.
fn ripe_to_be_discarded(count: u64) -> World {
    let mut world = ripe(count);
    world._discarder = world.allocator.discarder(DiscardLimits::new());
    world
}

/// As [`ripe`], and a reader holds them.
fn held(count: u64) -> World {
    let mut world = World::new(crumbs());
    world._guard = Some(world.allocator.pin_owned());
    free_by_transactions(&world.allocator, count);
    world
}

/// So many blocks wait to be discarded.
fn waiting(count: u64) -> World {
    let mut world = World::new(crumbs());
    world._discarder = world.allocator.discarder(DiscardLimits::new());
    (0..count).for_each(|n| world.allocator.free(Extent::new(4 * n, 1)).expect("in use"));
    world
}

/// So many regions are closed.
fn closed(count: u64) -> World {
    let mut world = World::new(crumbs());
    let close = |n: u64| world.allocator.close(Extent::new(512 * n, 1)).expect("open");
    world._regions = (0..count / 160).map(close).collect();
    world
}

/// So many promises stand, and others were given up.
fn promised(count: u64) -> World {
    let mut world = World::new(crumbs());
    world._promises = (0..count / 8).map(|_| world.allocator.reserve(1).expect("room")).collect();
    drop(world.allocator.reserve(count / 8).expect("room"));
    world
}

/// The most accesses that one of many calls makes.
fn most(handle: &mut Handle, mut call: impl FnMut(&mut Handle)) -> u64 {
    (0..200).map(|_| work::of(|| call(handle))).max().unwrap_or(0)
}

/// The most accesses of a call of each kind, by name.
fn costs(world: &World) -> Vec<(&'static str, u64)> {
    let allocator = &world.allocator;
    let mut handle = allocator.handle();
    let next = Cell::new(used());
    let take = || {
        let mut rest = next.replace(used());
        let extent = rest.next().expect("without end");
        next.set(rest);
        extent
    };
    let pieces = |len| Request::new(len).scattered();
    let mut costs = vec![
        (
            "one block",
            most(&mut handle, |handle| {
                handle.allocate(1).expect("room");
            }),
        ),
        (
            "64 blocks",
            most(&mut handle, |handle| drop(handle.allocate_with(&pieces(64)).expect("room"))),
        ),
        (
            "a partial request",
            most(&mut handle, |handle| {
                drop(handle.allocate_with(&pieces(64).partial()).expect("room"));
            }),
        ),
        ("a free", most(&mut handle, |handle| handle.free(take()).expect("in use"))),
        (
            "a commit",
            most(&mut handle, |handle| {
                let mut transaction = handle.begin();
                transaction.free(take()).expect("in use");
                transaction.freeze().committed();
            }),
        ),
        ("a promise", most(&mut handle, |_| drop(allocator.reserve(5).expect("room")))),
    ];
    // Full but for what waits.
    let rest = allocator.core().space.free_blocks();
    costs.push(("all that is free", work::of(|| drop(handle.allocate_with(&pieces(rest))))));
    costs
        .push(("one block of a full device", most(&mut handle, |handle| drop(handle.allocate(1)))));
    // The first search for a run reads the device, and lets out what no caller holds any more, or
    // looks at what waits to be discarded: the refusal is true, and remembered.
    let refused = Request::new(512);
    handle.allocate_with(&refused).expect_err("none");
    costs.push((
        "a run that is not there",
        most(&mut handle, |handle| {
            handle.allocate_with(&refused).expect_err("none");
        }),
    ));
    costs
}

#[test]
fn no_call_pays_for_what_others_left_behind() {
    type State = (&'static str, fn(u64) -> World);
    let states: [State; 6] = [
        ("ripe in the quarantine", ripe),
        ("ripe, beside a discarder", ripe_to_be_discarded),
        ("held in the quarantine", held),
        ("waiting to be discarded", waiting),
        ("closed", closed),
        ("promised", promised),
    ];
    for (state, world) in states {
        let [few, many] = [20_000, 80_000].map(|count| costs(&world(count)));
        for ((call, few), (_, many)) in few.into_iter().zip(many) {
            assert!(many <= 2 * few + 2_000, "{state}: {call}: {few} accesses, then {many}");
        }
    }
}

/// Pairs of blocks whose first blocks wait to be discarded, or are free without a discarder, and
/// whose second blocks are ripe in the quarantine.
fn halves(count: u64, discarded: bool) -> World {
    let mut world = World::new(crumbs());
    let guard = world.allocator.pin_owned();
    free_by_transactions(&world.allocator, count);
    drop(guard);
    if discarded {
        world._discarder = world.allocator.discarder(DiscardLimits::new());
    }
    (0..count).for_each(|n| world.allocator.free(Extent::new(4 * n + 1, 1)).expect("in use"));
    world
}

#[test]
fn a_run_lets_out_no_more_than_makes_it() {
    for discarded in [false, true] {
        for request in [Request::new(2), Request::new(64).scattered().min_extent(2)] {
            let [few, many] = [20_000, 80_000].map(|count| {
                let world = halves(count, discarded);
                let mut handle = world.allocator.handle();
                let work = most(&mut handle, |handle| {
                    let extents = handle.allocate_with(&request).expect("there are such runs");
                    assert!(request.is_met_by(&extents));
                });
                let quarantined = world.allocator.core().space.quarantine.blocks();
                assert!(quarantined > count / 3, "{request:?}: {quarantined} of {count} are left");
                work
            });
            assert!(many <= 2 * few + 2_000, "{request:?}: {few} accesses, then {many}");
        }
    }
}

#[test]
fn a_run_looks_once_at_what_waits_to_be_discarded() {
    let [few, many] = [20_000, 80_000].map(|count| {
        let world = waiting(count);
        let mut handle = world.allocator.handle();
        let run = Request::new(3);
        handle.allocate_with(&run).expect_err("none");
        // Each frees two blocks, and every third time a third one, which makes a run.
        (0..300)
            .map(|n| {
                let start = BLOCKS / 2 - 2000 + 4 * n;
                handle.free(Extent::new(start, 1)).expect("in use");
                handle.free(Extent::new(start + 2, 1)).expect("in use");
                if n % 3 == 0 {
                    handle.free(Extent::new(start + 1, 1)).expect("in use");
                }
                work::of(|| assert_eq!(handle.allocate_with(&run).is_ok(), n % 3 == 0))
            })
            .max()
    });
    assert!(many <= few.map(|few| 2 * few + 2_000), "{few:?} accesses, then {many:?}");
}

/// The first `count` blocks: every second one is free, and the others wait to be discarded, or in
/// the quarantine, or are promised.
fn combed(count: u64, what: &str) -> World {
    let free: Vec<u64> = (0..BLOCKS / 64).map(|_| u64::MAX).collect();
    let mut world = World::new(Allocator::from_bitmap(BLOCKS, &free).expect("one bit per block"));
    let others = || (1..count).step_by(2).map(|block| Extent::new(block, 1));
    if what == "promised" {
        others().for_each(|block| world.allocator.mark_free(block).expect("in use"));
        world._promises.push(world.allocator.reserve(count / 2).expect("room"));
    }
    let between = (0..count).step_by(2).map(|block| Extent::new(block, 1));
    between.for_each(|block| world.allocator.mark_free(block).expect("in use"));
    let elsewhere = Extent::new(BLOCKS / 2, 2 * count);
    world.allocator.mark_free(elsewhere).expect("in use");
    match what {
        "waiting" => {
            world._discarder = world.allocator.discarder(DiscardLimits::new());
            others().for_each(|block| world.allocator.free(block).expect("in use"));
        }
        "ripe" => {
            let guard = world.allocator.pin_owned();
            for block in others() {
                let mut transaction = world.allocator.begin();
                transaction.free(block).expect("in use");
                transaction.freeze().committed();
            }
            drop(guard);
        }
        _ => {}
    }
    world
}

#[test]
fn naming_a_range_costs_in_proportion_to_the_range() {
    for what in ["waiting", "ripe", "promised"] {
        let [few, many] = [2_000, 16_000].map(|count| {
            let world = combed(count, what);
            let named = || world.allocator.mark_allocated(Extent::new(0, count));
            work::of(|| assert_eq!(named(), Ok(()), "{what}"))
        });
        assert!(many <= 12 * few, "{what}: {few} accesses for 2,000 blocks, {many} for 16,000");
    }
}
