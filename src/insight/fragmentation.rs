//! How far free space is from being in one piece: pure functions of its runs, sorted by length.

use crate::values::runs::{RUN_ORDERS, Runs};

/// Runs of 2^15 blocks (128 MiB of 4 KiB blocks, the smallest shard) are long enough for any
/// request.
const LONG_ENOUGH: u32 = 15;

impl Runs {
    /// The share of the free space, from 0 to 1, in runs shorter than 2^`order` blocks, where a
    /// contiguous request of that order cannot be served: Gorman's "unusable free space index". 0
    /// if nothing is free.
    pub fn unusable(&self, order: u32) -> f64 {
        let free = self.blocks();
        if free == 0 {
            return 0.0;
        }
        let short = self.by_order().iter().take(order as usize);
        short.map(|order| order.blocks as f64).sum::<f64>() / free as f64
    }

    /// How far the free space is from being one run, from 0 to 1: the mean of
    /// [`unusable`](Self::unusable) over the orders 1 to K. K is 15, or less if one run of all free
    /// blocks would have a smaller order. If a request is for a power of two blocks, each power up
    /// to 2^K equally likely, this share of the free space cannot serve it on average.
    ///
    /// 0 if the free space is one run, or all in runs of 2^15 blocks and more (128 MiB of 4 KiB
    /// blocks); 1 if it consists of single blocks; 0 if nothing is free. With `b(k)` the blocks in
    /// runs of 2^k to 2^(k+1) - 1 blocks and `f` all free blocks, it is `1 - sum(min(k, K) * b(k))
    /// / (K * f)`. So it is exact, though it needs no single run.
    pub fn fragmentation(&self) -> f64 {
        let free = self.blocks();
        let most = free.checked_ilog2().unwrap_or(0).min(LONG_ENOUGH);
        if most == 0 {
            return 0.0;
        }
        let weighted = (0..).zip(self.by_order());
        let sum: f64 =
            weighted.map(|(k, order)| f64::from(most.min(k)) * order.blocks as f64).sum();
        1.0 - sum / (free as f64 * f64::from(most))
    }

    /// The score by which Ceph's BlueStore rates fragmentation, from 0 to 1, for comparison with
    /// clusters that use it (`Allocator::get_fragmentation_score` in
    /// `src/os/bluestore/Allocator.cc`). `block_size` is in bytes, a power of two; others count as
    /// the next lower one.
    ///
    /// A run is worth more than its halves: per byte 1.2 times as much up to 1 MiB. From there the
    /// factor falls with each doubling, linearly in the logarithm, and reaches 1 at 128 MiB.
    /// Between whole orders the worth is linear in the length. The score is `(ideal - actual) /
    /// (ideal - worst)`: the worths of one run of all free blocks, of the actual runs, and of as
    /// many single blocks. 0 if nothing is free. Since the worth is linear within an order, the
    /// number and blocks of the runs of each order give it exactly. O(1).
    pub fn ceph_score(&self, block_size: u32) -> f64 {
        let free = self.blocks();
        if free == 0 {
            return 0.0;
        }
        let per_block = worth_per_block(block_size.checked_ilog2().unwrap_or(0));
        let worth = |order: usize, runs: u64, blocks: u64| {
            let whole = (runs as f64) * 2f64.powi(order as i32);
            let more = blocks as f64 - whole;
            per_block[order] * (whole - more) + per_block[order + 1] * 2.0 * more
        };
        let actual: f64 = (0..)
            .zip(self.by_order())
            .map(|(order, counts)| worth(order, counts.runs, counts.blocks))
            .sum();
        let ideal = worth((free.ilog2() as usize).min(RUN_ORDERS - 1), 1, free);
        let worst = free as f64;
        let range = ideal - worst;
        // A single block is ideal and worst at once. Figures of several moments may exceed the
        // range.
        if range > 0.0 { ((ideal - actual) / range).clamp(0.0, 1.0) } else { 0.0 }
    }
}

