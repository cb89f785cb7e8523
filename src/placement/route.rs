//! The orders in which searches go over the leaves of the device.
//!
//! A search that begins at a leaf takes the rest of its shard first, or what lies nearest, or the
//! zone of its class. Every route has all leaves that were on the device when it was made, each
//! once (a route near a leaf has that leaf twice). Only the exact search, which may say "no", goes
//! its own way: straight through the index, from its place to the end, and round.

use std::ops::Range;

use crate::base::geometry::Native;
use crate::base::place::LeafIndex;
use crate::placement::zone::Zone;
use crate::space::shards::Shards;
use crate::values::class::Direction;

/// Ranges of leaves, in the order of a search; an iterator over those that are not empty.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    parts: [Range<LeafIndex>; 4],
    /// The first part that is left.
    next: usize,
    /// Takes each part from its end, node by node.
    down: bool,
}

const NONE: Range<LeafIndex> = LeafIndex::FIRST..LeafIndex::FIRST;

impl Route {
    /// Through the parts in turn, each upward.
    fn up(parts: [Range<LeafIndex>; 4]) -> Self {
        Self { parts, next: 0, down: false }
    }

    /// Through the rest of the shard of `leaf`, then its beginning, then the shards behind it and
    /// those before it, up to leaf `end`, exclusive.
    #[inline]
    pub(crate) fn by_shard(shards: &Shards, leaf: LeafIndex, end: LeafIndex) -> Self {
        let own = shards.leaves(shards.of(leaf), end);
        Self::up([leaf..own.end, own.start..leaf, own.end..end, LeafIndex::FIRST..own.start])
    }

    /// The first half of such a route, and the second, for a search that tries one more place
    /// between them.
    #[inline]
    pub(crate) fn own_and_other_shards(
        shards: &Shards,
        leaf: LeafIndex,
        end: LeafIndex,
    ) -> [Self; 2] {
        let [ahead, before, shards_ahead, shards_before] = Self::by_shard(shards, leaf, end).parts;
        [[ahead, before], [shards_ahead, shards_before]]
            .map(|[first, second]| Self::up([first, second, NONE, NONE]))
    }

    /// From `leaf` to the end, then from the start up to and with `leaf`: its first blocks may come
    /// last.
    #[inline]
    pub(crate) fn near(leaf: LeafIndex, end: LeafIndex) -> Self {
        Self::up([leaf..end, LeafIndex::FIRST..leaf.next().min(end), NONE, NONE])
    }

    /// Through the part `zone` of a zone, for a search that was last at `leaf`. Upward: from there
    /// on, then the leaves before it. Downward: the leaves under the node of `leaf` and below, then
    /// those above, node by node from the highest.
    pub(crate) fn in_part(
        zone: &Range<LeafIndex>,
        direction: Direction,
        leaf: LeafIndex,
        end: LeafIndex,
    ) -> Self {
        let zone = zone.start.min(end)..zone.end.min(end);
        let down = direction == Direction::Down;
        // Outside, both directions begin with all of the zone.
        let at = if zone.contains(&leaf) { leaf } else { zone.end };
        let parts = if down {
            let behind = at.node::<Native>().next().first_leaf::<Native>();
            let above = behind.clamp(zone.start, zone.end);
            [zone.start..above, above..zone.end, NONE, NONE]
        } else {
            [at..zone.end, zone.start..at, NONE, NONE]
        };
        Self { parts, next: 0, down }
    }

    /// Through all parts of `zone` in turn.
    pub(crate) fn in_zone(
        zone: &Zone,
        leaf: LeafIndex,
        end: LeafIndex,
    ) -> impl Iterator<Item = Range<LeafIndex>> + '_ {
        zone.leaves.iter().flat_map(move |part| Self::in_part(part, zone.direction, leaf, end))
    }
}

impl Iterator for Route {
    type Item = Range<LeafIndex>;

