//! All that keeps blocks at once, in any order: promises, reserves, guards, transactions, regions,
//! several batches of discards, other lengths. After each step, everything that the allocator knows must agree; in the
//! end, all blocks must be free again.

use std::time::{Duration, Instant};

use freemap::{
    Allocator, Batch, Class, DiscardLimits, Discarder, Discarding, Extent, Frozen, Placement,
    ReadGuard, Region, Request, Reservation,
};
use proptest::prelude::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Allocate {
        len: u64,
        pieces: bool,
        metadata: bool,
    },
    /// In pieces of whole units, and of at least and at most so many.
    Bounded {
        units: u64,
        unit: u64,
        least: u64,
        more: u64,
        partial: bool,
    },
    Mark {
        start: u64,
        len: u64,
    },
    Free {
        pick: usize,
    },
    FreeMany {
        every: usize,
    },
    Commit {
        len: u64,
        frees: usize,
        give_back: bool,
        end: End,
    },
    Finish {
        pick: usize,
    },
    Reserve {
        len: u64,
    },
    UsePromise {
        pick: usize,
        len: u64,
    },
    SplitPromise {
        pick: usize,
    },
    DropPromise {
        pick: usize,
    },
    Pin,
    Unpin {
        pick: usize,
    },
    Close {
        block: u64,
    },
    Open {
        pick: usize,
        take: bool,
    },
    Discard {
        waiting: u64,
        batch: u64,
        shortest: u64,
        granularity: u64,
        alignment: u64,
    },
    NextBatch,
    CompleteBatch {
        pick: usize,
    },
    StopDiscards,
    Grow {
        blocks: u64,
    },
    Shrink {
        blocks: u64,
    },
    Collect,
}

/// What becomes of a transaction.
#[derive(Clone, Copy, Debug)]
enum End {
    Committed,
    Frozen,
    Dropped,
}

fn steps() -> impl Strategy<Value = Step> {
    let pick = any::<usize>;
    let end =
        prop_oneof![3 => Just(End::Committed), 1 => Just(End::Frozen), 1 => Just(End::Dropped)];
    prop_oneof![
        6 => (1..200u64, any::<bool>(), prop::bool::weighted(0.25))
            .prop_map(|(len, pieces, metadata)| Step::Allocate { len, pieces, metadata }),
        2 => (1..60u64, 1..5u64, 1..6u64, 0..6u64, any::<bool>()).prop_map(
            |(units, unit, least, more, partial)| {
                Step::Bounded { units, unit, least, more, partial }
            },
        ),
        1 => (0..3000u64, 1..50u64).prop_map(|(start, len)| Step::Mark { start, len }),
        4 => pick().prop_map(|pick| Step::Free { pick }),
        1 => (1..4usize).prop_map(|every| Step::FreeMany { every }),
        4 => (1..60u64, 0..3usize, any::<bool>(), end)
            .prop_map(|(len, frees, give_back, end)| Step::Commit { len, frees, give_back, end }),
        2 => pick().prop_map(|pick| Step::Finish { pick }),
        2 => (1..400u64).prop_map(|len| Step::Reserve { len }),
        2 => (pick(), 1..100u64).prop_map(|(pick, len)| Step::UsePromise { pick, len }),
        1 => pick().prop_map(|pick| Step::SplitPromise { pick }),
        1 => pick().prop_map(|pick| Step::DropPromise { pick }),
        1 => Just(Step::Pin),
        1 => pick().prop_map(|pick| Step::Unpin { pick }),
        1 => (0..3000u64).prop_map(|block| Step::Close { block }),
        1 => (pick(), any::<bool>()).prop_map(|(pick, take)| Step::Open { pick, take }),
        1 => (1..500u64, 1..100u64, 0..5u64, 1..9u64, 0..9u64).prop_map(
            |(waiting, batch, shortest, granularity, alignment)| {
                Step::Discard { waiting, batch, shortest, granularity, alignment }
            }
        ),
        3 => Just(Step::NextBatch),
        2 => pick().prop_map(|pick| Step::CompleteBatch { pick }),
        1 => Just(Step::StopDiscards),
        1 => (1..700u64).prop_map(|blocks| Step::Grow { blocks }),
        1 => (1..700u64).prop_map(|blocks| Step::Shrink { blocks }),
        1 => Just(Step::Collect),
    ]
}

