//! Which extents a request in pieces may be made of, and how many blocks of a free run they can
//! cover.
//!
//! An extent starts at a multiple of `align`. Its length is a multiple of `unit`, from `min` to
//! `max`. So an extent that another one follows takes up a *stride*: its length, rounded up to a
//! multiple of `align`. Of all lengths with the same stride the longest covers the most.
//!
//! What p extents cover of a run is a concave function of p (each further extent adds no more than
//! the one before), so a search that takes the largest gain each time covers the most: see
//! `placement/cuts.rs`.

/// Bounds of the extents of a request. `min`, `max` and `align` are multiples of `unit`, and `min`
/// is at most `max`; none is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The shortest extent, in blocks.
    pub min: u64,
    /// The longest extent, in blocks.
    pub max: u64,
    /// Every extent starts at a multiple of this many blocks.
    pub align: u64,
    /// Every length is a multiple of this many blocks.
    pub unit: u64,
}

impl Bounds {
    /// Whether some number of extents sums to `len`.
    #[inline]
    pub(crate) fn divides(&self, len: u64) -> bool {
        len.is_multiple_of(self.unit) && len.div_ceil(self.max) <= len / self.min
    }

    /// The most blocks, up to `len`, to which some number of extents sums.
    pub(crate) fn most_of(&self, len: u64) -> u64 {
        let most = (len / self.min).saturating_mul(self.max).min(len);
        most - most % self.unit
    }

    /// The length of the next extent for a request that wants `left` blocks, which are
    /// [divisible](Self::divides), in a run of `run` blocks: the longest with which extents can make
    /// up the rest; 0 if there is none.
    pub(crate) fn share(&self, left: u64, run: u64) -> u64 {
        let most = run.min(self.max).min(left);
        let most = most - most % self.unit;
        let rest = left - most;
        let take = if self.divides(rest) {
            most
        } else {
            // The next larger rest that can be made up: as many of the shortest extents.
            left.saturating_sub(rest.div_ceil(self.max) * self.min)
        };
        if take >= self.min { take } else { 0 }
    }

    /// As [`share`](Self::share), for several extents of the longest kind at once, if they can lie
    /// one behind the other.
    pub(crate) fn shares(&self, left: u64, run: u64) -> u64 {
        if self.max.is_multiple_of(self.align) {
            let most = run.min(left) / self.max;
            // One less makes the rest longer than `max`, and so easier to make up.
            let lens = [most, most.saturating_sub(1)].map(|count| count * self.max);
            if let Some(len) = lens.into_iter().find(|&len| len > 0 && self.divides(left - len)) {
                return len;
            }
        }
        self.share(left, run)
    }

    /// The usable part of the free run `start..end`: where an extent may start, and the blocks from
    /// there on. `None` if it has no room for one.
    pub(crate) fn usable(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let start = start.checked_next_multiple_of(self.align)?;
        let len = end.checked_sub(start)?;
        (len >= self.min).then_some((start, len - len % self.unit))
    }

    /// The most blocks that at most `pieces` extents cover of a run of `len` blocks which begins at
    /// a multiple of the alignment. O(1).
    pub(crate) fn cover(&self, len: u64, pieces: u64) -> u64 {
        self.layout(len, pieces).map_or(0, |layout| layout.blocks(self))
    }

    /// Places extents that sum to `blocks` in such a run, at most `pieces` of them; `blocks` is a
    /// multiple of the unit, at least `min` for each of the pieces and at most what they can
    /// [cover](Self::cover). Offsets from the start of the run, and lengths. O(pieces).
    pub(crate) fn extents(
        &self,
        len: u64,
        pieces: u64,
        blocks: u64,
    ) -> impl Iterator<Item = (u64, u64)> + use<> {
        let bounds = *self;
        let layout = self.layout(len, pieces);
        let (total, count) =
            layout.map_or((0, 0), |layout| (layout.blocks(self), layout.others + 1));
        let excess = total - blocks;
        // Shortened from the last one on, as far as the shortest: by what those behind cannot take.
        let mut behind = total - count * bounds.min;
        let mut end: u64 = 0;
        (0..count).map(move |nth| {
            let len = layout.map_or(0, |layout| layout.len_of(&bounds, nth));
            behind -= len - bounds.min;
            let len = len - excess.saturating_sub(behind).min(len - bounds.min);
            let start = end.next_multiple_of(bounds.align);
            end = start + len;
            (start, len)
        })
    }

