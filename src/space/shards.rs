//! The device cut into shards: contiguous ranges of leaves, each under one node of the summary.
//! Handles start in different shards, and move to others when theirs has nothing.

use std::ops::Range;

use crate::base::geometry::Geometry;
use crate::base::place::{LeafIndex, ShardIndex};

/// How the device is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shards {
    /// Leaves per shard, except the last.
    shard_leaves: usize,
    /// The summary level of the nodes that are the shards.
    level: usize,
    height: usize,
}

/// The highest level of such a node. It bounds a shard to 4096 leaves (8 GiB of 4 KiB blocks),
/// however large the device is, and so the work inside one.
const LEVELS: usize = 2;

impl Shards {
    /// The largest shards, up to the limit, of which the device has at least `wanted`, if it has so
    /// many. Limit aside, the shards are the top nodes of the summary: few, because they are
    /// searched one by one; and each level less is one less to publish to.
    pub(crate) fn new<G: Geometry>(blocks: u64, wanted: usize) -> Self {
        let leaf_count = LeafIndex::end_of_blocks::<G>(blocks).get();
        let (mut shard_leaves, mut height) = (G::FANOUT, 1);
        while let Some(larger) = shard_leaves.checked_mul(G::FANOUT) {
            if leaf_count.div_ceil(larger) < wanted.max(1) || leaf_count <= shard_leaves {
                break;
            }
            (shard_leaves, height) = (larger, height + 1);
        }
        let level = height.min(LEVELS);
        Self { shard_leaves: shard_leaves.min(G::FANOUT.pow(LEVELS as u32)), level, height }
    }

    /// Levels of the summary.
    pub(crate) fn height(&self) -> usize {
        self.height
    }

    /// The level of the summary whose nodes are the shards.
    pub(crate) fn level(&self) -> usize {
        self.level
    }

    /// Number of shards that `leaf_count` leaves are in.
    pub(crate) fn count(&self, leaf_count: usize) -> usize {
        leaf_count.div_ceil(self.shard_leaves)
    }

    /// Leaves in each shard except the last.
    pub(crate) fn shard_leaves(&self) -> usize {
        self.shard_leaves
    }

    /// Blocks in each shard except the last.
    pub(crate) fn shard_blocks<G: Geometry>(&self) -> u64 {
        ShardIndex::FIRST.next().first_leaf(self.shard_leaves).first_block::<G>()
    }

    /// The shard of `leaf`.
    #[inline]
    pub(crate) fn of(&self, leaf: LeafIndex) -> ShardIndex {
        ShardIndex::of_leaf(leaf, self.shard_leaves)
    }

    /// The first leaf of `shard`.
    pub(crate) fn first_leaf(&self, shard: ShardIndex) -> LeafIndex {
        shard.first_leaf(self.shard_leaves)
    }

    /// Whether `leaf` is the first of a shard.
    pub(crate) fn is_first(&self, leaf: LeafIndex) -> bool {
        leaf.get().is_multiple_of(self.shard_leaves)
    }

    /// The leaves of `shard`, of a device whose leaves end at `end`.
    #[inline]
    pub(crate) fn leaves(&self, shard: ShardIndex, end: LeafIndex) -> Range<LeafIndex> {
        let start = shard.first_leaf(self.shard_leaves);
        start..start.plus(self.shard_leaves).min(end)
    }

    /// The first leaf of the shard in which the `n`-th handle starts. Each new handle halves a gap
    /// between those before it (a van der Corput sequence), so any number of handles lie far apart.
    pub(crate) fn home(&self, n: u64, leaf_count: usize) -> LeafIndex {
        let shard =
            ((u128::from(n.reverse_bits()) * self.count(leaf_count) as u128) >> 64) as usize;
        self.first_leaf(ShardIndex::new(shard))
    }

    /// Whether two leaves lie in the same shard.
    #[inline]
    pub(crate) fn same(&self, leaf: LeafIndex, other: LeafIndex) -> bool {
        // A shard has a power of two leaves.
        leaf.get() ^ other.get() < self.shard_leaves
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::geometry::{Narrow, Wide};

    #[test]
    fn shards_follow_from_the_device() {
        // (blocks, wanted) -> (height, shards)
        let cases = [
            (1, 8, 1, 1),
            (1 << 15, 8, 1, 1),
            (1 << 24, 8, 2, 8),
            (1 << 24, 64, 1, 512),
            (1 << 28, 8, 2, 128),
            (1 << 36, 8, 4, 1 << 15),
            (1 << 36, 64, 3, 1 << 15),
        ];
        for (blocks, wanted, height, count) in cases {
            let shards = Shards::new::<Wide>(blocks, wanted);
            let leaves = (blocks / Wide::LEAF_BLOCKS as u64).max(1) as usize;
            assert_eq!(
                (shards.height(), shards.count(leaves)),
                (height, count),
                "{blocks} {wanted}"
            );
        }
        assert_eq!(Shards::new::<Narrow>(1 << 20, 4).count(2048), 64);
    }

    #[test]
    fn homes_are_spread() {
        let shards = Shards::new::<Wide>(1 << 24, 8);
        let home = |n| shards.home(n, 1 << 15).get();
        let mut homes: Vec<usize> = (0..8).map(home).collect();
        assert_eq!(homes[..4], [0, 4 * 4096, 2 * 4096, 6 * 4096]);
        homes.sort_unstable();
        homes.dedup();
        assert_eq!(homes.len(), 8);
        assert!((0..1000).all(|n| home(n) < 1 << 15));
    }
    #[test]
    fn every_leaf_lies_in_the_shard_that_has_its_range() {
        for (blocks, wanted) in [(1 << 15, 8), (1 << 17, 4), (1 << 24, 8), (1 << 24, 64)] {
            let shards = Shards::new::<Wide>(blocks, wanted);
            let shard_leaves = shards.shard_leaves();
            assert!(shards.level() <= shards.height());
            assert_eq!(Wide::FANOUT.pow(shards.level() as u32), shard_leaves);
            assert_eq!(shards.shard_blocks::<Wide>(), (shard_leaves * Wide::LEAF_BLOCKS) as u64);
            let end = LeafIndex::end_of_blocks::<Wide>(blocks);
            let near = (0..4).flat_map(|n| [0, 1, 2].map(|more| n * shard_leaves + more));
            let near: Vec<LeafIndex> = near
                .filter_map(|n| n.checked_sub(1))
                .map(LeafIndex::new)
                .filter(|&leaf| leaf < end)
                .collect();
            for &leaf in &near {
                let own = shards.leaves(shards.of(leaf), end);
                assert!(own.contains(&leaf) && own.end <= end);
                assert_eq!(own.start, shards.first_leaf(shards.of(leaf)));
                assert_eq!(shards.is_first(leaf), leaf == own.start, "{leaf:?}");
                for &other in &near {
                    let same = own.contains(&other);
                    assert_eq!(shards.same(leaf, other), same, "{leaf:?} {other:?}");
                }
            }
        }
    }
}