/// What the caller has.
struct World {
    allocator: Allocator,
    held: Vec<Extent>,
    promises: Vec<Reservation>,
    /// With what they allocate, and what they free.
    frozen: Vec<(Frozen, Vec<Extent>, Vec<Extent>)>,
    guards: Vec<ReadGuard<'static>>,
    regions: Vec<Region>,
    discarder: Option<Discarder>,
    /// With the device, of this discarder and of earlier ones.
    batches: Vec<Batch>,
    now: Instant,
}

/// One of `list`, taken out.
fn take<T>(list: &mut Vec<T>, pick: usize) -> Option<T> {
    (!list.is_empty()).then(|| list.swap_remove(pick % list.len()))
}

fn pieces(len: u64) -> Request {
    Request::new(len).scattered()
}

impl World {
    fn new(blocks: u64, reserve: u64) -> Self {
        let placement = Placement::new().reserve(reserve);
        let builder = Allocator::builder(blocks).placement(Class::METADATA, placement);
        Self {
            allocator: builder.build().expect("memory"),
            held: Vec::new(),
            promises: Vec::new(),
            frozen: Vec::new(),
            guards: Vec::new(),
            regions: Vec::new(),
            discarder: None,
            batches: Vec::new(),
            now: Instant::now(),
        }
    }

    fn run(&mut self, step: &Step) {
        let Self { allocator, held, promises, frozen, guards, regions, .. } = self;
        match *step {
            Step::Allocate { len, pieces, metadata } => {
                let request = Request::new(len);
                let request = if pieces { request.scattered() } else { request };
                let class = if metadata { Class::METADATA } else { Class::BULK };
                held.extend(allocator.allocate_with(&request.class(class)).unwrap_or_default());
            }
            Step::Bounded { units, unit, least, more, partial } => {
                let request = pieces(unit * units).unit(unit).min_extent(unit * least);
                let request = request.max_extent(unit * (least + more));
                let request = if partial { request.partial() } else { request };
                held.extend(allocator.allocate_with(&request).unwrap_or_default());
            }
            Step::Mark { start, len } => {
                let extent = Extent::new(start, len);
                held.extend(allocator.mark_allocated(extent).map(|()| extent).ok());
            }
            Step::Free { pick } => {
                if let Some(extent) = take(held, pick) {
                    allocator.free(extent).expect("it is ours");
                }
            }
            Step::FreeMany { every } => {
                let mut index = 0;
                let mut free: Vec<Extent> = held
                    .extract_if(.., |_| {
                        index += 1;
                        index % every == 0
                    })
                    .collect();
                allocator.free_many(&mut free).expect("they are ours");
            }
            Step::Commit { len, frees, give_back, end } => self.commit(len, frees, give_back, end),
            Step::Finish { pick } => {
                if let Some((frozen, new, _)) = take(frozen, pick) {
                    frozen.committed();
                    held.extend(new);
                }
            }
            Step::Reserve { len } => promises.extend(allocator.reserve(len)),
            Step::UsePromise { pick, len } => {
                let count = promises.len().max(1);
                if let Some(promise) = promises.get_mut(pick % count)
                    && promise.blocks() > 0
                {
                    let request = pieces(len.min(promise.blocks()));
                    held.extend(promise.allocate(&request).expect("it was promised"));
                }
            }
            Step::SplitPromise { pick } => {
                if let Some(mut promise) = take(promises, pick) {
                    let half = promise.blocks() / 2;
                    promises.extend(promise.split(half));
                    promises.push(promise);
                }
            }
            Step::DropPromise { pick } => drop(take(promises, pick)),
            Step::Pin => guards.push(allocator.pin_owned()),
            Step::Unpin { pick } => drop(take(guards, pick)),
            Step::Close { block } => regions.extend(allocator.close(Extent::new(block, 1))),
            Step::Open { pick, take: whole } => match take(regions, pick) {
                Some(region) if whole => held.extend(region.take()),
                region => drop(region),
            },
            Step::Discard { .. } | Step::NextBatch | Step::StopDiscards => self.discard(step),
            Step::CompleteBatch { pick } => drop(take(&mut self.batches, pick)),
            Step::Grow { blocks } => {
                allocator.grow(allocator.blocks() + blocks).expect("memory");
            }
            Step::Shrink { blocks } => {
                if let Ok(shrink) = allocator.shrink(allocator.blocks().saturating_sub(blocks)) {
                    drop(shrink.finish());
                }
            }
            Step::Collect => {
                allocator.collect();
            }
        }
    }