    /// The longest extent whose stride is `stride` times the alignment.
    fn longest(&self, stride: u64) -> u64 {
        stride.saturating_mul(self.align).min(self.max)
    }

    /// How at most `pieces` extents cover the most of a run of `len` blocks.
    fn layout(&self, len: u64, pieces: u64) -> Option<Layout> {
        let Bounds { min, max, align, unit } = *self;
        let len = len - len % unit;
        let shortest = min.div_ceil(align);
        let room = len.checked_sub(min)?;
        let others = pieces.checked_sub(1)?.min(room / shortest.saturating_mul(align));
        // All extents but the last have `strides` strides together. The last one gets what is left.
        let least = others * shortest;
        let most = others.saturating_mul(max.div_ceil(align)).min(room / align);
        // With fewer strides the last extent would get more than it may have.
        let full = len.saturating_sub(max) / align;
        let layouts = [full, full + 1].map(|strides| {
            let strides = strides.clamp(least, most);
            Layout { others, strides, last: max.min(len - align * strides) }
        });
        layouts.into_iter().max_by_key(|layout| layout.blocks(self))
    }
}

/// The lengths of extents in one run.
#[derive(Clone, Copy, Debug)]
struct Layout {
    /// Number of extents before the last.
    others: u64,
    /// Their strides together, in multiples of the alignment, shared out evenly.
    strides: u64,
    /// The length of the last extent.
    last: u64,
}

impl Layout {
    fn blocks(&self, bounds: &Bounds) -> u64 {
        let Some(each) = self.strides.checked_div(self.others) else { return self.last };
        let more = self.strides % self.others;
        let others = (self.others - more) * bounds.longest(each) + more * bounds.longest(each + 1);
        others + self.last
    }

