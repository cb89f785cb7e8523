//! offset-allocator: lists of free runs in 256 bins by size, and a node for each run, free or not.

use offset_allocator::{Allocation, Allocator};

use super::{Limit, Limits, Subject};
use crate::device::BlockMap;

/// Nodes beyond one per block: two are never used, the others are for the run that an operation is
/// about to cut or to join.
const SPARE_NODES: u32 = 8;

pub struct OffsetAllocator(Allocator);

impl Subject for OffsetAllocator {
    /// The offset and the node.
    type Held = Allocation;

    const LIMITS: Limits = Limits {
        blocks: Limit { most: 1 << 26, why: "32 bytes per block: more than 4 GiB" },
        ..Limits::NONE
    };

    fn new(blocks: u64) -> Self {
        let blocks = blocks as u32;
        Self(Allocator::with_max_allocs(blocks, blocks + SPARE_NODES))
    }

    /// A state has to be allocated block by block, since every block that is going to be freed by
    /// itself needs a node.
    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<Allocation>) {
        let mut new = Self::new(map.blocks);
        let mut all: Vec<Option<Allocation>> = vec![None; map.blocks as usize];
        for _ in 0..map.blocks {
            let allocation = new.0.allocate(1).expect("as many are free");
            all[allocation.offset as usize] = Some(allocation);
        }
        let of = |block: u32| all[block as usize].expect("all were allocated");
        map.free_runs().flatten().for_each(|block| new.0.free(of(block)));
        (new, blocks.iter().map(|&block| of(block)).collect())
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<Allocation> {
        self.0.allocate(len)
    }

    #[inline]
    fn free(&mut self, held: Allocation, _: u32) {
        self.0.free(held);
    }

    #[cfg(test)]
    fn block(held: Allocation) -> u32 {
        held.offset
    }
}

#[cfg(test)]
mod tests {
    use super::OffsetAllocator;
    use crate::subject::check;
    use crate::subject::locked::Locked;

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<OffsetAllocator>();
        check::shared::<Locked<OffsetAllocator>>();
    }
}
