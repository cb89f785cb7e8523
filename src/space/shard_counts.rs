//! The number of free blocks of each shard, known without reading the bitmap. As with all free
//! blocks (`lanes.rs`), no counter is shared: each lane has a row of them, one per shard.

use crate::base::heap::OutOfMemory;
use crate::base::place::ShardIndex;
use crate::base::segmented::Segmented;
use crate::base::sync::Counter;
use crate::space::lanes::{LANES, LaneId};
use crate::values::extent::Extent;

/// The counters of all shards. Each is blocks freed minus blocks allocated, wrapping.
#[derive(Debug)]
pub(crate) struct ShardCounts {
    /// Blocks per shard, as a power of two.
    order: u32,
    /// Free blocks of each shard when the allocator was made.
    at_start: Vec<u64>,
    /// A row for the owner of each lane, then one for the sharers of each; memory is untouched
    /// until a handle counts there.
    rows: Vec<Counter>,
    /// For shards added when the device grew. All lanes share these.
    common: Segmented<Vec<Counter>>,
}

impl ShardCounts {
    /// Counters for shards of `2^order` blocks, with `at_start` free blocks each.
    pub(crate) fn new(order: u32, at_start: Vec<u64>) -> Result<Self, OutOfMemory> {
        let common = Segmented::new(Counter::zeros(at_start.len())?);
        Ok(Self { order, rows: Counter::zeros(2 * LANES * at_start.len())?, at_start, common })
    }

    /// Makes counters for at least `shards` shards. For one caller at a time, before any of their
    /// blocks becomes free.
    pub(crate) fn lengthen(&self, shards: usize) -> Result<(), OutOfMemory> {
        self.common.grow(shards, |range| Counter::zeros(range.len()))
    }

    /// Counts the blocks of `extent` as freed.
    #[inline(always)]
    pub(crate) fn freed(&self, lane: LaneId, extent: Extent) {
        self.count(lane, extent, |blocks| blocks);
    }

    /// Counts the blocks of `extent` as allocated.
    #[inline(always)]
    pub(crate) fn allocated(&self, lane: LaneId, extent: Extent) {
        self.count(lane, extent, u64::wrapping_neg);
    }

    #[inline(always)]
    fn count(&self, lane: LaneId, extent: Extent, change: impl Fn(u64) -> u64) {
        let Extent { start, len } = extent;
        debug_assert!(len > 0);
        let shard = ShardIndex::of_block(start, self.order);
        if ShardIndex::of_block(start + len.saturating_sub(1), self.order) == shard {
            self.add(lane, shard, change(len));
        } else {
            self.count_parts(lane, extent, change);
        }
    }

    /// Counts an extent that lies in several shards.
    #[cold]
    fn count_parts(&self, lane: LaneId, extent: Extent, change: impl Fn(u64) -> u64) {
        let (mut start, end) = (extent.start, extent.start + extent.len);
        while start < end {
            let shard = ShardIndex::of_block(start, self.order);
            let next = shard.next().first_block(self.order).min(end);
            self.add(lane, shard, change(next - start));
            start = next;
        }
    }

    #[inline(always)]
    fn add(&self, lane: LaneId, shard: ShardIndex, change: u64) {
        let (shard, shards) = (shard.get(), self.at_start.len());
        if shard >= shards {
            self.common[shard].add(change);
        } else if lane.is_exclusive() {
            self.rows[lane.index() * shards + shard].add_as_owner(change);
        } else {
            self.rows[(LANES + lane.index()) * shards + shard].add(change);
        }
    }

    /// Free blocks of `shard`, which must exist: exact while nothing else runs. O(lanes).
    pub(crate) fn free(&self, shard: ShardIndex) -> u64 {
        let shard = shard.get();
        let rows = self.rows.chunks_exact(self.at_start.len()).filter_map(|row| row.get(shard));
        let changes =
            rows.fold(self.common[shard].get(), |sum, count| sum.wrapping_add(count.get()));
        let free = self.at_start.get(shard).copied().unwrap_or(0).wrapping_add(changes);
        // Counters are read one after another: see `Space::free_blocks`.
        if free > u64::MAX / 2 { 0 } else { free.min(1 << self.order) }
    }

    /// Bytes on the heap. Rows of lanes without counts are untouched memory.
    pub(crate) fn bytes(&self) -> usize {
        let rows = self.rows.capacity() + self.at_start.capacity();
        size_of::<Counter>() * rows + self.common.bytes()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::space::lanes::Lanes;

    #[test]
    fn what_lies_in_several_shards_is_split_and_new_shards_count_too() {
        let counts = ShardCounts::new(4, vec![16, 10, 0]).unwrap();
        let free = |number| counts.free(ShardIndex::new(number));
        let lanes = Lanes::new();
        let (owner, sharer) = (lanes.acquire(), lanes.shared(0));
        counts.allocated(owner, Extent::new(3, 20));
        counts.freed(sharer, Extent::new(30, 4));
        assert_eq!([0, 1, 2].map(free), [3, 10 - 7 + 2, 2]);
        counts.lengthen(5).unwrap();
        counts.freed(owner, Extent::new(40, 40));
        assert_eq!([2, 3, 4].map(free), [10, 16, 16]);
        counts.allocated(sharer, Extent::new(79, 1));
        assert_eq!(free(4), 15);
    }
    #[test]
    fn every_extent_counts_in_the_shards_that_have_its_blocks() {
        let (lanes, at_start) = (Lanes::new(), vec![4; 4]);
        for lane in [lanes.acquire(), lanes.acquire(), lanes.shared(5)] {
            let counts = ShardCounts::new(2, at_start.clone()).unwrap();
            for (start, end) in (1..=16).flat_map(|end| (0..end).map(move |start| (start, end))) {
                let extent = Extent::new(start, end - start);
                let free = || (0..4).map(|number| counts.free(ShardIndex::new(number)));
                counts.allocated(lane, extent);
                let mut left = [0; 4];
                (0..16).filter(|&block| !extent.contains(block)).for_each(|block| {
                    left[block as usize / 4] += 1;
                });
                assert!(free().eq(left), "{extent}");
                counts.freed(lane, extent);
                assert!(free().eq([4; 4]), "{extent}");
            }
        }
    }

    #[test]
    fn every_owner_and_every_lane_that_is_shared_has_counters_of_its_own() {
        let (lanes, counts) = (Lanes::new(), ShardCounts::new(4, vec![0; 3]).unwrap());
        for number in 0..LANES {
            for lane in [lanes.acquire(), lanes.shared(number)] {
                (0..3).for_each(|shard| counts.freed(lane, Extent::new(16 * shard, 1)));
            }
        }
        assert!(counts.rows.iter().all(|counter| counter.get() == 1));
        assert_eq!(counts.rows.len(), 2 * 3 * LANES);
        let counters = counts.rows.len() + counts.at_start.len();
        assert_eq!(counts.bytes(), size_of::<Counter>() * counters + counts.common.bytes());
    }

    #[test]
    fn more_allocated_than_there_was_is_nothing_free() {
        let (lanes, counts) = (Lanes::new(), ShardCounts::new(4, vec![3]).unwrap());
        counts.allocated(lanes.acquire(), Extent::new(0, 5));
        assert_eq!(counts.free(ShardIndex::FIRST), 0);
        counts.freed(lanes.shared(0), Extent::new(0, 16));
        counts.freed(lanes.shared(0), Extent::new(0, 16));
        assert_eq!(counts.free(ShardIndex::FIRST), 16, "not more than it has");
    }
}
