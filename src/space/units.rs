//! The units in which a device discards, and what of a run they cover.

use crate::values::extent::MAX_BLOCKS;

/// The borders at which extents to discard may begin and end, and how short they may be.
///
/// Borders lie at `alignment`, and every `granularity` blocks behind it. What lies before the first
/// border belongs to no whole unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Units {
    granularity: u64,
    /// Less than `granularity`.
    alignment: u64,
    /// A multiple of `granularity`, at least one.
    shortest: u64,
}

impl Units {
    /// Units of `granularity` blocks, one of which begins at block `alignment`. Extents of fewer
    /// than `shortest` blocks, rounded up to whole units, do not count.
    ///
    /// Lengths beyond the longest device are cut to it, so that no sum here overflows. A zero
    /// counts as one.
    pub(crate) fn new(granularity: u64, alignment: u64, shortest: u64) -> Self {
        let granularity = granularity.clamp(1, MAX_BLOCKS);
        let shortest = shortest.clamp(1, MAX_BLOCKS).next_multiple_of(granularity);
        Self { granularity, alignment: alignment % granularity, shortest }
    }

    /// Length of the shortest extent that counts.
    pub(crate) fn shortest(&self) -> u64 {
        self.shortest
    }

    /// Whether each block is an extent that counts: there are no crumbs.
    pub(crate) fn are_blocks(&self) -> bool {
        self.shortest == 1
    }

    /// The most blocks of whole units that are not more than `blocks`.
    pub(crate) fn whole(&self, blocks: u64) -> u64 {
        blocks - blocks % self.granularity
    }

    /// The first border at or behind `block`.
    pub(crate) fn border(&self, block: u64) -> u64 {
        let behind = block.saturating_sub(self.alignment);
        self.alignment + behind.next_multiple_of(self.granularity)
    }

    /// The whole units of `start..end`, as start and length; `None` if they are too few. What
    /// remains of the range at its ends are crumbs.
    pub(crate) fn inside(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        debug_assert!(start <= end && end <= MAX_BLOCKS);
        let first = self.border(start);
        let len = self.whole(end.checked_sub(first)?);
        (len >= self.shortest).then_some((first, len))
    }

    /// An order of which each extent that counts contains an aligned run: a run has one of about
    /// half its length wherever it begins, and one of the power of two that divides all borders.
    pub(crate) fn order(&self) -> u32 {
        let anywhere = self.shortest.div_ceil(2).ilog2();
        anywhere.max((self.granularity | self.alignment).trailing_zeros())
    }

    /// How much of a run of `run` blocks to take if `most` are allowed: a prefix that counts, whose
    /// rest counts, too, or is empty. `None` if there is no such prefix.
    pub(crate) fn cut(&self, run: u64, most: u64) -> Option<u64> {
        debug_assert!(run >= self.shortest && run == self.whole(run));
        let (most, spared) = (self.whole(most), run - self.shortest);
        if run <= most {
            return Some(run);
        }
        Some(most.min(spared)).filter(|&len| len >= self.shortest)
    }

    /// The least that [`cut`](Self::cut) takes of a run of `run` blocks if enough is allowed.
    pub(crate) fn least_cut(&self, run: u64) -> u64 {
        self.cut(run, self.shortest).unwrap_or(run)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// All small units, and all of `0..48` as a range of bits.
    fn all(mut check: impl FnMut(Units, u64)) {
        for granularity in 1..7 {
            for (alignment, shortest) in (0..7).flat_map(|a| (0..9).map(move |s| (a, s))) {
                (0..48).for_each(|end| check(Units::new(granularity, alignment, shortest), end));
            }
        }
    }

    #[test]
    fn the_units_inside_a_range_are_those_that_lie_in_it_entirely() {
        all(|units, end| {
            for start in 0..=end {
                let mut borders = (0..=end).filter(|border| {
                    *border % units.granularity == units.alignment && *border >= start
                });
                let first = borders.clone().next();
                let last = borders.next_back();
                let expected = first.zip(last).map(|(first, last)| (first, last - first));
                let expected = expected.filter(|&(_, len)| len >= units.shortest);
                assert_eq!(units.inside(start, end), expected, "{units:?} {start}..{end}");
            }
        });
    }

    #[test]
    fn each_extent_contains_an_aligned_run_of_the_order() {
        all(|units, start| {
            let Some((first, len)) = units.inside(start, start + 48) else { return };
            let (run, shortest) = (1 << units.order(), units.shortest.min(len));
            assert!(first.next_multiple_of(run) + run <= first + shortest, "{units:?} {first}");
        });
        assert_eq!([1, 2, 3, 64, 96].map(|unit| Units::new(unit, 0, 1).order()), [0, 1, 1, 6, 5]);
        assert_eq!([0, 16, 17].map(|first| Units::new(64, first, 1).order()), [6, 5, 5]);
    }

    #[test]
    fn both_parts_of_a_cut_run_count() {
        all(|units, most| {
            for run in (1..6).map(|nth| units.shortest + (nth - 1) * units.granularity) {
                let counts = |len: u64| len >= units.shortest && len == units.whole(len);
                let best = (1..=most.min(run))
                    .rev()
                    .find(|&len| counts(len) && (len == run || counts(run - len)));
                assert_eq!(units.cut(run, most), best, "{units:?} {run} {most}");
                let least = (1..=run).find(|&len| units.cut(run, len).is_some());
                assert_eq!(Some(units.least_cut(run)), least, "{units:?} {run}");
            }
        });
    }

    #[test]
    fn any_numbers_are_units() {
        let units = Units::new(0, u64::MAX, 0);
        assert_eq!((units, units.are_blocks()), (Units::new(1, 0, 1), true));
        let units = Units::new(u64::MAX, u64::MAX, u64::MAX);
        assert_eq!(units.inside(0, MAX_BLOCKS - 1), None);
        assert!(Units::new(3, 0, u64::MAX).shortest() >= MAX_BLOCKS);
    }
}