/// The worth of a block in a run of 2^k blocks of 2^`shift` bytes; a single block is worth 1.
fn worth_per_block(shift: u32) -> [f64; RUN_ORDERS + 1] {
    const SMALL: u32 = 20; // 1 MiB
    const HUGE: u32 = 27; // 128 MiB
    let mut worth = [1.0; RUN_ORDERS + 1];
    for order in 1..=RUN_ORDERS {
        let bytes = (shift + order as u32).clamp(SMALL, HUGE);
        let doubling = 1.0 + 0.2 * f64::from(HUGE - bytes) / f64::from(HUGE - SMALL);
        worth[order] = worth[order - 1] * doubling;
    }
    worth
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::values::extent::Extent;

    /// `total` blocks in runs of `len`, the last one shorter.
    fn pieces(total: u64, len: u64) -> Runs {
        (0..total.div_ceil(len)).map(|n| Extent::new(n * len, len.min(total - n * len))).collect()
    }

    /// Ceph's score run by run, as Ceph computes it.
    fn by_the_letter(lens: &[u64], block_size: u64) -> f64 {
        let mut scales = vec![1.0];
        for at in 1..64 {
            let scale = match at {
                ..=20 => 1.2,
                21..27 => (f64::from(at - 20) + 1.2 * f64::from(27 - at)) / 7.0,
                _ => 1.0,
            };
            scales.push(scales[scales.len() - 1] * scale);
        }
        let score = |bytes: u64| {
            let order = bytes.ilog2() as usize;
            let power = (1u64 << order) as f64;
            let x = (bytes as f64 - power) / power;
            power * scales[order] * (1.0 - x) + 2.0 * power * scales[order + 1] * x
        };
        let blocks: u64 = lens.iter().sum();
        let ideal = score(blocks * block_size);
        let actual: f64 = lens.iter().map(|len| score(len * block_size)).sum();
        (ideal - actual) / (ideal - blocks as f64 * score(block_size))
    }

    #[test]
    fn the_scores_that_ceph_gives() {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        let known = [(64 * KIB, 0.8367), (MIB, 0.4979), (4 * MIB, 0.2763), (16 * MIB, 0.0926)];
        // For any total that is a power of two from 128 MiB on, the scores are the same.
        for total in [MIB << 7, MIB << 10, MIB << 14] {
            for (bytes, score) in known.into_iter().chain([(64 * MIB, 0.0), (4 * KIB, 1.0)]) {
                let found = pieces(total >> 12, bytes >> 12).ceph_score(4096);
                assert!((found - score).abs() < 0.000_05, "{total} {bytes}: {found}");
            }
        }
    }

    #[test]
    fn the_histogram_loses_nothing_of_cephs_score() {
        let mut lens =
            vec![1, 2, 3, 5, 7, 8, 9, 250, 257, 1000, 5000, 40_000, 100_001, 123_456_789];
        for block_size in [512, 4096, 1 << 20] {
            for _ in 0..lens.len() {
                lens.rotate_left(1);
                let lens = &lens[..9];
                let runs: Runs = lens.iter().map(|&len| Extent::new(0, len)).collect();
                let (found, expected) =
                    (runs.ceph_score(block_size), by_the_letter(lens, block_size.into()));
                assert!((found - expected).abs() < 1e-9, "{lens:?}: {found} {expected}");
            }
        }
    }

    #[test]
    fn ends_of_the_scales() {
        let none = Runs::default();
        assert_eq!(
            (none.fragmentation(), none.ceph_score(4096), none.unusable(9)),
            (0.0, 0.0, 0.0)
        );
        for total in [1, 2, 3, 100, 1 << 20, (1 << 20) + 5] {
            let (one, single) = (pieces(total, total), pieces(total, 1));
            assert_eq!((one.fragmentation(), one.ceph_score(4096)), (0.0, 0.0));
            let worst = if total == 1 { 0.0 } else { 1.0 };
            assert_eq!((single.fragmentation(), single.ceph_score(4096)), (worst, worst));
        }
        for size in [0, 1, 3, u32::MAX] {
            assert!((0.0..=1.0).contains(&pieces(1 << 20, 37).ceph_score(size)));
        }
    }

    #[test]
    fn fragmentation_is_the_mean_share_that_requests_cannot_use() {
        for len in [1, 2, 3, 64, 100, 5000, 40_000] {
            let runs = pieces(1 << 20, len);
            let mean = (1..=15).map(|order| runs.unusable(order)).sum::<f64>() / 15.0;
            assert!((runs.fragmentation() - mean).abs() < 1e-12, "{len}");
        }
        let halves: Runs =
            [Extent::new(0, 1 << 15), Extent::new(1 << 16, 1 << 15)].into_iter().collect();
        assert_eq!(halves.fragmentation(), 0.0);
        assert_eq!(pieces(64, 8).fragmentation(), 0.5);
    }
}
