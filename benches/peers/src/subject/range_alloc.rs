//! range-alloc: a vector of free runs in ascending order, best fit by a pass over it.

use range_alloc::RangeAllocator;

use super::{Limit, Limits, Subject};
use crate::device::BlockMap;

pub struct RangeAlloc(RangeAllocator<u32>);

impl Subject for RangeAlloc {
    type Held = u32;

    const LIMITS: Limits = Limits {
        free_runs: Limit {
            most: 1 << 15,
            why: "each operation passes over all free runs: it would take too long to make more",
        },
        ..Limits::NONE
    };

    fn new(blocks: u64) -> Self {
        Self(RangeAllocator::new(0..blocks as u32))
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        let mut new = Self::new(map.blocks);
        new.0.allocate_range(map.blocks as u32).expect("all of it");
        map.free_runs().for_each(|run| new.0.free_range(run));
        (new, blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<u32> {
        self.0.allocate_range(len).ok().map(|run| run.start)
    }

    #[inline]
    fn free(&mut self, held: u32, len: u32) {
        self.0.free_range(held..held + len);
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }
}

#[cfg(test)]
mod tests {
    use super::RangeAlloc;
    use crate::subject::check;
    use crate::subject::locked::Locked;

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<RangeAlloc>();
        check::shared::<Locked<RangeAlloc>>();
    }
}