    /// The length of extent `nth`.
    fn len_of(&self, bounds: &Bounds, nth: u64) -> u64 {
        if nth == self.others {
            return self.last;
        }
        let (each, more) = (self.strides / self.others, self.strides % self.others);
        bounds.longest(each + u64::from(nth < more))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// For each number of extents, which sums they can have in a run of `len` blocks: by trying
    /// all.
    fn sums(bounds: &Bounds, len: u64) -> Vec<Vec<bool>> {
        let Bounds { min, max, align, unit } = *bounds;
        // Ends that the extents so far can have, with their sums.
        let mut reached = vec![(0u64, 0u64)];
        let mut by_count = vec![vec![true]];
        while !reached.is_empty() {
            let mut next = std::collections::BTreeSet::new();
            for &(end, sum) in &reached {
                for start in (end..len).filter(|start| start % align == 0) {
                    let lens = (min..=max.min(len - start)).step_by(unit as usize);
                    next.extend(lens.map(|piece| (start + piece, sum + piece)));
                }
            }
            let mut possible = vec![false; len as usize + 1];
            next.iter().for_each(|&(_, sum)| possible[sum as usize] = true);
            by_count.push(possible);
            reached = next.into_iter().collect();
        }
        by_count.pop();
        by_count
    }

    fn all_bounds() -> impl Iterator<Item = Bounds> {
        let units = [1, 2, 3].into_iter();
        units.flat_map(|unit| {
            let aligns = (1..=6).map(move |times| times * unit);
            aligns.flat_map(move |align| {
                let mins = (1..=5).map(move |times| times * unit);
                mins.flat_map(move |min| {
                    let maxs = (0..=5).map(move |more| min + more * unit);
                    maxs.chain([1 << 40]).map(move |max| Bounds { min, max, align, unit })
                })
            })
        })
    }

    #[test]
    fn cover_is_what_trying_everything_finds_and_what_is_between_can_be_had() {
        for bounds in all_bounds() {
            for len in 0..26 {
                let (mut most, mut gain) = (0, u64::MAX);
                for (count, possible) in sums(&bounds, len).iter().enumerate() {
                    let count = count as u64;
                    let longest = possible.iter().rposition(|&sum| sum).unwrap_or(0) as u64;
                    let before = most;
                    most = most.max(longest);
                    assert_eq!(bounds.cover(len, count), most, "{bounds:?} {count} of {len}");
                    if count > 0 {
                        assert!(most - before <= gain, "{bounds:?} {count} of {len}: not concave");
                        gain = most - before;
                    }
                    for (sum, &possible) in possible.iter().enumerate() {
                        let inside = (count * bounds.min..=longest).contains(&(sum as u64));
                        let unit = (sum as u64).is_multiple_of(bounds.unit);
                        assert_eq!(possible, inside && unit, "{bounds:?} {count} of {len}: {sum}");
                        if possible && count > 0 && longest > before {
                            check(&bounds, len, count, sum as u64);
                        }
                    }
                }
                assert_eq!(bounds.cover(len, 1 << 40), most);
            }
        }
    }

    fn check(bounds: &Bounds, len: u64, count: u64, sum: u64) {
        let extents: Vec<(u64, u64)> = bounds.extents(len, count, sum).collect();
        assert_eq!(extents.len() as u64, count);
        assert_eq!(extents.iter().map(|(_, len)| len).sum::<u64>(), sum);
        let mut end = 0;
        for (start, piece) in extents {
            assert!(start >= end && start.is_multiple_of(bounds.align));
            assert!((bounds.min..=bounds.max).contains(&piece));
            assert!(piece.is_multiple_of(bounds.unit));
            end = start + piece;
        }
        assert!(end <= len);
    }

    #[test]
    fn the_usable_part_begins_where_an_extent_may_and_has_the_blocks_that_extents_may_have() {
        for bounds in all_bounds() {
            for (start, end) in (0..20u64).flat_map(|end| (0..=end).map(move |start| (start, end)))
            {
                let first = (start..end).find(|&place| place.is_multiple_of(bounds.align));
                let usable = first.map(|first| (first, (end - first) / bounds.unit * bounds.unit));
                let usable = usable.filter(|&(_, len)| len >= bounds.min);
                assert_eq!(bounds.usable(start, end), usable, "{bounds:?} {start}..{end}");
            }
        }
    }

    #[test]
    fn shares_leave_a_rest_that_can_be_made_up() {
        for bounds in all_bounds() {
            for left in (1..40).filter(|&left| bounds.divides(left)) {
                assert_eq!(bounds.most_of(left), left);
                for run in 0..45 {
                    let share = bounds.share(left, run);
                    let fits = |len: &u64| {
                        let inside = (bounds.min..=bounds.max.min(run)).contains(len);
                        inside && len.is_multiple_of(bounds.unit) && bounds.divides(left - len)
                    };
                    let longest = (1..=left).rev().find(fits).unwrap_or(0);
                    assert_eq!(share, longest, "{bounds:?} {left} of {run}");
                    let several = bounds.shares(left, run);
                    assert!(several >= share && several <= run && bounds.divides(left - several));
                    let longest_kind = bounds.max.is_multiple_of(bounds.align);
                    let whole = longest_kind && several.is_multiple_of(bounds.max);
                    assert!(several == share || whole, "{bounds:?} {left} of {run}");
                    // As many of the longest as there is room for, if that leaves such a rest.
                    let most = left.min(run) / bounds.max * bounds.max;
                    if longest_kind && most > 0 && bounds.divides(left - most) {
                        assert_eq!(several, most, "{bounds:?} {left} of {run}");
                    }
                }
            }
            for len in 0..40 {
                let most = (0..=len).rev().find(|&len| bounds.divides(len)).unwrap_or(0);
                assert_eq!(bounds.most_of(len), most, "{bounds:?} {len}");
            }
        }
    }
}
