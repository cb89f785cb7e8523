//! Requests in pieces with bounds, decided by trying everything on small devices: a request is met
//! exactly if some cut of the free runs meets it, and a partial one gets as much as any cut has.

use std::collections::BTreeSet;

use freemap::{AllocError, Allocator, Class, Extent, Placement, Request, RequestError};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;

#[derive(Clone, Copy, Debug)]
struct Bounds {
    min: u64,
    max: u64,
    align: u64,
    unit: u64,
}

impl Bounds {
    fn request(&self, len: u64) -> Request {
        let request = Request::new(len).scattered().min_extent(self.min).max_extent(self.max);
        request.align(self.align).unit(self.unit)
    }

    fn may_be(&self, extent: Extent) -> bool {
        let aligned = [self.align, self.unit].iter().all(|&of| extent.start.is_multiple_of(of));
        let whole = extent.len.is_multiple_of(self.unit);
        aligned && whole && (self.min..=self.max).contains(&extent.len)
    }
}

/// The sums that extents in `free` can have, by trying every cut.
fn sums(free: &[Extent], bounds: &Bounds) -> BTreeSet<u64> {
    let mut all = BTreeSet::from([0]);
    for run in free {
        let end = run.start + run.len;
        // Where the extents so far may end, with their sums.
        let mut own = BTreeSet::from([(run.start, 0)]);
        let mut last = own.clone();
        while !last.is_empty() {
            let mut next = BTreeSet::new();
            for &(from, sum) in &last {
                for start in from..end {
                    let lens = 1..=end - start;
                    let extents = lens.map(|len| Extent::new(start, len));
                    let fit = extents.filter(|&extent| bounds.may_be(extent));
                    next.extend(fit.map(|extent| (start + extent.len, sum + extent.len)));
                }
            }
            own.extend(next.iter().copied());
            last = next;
        }
        let own: BTreeSet<u64> = own.into_iter().map(|(_, sum)| sum).collect();
        all = all.iter().flat_map(|sum| own.iter().map(move |more| sum + more)).collect();
    }
    all
}

/// A device of which only `free` is free.
fn only(blocks: u64, free: &[Extent]) -> Allocator {
    let zone = Placement::new().region(Extent::new(0, blocks));
    let builder = Allocator::builder(blocks).placement(Class::METADATA, zone);
    let allocator = builder.build_allocated().expect("memory");
    free.iter().for_each(|&extent| allocator.mark_free(extent).expect("allocated"));
    allocator
}

fn runs(random: &mut Pcg64, blocks: u64) -> Vec<Extent> {
    let mut runs = Vec::new();
    let mut at = random.random_range(0..7);
    for _ in 0..random.random_range(1..5) {
        let len = random.random_range(1..16);
        if at + len > blocks {
            break;
        }
        runs.push(Extent::new(at, len));
        at += len + random.random_range(1..9);
    }
    runs
}

/// What a request may answer with: all of it, or the most that there is of it.
fn check(allocator: &Allocator, request: &Request, bounds: &Bounds, wanted: Option<u64>) {
    let free = allocator.free_blocks();
    match (allocator.allocate_with(request), wanted) {
        (Ok(extents), Some(wanted)) => {
            assert_eq!(extents.blocks(), wanted, "{bounds:?} {request:?}: {extents:?}");
            assert!(extents.iter().all(|&extent| bounds.may_be(extent)), "{bounds:?} {extents:?}");
            allocator.free_many(&mut extents.to_vec()).expect("ours");
        }
        (Err(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. }), None) => {}
        (Err(AllocError::InvalidRequest(_)), None) => {}
        (answer, wanted) => panic!("{bounds:?} {request:?}: {answer:?} instead of {wanted:?}"),
    }
    assert_eq!(allocator.free_blocks(), free);
}

