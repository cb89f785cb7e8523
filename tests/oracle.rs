//! The allocator against a plain `Vec<bool>`: whatever sequence of operations is run, on devices of
//! odd sizes, every answer must be one that the oracle allows, and "no" must be true.

use freemap::{
    AllocError, Allocator, Extent, FreeError, FreeManyError, MarkError, RangeError, Request,
    RequestError, Runs,
};
use proptest::prelude::*;

/// `true` is a free block.
struct Oracle(Vec<bool>);

impl Oracle {
    fn range(&self, extent: Extent) -> &[bool] {
        &self.0[extent.start as usize..(extent.start + extent.len) as usize]
    }

    fn set(&mut self, extent: Extent, free: bool) {
        self.0[extent.start as usize..(extent.start + extent.len) as usize].fill(free);
    }

    fn free(&self) -> u64 {
        self.0.iter().filter(|&&free| free).count() as u64
    }

    fn runs(&self) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for (block, _) in self.0.iter().enumerate().filter(|&(_, &free)| free) {
            match runs.last_mut() {
                Some(run) if run.start + run.len == block as u64 => run.len += 1,
                _ => runs.push(Extent::new(block as u64, 1)),
            }
        }
        runs
    }

    fn fits(&self, len: u64, align: u64) -> bool {
        self.runs().iter().any(|run| {
            let start = run.start.next_multiple_of(align);
            start + len <= run.start + run.len
        })
    }

    /// The sums that extents of `min..=max` blocks can make out of the free runs (alignment 1).
    fn can_scatter(&self, len: u64, min: u64, max: u64) -> bool {
        let len = len as usize;
        let mut reach = vec![false; len + 1];
        reach[0] = true;
        for run in self.runs() {
            let own: Vec<bool> =
                (0..=run.len.min(len as u64)).map(|sum| sum.div_ceil(max) <= sum / min).collect();
            reach = (0..=len)
                .map(|sum| (0..own.len().min(sum + 1)).any(|k| own[k] && reach[sum - k]))
                .collect();
        }
        reach[len]
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { len: u64 },
    With { len: u64, align: u64, near: Option<u64> },
    Scatter { len: u64, min: u64, max: u64, partial: bool },
    Pieces { len: u64, near: Option<u64>, effort: u64 },
    Many { len: u64, count: usize },
    FreeMany { every: usize, wrong: Option<u64> },
    FreeHeld { pick: usize, skip: u64, len: u64 },
    FreeAny { start: u64, len: u64 },
    Mark { start: u64, len: u64 },
    Walk { from: u64 },
}

fn lens() -> impl Strategy<Value = u64> {
    prop_oneof![4 => 1..9u64, 3 => 1..130u64, 2 => 1..1100u64, 1 => 0..5000u64]
}

fn steps(blocks: u64) -> impl Strategy<Value = Step> {
    let aligns = prop_oneof![3 => Just(1u64), 1 => 1..9u64, 1 => (0..11u32).prop_map(|k| 1 << k)];
    let near = prop::option::of(0..blocks + 2);
    let with =
        (lens(), aligns, near).prop_map(|(len, align, near)| Step::With { len, align, near });
    prop_oneof![
        4 => lens().prop_map(|len| Step::Allocate { len }),
        4 => with,
        3 => (lens(), 1..9u64, 0..40u64, any::<bool>()).prop_map(|(len, min, more, partial)| {
            Step::Scatter { len, min, max: min + more, partial }
        }),
        3 => (lens(), prop::option::of(0..blocks), prop_oneof![0..9u64, Just(u64::MAX)])
            .prop_map(|(len, near, effort)| Step::Pieces { len, near, effort }),
        2 => (1..70u64, 0..300usize).prop_map(|(len, count)| Step::Many { len, count }),
        2 => (1..20usize, prop::option::weighted(0.2, 0..blocks + 70))
            .prop_map(|(every, wrong)| Step::FreeMany { every, wrong }),
        7 => (any::<usize>(), 0..64u64, lens())
            .prop_map(|(pick, skip, len)| Step::FreeHeld { pick, skip, len }),
        2 => (0..blocks + 70, lens()).prop_map(|(start, len)| Step::FreeAny { start, len }),
        2 => (0..blocks + 70, lens()).prop_map(|(start, len)| Step::Mark { start, len }),
        1 => (0..blocks + 2).prop_map(|from| Step::Walk { from }),
    ]
}

