//! The orders in which searches go over the leaves of the device.
//!
//! A search that begins at a leaf takes the rest of its shard first, or what lies nearest, or the
//! zone of its class. Every route has all leaves that were on the device when it was made, each
//! once (a route near a leaf has that leaf twice). Only the exact search, which may say "no", goes
//! its own way: straight through the index, from its place to the end, and round.

use std::ops::Range;

use crate::base::geometry::{Geometry, Native};
use crate::placement::zone::Zone;
use crate::space::shards::Shards;
use crate::values::class::Direction;

/// Ranges of leaves, in the order of a search; an iterator over those that are not empty.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    parts: [Range<usize>; 4],
    /// The first part that is left.
    next: usize,
    /// Takes each part from its end, cut at multiples of this many leaves.
    down_by: Option<usize>,
}

impl Route {
    /// Through the parts in turn, each upward.
    fn up(parts: [Range<usize>; 4]) -> Self {
        Self { parts, next: 0, down_by: None }
    }

    /// Through the rest of the shard of `leaf`, then its beginning, then the shards behind it and
    /// those before it.
    #[inline]
    pub(crate) fn by_shard(shards: &Shards, leaf: usize, leaf_count: usize) -> Self {
        let own = shards.leaves(shards.of(leaf), leaf_count);
        Self::up([leaf..own.end, own.start..leaf, own.end..leaf_count, 0..own.start])
    }

    /// The first half of such a route, and the second, for a search that tries one more place
    /// between them.
    #[inline]
    pub(crate) fn own_and_other_shards(
        shards: &Shards,
        leaf: usize,
        leaf_count: usize,
    ) -> [Self; 2] {
        let [ahead, before, shards_ahead, shards_before] =
            Self::by_shard(shards, leaf, leaf_count).parts;
        [[ahead, before], [shards_ahead, shards_before]]
            .map(|[first, second]| Self::up([first, second, 0..0, 0..0]))
    }

    /// From `leaf` to the end, then from the start up to and with `leaf`: its first blocks may come
    /// last.
    #[inline]
    pub(crate) fn near(leaf: usize, leaf_count: usize) -> Self {
        Self::up([leaf..leaf_count, 0..(leaf + 1).min(leaf_count), 0..0, 0..0])
    }

    /// Through the part `zone` of a zone, for a search that was last at `leaf`. Upward: from there
    /// on, then the leaves before it. Downward: the leaves under the node of `leaf` and below, then
    /// those above, node by node from the highest.
    pub(crate) fn in_part(
        zone: &Range<usize>,
        direction: Direction,
        leaf: usize,
        leaf_count: usize,
    ) -> Self {
        let zone = zone.start.min(leaf_count)..zone.end.min(leaf_count);
        if direction == Direction::Down {
            return Self::down(zone, leaf, Native::FANOUT);
        }
        let at = if zone.contains(&leaf) { leaf } else { zone.start };
        Self::up([at..zone.end, zone.start..at, 0..0, 0..0])
    }

    fn down(zone: Range<usize>, leaf: usize, slice: usize) -> Self {
        let at = if zone.contains(&leaf) { leaf } else { zone.end };
        let above = ((at + 1).div_ceil(slice) * slice).clamp(zone.start, zone.end);
        let parts = [zone.start..above, above..zone.end, 0..0, 0..0];
        Self { parts, next: 0, down_by: Some(slice) }
    }

    /// Through all parts of `zone` in turn.
    pub(crate) fn in_zone(
        zone: &Zone,
        leaf: usize,
        leaf_count: usize,
    ) -> impl Iterator<Item = Range<usize>> + '_ {
        let parts = zone.leaves.iter();
        parts.flat_map(move |part| Self::in_part(part, zone.direction, leaf, leaf_count))
    }
}

impl Iterator for Route {
    type Item = Range<usize>;

    #[inline]
    fn next(&mut self) -> Option<Range<usize>> {
        loop {
            let part = self.parts.get_mut(self.next)?;
            if part.start >= part.end {
                self.next += 1;
                continue;
            }
            let start = match self.down_by {
                None => part.start,
                Some(slice) => part.start.max((part.end - 1) / slice * slice),
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
    use crate::base::geometry::Wide;

    /// The leaves of `route`, sorted.
    fn leaves_of(route: impl Iterator<Item = Range<usize>>) -> Vec<usize> {
        let mut leaves: Vec<usize> = route.flatten().collect();
        leaves.sort_unstable();
        leaves
    }

    #[test]
    fn every_leaf_comes_once_from_shard_to_shard() {
        let shards = Shards::new::<Wide>((1 << 22) + 5000, 4);
        let count = 8192 + 10;
        for leaf in [0, 1, 63, 64, 4095, 4096, 8191, 8201] {
            let mut route = Route::by_shard(&shards, leaf, count);
            assert_eq!(leaves_of(route.clone()), (0..count).collect::<Vec<_>>());
            assert_eq!(route.next().map(|leaves| leaves.start), Some(leaf));
        }
    }

    #[test]
    fn every_leaf_comes_whatever_the_search_is_near_to() {
        for (leaf, count) in [(0, 1), (0, 70), (3, 70), (69, 70)] {
            let mut leaves = leaves_of(Route::near(leaf, count));
            let twice = leaves.iter().position(|&at| at == leaf).expect("the leaf");
            assert_eq!(leaves.remove(twice), leaf);
            assert_eq!(leaves, (0..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn every_leaf_of_a_part_comes_once_whatever_the_direction_and_wherever_it_begins() {
        for (leaf, count) in (0..110).flat_map(|leaf| [(leaf, 100), (leaf, 33), (leaf, 1)]) {
            let within = 7.min(count)..31.min(count);
            for direction in [Direction::Spread, Direction::Up, Direction::Down] {
                let leaves = leaves_of(Route::in_part(&(7..31), direction, leaf, count));
                assert_eq!(leaves, within.clone().collect::<Vec<_>>(), "{direction:?} {leaf}");
            }
            let mut down = Route::down(within.clone(), leaf, 8);
            assert_eq!(leaves_of(down.clone()), within.clone().collect::<Vec<_>>(), "{leaf}");
            if let Some(first) = down.next() {
                let at = if within.contains(&leaf) { leaf } else { within.end - 1 };
                assert!(first.contains(&at) && first.len() <= 8, "{leaf} {first:?}");
            }
        }
    }
}
