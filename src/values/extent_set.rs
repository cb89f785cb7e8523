//! Sets of blocks as sorted, disjoint, maximal extents: what a transaction has allocated or freed.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::values::extent::{Extent, Extents, INLINE_EXTENTS};

/// How many extents a list holds before the set becomes a tree: up to here, moving the tail of a
/// sorted list (1 KiB at most) costs less than the nodes of a tree.
const FEW: usize = 64;

/// A set of blocks.
#[derive(Clone, Debug)]
pub(crate) enum ExtentSet {
    /// Sorted by start; four fit without touching the heap.
    Few(SmallVec<[Extent; INLINE_EXTENTS]>),
    /// Start to length.
    Many(BTreeMap<u64, u64>),
}

impl Default for ExtentSet {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl ExtentSet {
    /// Whether the set has no blocks.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Self::Few(list) => list.is_empty(),
            Self::Many(map) => map.is_empty(),
        }
    }

    /// The extents in ascending order; no two touch.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Extent> + Clone + '_ {
        let (few, many) = match self {
            Self::Few(list) => (list.as_slice(), None),
            Self::Many(map) => (&[][..], Some(map.iter())),
        };
        let many = many.into_iter().flatten().map(|(&start, &len)| Extent { start, len });
        few.iter().copied().chain(many)
    }

    /// The extents as a list.
    pub(crate) fn into_extents(self) -> Extents {
        match self {
            Self::Few(list) => Extents::from(list),
            Self::Many(map) => {
                map.into_iter().map(|(start, len)| Extent { start, len }).collect::<Extents>()
            }
        }
    }

    /// The lowest part of `extent` that is in the set. O(log n).
    pub(crate) fn overlap(&self, extent: Extent) -> Option<Extent> {
        let end = extent.start + extent.len;
        let reaching =
            self.below(extent.start).filter(|before| before.start + before.len > extent.start);
        let found =
            reaching.or_else(|| self.from(extent.start).filter(|after| after.start < end))?;
        let start = found.start.max(extent.start);
        Some(Extent { start, len: (found.start + found.len).min(end) - start })
    }

    /// `extent` cut where extents of the set begin and end: its parts in ascending order, each with
    /// whether it is in the set. O(parts * log n).
    pub(crate) fn split(&self, extent: Extent) -> SmallVec<[(Extent, bool); INLINE_EXTENTS]> {
        let (mut at, end) = (extent.start, extent.start + extent.len);
        let mut parts = SmallVec::new();
        while at < end {
            let held = self.overlap(Extent { start: at, len: end - at });
            let held = held.unwrap_or(Extent { start: end, len: 0 });
            if held.start > at {
                parts.push((Extent { start: at, len: held.start - at }, false));
            }
            if held.len > 0 {
                parts.push((held, true));
            }
            at = held.start + held.len;
        }
        parts
    }

    /// Adds `extent`; none of its blocks may be in the set.
    pub(crate) fn insert(&mut self, extent: Extent) {
        debug_assert!(extent.len > 0 && self.overlap(extent).is_none());
        if let Self::Few(list) = self
            && list.len() < FEW
        {
            return insert_in_list(list, extent);
        }
        let Extent { mut start, mut len } = extent;
        if let Some(before) = self.below(start).filter(|before| before.start + before.len == start)
        {
            self.take(before.start);
            start = before.start;
            len += before.len;
        }
        if let Some(after) = self.from(start + len).filter(|after| after.start == start + len) {
            self.take(after.start);
            len += after.len;
        }
        self.put(Extent { start, len });
    }

    /// Removes `extent`, which must lie within one extent of the set.
    pub(crate) fn remove(&mut self, extent: Extent) {
        debug_assert_eq!(self.overlap(extent), Some(extent));
        let Some(run) = self.below(extent.start + 1) else { return };
        self.take(run.start);
        let (end, run_end) = (extent.start + extent.len, run.start + run.len);
        if run.start < extent.start {
            self.put(Extent { start: run.start, len: extent.start - run.start });
        }
        if end < run_end {
            self.put(Extent { start: end, len: run_end - end });
        }
    }

    /// The last extent that starts below `block`.
    fn below(&self, block: u64) -> Option<Extent> {
        match self {
            Self::Few(list) => {
                let after = list.partition_point(|extent| extent.start < block);
                after.checked_sub(1).map(|index| list[index])
            }
            Self::Many(map) => {
                map.range(..block).next_back().map(|(&start, &len)| Extent { start, len })
            }
        }
    }

    /// The first extent that starts at `block` or above.
    fn from(&self, block: u64) -> Option<Extent> {
        match self {
            Self::Few(list) => {
                list.get(list.partition_point(|extent| extent.start < block)).copied()
            }
            Self::Many(map) => {
                map.range(block..).next().map(|(&start, &len)| Extent { start, len })
            }
        }
    }

    fn put(&mut self, extent: Extent) {
        match self {
            Self::Few(list) if list.len() < FEW => insert_in_list(list, extent),
            Self::Few(list) => {
                let mut map: BTreeMap<u64, u64> =
                    list.iter().map(|extent| (extent.start, extent.len)).collect();
                map.insert(extent.start, extent.len);
                *self = Self::Many(map);
            }
            Self::Many(map) => {
                map.insert(extent.start, extent.len);
            }
        }
    }

    fn take(&mut self, start: u64) {
        match self {
            Self::Few(list) => {
                let index = list.partition_point(|extent| extent.start < start);
                list.remove(index);
            }
            Self::Many(map) => {
                map.remove(&start);
            }
        }
    }
}