/// Sizes around every border: word, leaf, node, and one in between.
fn devices() -> impl Strategy<Value = u64> {
    prop_oneof![
        1..70u64,
        500..520u64,
        1000..3000u64,
        Just(32767u64),
        Just(32768u64),
        Just(32769u64),
        Just(40_001u64),
    ]
}

fn range_error(extent: Extent, blocks: u64) -> Option<RangeError> {
    match extent {
        Extent { start, len: 0 } => Some(RangeError::Empty { start }),
        Extent { start, len } if start + len > blocks => {
            Some(RangeError::OutOfRange { block: start.max(blocks), blocks })
        }
        _ => None,
    }
}

struct World {
    allocator: Allocator,
    oracle: Oracle,
    held: Vec<Extent>,
}

impl World {
    fn took(&mut self, extent: Extent) {
        assert!(self.oracle.range(extent).iter().all(|&free| free), "{extent} was not free");
        self.oracle.set(extent, false);
        self.held.push(extent);
    }

    fn check_failure(&self, error: &AllocError, len: u64, fits: bool) {
        let free = self.oracle.free();
        match *error {
            AllocError::NoSpace { requested, free: told } => {
                assert_eq!((requested, told), (len, free));
                assert!(free < len);
            }
            AllocError::NoContiguous { requested, free: told } => {
                assert_eq!((requested, told), (len, free));
                assert!(free >= len && !fits);
            }
            ref other => panic!("unexpected {other}"),
        }
    }

    fn run(&mut self, step: Step) {
        let blocks = self.allocator.blocks();
        match step {
            Step::Allocate { len } => self.contiguous(Request::new(len), len, 1, None),
            Step::With { len, align, near } => {
                let request = Request::new(len).align(align);
                let request = near.map_or(request, |block| request.near(block));
                self.contiguous(request, len, align, near);
            }
            Step::Scatter { len, min, max, partial } => {
                self.scatter(len, min, max, partial);
            }
            Step::Pieces { len, near, effort } => self.pieces(len, near, effort),
            Step::Many { len, count } => self.many(len, count),
            Step::FreeMany { every, wrong } => self.free_many(every, wrong),
            Step::FreeHeld { pick, skip, len } => {
                if self.held.is_empty() {
                    return;
                }
                let pick = pick % self.held.len();
                let whole = self.held.swap_remove(pick);
                let skip = skip.min(whole.len - 1);
                let part = Extent::new(whole.start + skip, len.clamp(1, whole.len - skip));
                for rest in [
                    Extent::new(whole.start, skip),
                    Extent::new(part.start + part.len, whole.len - skip - part.len),
                ] {
                    if rest.len > 0 {
                        self.held.push(rest);
                    }
                }
                assert_eq!(self.allocator.free(part), Ok(()));
                self.oracle.set(part, true);
            }
            Step::FreeAny { start, len } => self.free_any(Extent::new(start, len)),
            Step::Mark { start, len } => {
                let extent = Extent::new(start, len);
                let marked = self.allocator.mark_allocated(extent);
                if let Some(error) = range_error(extent, blocks) {
                    assert_eq!(marked, Err(MarkError::Range(error)));
                    return;
                }
                match self.oracle.range(extent).iter().position(|&free| !free) {
                    Some(at) => {
                        let block = start + at as u64;
                        assert_eq!(marked, Err(MarkError::AlreadyAllocated { block }));
                    }
                    None => {
                        assert_eq!(marked, Ok(()));
                        self.took(extent);
                    }
                }
            }
            Step::Walk { from } => {
                let shown: Vec<Extent> = self.allocator.free_extents_from(from).collect();
                let runs: Vec<Extent> = self
                    .oracle
                    .runs()
                    .into_iter()
                    .filter(|run| run.start + run.len > from)
                    .map(|run| {
                        let start = run.start.max(from);
                        Extent::new(start, run.start + run.len - start)
                    })
                    .collect();
                assert_eq!(shown, runs);
                assert_eq!(self.allocator.next_free(from), runs.first().map(|run| run.start));
            }
        }
    }

