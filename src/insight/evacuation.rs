//! Looking for the parts of a device that are cheapest to empty, beside full traffic.
//!
//! A window slides over the device, of as many leaves as the wanted run needs. Its blocks in use
//! and their extents are sums over its leaves. So each leaf is read once, and remembered as long as
//! it is in the window.

use std::collections::{BinaryHeap, VecDeque};
use std::mem::take;
use std::sync::Arc;

use crate::base::geometry::{LEAF_BLOCKS, Native, WORD_BLOCKS};
use crate::base::place::LeafIndex;
use crate::base::word::Word;
use crate::core::Core;
use crate::index::Bitmap;
use crate::insight::survey::STEP_BLOCKS;
use crate::values::extent::Extent;

/// What to look for with [`Allocator::plan_evacuation`](crate::Allocator::plan_evacuation).
///
/// ```
/// let request = freemap::EvacuationRequest::new(1024).candidates(3).extent_cost(16);
/// # let _ = request;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvacuationRequest {
    run_blocks: u64,
    candidates: usize,
    extent_cost: u64,
}

impl EvacuationRequest {
    /// Up to 8 regions for runs of `run_blocks` blocks each, at least 1. Regions are whole leaves
    /// of 512 blocks, so the runs are longer unless `run_blocks` is a multiple of that.
    pub const fn new(run_blocks: u64) -> Self {
        let run_blocks = if run_blocks == 0 { 1 } else { run_blocks };
        Self { run_blocks, candidates: 8, extent_cost: 0 }
    }

    /// The `count` cheapest regions, if there are that many.
    #[must_use]
    pub const fn candidates(mut self, count: usize) -> Self {
        self.candidates = count;
        self
    }

    /// Moving an extent costs as much as moving `blocks` blocks, in addition to its own; 0 by
    /// default. For engines where each extent takes a transaction or a seek.
    #[must_use]
    pub const fn extent_cost(mut self, blocks: u64) -> Self {
        self.extent_cost = blocks;
        self
    }

    /// Leaves of a region.
    fn leaves(&self) -> u64 {
        self.run_blocks.div_ceil(LEAF_BLOCKS)
    }
}

/// A region that could be emptied, as an [`EvacuationPlanner`] found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evacuation {
    /// The extent to [close](crate::Allocator::close): whole leaves, and at the end of the device
    /// the rest of the last leaf.
    pub extent: Extent,
    /// Blocks to move; at least 1.
    pub blocks_to_move: u64,
    /// Extents that contain them; adjacent allocations show as one.
    pub extents_to_move: u64,
    /// The cost: the blocks, plus the request's cost for each extent. Saturating.
    pub cost: u64,
    /// The free run that will result: the region with its free neighbours. On either side, no more
    /// than the region's length is examined.
    pub run: Extent,
}

/// What an [`EvacuationPlanner`] has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EvacuationPlan {
    /// Runs of the wanted length that exist already, in whole leaves, counted from the left: for
    /// these nothing has to be moved.
    pub ready: u64,
    /// Regions that overlap neither each other nor those runs, cheapest first; at the same cost,
    /// those with fewer extents, then the first.
    pub candidates: Vec<Evacuation>,
}

/// A walk over the bitmap that looks for the cheapest regions to empty for a free run of a wanted
/// length, from [`Allocator::plan_evacuation`](crate::Allocator::plan_evacuation). Each step goes
/// as far as the caller says, blocks no other thread, and reads each word once. Memory: 6 bytes for
/// each leaf of one region, and what the candidates take.
///
/// *What costs.* Blocks in use. These include blocks of transactions under way, and freed blocks in
/// the quarantine: they all look the same and may become free by themselves. Blocks that wait to be
/// discarded, are with the device in a [`Batch`](crate::Batch), or are kept for reservations cost
/// nothing: a closed region gets rid of them by itself. Closed leaves are in no region.
///
/// *Which.* The first candidate is the cheapest region of all. From left to right, a region gives
/// way to a cheaper one that overlaps it. So the planner finds every region that is cheaper than
/// all that overlap it, and others between those, but not as many as possible. To empty more, plan
/// again.
///
/// *What is promised.* A plan is a hint. While nothing else runs, its figures are exact; otherwise
/// they show no single moment, and a cheap region may be full when it is closed. Only
/// [closing](crate::Allocator::close) and emptying the region gives a certain result: `extent` as
/// one free run, of at least the wanted length. The free neighbours in `run` are not held, and a
/// region that another caller has closed meanwhile cannot be closed.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use freemap::{Allocator, EvacuationRequest, Extent};
///
/// let allocator = Allocator::builder(1 << 16).build_allocated()?;
/// allocator.free(Extent::new(10_000, 1_500))?;
/// assert!(allocator.allocate(2000).is_err());
///
/// let plan = allocator.plan_evacuation(&EvacuationRequest::new(2000)).finish();
/// let cheapest = plan.candidates[0];
/// assert_eq!(cheapest.extent, Extent::new(9_728, 2048)); // four leaves
/// assert_eq!(cheapest.blocks_to_move, 548);
///
/// let region = allocator.close(cheapest.extent)?;
/// for extent in region.live_extents() {
///     allocator.free(extent)?; // in truth: moves it first
/// }
/// assert!(region.is_empty());
/// drop(region);
/// assert_eq!(allocator.allocate(cheapest.run.len)?, cheapest.run);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a planner finds nothing until it goes on"]
pub struct EvacuationPlanner {
    core: Arc<Core>,
    walk: Walk,
}

