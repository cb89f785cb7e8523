//! Classes, where they are placed, what is kept for them; and streams.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

use freemap::{
    AllocError, Allocator, Class, ConfigError, Direction, Extent, Placement, Request, RequestError,
    Spill,
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

const LEAF: u64 = 512;

fn user(number: u8) -> Class {
    Class::user(number).unwrap()
}

fn region(start: u64, len: u64) -> Placement {
    Placement::new().region(Extent::new(start * LEAF, len * LEAF))
}

fn get(allocator: &Allocator, class: Class, request: Request) -> Result<Vec<Extent>, AllocError> {
    allocator.allocate_with(&request.class(class)).map(|extents| extents.to_vec())
}

fn clean(allocator: &Allocator) {
    let found = allocator.verify();
    assert!(found.is_clean(), "{:?}", found.differences);
    assert_eq!(found.free_blocks, allocator.free_blocks());
}

#[test]
fn each_class_fills_its_region_then_common_space_then_other_regions() {
    // Leaves:  0..10 common, 10..20 metadata, 20..30 common, 30..40 another's, 40..50 common.
    let allocator = Allocator::builder(50 * LEAF)
        .placement(Class::METADATA, region(10, 10))
        .placement(user(0), region(30, 10).spill(Spill::Far))
        .build()
        .unwrap();
    let leaves = |extents: Vec<Extent>| (extents[0].start / LEAF, extents.len());
    let mut order = Vec::new();
    for _ in 0..50 {
        order.push(leaves(get(&allocator, Class::METADATA, Request::new(LEAF)).unwrap()).0);
    }
    let parts: Vec<&[u64]> = order.chunks(10).collect();
    let sorted = |part: &[u64]| {
        let mut part = part.to_vec();
        part.sort_unstable();
        part
    };
    let range = |from: u64| (from..from + 10).collect::<Vec<_>>();
    let found: Vec<Vec<u64>> = parts.iter().map(|part| sorted(part)).collect();
    assert_eq!(found, [range(10), range(0), range(20), range(40), range(30)]);
    assert!(get(&allocator, Class::BULK, Request::new(1)).is_err());

    allocator.free(Extent::new(0, 50 * LEAF)).unwrap();
    let far: Vec<Extent> =
        (0..15).flat_map(|_| get(&allocator, user(0), Request::new(LEAF)).unwrap()).collect();
    let (own, spilled) = far.split_at(10);
    assert!(own.iter().all(|extent| (30 * LEAF..40 * LEAF).contains(&extent.start)), "{own:?}");
    assert!(spilled.iter().all(|extent| extent.start < 10 * LEAF), "{spilled:?}");
    clean(&allocator);
}

#[test]
fn bulk_keeps_out_of_regions_as_long_as_there_is_other_space() {
    let allocator =
        Allocator::builder(64 * LEAF).placement(Class::METADATA, region(0, 32)).build().unwrap();
    let mut handle = allocator.handle();
    let mut random = Pcg64::seed_from_u64(7);
    let mut owned: Vec<Extent> = Vec::new();
    let mut used = 0;
    for _ in 0..20_000 {
        let len = random.random_range(1..100);
        let request = match random.random_range(0..3) {
            0 => Request::new(1),
            1 => Request::new(len),
            _ => Request::new(len).scattered(),
        };
        if used + len < 26 * LEAF {
            for &extent in &handle.allocate_with(&request).unwrap() {
                // What reaches over the border is in both.
                if extent.start + extent.len <= 32 * LEAF {
                    let outside = allocator.free_extents_from(32 * LEAF);
                    let largest = outside.map(|extent| extent.len).max().unwrap_or(0);
                    assert!(largest < len && extent.len == len, "{extent} for {request:?}");
                }
                owned.push(extent);
                used += extent.len;
            }
        } else {
            let extent = owned.swap_remove(random.random_range(0..owned.len()));
            handle.free(extent).unwrap();
            used -= extent.len;
        }
    }
    // And takes all of it if there is no other.
    let rest = handle.allocate_with(&Request::new(allocator.free_blocks()).scattered()).unwrap();
    assert_eq!(allocator.free_blocks(), 0);
    assert!(rest.blocks() >= 32 * LEAF);
    clean(&allocator);
}

#[test]
fn directions() {
    let first = |direction, class: Class| {
        let allocator = Allocator::builder(1 << 20)
            .placement(class, Placement::new().direction(direction))
            .build()
            .unwrap();
        let blocks: Vec<u64> = (0..200)
            .flat_map(|_| get(&allocator, class, Request::new(LEAF)).unwrap())
            .map(|extent| extent.start)
            .collect();
        (blocks[0], blocks.iter().copied().min().unwrap(), blocks.iter().copied().max().unwrap())
    };
    assert_eq!(first(Direction::Up, Class::METADATA), (0, 0, 199 * LEAF));
    let (_, lowest, highest) = first(Direction::Down, Class::METADATA);
    assert_eq!(highest, (1 << 20) - LEAF);
    assert!(lowest >= (1 << 20) - 4 * 64 * LEAF, "{lowest}: 200 leaves in four nodes of 64");
    assert_eq!(first(Direction::Up, Class::BULK).0, 0);
}

#[test]
fn a_reserve_is_for_its_class_alone_and_is_made_up_for() {
    let allocator = Allocator::builder(10_000)
        .placement(Class::METADATA, Placement::new().reserve(1000))
        .build()
        .unwrap();
    assert_eq!(allocator.free_blocks(), 9000);
    let bulk = get(&allocator, Class::BULK, Request::new(9000).scattered()).unwrap();
    let no_space = Err(AllocError::NoSpace { requested: 1, free: 0 });
    assert_eq!(allocator.allocate(1).map(|_| ()), no_space);
    let mut metadata = Vec::new();
    for _ in 0..400 {
        metadata.extend(get(&allocator, Class::METADATA, Request::new(1)).unwrap());
    }
    metadata
        .extend(get(&allocator, Class::METADATA, Request::new(100)).expect("it is in one piece"));
    metadata.extend(get(&allocator, Class::METADATA, Request::new(500).scattered()).unwrap());
    assert!(get(&allocator, Class::METADATA, Request::new(1)).is_err(), "all of it is used");

    // Whatever is freed first is kept, whoever frees it.
    let (first, rest) = bulk.split_first().unwrap();
    allocator.free(Extent::new(first.start, 300)).unwrap();
    assert_eq!(allocator.allocate(1).map(|_| ()), no_space);
    metadata.extend(get(&allocator, Class::METADATA, Request::new(250).scattered()).unwrap());
    allocator.free(Extent::new(first.start + 300, first.len - 300)).unwrap();
    rest.iter().for_each(|&extent| allocator.free(extent).unwrap());
    assert_eq!(allocator.free_blocks(), 9000 - 1250);
    metadata.iter().for_each(|&extent| allocator.free(extent).unwrap());
    assert_eq!(allocator.free_blocks(), 9000);
    assert!(allocator.allocate_with(&Request::new(9001).scattered()).is_err());
    clean(&allocator);
}

/// What a promise leaves belongs to the reserve that is owed blocks: as long as it counted as free, a request for
/// all that was said to be free failed.
#[test]
fn a_promise_that_is_given_up_makes_up_for_a_used_reserve() {
    let placement = Placement::new().reserve(100);
    let allocator = Allocator::builder(1000).placement(Class::METADATA, placement).build().unwrap();
    let promise = allocator.reserve(300).unwrap();
    get(&allocator, Class::BULK, Request::new(600).scattered()).unwrap();
    get(&allocator, Class::METADATA, Request::new(50).scattered()).unwrap();
    assert_eq!((allocator.free_blocks(), allocator.stats().reserved_blocks), (0, 350));
    drop(promise);
    assert_eq!((allocator.free_blocks(), allocator.stats().reserved_blocks), (250, 100));
    get(&allocator, Class::BULK, Request::new(250).scattered()).unwrap();
    get(&allocator, Class::METADATA, Request::new(100).scattered()).unwrap();
    clean(&allocator);
}

#[test]
fn a_reserve_of_a_device_that_is_full_is_filled_by_frees() {
    let allocator = Allocator::builder(4096)
        .placement(user(5), Placement::new().reserve(100))
        .build_from_bitmap(&[u64::MAX; 64])
        .unwrap();
    allocator.free(Extent::new(50, 60)).unwrap();
    allocator.free(Extent::new(200, 60)).unwrap();
    assert_eq!(allocator.free_blocks(), 20);
    assert!(get(&allocator, user(5), Request::new(121).scattered()).is_err());
    let got = get(&allocator, user(5), Request::new(120).scattered()).unwrap();
    assert_eq!(got.iter().map(|extent| extent.len).sum::<u64>(), 120);
}

#[test]
fn mistakes() {
    let build = |placement| Allocator::builder(4096).placement(Class::BULK, placement).build();
    let outside = Extent::new(3584, 1024);
    let refused = build(Placement::new().region(outside)).unwrap_err();
    assert_eq!(refused, ConfigError::Region { region: outside });
    assert!(build(Placement::new().region(Extent::new(3584, 512))).is_ok());
    assert_eq!(Class::user(6), None);
    let (one, two) = (build(Placement::new()).unwrap(), build(Placement::new()).unwrap());
    let foreign = one.begin().allocate_in(&mut two.stream(Class::BULK), &Request::new(1));
    assert_eq!(foreign, Err(AllocError::InvalidRequest(RequestError::Foreign)));
}

/// Whatever the placements: everything that is free can be had by everybody.
#[test]
fn placement_makes_nothing_fail_that_fits() {
    let mut random = Pcg64::seed_from_u64(8);
    for round in 0..40 {
        let blocks = random.random_range(20 * LEAF..200 * LEAF);
        let leaves = blocks / LEAF;
        let direction =
            [Direction::Spread, Direction::Up, Direction::Down][random.random_range(0..3)];
        let spill = [Spill::Near, Spill::Far][random.random_range(0..2)];
        let cut = random.random_range(1..leaves - 2);
        let place = |placement: Placement| placement.direction(direction).spill(spill);
        let allocator = Allocator::builder(blocks)
            .placement(Class::METADATA, place(region(0, cut)))
            .placement(user(1), place(region(cut + 1, leaves - cut - 1)))
            .placement(user(2), place(Placement::new()))
            .build()
            .unwrap();
        let classes = [Class::BULK, Class::METADATA, user(0), user(1), user(2)];
        let mut owned: Vec<Extent> = Vec::new();
        for _ in 0..400 {
            let class = classes[random.random_range(0..classes.len())];
            let len = random.random_range(1..700);
            let free = allocator.free_blocks();
            let largest = allocator.free_extents().map(|extent| extent.len).max().unwrap_or(0);
            let scattered = get(&allocator, class, Request::new(len).scattered());
            assert_eq!(scattered.is_ok(), len <= free, "round {round}: {len} of {free}");
            owned.extend(scattered.into_iter().flatten());
            let contiguous = get(&allocator, class, Request::new(len));
            if contiguous.is_ok() {
                assert!(len <= largest);
            } else {
                let left = allocator.free_extents().map(|extent| extent.len).max().unwrap_or(0);
                assert!(len > left, "round {round}: {len} of {left}");
            }
            owned.extend(contiguous.into_iter().flatten());
            for _ in 0..random.random_range(0..4) {
                if !owned.is_empty() {
                    let extent = owned.swap_remove(random.random_range(0..owned.len()));
                    allocator.free(extent).unwrap();
                }
            }
            clean(&allocator);
        }
        let rest = allocator.free_blocks();
        if rest > 0 {
            get(&allocator, classes[round % 5], Request::new(rest).scattered()).unwrap();
        }
        clean(&allocator);
    }
}

/// Bulk threads fill the device again and again; what is reserved for metadata is always to be had.
#[test]
fn a_reserve_holds_under_traffic() {
    let allocator = Allocator::builder(20_000)
        .placement(Class::METADATA, Placement::new().reserve(600))
        .build()
        .unwrap();
    let (stop, full) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let (allocator, stop, full) = (&allocator, &stop, &full);
            scope.spawn(move || {
                let mut random = Pcg64::seed_from_u64(thread);
                let mut handle = allocator.handle();
                let mut owned: Vec<Extent> = Vec::new();
                while !stop.load(SeqCst) {
                    let request = Request::new(random.random_range(1..300)).scattered();
                    match handle.allocate_with(&request) {
                        Ok(extents) => owned.extend(extents),
                        Err(_) => {
                            full.fetch_add(1, SeqCst);
                            for _ in 0..owned.len() / 8 {
                                let nth = random.random_range(0..owned.len());
                                handle.free(owned.swap_remove(nth)).unwrap();
                            }
                        }
                    }
                }
                owned.into_iter().for_each(|extent| handle.free(extent).unwrap());
            });
        }
        let mut handle = allocator.handle();
        let mut metadata: Vec<Extent> = Vec::new();
        while full.load(SeqCst) < 2000 {
            let request = Request::new(10).scattered().class(Class::METADATA);
            // 600 blocks are reserved, and never more than 600 in use.
            metadata.extend(handle.allocate_with(&request).expect("it is reserved"));
            if metadata.iter().map(|extent| extent.len).sum::<u64>() > 590 {
                metadata.drain(..).for_each(|extent| handle.free(extent).unwrap());
            }
        }
        stop.store(true, SeqCst);
        metadata.into_iter().for_each(|extent| handle.free(extent).unwrap());
    });
    assert_eq!(allocator.free_blocks(), 19_400);
    clean(&allocator);
}