    fn contiguous(&mut self, request: Request, len: u64, align: u64, near: Option<u64>) {
        let blocks = self.allocator.blocks();
        match self.allocator.allocate_with(&request) {
            Ok(extents) => {
                assert_eq!(extents.len(), 1);
                assert_eq!((extents[0].len, extents[0].start % align), (len, 0));
                self.took(extents[0]);
            }
            Err(AllocError::InvalidRequest(error)) => {
                let expected = match error {
                    RequestError::ZeroLength => len == 0,
                    RequestError::TooLong { .. } => len > blocks,
                    RequestError::Align { .. } => align == 0 || align > blocks,
                    RequestError::NearOutside { .. } => near.is_some_and(|near| near >= blocks),
                    _ => false,
                };
                assert!(expected, "{error}");
            }
            Err(error) => self.check_failure(&error, len, self.oracle.fits(len, align)),
        }
    }

    fn scatter(&mut self, len: u64, min: u64, max: u64, partial: bool) {
        let request = Request::new(len).scattered().min_extent(min).max_extent(max);
        let request = if partial { request.partial() } else { request };
        let mut extents = vec![Extent::new(u64::MAX, 0)];
        match self.allocator.allocate_into(&request, &mut extents) {
            Ok(()) => {
                let sum: u64 = extents[1..].iter().map(|extent| extent.len).sum();
                assert!(sum == len || (partial && sum < len && sum > 0));
                for &extent in &extents[1..] {
                    assert!((min..=max).contains(&extent.len));
                    self.took(extent);
                }
                if sum < len && len - sum >= min {
                    assert!(!self.oracle.fits(min, 1), "partial although more was to be had");
                }
            }
            Err(AllocError::InvalidRequest(error)) => match error {
                RequestError::ZeroLength => assert_eq!(len, 0),
                RequestError::TooLong { .. } => assert!(len > self.allocator.blocks()),
                RequestError::Indivisible { .. } => {
                    if partial {
                        assert!(len < min);
                    } else {
                        assert!(!(1..=len).any(|n| n * min <= len && len <= n * max));
                    }
                }
                other => panic!("unexpected {other}"),
            },
            Err(error) => {
                let fits = if partial {
                    len >= min && self.oracle.fits(min, 1)
                } else {
                    self.oracle.can_scatter(len, min, max)
                };
                assert_eq!(extents.len(), 1, "the buffer must be as it was");
                assert!(!fits, "{error}");
                self.check_failure(&error, len, fits);
            }
        }
    }

    fn pieces(&mut self, len: u64, near: Option<u64>, effort: u64) {
        let request = Request::new(len).scattered().effort(effort);
        let request = near.map_or(request, |block| request.near(block));
        let runs = self.oracle.runs();
        match self.allocator.allocate_reported(&request) {
            Ok((extents, spent)) => {
                assert_eq!(extents.blocks(), len);
                assert!(spent.gave_up <= (spent.leaves >= effort));
                for &extent in &extents {
                    self.took(extent);
                }
                // With no limit, no more pieces than there are runs of their order or longer: all
                // but the last are whole runs or come from longer ones.
                if effort == u64::MAX {
                    assert!(!spent.gave_up);
                    let shortest = extents.iter().rev().skip(1).map(|extent| extent.len).min();
                    let longer = |len: u64| runs.iter().filter(|run| run.len >= len).count();
                    assert!(shortest.is_none_or(|len| extents.len() <= longer(len) + 1));
                }
            }
            Err(AllocError::InvalidRequest(error)) => match error {
                RequestError::ZeroLength => assert_eq!(len, 0),
                RequestError::TooLong { .. } => assert!(len > self.allocator.blocks()),
                other => panic!("unexpected {other}"),
            },
            Err(error) => self.check_failure(&error, len, false),
        }
    }