impl EvacuationPlanner {
    pub(crate) fn new(core: Arc<Core>, request: &EvacuationRequest) -> Self {
        let mut walk = Walk::new(*request);
        walk.is_finished = request.run_blocks > core.space.bitmap.blocks();
        Self { core, walk }
    }

    /// Continues over `blocks` blocks, rounded up to whole leaves of 512, at least one. Returns
    /// whether there is more to do. O(blocks / 64).
    pub fn step(&mut self, blocks: u64) -> bool {
        let mut left = blocks.div_ceil(LEAF_BLOCKS).max(1);
        while left > 0 && !self.walk.is_finished {
            self.walk.read_leaf(&self.core);
            left -= 1;
        }
        !self.walk.is_finished
    }

    /// Whether the walk is over, so that only [`finish`](Self::finish) is left.
    pub fn is_finished(&self) -> bool {
        self.walk.is_finished
    }

    /// The block at which the walk continues.
    pub fn position(&self) -> u64 {
        self.walk.leaf.first_block::<Native>().min(self.core.space.bitmap.blocks())
    }

    /// Walks to the end, and examines the neighbours of the candidates. O(blocks / 64).
    pub fn finish(mut self) -> EvacuationPlan {
        while self.step(STEP_BLOCKS) {}
        let Walk { request, ready, cheapest, .. } = self.walk;
        let found = cheapest.into_sorted_vec().into_iter();
        let candidates = found.filter_map(|window| window.look_around(&self.core, &request));
        EvacuationPlan { ready, candidates: candidates.collect() }
    }
}

/// What one leaf adds to a window.
#[derive(Clone, Copy, Debug, Default)]
struct LeafUse {
    /// Blocks in use.
    live: u16,
    /// Extents in use that begin here.
    begun: u16,
    /// Whether an extent that began before lies here.
    carried: bool,
}

/// A window and its cost, in the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Window {
    cost: u64,
    extents: u64,
    first_leaf: LeafIndex,
    blocks: u64,
}

impl Window {
    /// The window as reported to the caller, if it is still on the device.
    fn look_around(self, core: &Core, request: &EvacuationRequest) -> Option<Evacuation> {
        let device = core.space.bitmap.blocks();
        let start = self.first_leaf.first_block::<Native>();
        let len = request.leaves() * LEAF_BLOCKS;
        let end = (start + len).min(device);
        if start + request.run_blocks > end {
            return None;
        }
        let before = core.space.bitmap.run_start(start, start.saturating_sub(len));
        let behind = core.space.bitmap.run_end(end, (end + len).min(device));
        Some(Evacuation {
            extent: Extent { start, len: end - start },
            blocks_to_move: self.blocks,
            extents_to_move: self.extents,
            cost: self.cost,
            run: Extent { start: before, len: behind - before },
        })
    }
}

/// The position and the findings of a planner.
#[derive(Debug)]
struct Walk {
    request: EvacuationRequest,
    /// The next leaf to read.
    leaf: LeafIndex,
    is_finished: bool,
    /// Whether the block before that leaf is in use.
    carry: bool,
    /// Leaves before `leaf` with nothing to move, not in the window yet. If there are enough for a
    /// run, no window contains them.
    unused_leaves: u64,
    ready: u64,
    /// The next leaf that the window takes.
    next: LeafIndex,
    /// The last leaves before `next`, at most as many as a window has, with their sums.
    leaves: VecDeque<LeafUse>,
    live: u64,
    begun: u64,
    /// A window that no cheaper one has overlapped so far.
    pending: Option<Window>,
    /// The cheapest windows, the most expensive on top.
    cheapest: BinaryHeap<Window>,
}

impl Walk {
    fn new(request: EvacuationRequest) -> Self {
        Self {
            request,
            leaf: LeafIndex::FIRST,
            is_finished: false,
            carry: false,
            unused_leaves: 0,
            ready: 0,
            next: LeafIndex::FIRST,
            leaves: VecDeque::new(),
            live: 0,
            begun: 0,
            pending: None,
            cheapest: BinaryHeap::new(),
        }
    }

