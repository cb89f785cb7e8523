//! Which runs to cut into how many extents, for a scattered request with a lower bound on its
//! extents that cannot be met run by run in the order found.

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

/// Chooses extents of `min..=max` blocks from runs of the given lengths that sum to `len`, at most
/// `pieces_per_run` from each; `None` if there is no such choice.
///
/// With p extents, every sum from p * min to the most that p extents can cover is possible. So the
/// request can be met if and only if `len / min` extents can cover it. The cover of a run grows by
/// `max` with each further extent, and by the rest with the last: never more than before. So taking
/// the largest gain each time covers the most. O(extents x log runs).
pub(crate) fn plan(
    runs: &[u64],
    len: u64,
    min: u64,
    max: u64,
    pieces_per_run: u64,
) -> Option<Vec<Cut>> {
    debug_assert!(len > 0 && 0 < min && min <= max && pieces_per_run > 0);
    let mut gains: std::collections::BinaryHeap<(u64, std::cmp::Reverse<usize>)> = runs
        .iter()
        .enumerate()
        .filter(|&(_, &run)| run >= min)
        .map(|(index, &run)| (run.min(max), std::cmp::Reverse(index)))
        .collect();
    let mut pieces = vec![0u64; runs.len()];
    let (mut covered, mut used, mut in_order) = (0u64, 0, Vec::new());
    while covered < len {
        if used == len / min {
            return None;
        }
        let (gain, std::cmp::Reverse(run)) = gains.pop()?;
        if pieces[run] == 0 {
            in_order.push(run);
        }
        covered = covered.saturating_add(gain);
        pieces[run] += 1;
        used += 1;
        let (length, taken) = (runs[run], pieces[run]);
        let next = (taken + 1).saturating_mul(min) <= length && taken < pieces_per_run;
        let rest = length.saturating_sub(max.saturating_mul(taken)).min(max);
        if next && rest > 0 {
            gains.push((rest, std::cmp::Reverse(run)));
        }
    }
    // Give every extent its minimum, then fill up in the order of choice.
    let mut left = len - used * min;
    let cuts = in_order.into_iter().map(|run| {
        let least = pieces[run] * min;
        let most = runs[run].min(max.saturating_mul(pieces[run]));
        let more = left.min(most - least);
        left -= more;
        Cut { run, pieces: pieces[run], blocks: least + more }
    });
    let cuts: Vec<Cut> = cuts.collect();
    debug_assert_eq!(cuts.iter().map(|cut| cut.blocks).sum::<u64>(), len);
    debug_assert!(cuts.iter().all(|cut| cut.blocks <= runs[cut.run]));
    Some(cuts)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Which sums can be made from `run`, by trying all.
    fn sums(run: u64, min: u64, max: u64) -> Vec<bool> {
        let mut possible = vec![false; run as usize + 1];
        possible[0] = true;
        for sum in 1..=run {
            possible[sum as usize] =
                (min..=max.min(sum)).any(|piece| possible[(sum - piece) as usize]);
        }
        possible
    }

    fn possible(runs: &[u64], len: u64, min: u64, max: u64) -> bool {
        let mut reach = vec![false; len as usize + 1];
        reach[0] = true;
        for &run in runs {
            let own = sums(run, min, max);
            reach = (0..=len as usize)
                .map(|sum| (0..own.len()).any(|k| own[k] && k <= sum && reach[sum - k]))
                .collect();
        }
        reach[len as usize]
    }

    #[test]
    fn a_plan_exists_exactly_when_trying_everything_finds_one() {
        let sets: [&[u64]; 9] = [
            &[],
            &[5],
            &[4, 4, 7],
            &[5, 5, 4],
            &[7, 3],
            &[4, 6, 6],
            &[12],
            &[1, 2, 3, 11],
            &[9, 8, 2],
        ];
        for runs in sets {
            for min in 1..6 {
                for max in min..9 {
                    for len in 1..20 {
                        let cuts = plan(runs, len, min, max, u64::MAX);
                        assert_eq!(
                            cuts.is_some(),
                            possible(runs, len, min, max),
                            "{runs:?} len {len} min {min} max {max}"
                        );
                        let Some(cuts) = cuts else { continue };
                        assert_eq!(cuts.iter().map(|cut| cut.blocks).sum::<u64>(), len);
                        for cut in cuts {
                            assert!(cut.blocks <= runs[cut.run]);
                            assert!(cut.blocks >= cut.pieces * min);
                            assert!(cut.blocks <= cut.pieces * max);
                        }
                    }
                }
            }
        }
    }
}
