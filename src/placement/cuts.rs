//! Which runs to cut into how many extents, for a request with bounds that cannot be met run by run
//! in the order found.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::heap::{OutOfMemory, reserved};
use crate::values::bounds::Bounds;

/// How much to take of one run, and in how many extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Index of the run.
    pub run: usize,
    /// Number of extents.
    pub pieces: u64,
    /// Their sum, in blocks.
    pub blocks: u64,
}

/// Chooses extents within `bounds` that sum to `len`, or, if `some`, to as much of it as there is,
/// from runs of the given lengths which begin at multiples of the alignment. `None` if there is no
/// such choice. `len` is [divisible](Bounds::divides).
///
/// With p extents, every sum from p * min to the most that p extents can cover is possible, in steps
/// of a unit. So the request can be met if and only if `len / min` extents can cover it. What they
/// cover of one run is concave in their number, so taking the largest gain each time covers the
/// most. O(extents x log runs).
pub(crate) fn plan(
    runs: &[u64],
    bounds: &Bounds,
    len: u64,
    some: bool,
) -> Result<Option<Vec<Cut>>, OutOfMemory> {
    debug_assert!(bounds.divides(len));
    let mut gains: BinaryHeap<(u64, Reverse<usize>)> = BinaryHeap::from(reserved(runs.len())?);
    gains.extend(runs.iter().enumerate().filter_map(|(index, &run)| {
        let gain = bounds.cover(run, 1);
        (gain > 0).then_some((gain, Reverse(index)))
    }));
    let (mut pieces, mut in_order) = (reserved::<u64>(runs.len())?, reserved(runs.len())?);
    pieces.resize(runs.len(), 0);
    let (mut covered, mut used) = (0u64, 0);
    while covered < len && used < len / bounds.min {
        let Some((gain, Reverse(run))) = gains.pop() else { break };
        if pieces[run] == 0 {
            in_order.push(run);
        }
        covered = covered.saturating_add(gain);
        pieces[run] += 1;
        used += 1;
        let next = bounds.cover(runs[run], pieces[run] + 1) - bounds.cover(runs[run], pieces[run]);
        if next > 0 {
            gains.push((next, Reverse(run)));
        }
    }
    let sum = len.min(covered);
    if sum == 0 || (sum < len && !some) {
        return Ok(None);
    }
    // Give every extent its minimum, then fill up in the order of choice.
    let mut left = sum - used * bounds.min;
    let cuts = in_order.into_iter().map(|run| {
        let (pieces, least) = (pieces[run], pieces[run] * bounds.min);
        let more = left.min(bounds.cover(runs[run], pieces) - least);
        left -= more;
        Cut { run, pieces, blocks: least + more }
    });
    let mut chosen = reserved(cuts.len())?;
    chosen.extend(cuts);
    debug_assert_eq!(chosen.iter().map(|cut: &Cut| cut.blocks).sum::<u64>(), sum);
    Ok(Some(chosen))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// For each sum, the fewest extents in `runs` that have it, by trying all.
    fn fewest(runs: &[u64], bounds: &Bounds) -> Vec<Option<u64>> {
        let total: u64 = runs.iter().sum();
        let mut reach = vec![None; total as usize + 1];
        reach[0] = Some(0);
        for &run in runs {
            let mut next = vec![None; reach.len()];
            let mut at = vec![(0u64, 0usize, 0)];
            while let Some((end, sum, count)) = at.pop() {
                for base in 0..reach.len() - sum {
                    let with = reach[base].map(|before: u64| before + count);
                    let known = &mut next[base + sum];
                    *known = [*known, with].into_iter().flatten().min();
                }
                for start in (end..run).filter(|start| start % bounds.align == 0) {
                    let lens = bounds.min..=bounds.max.min(run - start);
                    for len in lens.step_by(bounds.unit as usize) {
                        at.push((start + len, sum + len as usize, count + 1));
                    }
                }
            }
            reach = next;
        }
        reach
    }

    #[test]
    fn a_plan_exists_exactly_when_trying_everything_finds_one_and_has_the_fewest_extents() {
        let sets: [&[u64]; 8] =
            [&[], &[5], &[4, 4, 7], &[5, 5, 4], &[7, 3], &[4, 6, 6], &[11], &[1, 2, 3, 9]];
        for runs in sets {
            for (unit, align) in [(1, 1), (1, 2), (1, 3), (2, 2), (2, 4), (3, 3)] {
                for min in (1..6).filter(|min| min % unit == 0) {
                    for max in (min..9).filter(|max| max % unit == 0) {
                        let bounds = Bounds { min, max, align, unit };
                        let fewest = fewest(runs, &bounds);
                        for len in (1..20).filter(|&len| bounds.divides(len)) {
                            check(runs, &bounds, len, &fewest);
                        }
                    }
                }
            }
        }
    }

    fn check(runs: &[u64], bounds: &Bounds, len: u64, fewest: &[Option<u64>]) {
        let fewest = |len: u64| fewest.get(len as usize).copied().flatten();
        let has = |len: u64| fewest(len).is_some();
        let whole = plan(runs, bounds, len, false).expect("memory");
        assert_eq!(whole.is_some(), has(len), "{runs:?} {bounds:?} {len}");
        let most = (1..=len).rev().find(|&len| has(len));
        let cuts = plan(runs, bounds, len, true).expect("memory");
        let sum = cuts.as_ref().map(|cuts| cuts.iter().map(|cut| cut.blocks).sum::<u64>());
        assert_eq!(sum, most, "{runs:?} {bounds:?} some of {len}");
        let pieces = cuts.as_ref().map(|cuts| cuts.iter().map(|cut| cut.pieces).sum::<u64>());
        assert_eq!(pieces, most.and_then(fewest), "{runs:?} {bounds:?} some of {len}");
        for cut in cuts.into_iter().flatten() {
            let extents = bounds.extents(runs[cut.run], cut.pieces, cut.blocks);
            assert_eq!(extents.map(|(_, len)| len).sum::<u64>(), cut.blocks);
        }
    }
}