    fn many(&mut self, len: u64, count: usize) {
        let mut extents = vec![Extent::new(u64::MAX, u64::MAX); count];
        match self.allocator.allocate_many(len, &mut extents) {
            Ok(()) => {
                for extent in extents {
                    assert_eq!(extent.len, len);
                    self.took(extent);
                }
            }
            Err(AllocError::InvalidRequest(RequestError::TooLong { .. })) => {
                assert!(len > self.allocator.blocks());
            }
            Err(error) => {
                // How many extents there is room for depends on where the first ones went.
                let total = len * count as u64;
                let fits = match (len, count) {
                    (_, 1) => self.oracle.fits(len, 1),
                    (1, _) => self.oracle.free() >= total,
                    _ => false,
                };
                self.check_failure(&error, total, fits);
            }
        }
    }

    /// Frees every so many of the held extents, last first; with `wrong` among them, if that block is
    /// no rightful one.
    fn free_many(&mut self, every: usize, wrong: Option<u64>) {
        let list: Vec<Extent> = self.held.iter().copied().rev().step_by(every).collect();
        let blocks = self.allocator.blocks();
        let wrong = wrong.filter(|&block| {
            block >= blocks
                || self.oracle.0[block as usize]
                || list.iter().any(|extent| extent.contains(block))
        });
        let mut extents = list.clone();
        extents.extend(wrong.map(|block| Extent::new(block, 1)));
        let result = self.allocator.free_many(&mut extents);
        match wrong {
            None => {
                assert_eq!(result, Ok(()));
                assert!(extents.is_sorted());
                list.iter().for_each(|&extent| self.oracle.set(extent, true));
                self.held.retain(|extent| !list.contains(extent));
            }
            Some(block) => {
                let error = range_error(Extent::new(block, 1), blocks)
                    .map_or(FreeError::DoubleFree { block }, FreeError::Range);
                assert_eq!(result, Err(FreeManyError { freed: 0, error }));
            }
        }
    }

    fn free_any(&mut self, extent: Extent) {
        let freed = self.allocator.free(extent);
        if let Some(error) = range_error(extent, self.allocator.blocks()) {
            assert_eq!(freed, Err(FreeError::Range(error)));
            return;
        }
        match self.oracle.range(extent).iter().position(|&free| free) {
            Some(at) => {
                let block = extent.start + at as u64;
                assert_eq!(freed, Err(FreeError::DoubleFree { block }));
            }
            None => {
                assert_eq!(freed, Ok(()));
                self.oracle.set(extent, true);
                self.held = self.held.iter().flat_map(|held| without(held, extent)).collect();
            }
        }
    }