/// Adds `extent` to a sorted list, joined with its neighbours: most sets are as small as that.
fn insert_in_list(list: &mut SmallVec<[Extent; INLINE_EXTENTS]>, extent: Extent) {
    let Extent { start, len } = extent;
    let at = list.partition_point(|other| other.start < start);
    let after = list.get(at).filter(|after| after.start == start + len).copied();
    let before = at.checked_sub(1).and_then(|before| list.get_mut(before));
    match (before.filter(|before| before.start + before.len == start), after) {
        (None, None) => list.insert(at, extent),
        (Some(before), None) => before.len += len,
        (None, Some(after)) => list[at] = Extent { start, len: len + after.len },
        (Some(before), Some(after)) => {
            before.len += len + after.len;
            list.remove(at);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn runs(blocks: &BTreeSet<u64>) -> Vec<Extent> {
        let mut runs: Vec<Extent> = Vec::new();
        for &block in blocks {
            match runs.last_mut() {
                Some(run) if run.start + run.len == block => run.len += 1,
                _ => runs.push(Extent::new(block, 1)),
            }
        }
        runs
    }

    proptest! {
        /// Any mixture of inserts and removals leaves the maximal runs of the same set of blocks,
        /// and cuts extents where these begin and end, on both sides of the change from list to
        /// tree.
        #[test]
        fn behaves_like_a_set_of_blocks(
            steps in proptest::collection::vec((0u64..600, 1u64..8), 1..400)
        ) {
            let (mut set, mut model) = (ExtentSet::default(), BTreeSet::new());
            prop_assert!(set.is_empty());
            for (start, len) in steps {
                let extent = Extent::new(start, len);
                let blocks: Vec<u64> = (start..start + len).collect();
                let held = blocks.iter().copied().find(|block| model.contains(block));
                prop_assert_eq!(set.overlap(extent).map(|part| part.start), held);
                let has = |block: &u64| model.contains(block);
                let parts = blocks.chunk_by(|block, next| has(block) == has(next));
                let parts = parts.map(|part| (Extent::new(part[0], part.len() as u64), has(&part[0])));
                prop_assert_eq!(set.split(extent).into_vec(), parts.collect::<Vec<_>>());
                if held.is_none() {
                    set.insert(extent);
                    model.extend(blocks);
                } else if let Some(part) = set.overlap(extent) && part.len > len / 2 {
                    set.remove(part);
                    model.retain(|block| !part.contains(*block));
                }
                prop_assert_eq!(set.iter().collect::<Vec<_>>(), runs(&model));
                prop_assert_eq!(model.is_empty(), set.is_empty());
            }
            let list = set.into_extents();
            prop_assert_eq!(list.as_slice(), &runs(&model)[..]);
        }
    }
}