    fn read_leaf(&mut self, core: &Core) {
        let start = self.leaf.first_block::<Native>();
        let left = core.space.bitmap.blocks().saturating_sub(start);
        let len = left.min(LEAF_BLOCKS);
        // The device may have shrunk since.
        if len == 0 {
            return self.end();
        }
        let found = self.look(core, len);
        let closed = core.space.closed.is_active() && core.space.closed.is_closed(self.leaf);
        self.leaf = self.leaf.next();
        // Whether the device ends before such a run would.
        let short = (self.request.leaves() - 1) * LEAF_BLOCKS + len < self.request.run_blocks;
        if closed || short {
            self.cut();
        } else if found.live == 0 {
            self.unused_leaves += 1;
            if self.unused_leaves == self.request.leaves() {
                self.ready += 1;
                self.unused_leaves = 0;
                self.cut();
            }
        } else {
            self.slide_over_unused();
            self.slide(found);
        }
        if left <= LEAF_BLOCKS {
            self.end();
        }
    }

    /// Reads the current leaf, `len` blocks of which are on the device.
    #[inline]
    fn look(&mut self, core: &Core, len: u64) -> LeafUse {
        let carried = self.carry;
        let mut found = LeafUse::default();
        let closer = core.space.has_unowned();
        if !closer && !core.space.bitmap.may_have_free(self.leaf) {
            self.carry = true;
            return LeafUse { live: len as u16, begun: u16::from(!carried), carried };
        }
        let start = self.leaf.first_block::<Native>();
        let words = core.space.bitmap.leaf_words(self.leaf);
        for ((word, mask), free) in Bitmap::<Native>::words_of(start, len).zip(words) {
            let unused = if closer { free | core.space.unowned_in_word(word) } else { free };
            let live = (!unused & mask).to_u64();
            found.live += live.count_ones() as u16;
            found.begun += (live & !(live << 1 | u64::from(self.carry))).count_ones() as u16;
            found.carried |= word.place_in_leaf::<Native>() == 0 && carried && live & 1 == 1;
            self.carry = live >> (WORD_BLOCKS - 1) & 1 == 1;
        }
        found
    }

    /// Moves the window on by one leaf, `next`, and drops its first leaf if it is full.
    #[inline]
    fn slide(&mut self, next: LeafUse) {
        let width = self.request.leaves();
        if self.leaves.len() as u64 == width
            && let Some(first) = self.leaves.pop_front()
        {
            self.live -= u64::from(first.live);
            self.begun -= u64::from(first.begun);
        }
        self.leaves.push_back(next);
        self.live += u64::from(next.live);
        self.begun += u64::from(next.begun);
        self.next = self.next.next();
        if self.leaves.len() as u64 == width {
            let cut = self.leaves.front().is_some_and(|first| first.carried);
            let (blocks, extents) = (self.live, self.begun + u64::from(cut));
            let cost = blocks.saturating_add(extents.saturating_mul(self.request.extent_cost));
            let first_leaf = self.next.minus(self.leaves.len());
            self.consider(Window { cost, extents, first_leaf, blocks });
        }
    }

    /// Slides the window over the leaves that were not enough for a run of their own.
    fn slide_over_unused(&mut self) {
        for _ in 0..take(&mut self.unused_leaves) {
            self.slide(LeafUse::default());
        }
    }

    fn consider(&mut self, window: Window) {
        match self.pending {
            Some(other) if self.overlap(&other, &window) => {
                self.pending = Some(window.min(other));
            }
            _ => {
                let before = self.pending.replace(window);
                self.choose(before);
            }
        }
    }

    /// Whether `window` overlaps `other`, which is before it.
    fn overlap(&self, other: &Window, window: &Window) -> bool {
        (window.first_leaf.since(other.first_leaf) as u64) < self.request.leaves()
    }

    fn choose(&mut self, window: Option<Window>) {
        let Some(window) = window else { return };
        if self.cheapest.len() < self.request.candidates {
            self.cheapest.push(window);
        } else if let Some(mut dearest) = self.cheapest.peek_mut()
            && window < *dearest
        {
            *dearest = window;
        }
    }

    /// Ends the window here: no window reaches over the current leaf.
    fn cut(&mut self) {
        self.slide_over_unused();
        self.leaves.clear();
        (self.live, self.begun, self.next) = (0, 0, self.leaf);
        let before = take(&mut self.pending);
        self.choose(before);
    }

    fn end(&mut self) {
        self.cut();
        self.is_finished = true;
    }
}
