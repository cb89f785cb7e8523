//! A request for a run is refused only if there is none among all blocks that no caller, no reader,
//! no region and no batch has: wherever these wait, and whatever the handle remembers.

use std::time::{Duration, Instant};

use freemap::{
    AllocError, Allocator, Batch, DiscardLimits, Discarder, Discarding, Extent, Handle, Region,
    Request,
};
use proptest::prelude::*;

const BLOCKS: u64 = 192;

/// Blocks of a region: it closes whole leaves.
const LEAF: u64 = 512;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// One of the runs that are asked for.
    Run {
        run: usize,
    },
    /// Some run of the blocks in use, by a transaction or not.
    Free {
        start: u64,
        len: u64,
        commit: bool,
    },
    /// A block anywhere.
    Mark {
        block: u64,
    },
    NextBatch,
    CompleteBatch {
        pick: usize,
    },
    Close,
    Open,
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4usize).prop_map(|run| Step::Run { run }),
        6 => (0..BLOCKS, 1..5u64, any::<bool>())
            .prop_map(|(start, len, commit)| Step::Free { start, len, commit }),
        2 => (0..BLOCKS, 1..20u64, any::<bool>())
            .prop_map(|(start, len, commit)| Step::Free { start, len, commit }),
        1 => (0..BLOCKS).prop_map(|block| Step::Mark { block }),
        2 => Just(Step::NextBatch),
        2 => any::<usize>().prop_map(|pick| Step::CompleteBatch { pick }),
        1 => Just(Step::Close),
        1 => Just(Step::Open),
    ]
}

struct World {
    allocator: Allocator,
    handle: Handle,
    discarder: Discarder,
    batches: Vec<Batch>,
    region: Option<Region>,
    /// Lengths and alignments.
    runs: Vec<(u64, u64)>,
    /// Blocks in use.
    used: Vec<bool>,
    now: Instant,
}

impl World {
    fn new(waiting: u64, granularity: u64, runs: Vec<(u64, u64)>) -> Self {
        // The second leaf can be closed.
        let allocator = Allocator::new(LEAF + BLOCKS).expect("memory");
        let mut used = vec![false; (LEAF + BLOCKS) as usize];
        // All is in use to begin with.
        allocator.mark_allocated(Extent::new(0, LEAF + BLOCKS)).expect("free");
        used.fill(true);
        let limits = DiscardLimits::new().waiting(waiting).granularity(granularity);
        let limits = limits.linger(Duration::from_secs(5)).batch(16, 4);
        Self {
            handle: allocator.handle(),
            discarder: allocator.discarder(limits).expect("the first"),
            allocator,
            batches: Vec::new(),
            region: None,
            runs,
            used,
            now: Instant::now(),
        }
    }

    /// The blocks of the borders between both leaves, so that half of them can be closed.
    fn block(start: u64) -> u64 {
        LEAF - BLOCKS / 2 + start
    }

    fn set(&mut self, extent: Extent, used: bool) {
        self.used[extent.start as usize..(extent.start + extent.len) as usize].fill(used);
    }

    /// Whether there is such a run.
    fn fits(&self, len: u64, align: u64) -> bool {
        let with_device = |block: u64| {
            let mut extents = self.batches.iter().flat_map(|batch| batch.extents());
            extents.any(|extent| (extent.start..extent.start + extent.len).contains(&block))
        };
        let closed = |block| self.region.is_some() && block >= LEAF;
        let free = |block: u64| !self.used[block as usize] && !with_device(block) && !closed(block);
        let blocks = self.used.len() as u64;
        let mut starts = (0..=blocks - len).step_by(align as usize);
        starts.any(|start| (start..start + len).all(free))
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Run { run } => {
                let (len, align) = self.runs[run % self.runs.len()];
                match self.handle.allocate_with(&Request::new(len).align(align)) {
                    Ok(extents) => {
                        let extent = extents[0];
                        assert!(
                            self.used[extent.start as usize..][..extent.len as usize]
                                .iter()
                                .all(|used| !used)
                        );
                        self.set(extent, true);
                    }
                    Err(AllocError::NoSpace { .. } | AllocError::NoContiguous { .. }) => {
                        assert!(!self.fits(len, align), "{len} at {align} were refused");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Free { start, len, commit } => {
                let extent = Extent::new(Self::block(start), len.min(BLOCKS - start));
                let mut blocks = extent.start..extent.start + extent.len;
                if !blocks.all(|block| self.used[block as usize]) {
                    return;
                }
                if commit {
                    let mut transaction = self.handle.begin();
                    transaction.free(extent).expect("in use");
                    transaction.freeze().committed();
                } else {
                    self.handle.free(extent).expect("in use");
                }
                self.set(extent, false);
            }
            Step::Mark { block } => {
                let extent = Extent::new(Self::block(block), 1);
                if self.allocator.mark_allocated(extent).is_ok() {
                    self.set(extent, true);
                }
            }
            Step::NextBatch => {
                self.now += Duration::from_secs(1);
                if let Discarding::Batch(batch) = self.discarder.next(self.now) {
                    self.batches.push(batch);
                }
            }
            Step::CompleteBatch { pick } if !self.batches.is_empty() => {
                let pick = pick % self.batches.len();
                drop(self.batches.swap_remove(pick));
            }
            Step::CompleteBatch { .. } => {}
            Step::Close => {
                if self.region.is_none() {
                    self.region = self.allocator.close(Extent::new(LEAF, 1)).ok();
                }
            }
            Step::Open => self.region = None,
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn a_run_is_refused_only_if_there_is_none(
        waiting in 1..400u64,
        granularity in 1..5u64,
        runs in prop::collection::vec((1..24u64, 0..5u32), 1..4),
        steps in prop::collection::vec(steps(), 1..120),
    ) {
        let runs = runs.into_iter().map(|(len, align)| (len, 1 << align)).collect();
        let mut world = World::new(waiting, granularity, runs);
        steps.into_iter().for_each(|step| world.run(step));
        let verification = world.allocator.verify();
        prop_assert!(verification.is_clean(), "{:?}", verification.differences);
    }
}

/// Both ends of a long free are taken by name: the rest lies away from them.
#[test]
fn the_middle_of_a_long_free_is_found_by_who_missed_it() {
    let allocator = Allocator::builder(2048).build_allocated().expect("memory");
    let mut handle = allocator.handle();
    let _discarder = allocator.discarder(DiscardLimits::new()).expect("the first");
    allocator.free(Extent::new(10, 1)).expect("in use");
    handle.allocate(4).expect_err("one block waits");
    allocator.free(Extent::new(100, 200)).expect("in use");
    for end in [100, 280] {
        allocator.mark_allocated(Extent::new(end, 20)).expect("it waits");
    }
    handle.allocate(4).expect("160 blocks in one run wait");
}