#[test]
fn streams_lay_out_one_after_the_other() {
    let allocator = Allocator::new(1 << 20).unwrap();
    let mut streams: Vec<_> = (0..4).map(|_| allocator.stream(Class::BULK)).collect();
    let mut ends = [None; 4];
    let mut random = Pcg64::seed_from_u64(3);
    for _ in 0..500 {
        let nth = random.random_range(0..4);
        let len = random.random_range(1..60);
        let request = Request::new(len);
        let request = if len % 2 == 0 { request.scattered() } else { request };
        let extents = streams[nth].allocate_with(&request).unwrap();
        if let Some(end) = ends[nth] {
            assert_eq!(extents[0].start, end, "nothing is in the way");
        }
        assert_eq!(extents.len(), 1);
        ends[nth] = extents[0].end();
        assert_eq!(streams[nth].position(), ends[nth]);
    }
}

#[test]
fn streams_go_round_what_is_in_the_way() {
    let allocator = Allocator::new(8 * LEAF).unwrap();
    let mut stream = allocator.stream(Class::BULK);
    let first = stream.allocate(100).unwrap();
    allocator.mark_allocated(Extent::new(first.start + 150, 10)).unwrap();
    let second = stream.allocate(60).unwrap();
    assert!(second.start >= first.start + 160, "{second}");
    let third = stream.allocate(5).unwrap();
    assert_eq!(third.start, second.end().unwrap());

    // In pieces: up to what is in the way, and on behind it.
    allocator.mark_allocated(Extent::new(third.end().unwrap() + 20, 1)).unwrap();
    let pieces = stream.allocate_with(&Request::new(50).scattered()).unwrap();
    assert_eq!(pieces[0], Extent::new(third.end().unwrap(), 20));
    assert_eq!(pieces.blocks(), 50);

    // To the end, and round; in a transaction; and no further than there is.
    let free = allocator.free_blocks();
    let mut transaction = allocator.begin();
    transaction.allocate_in(&mut stream, &Request::new(free).scattered()).unwrap();
    assert!(stream.allocate(1).is_err());
    drop(transaction);
    assert_eq!(allocator.free_blocks(), free);
    assert!(stream.allocate_with(&Request::new(free + 1).scattered()).is_err());
    assert_eq!(allocator.free_blocks(), free, "nothing is lost by an error");
    let some = stream.allocate_with(&Request::new(free + 1).scattered().partial()).unwrap();
    assert_eq!(some.blocks(), free);
    clean(&allocator);
}