    fn commit(&mut self, len: u64, frees: usize, give_back: bool, end: End) {
        let mut transaction = self.allocator.begin();
        let new = transaction.allocate_with(&pieces(len)).unwrap_or_default();
        let mut new = new.to_vec();
        let gone = self.held.split_off(self.held.len().saturating_sub(frees));
        for &extent in &gone {
            transaction.free(extent).expect("it is ours");
        }
        if give_back && let Some(extent) = new.pop() {
            transaction.free(extent).expect("it is the transaction's");
        }
        match end {
            End::Committed => {
                transaction.freeze().committed();
                self.held.extend(new);
            }
            End::Frozen => self.frozen.push((transaction.freeze(), new, gone)),
            End::Dropped => {
                drop(transaction);
                self.held.extend(gone);
            }
        }
    }

    fn discard(&mut self, step: &Step) {
        match (*step, &mut self.discarder) {
            (Step::Discard { waiting, batch, shortest, granularity, alignment }, None) => {
                let limits = DiscardLimits::new().waiting(waiting).batch(batch, 4);
                let limits = limits.granularity(granularity).alignment(alignment);
                let limits = limits.shortest(shortest).linger(Duration::from_millis(5));
                self.discarder = self.allocator.discarder(limits);
            }
            (Step::NextBatch, Some(discarder)) => {
                self.now += Duration::from_millis(1);
                if let Discarding::Batch(batch) = discarder.next(self.now) {
                    self.batches.push(batch);
                }
            }
            (Step::StopDiscards, _) => self.discarder = None,
            _ => {}
        }
    }

    /// Everything that the allocator knows agrees, and what the caller and the device hold is their own.
    fn check(&self, step: &dyn std::fmt::Debug) {
        let found = self.allocator.verify();
        assert!(found.is_clean(), "after {step:?}: {:?}", found.differences);
        let mut held: Vec<Extent> = self.held.clone();
        held.extend(self.frozen.iter().flat_map(|(_, new, gone)| new.iter().chain(gone)));
        for &extent in &held {
            assert_eq!(self.allocator.is_allocated(extent), Ok(true), "after {step:?}: {extent}");
        }
        let used: u64 = held.iter().map(|extent| extent.len).sum();
        let stats = self.allocator.stats();
        assert_eq!(stats.used_blocks, used, "after {step:?}");
        let listed: u64 = self.allocator.free_extents().map(|extent| extent.len).sum();
        assert_eq!((stats.free_blocks, self.allocator.free_blocks()), (listed, listed));
        let discarding = self.batches.iter().map(Batch::blocks).sum();
        assert_eq!(stats.discarding_blocks, discarding, "after {step:?}");
        held.extend(self.batches.iter().flat_map(Batch::extents));
        held.sort_unstable();
        for two in held.windows(2) {
            assert!(!two[0].overlaps(&two[1]), "after {step:?}: {} and {}", two[0], two[1]);
        }
    }

    /// All is given back: all but the reserve is free, and can be had, and then the reserve.
    fn end(mut self) {
        for (frozen, new, _) in self.frozen.drain(..) {
            frozen.committed();
            self.held.extend(new);
        }
        self.promises.clear();
        self.guards.clear();
        self.regions.clear();
        self.discarder = None;
        self.batches.clear();
        self.allocator.free_many(&mut self.held).expect("they are ours");
        self.allocator.collect();
        self.held.clear();
        self.check(&"all was given back");
        let (free, reserved) =
            (self.allocator.free_blocks(), self.allocator.stats().reserved_blocks);
        assert_eq!(free + reserved, self.allocator.blocks());
        if free > 0 {
            let all = self.allocator.allocate_with(&pieces(free)).expect("they are free");
            assert_eq!(all.blocks(), free);
            self.held.extend(all);
        }
        if reserved > 0 {
            let request = pieces(reserved).class(Class::METADATA);
            let all = self.allocator.allocate_with(&request).expect("they are in reserve");
            assert_eq!(all.blocks(), reserved);
            self.held.extend(all);
        }
        self.check(&"all was allocated");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn all_that_keeps_blocks_agrees_after_each_step(
        blocks in 300..3000u64,
        reserve in prop_oneof![Just(0u64), 1..300u64],
        script in prop::collection::vec(steps(), 1..120),
    ) {
        let mut world = World::new(blocks, reserve);
        for step in &script {
            world.run(step);
            world.check(step);
        }
        world.end();
    }
}