    #[inline]
    fn next(&mut self) -> Option<Range<LeafIndex>> {
        loop {
            let part = self.parts.get_mut(self.next)?;
            if part.start >= part.end {
                self.next += 1;
                continue;
            }
            let start = if self.down {
                let last = part.end.minus(1);
                part.start.max(last.node::<Native>().first_leaf::<Native>())
            } else {
                part.start
            };
            let taken = start..part.end;
            part.end = start;
            return Some(taken);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::base::geometry::{Geometry, Wide};
    use crate::placement::zone::Zones;
    use crate::values::class::{CLASSES, Class, Placement};
    use crate::values::extent::Extent;

    /// The leaves of `route`, sorted.
    fn leaves_of(route: Route) -> Vec<usize> {
        let mut leaves: Vec<usize> = route.flat_map(LeafIndex::each).map(LeafIndex::get).collect();
        leaves.sort_unstable();
        leaves
    }

    fn all(range: Range<usize>) -> Vec<usize> {
        range.collect()
    }

    #[test]
    fn every_leaf_comes_once_from_shard_to_shard() {
        let shards = Shards::new::<Wide>((1 << 22) + 5000, 4);
        let count = 8192 + 10;
        for leaf in [0, 1, 63, 64, 4095, 4096, 8191, 8201].map(LeafIndex::new) {
            let route = || Route::by_shard(&shards, leaf, LeafIndex::new(count));
            assert_eq!(leaves_of(route()), all(0..count));
            assert_eq!(route().next().map(|leaves| leaves.start), Some(leaf));
        }
    }

    #[test]
    fn every_leaf_comes_whatever_the_search_is_near_to() {
        for (leaf, count) in [(0, 1), (0, 70), (3, 70), (69, 70)] {
            let mut leaves = leaves_of(Route::near(LeafIndex::new(leaf), LeafIndex::new(count)));
            let twice = leaves.iter().position(|&at| at == leaf).expect("the leaf");
            assert_eq!(leaves.remove(twice), leaf);
            assert_eq!(leaves, all(0..count));
        }
    }

    #[test]
    fn every_leaf_of_a_part_comes_once_whatever_the_direction_and_wherever_it_begins() {
        let (fanout, part) = (Native::FANOUT, LeafIndex::new(7)..LeafIndex::new(310));
        for (leaf, count) in (0..320).flat_map(|leaf| [(leaf, 400), (leaf, 133), (leaf, 1)]) {
            let within = 7.min(count)..310.min(count);
            for direction in [Direction::Spread, Direction::Up, Direction::Down] {
                let (at, end) = (LeafIndex::new(leaf), LeafIndex::new(count));
                let mut route = Route::in_part(&part, direction, at, end);
                assert_eq!(leaves_of(route.clone()), all(within.clone()), "{direction:?} {leaf}");
                let Some(first) = route.next().filter(|_| direction == Direction::Down) else {
                    continue;
                };
                let at = if within.contains(&leaf) { leaf } else { within.end - 1 };
                assert!(first.contains(&LeafIndex::new(at)), "{leaf} {first:?}");
                assert!(LeafIndex::each(first).count() <= fanout);
            }
        }
    }

    #[test]
    fn every_leaf_of_a_zone_comes_once_its_region_first() {
        let (count, leaf_blocks) = (90, Native::LEAF_BLOCKS as u64);
        let mut placements = [None; CLASSES];
        let region = Extent::new(20 * leaf_blocks, 10 * leaf_blocks);
        placements[Class::METADATA.index()] = Some(Placement::new().region(region));
        let zones = Zones::new(&placements, count as u64 * leaf_blocks).expect("a region");
        let zone = zones.of(Class::METADATA.index()).expect("a zone");
        for leaf in 0..count {
            let route = Route::in_zone(zone, LeafIndex::new(leaf), LeafIndex::new(count));
            let mut leaves: Vec<usize> =
                route.flat_map(LeafIndex::each).map(LeafIndex::get).collect();
            assert!(leaves[..10].iter().all(|leaf| (20..30).contains(leaf)), "{leaf}");
            leaves.sort_unstable();
            assert_eq!(leaves, all(0..count));
        }
    }
}