#[test]
fn streams_keep_to_their_region() {
    let allocator = Allocator::builder(100 * LEAF)
        .placement(user(0), region(40, 20).direction(Direction::Up))
        .build()
        .unwrap();
    let mut stream = allocator.stream(user(0));
    for nth in 0..20 {
        assert_eq!(stream.allocate(LEAF).unwrap().start, (40 + nth) * LEAF);
    }
    assert!(stream.allocate(LEAF).is_ok(), "elsewhere");
}

#[test]
fn classes_and_streams_follow_a_changing_length() {
    let allocator = Allocator::builder(100 * LEAF)
        .placement(Class::METADATA, region(90, 10))
        .placement(user(0), Placement::new().reserve(500))
        .build()
        .unwrap();
    let mut stream = allocator.stream(Class::METADATA);
    let extent = stream.allocate(100).unwrap();
    allocator.free(extent).unwrap();
    allocator.shrink(50 * LEAF).unwrap().finish().unwrap();
    assert!(stream.allocate(100).unwrap().start < 50 * LEAF);
    assert!(get(&allocator, Class::METADATA, Request::new(7)).is_ok());
    allocator.grow(300 * LEAF).unwrap();
    assert_eq!(
        get(&allocator, Class::METADATA, Request::new(LEAF)).unwrap()[0].start / LEAF / 10,
        9
    );
    let rest = allocator.free_blocks();
    get(&allocator, Class::BULK, Request::new(rest).scattered()).unwrap();
    assert!(get(&allocator, user(0), Request::new(500).scattered()).is_ok());
    clean(&allocator);
}

#[test]
fn a_request_that_fails_leaves_the_reserve_as_it_was() {
    let metadata = Placement::new().reserve(8);
    let allocator = Allocator::builder(512).placement(Class::METADATA, metadata).build().unwrap();
    allocator.mark_allocated(Extent::new(0, 1)).unwrap();
    while allocator.allocate(1).is_ok() {}
    // More than once: of what is taken and put back, nothing stays away.
    for _ in 0..3 {
        let aligned = get(&allocator, Class::METADATA, Request::new(8).align(511));
        assert!(aligned.is_err(), "{aligned:?}");
    }
    let request = Request::new(8).scattered();
    assert!(get(&allocator, Class::METADATA, request).is_ok(), "the reserve is as it was");
}

#[test]
fn a_stream_that_fails_gives_back_what_it_had() {
    let allocator = Allocator::new(512).unwrap();
    allocator.mark_allocated(Extent::new(100, 400)).unwrap();
    let mut stream = allocator.stream(Class::BULK);
    assert!(stream.allocate_with(&Request::new(200).scattered().near(0)).is_err());
    assert_eq!(allocator.free_blocks(), 112);
    assert!(allocator.allocate_with(&Request::new(112).scattered()).is_ok());
}