    /// Everything that can be asked must agree with the oracle.
    fn check(&self) {
        let found = self.allocator.verify();
        assert!(found.is_clean(), "{:?}", found.differences);
        let free = self.oracle.free();
        assert_eq!((found.free_blocks, self.allocator.free_blocks()), (free, free));
        let by_shard = (0..).map_while(|shard| self.allocator.shard_free_blocks(shard));
        let shard_blocks = self.allocator.shard_blocks() as usize;
        let expected = self.oracle.0.chunks(shard_blocks);
        assert!(
            by_shard.eq(expected.map(|shard| shard.iter().filter(|&&free| free).count() as u64))
        );
        let runs = self.oracle.runs();
        let survey = self.allocator.survey().finish();
        assert_eq!(survey, runs.iter().copied().collect::<Runs>());
        assert_eq!(survey.blocks(), free);
        let bitmap = self.allocator.to_bitmap().unwrap();
        for (block, &free) in self.oracle.0.iter().enumerate() {
            assert_eq!(bitmap[block / 64] >> (block % 64) & 1 == 0, free);
        }
        let again = Allocator::from_bitmap(self.allocator.blocks(), &bitmap).unwrap();
        assert!(again.free_extents().eq(runs.iter().copied()));
        for run in runs {
            assert_eq!(self.allocator.is_free(run), Ok(true));
            assert_eq!(self.allocator.is_allocated(run), Ok(false));
        }
    }
}

/// What is left of `held` without `hole`.
fn without(held: &Extent, hole: Extent) -> Vec<Extent> {
    let (start, end) = (held.start, held.start + held.len);
    let (low, high) = (hole.start.clamp(start, end), (hole.start + hole.len).clamp(start, end));
    [Extent::new(start, low - start), Extent::new(high, end - high)]
        .into_iter()
        .filter(|rest| rest.len > 0)
        .collect()
}

fn scripts() -> impl Strategy<Value = (u64, Vec<bool>, Vec<Step>)> {
    devices().prop_flat_map(|blocks| {
        let pattern = prop_oneof![
            Just(vec![true]),
            Just(vec![true, false]),
            prop::collection::vec(any::<bool>(), 1..200),
            prop::collection::vec(prop::bool::weighted(0.1), 1..200),
            prop::collection::vec(prop::bool::weighted(0.97), 1..1000),
        ];
        (Just(blocks), pattern, prop::collection::vec(steps(blocks), 1..60))
    })
}

/// A run that fits, and a block of it to begin at. Lengths of 2^(k+1) - 1 and a little more are those
/// that may contain no more than one aligned group of 2^k.
fn inside_a_run() -> impl Strategy<Value = (u64, Extent, u64)> {
    let len = prop_oneof![7..16u64, 255..511u64, 1023..5000u64];
    (len, 0..3000u64, 0..9u64).prop_flat_map(|(len, start, more)| {
        let run = Extent::new(start, len + more);
        (Just(len), Just(run), start..start + run.len)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn every_answer_is_one_that_the_oracle_allows((blocks, pattern, script) in scripts()) {
        let free: Vec<bool> = (0..blocks as usize).map(|i| pattern[i % pattern.len()]).collect();
        let mut bitmap = vec![0u64; (blocks as usize).div_ceil(64)];
        for (block, _) in free.iter().enumerate().filter(|&(_, &free)| !free) {
            bitmap[block / 64] |= 1 << (block % 64);
        }
        let allocator = Allocator::from_bitmap(blocks, &bitmap).unwrap();
        let mut world = World { allocator, oracle: Oracle(free), held: Vec::new() };
        world.check();
        for step in script {
            world.run(step);
            let found = world.allocator.verify();
            prop_assert!(found.is_clean(), "{:?}", found.differences);
        }
        world.check();
    }

    #[test]
    fn a_search_that_begins_inside_the_only_run_finds_it(
        (len, run, from) in inside_a_run(),
        hinted in any::<bool>(),
    ) {
        const BLOCKS: u64 = 16_384;
        let allocator = Allocator::builder(BLOCKS).build_allocated().unwrap();
        let oracle = Oracle(vec![false; BLOCKS as usize]);
        let mut world = World { allocator, oracle, held: Vec::new() };
        // Where this thread allocated last is where it will begin.
        world.free_any(Extent::new(from, 1));
        world.run(Step::Allocate { len: 1 });
        world.free_any(Extent::new(run.start, from - run.start));
        world.free_any(Extent::new(from, run.start + run.len - from));
        let near = hinted.then_some(from);
        world.run(Step::With { len, align: 1, near });
        world.check();
    }
}
