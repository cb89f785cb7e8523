//! Counting without a shared counter. Every handle has a lane of its own, and the number of free
//! blocks is the sum over the lanes.

use crossbeam_utils::CachePadded;

use crate::base::sync::{Counter, Turnstile};

/// Lanes of one allocator. Handles beyond this many share.
pub(crate) const LANES: usize = 64;

/// Each figure has two counters: an owner adds by a load and a store, which would undo what another
/// handle adds in between.
#[derive(Debug, Default)]
struct Lane {
    /// Blocks freed minus blocks allocated, wrapping. Written by the owner of the lane alone.
    by_owner: Counter,
    /// Added to by all handles that share the lane, whether it has an owner or not.
    by_sharers: Counter,
    /// How often a handle that counts here moved to another shard, by owner and sharers likewise.
    spills_of_owner: Counter,
    spills_of_sharers: Counter,
    owned: Turnstile,
}

/// The lanes of one allocator.
#[derive(Debug)]
pub(crate) struct Lanes(Vec<CachePadded<Lane>>);

/// The lane that a handle counts in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LaneId {
    index: usize,
    exclusive: bool,
}

impl LaneId {
    /// Number of the lane, below [`LANES`].
    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        self.index
    }

    /// Whether the handle owns the lane, so that no other uses the owner's counters.
    #[inline(always)]
    pub(crate) fn is_exclusive(self) -> bool {
        self.exclusive
    }
}

impl Lanes {
    /// Lanes that sum to zero.
    pub(crate) fn new() -> Self {
        Self((0..LANES).map(|_| CachePadded::default()).collect())
    }

    /// A lane for one handle alone, or a shared one if all are taken. [`Lanes::release`] must give
    /// it back. If it is never given back, it stays taken, and what it counted stays counted.
    pub(crate) fn acquire(&self) -> LaneId {
        match self.0.iter().position(|lane| lane.owned.acquire()) {
            Some(index) => LaneId { index, exclusive: true },
            None => self.shared(0),
        }
    }

    /// A lane that other handles may count in too, its owner among them.
    pub(crate) fn shared(&self, seed: usize) -> LaneId {
        LaneId { index: seed % LANES, exclusive: false }
    }

    /// Gives a lane back.
    pub(crate) fn release(&self, lane: LaneId) {
        if lane.exclusive {
            self.0[lane.index].owned.release();
        }
    }

    /// Counts `blocks` as freed.
    #[inline(always)]
    pub(crate) fn freed(&self, lane: LaneId, blocks: u64) {
        let Lane { by_owner, by_sharers, .. } = &*self.0[lane.index];
        if lane.exclusive { by_owner.add_as_owner(blocks) } else { by_sharers.add(blocks) }
    }

    /// Counts `blocks` as allocated.
    #[inline(always)]
    pub(crate) fn allocated(&self, lane: LaneId, blocks: u64) {
        self.freed(lane, blocks.wrapping_neg());
    }

    /// Counts that a handle moved to another shard. An owner does so without a locked instruction,
    /// because a request that takes the run that fits best mostly moves.
    #[inline]
    pub(crate) fn spilled(&self, lane: LaneId) {
        let Lane { spills_of_owner, spills_of_sharers, .. } = &*self.0[lane.index];
        if lane.exclusive { spills_of_owner.add_as_owner(1) } else { spills_of_sharers.add(1) }
    }

    /// How often handles moved to another shard. O(lanes); exact while nothing else runs.
    pub(crate) fn spills(&self) -> u64 {
        let spills = |lane: &CachePadded<Lane>| {
            lane.spills_of_owner.get().wrapping_add(lane.spills_of_sharers.get())
        };
        self.0.iter().map(spills).fold(0, u64::wrapping_add)
    }

    /// Bytes that the lanes take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.len() * size_of::<CachePadded<Lane>>()
    }

    /// Blocks freed minus blocks allocated, wrapping. O(lanes); exact while nothing else runs.
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().fold(0, |sum, lane| {
            sum.wrapping_add(lane.by_owner.get()).wrapping_add(lane.by_sharers.get())
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_exclusive_until_they_run_out_and_come_back() {
        let lanes = Lanes::new();
        let held: Vec<LaneId> = (0..LANES).map(|_| lanes.acquire()).collect();
        assert!(held.iter().all(|lane| lane.is_exclusive()));
        assert!(held.iter().map(|lane| lane.index()).eq(0..LANES));
        let beyond = lanes.acquire();
        assert!(!beyond.is_exclusive());
        for &lane in held.iter().chain([&beyond]) {
            lanes.freed(lane, 3);
            lanes.allocated(lane, 1);
        }
        lanes.release(beyond);
        lanes.release(held[7]);
        assert_eq!(lanes.acquire().index(), 7);
        assert_eq!(lanes.sum(), 2 * (LANES as u64 + 1));
    }
    #[test]
    fn shared_lanes_take_turns_and_spills_are_counted_in_all() {
        let lanes = Lanes::new();
        let owner = lanes.acquire();
        for seed in 0..2 * LANES {
            let lane = lanes.shared(seed);
            assert_eq!((lane.index(), lane.is_exclusive()), (seed % LANES, false));
            lanes.spilled(lane);
            lanes.spilled(owner);
            assert_eq!(lanes.spills(), 2 * (seed as u64 + 1));
        }
        assert_eq!(lanes.sum(), 0);
        assert_eq!(lanes.bytes(), LANES * size_of::<CachePadded<Lane>>());
    }
}
