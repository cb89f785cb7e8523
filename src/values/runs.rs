//! Free space by run length.

use crate::values::extent::Extent;

/// Number of run orders, 0 to 36: no device has more than 2^36 blocks.
pub(crate) const RUN_ORDERS: usize = 37;

/// Maximal free runs by length: what a [`Survey`](crate::Survey) counts.
///
/// Can be collected from any list of extents, and has fragmentation scores:
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let allocator = freemap::Allocator::new(1000)?;
/// allocator.mark_allocated(freemap::Extent::new(300, 1))?;
/// let runs: freemap::Runs = allocator.free_extents().collect();
/// assert_eq!((runs.count(), runs.blocks(), runs.largest()), (2, 999, 699));
/// assert_eq!(runs, allocator.survey().finish());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Runs {
    orders: [RunsOfOrder; RUN_ORDERS],
    largest: u64,
}

/// Maximal free runs of one order: of 2^k to 2^(k+1) - 1 blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RunsOfOrder {
    /// How many runs there are, wherever they begin.
    pub runs: u64,
    /// How many of them contain an aligned run of their order: 2^k blocks that begin at a multiple
    /// of 2^k. The others contain at best one of the order below, so that a search through the
    /// summary does not find them at their full length.
    pub aligned: u64,
    /// Blocks in all runs of the order.
    pub blocks: u64,
}

impl Default for Runs {
    /// No runs.
    fn default() -> Self {
        Self { orders: [RunsOfOrder::default(); RUN_ORDERS], largest: 0 }
    }
}

impl Runs {
    /// The runs of 2^`order` to 2^(`order` + 1) - 1 blocks. No runs for an order above 36.
    pub fn of_order(&self, order: u32) -> RunsOfOrder {
        self.orders.get(order as usize).copied().unwrap_or_default()
    }

    /// The runs of each order from 0 to 36.
    pub fn by_order(&self) -> &[RunsOfOrder] {
        &self.orders
    }

    /// How many runs there are.
    pub fn count(&self) -> u64 {
        self.orders.iter().map(|order| order.runs).sum()
    }

    /// Blocks in all runs.
    pub fn blocks(&self) -> u64 {
        self.orders.iter().fold(0, |sum, order| sum.saturating_add(order.blocks))
    }

    /// Blocks in the longest run; 0 if there is none.
    pub fn largest(&self) -> u64 {
        self.largest
    }

    /// Counts the run of `len` blocks (at least 1) that begins at `start`.
    #[inline]
    pub(crate) fn count_run(&mut self, start: u64, len: u64) {
        let order = len.ilog2();
        let group = 1u64 << order;
        // Rounded up to a multiple; no overflow, since runs lie on a device.
        let aligned = (start + group - 1) & !(group - 1);
        let counts = &mut self.orders[order as usize];
        counts.runs += 1;
        counts.aligned += u64::from(aligned + group <= start + len);
        counts.blocks = counts.blocks.saturating_add(len);
        self.largest = self.largest.max(len);
    }

    /// Adds `other`, the runs of another part of the device.
    pub(crate) fn merge(&mut self, other: &Runs) {
        for (mine, theirs) in self.orders.iter_mut().zip(&other.orders) {
            mine.runs += theirs.runs;
            mine.aligned += theirs.aligned;
            mine.blocks += theirs.blocks;
        }
        self.largest = self.largest.max(other.largest);
    }

    pub(crate) fn from_parts(orders: [RunsOfOrder; RUN_ORDERS], largest: u64) -> Self {
        Self { orders, largest }
    }
}

impl FromIterator<Extent> for Runs {
    /// Counts each extent as one run. Skips extents that no device has: empty ones, and those that
    /// end beyond [`MAX_BLOCKS`](crate::MAX_BLOCKS).
    fn from_iter<I: IntoIterator<Item = Extent>>(extents: I) -> Self {
        let mut runs = Self::default();
        for Extent { start, len } in extents {
            if len > 0
                && start
                    .checked_add(len)
                    .is_some_and(|end| end <= crate::values::extent::MAX_BLOCKS)
            {
                runs.count_run(start, len);
            }
        }
        runs
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn aligned_is_what_holds_an_aligned_group_of_its_order() {
        for start in 0..40u64 {
            for len in 1..40u64 {
                let runs: Runs = [Extent::new(start, len)].into_iter().collect();
                let group = 1 << len.ilog2();
                let aligned = (start..start + len)
                    .any(|block| block % group == 0 && block + group <= start + len);
                let expected = RunsOfOrder { runs: 1, aligned: aligned.into(), blocks: len };
                assert_eq!(runs.of_order(len.ilog2()), expected, "{start} {len}");
                assert_eq!((runs.count(), runs.blocks(), runs.largest()), (1, len, len));
            }
        }
    }

    #[test]
    fn runs_of_two_parts_are_the_runs_of_the_whole() {
        let extents: Vec<Extent> = (1..60).map(|len| Extent::new(100 * len, len)).collect();
        for split in 0..extents.len() {
            let [mut runs, behind] = [&extents[..split], &extents[split..]]
                .map(|part| part.iter().copied().collect::<Runs>());
            assert_eq!(runs.count(), split as u64);
            runs.merge(&behind);
            assert_eq!(runs, extents.iter().copied().collect());
            let orders = runs.by_order().try_into().expect("all orders");
            assert_eq!(Runs::from_parts(orders, runs.largest()), runs);
        }
    }

    #[test]
    fn extents_that_no_device_has_are_left_out() {
        let wrong = [(0, 0), (u64::MAX, 2), (1, u64::MAX), (crate::values::extent::MAX_BLOCKS, 1)];
        let runs: Runs = wrong.into_iter().map(|(start, len)| Extent::new(start, len)).collect();
        assert_eq!(runs, Runs::default());
        let whole: Runs = [Extent::new(0, crate::values::extent::MAX_BLOCKS)].into_iter().collect();
        assert_eq!(whole.blocks(), crate::values::extent::MAX_BLOCKS);
        assert_eq!(whole.of_order(99), RunsOfOrder::default());
    }
}
