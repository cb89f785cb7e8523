//! The placements of all classes as lists of leaves: where each class searches, and in which order.

use std::ops::Range;

use crate::base::geometry::{LEAF_BLOCKS, Native};
use crate::base::place::LeafIndex;
use crate::values::class::{CLASSES, Direction, Placement, Spill};
use crate::values::error::ConfigError;

/// The placements of all classes, as lists of leaves.
#[derive(Debug)]
pub(crate) struct Zones {
    /// `None` if no placement was set.
    classes: Option<Box<[Zone; CLASSES]>>,
}

/// Where a class searches, in order of preference.
#[derive(Debug)]
pub(crate) struct Zone {
    pub direction: Direction,
    pub leaves: Vec<Range<LeafIndex>>,
    /// How many of the ranges are its home, preferred to all others.
    home: usize,
}

impl Zones {
    /// The zones of a device of `blocks` blocks.
    pub(crate) fn new(
        placements: &[Option<Placement>; CLASSES],
        blocks: u64,
    ) -> Result<Self, ConfigError> {
        if placements.iter().all(Option::is_none) {
            return Ok(Self { classes: None });
        }
        let mut regions: Vec<Range<u64>> = Vec::new();
        for placement in placements.iter().flatten() {
            let Some(region) = placement.region else { continue };
            let end = region.end().filter(|&end| end <= blocks && region.len > 0);
            let whole = |block: u64| block.is_multiple_of(LEAF_BLOCKS);
            let fits = |end: &u64| whole(region.start) && (whole(*end) || *end == blocks);
            let end = end.filter(fits).ok_or(ConfigError::Region { region })?;
            if regions.iter().any(|other| other.start < end && region.start < other.end) {
                return Err(ConfigError::Region { region });
            }
            regions.push(region.start..end);
        }
        let leaves = LeafIndex::of_blocks::<Native>;
        let mut regions: Vec<Range<LeafIndex>> = regions.into_iter().map(leaves).collect();
        regions.sort_unstable_by_key(|region| region.start);
        let zones = placements.map(|placement| {
            let placement = placement.unwrap_or_default();
            let own =
                placement.region.map(|region| leaves(region.start..region.start + region.len));
            Zone::new(own, &regions, placement)
        });
        Ok(Self { classes: Some(Box::new(zones)) })
    }

    /// The zone of class `index`, if there are any.
    #[inline(always)]
    pub(crate) fn of(&self, index: usize) -> Option<&Zone> {
        self.classes.as_ref().map(|zones| &zones[index % CLASSES])
    }

    /// Whether any placement was set.
    #[inline(always)]
    pub(crate) fn are_set(&self) -> bool {
        self.classes.is_some()
    }
}

impl Zone {
    fn new(
        own: Option<Range<LeafIndex>>,
        regions: &[Range<LeafIndex>],
        placement: Placement,
    ) -> Self {
        let Placement { direction, spill, .. } = placement;
        let between = |end: LeafIndex, start: LeafIndex| start.get().saturating_sub(end.get());
        // Leaves in no region: before each region, and behind the last, where the device may grow.
        let starts =
            std::iter::once(LeafIndex::FIRST).chain(regions.iter().map(|region| region.end));
        let ends = regions.iter().map(|region| region.start).chain([LeafIndex::END]);
        let mut common: Vec<Range<LeafIndex>> =
            starts.zip(ends).map(|(start, end)| start..end).filter(|gap| !gap.is_empty()).collect();
        let mut others: Vec<Range<LeafIndex>> =
            regions.iter().filter(|&region| Some(region) != own.as_ref()).cloned().collect();
        for list in [&mut common, &mut others] {
            match &own {
                Some(own) => list.sort_by_key(|gap| {
                    let distance = between(own.end, gap.start) + between(gap.end, own.start);
                    if spill == Spill::Near { distance } else { usize::MAX - distance }
                }),
                None if direction == Direction::Down => list.reverse(),
                None => {}
            }
        }
        let home = if own.is_some() { 1 } else { common.len() };
        Self { direction, leaves: own.into_iter().chain(common).chain(others).collect(), home }
    }

    /// Whether `leaf` lies in the home of the class.
    pub(crate) fn is_home(&self, leaf: LeafIndex) -> bool {
        self.leaves[..self.home].iter().any(|range| range.contains(&leaf))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::values::extent::Extent;

    /// Leaves of the device.
    const LEAVES: usize = 1000;
    const BLOCKS: u64 = LEAVES as u64 * LEAF_BLOCKS;

    fn zones(placements: [Option<Placement>; CLASSES]) -> Zones {
        Zones::new(&placements, BLOCKS).expect("valid regions")
    }

    fn leaves(numbers: Range<usize>) -> Range<LeafIndex> {
        LeafIndex::new(numbers.start)..LeafIndex::new(numbers.end)
    }

    fn region(numbers: Range<usize>) -> Placement {
        let Range { start, end } = leaves(numbers);
        let (start, end) = (start.first_block::<Native>(), end.first_block::<Native>());
        Placement::new().region(Extent::new(start, end - start))
    }

    #[test]
    fn own_region_then_common_space_then_others() {
        let mut placements = [None; CLASSES];
        placements[1] = Some(region(10..20));
        placements[2] = Some(region(50..60).spill(Spill::Far));
        placements[3] = Some(Placement::new().direction(Direction::Down));
        let zones = zones(placements);
        let end = LeafIndex::END.get();
        let order = |class| zones.of(class).map(|zone| zone.leaves.clone()).unwrap();
        assert_eq!(order(0), [0..10, 20..50, 60..end, 10..20, 50..60].map(leaves));
        assert_eq!(order(1), [10..20, 0..10, 20..50, 60..end, 50..60].map(leaves));
        assert_eq!(order(2), [50..60, 0..10, 20..50, 60..end, 10..20].map(leaves));
        assert_eq!(order(3), [60..end, 20..50, 0..10, 50..60, 10..20].map(leaves));
    }

    #[test]
    fn regions_that_make_no_sense_are_refused() {
        for extent in [(0, 0), (1, 512), (0, 511), (BLOCKS, 512), (512, u64::MAX)] {
            let region = Extent::new(extent.0, extent.1);
            let mut placements = [None; CLASSES];
            placements[1] = Some(Placement::new().region(region));
            let refused = Zones::new(&placements, BLOCKS).unwrap_err();
            assert_eq!(refused, ConfigError::Region { region });
        }
        let mut placements = [None; CLASSES];
        placements[1] = Some(region(0..10));
        placements[2] = Some(region(9..12));
        assert!(Zones::new(&placements, BLOCKS).is_err(), "they overlap");
        placements[2] = Some(Placement::new().region(Extent::new(BLOCKS - 512, 500)));
        assert!(Zones::new(&placements, BLOCKS - 12).is_ok(), "the device ends there");
    }
}