#[test]
fn a_request_is_met_exactly_if_some_cut_meets_it() {
    let mut random = Pcg64::seed_from_u64(19);
    let (mut met, mut refused) = (0, 0);
    for _ in 0..1500 {
        let free = runs(&mut random, 80);
        let allocator = only(80, &free);
        let unit = [1, 1, 2, 3, 4][random.random_range(0..5)];
        let min = random.random_range(1..7);
        let bounds = Bounds {
            min,
            max: [min, min + random.random_range(0..7), u64::MAX][random.random_range(0..3)],
            align: random.random_range(1..7),
            unit,
        };
        let sums = sums(&free, &bounds);
        for len in 1..=free.iter().map(|run| run.len).sum() {
            let has = sums.contains(&len);
            let request = bounds.request(len);
            check(&allocator, &request, &bounds, has.then_some(len));
            let zoned = request.class(Class::METADATA);
            check(&allocator, &zoned, &bounds, has.then_some(len));
            let near = request.near(random.random_range(0..80));
            check(&allocator, &near, &bounds, has.then_some(len));
            let most = sums.range(1..=len).next_back().copied();
            check(&allocator, &request.partial(), &bounds, most);
            check(&allocator, &request.effort(0), &bounds, has.then_some(len));
            (met, refused) = (met + u64::from(has), refused + u64::from(!has));
        }
    }
    assert!(met > 5_000 && refused > 5_000, "{met} {refused}");
}

#[test]
fn one_extent_may_be_bound_to_a_unit_too() {
    let allocator = only(100, &[Extent::new(5, 14), Extent::new(30, 20)]);
    let request = Request::new(12).unit(6);
    assert_eq!(allocator.allocate_with(&request).expect("it fits")[0], Extent::new(6, 12));
    let request = Request::new(12).unit(6).align(4);
    assert_eq!(allocator.allocate_with(&request).expect("it fits")[0], Extent::new(36, 12));
    assert!(matches!(
        allocator.allocate_with(&request),
        Err(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. })
    ));
}

#[test]
fn bounds_that_make_no_sense_are_refused() {
    let allocator = Allocator::new(1000).expect("memory");
    let refused = |request: Request| match allocator.allocate_with(&request) {
        Err(AllocError::InvalidRequest(error)) => error,
        answer => panic!("{request:?}: {answer:?}"),
    };
    let any = |len| Request::new(len).scattered();
    assert_eq!(refused(any(10).unit(0)), RequestError::Unit { len: 10, unit: 0 });
    assert_eq!(refused(any(10).unit(4)), RequestError::Unit { len: 10, unit: 4 });
    assert_eq!(refused(Request::new(10).unit(4)), RequestError::Unit { len: 10, unit: 4 });
    let bounds = RequestError::ExtentBounds { min: 5, max: 7 };
    assert_eq!(refused(any(16).unit(8).min_extent(5).max_extent(7)), bounds);
    let align = RequestError::Align { align: 1001, blocks: 1000 };
    assert_eq!(refused(any(91).unit(91).align(11)), align);
    let align = RequestError::Align { align: u64::MAX, blocks: 1000 };
    assert_eq!(refused(any(997).unit(997).align(u64::MAX)), align);
    assert!(matches!(refused(any(3).unit(4).partial()), RequestError::Indivisible { .. }));
    assert_eq!(allocator.free_blocks(), 1000);
}

/// The work is counted: whatever the bounds, a request lists the runs of the device once at most.
#[test]
fn a_request_makes_one_exact_search_at_most() {
    let mut random = Pcg64::seed_from_u64(7);
    let words: Vec<u64> =
        (0..1 << 12).map(|_| random.random::<u64>() | random.random::<u64>()).collect();
    let allocator = Allocator::from_bitmap(1 << 18, &words).expect("one bit per block");
    let mut handle = allocator.handle();
    for (min, max, align, unit) in [
        (1, 2, 1, 1),
        (2, 9, 1, 1),
        (1, 8, 3, 1),
        (2, 2, 4, 2),
        (4, 64, 1, 1),
        (3, 5, 6, 3),
        (40, 50, 1, 1),
    ] {
        for len in [60, 600, 6000] {
            let request = Bounds { min, max, align, unit }.request(len);
            for request in [request, request.partial()] {
                let before = allocator.stats().counters.exact_searches;
                let extents = handle.allocate_with(&request).unwrap_or_default();
                let searches = allocator.stats().counters.exact_searches - before;
                assert!(searches <= 1, "{request:?}: {searches}");
                extents.iter().for_each(|&extent| handle.free(extent).expect("ours"));
            }
        }
    }
}
