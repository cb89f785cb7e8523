//! hibitset: sets of integers with three levels of summary, here the sets of free blocks.
//!
//! The atomic set can add (free) through a shared reference but remove (allocate) only through an
//! exclusive one, so threads need a lock around it like around the plain set.

use hibitset::{AtomicBitSet, BitSet, BitSetLike, DrainableBitSet};

use super::{Limit, Limits, Subject};
use crate::device::BlockMap;

/// A set that blocks can be added to.
pub trait FreeSet: DrainableBitSet + Default + Send + 'static {
    fn add(&mut self, block: u32);
}

impl FreeSet for BitSet {
    #[inline]
    fn add(&mut self, block: u32) {
        BitSet::add(self, block);
    }
}

impl FreeSet for AtomicBitSet {
    #[inline]
    fn add(&mut self, block: u32) {
        AtomicBitSet::add(self, block);
    }
}

pub struct Hibitset<F>(F);

impl<F: FreeSet> Subject for Hibitset<F> {
    type Held = u32;

    const LIMITS: Limits = Limits {
        run: Limits::SINGLE_BLOCKS,
        blocks: Limit { most: 1 << 24, why: "2^24 blocks at most" },
        ..Limits::NONE
    };

    fn new(blocks: u64) -> Self {
        Self::with_state(&BlockMap::of_words(blocks, 0), &[]).0
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        let mut set = F::default();
        map.free_runs().flatten().for_each(|block| set.add(block));
        (Self(set), blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, _: u32) -> Option<u32> {
        let block = (&self.0).iter().next()?;
        self.0.remove(block);
        Some(block)
    }

    #[inline]
    fn free(&mut self, held: u32, _: u32) {
        self.0.add(held);
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }
}

#[cfg(test)]
mod tests {
    use hibitset::{AtomicBitSet, BitSet};

    use super::Hibitset;
    use crate::subject::check;
    use crate::subject::locked::Locked;

    #[test]
    fn the_plain_set_owns_what_it_hands_out() {
        check::alone::<Hibitset<BitSet>>();
        check::shared::<Locked<Hibitset<BitSet>>>();
    }

    #[test]
    fn the_atomic_set_owns_what_it_hands_out() {
        check::alone::<Hibitset<AtomicBitSet>>();
        check::shared::<Locked<Hibitset<AtomicBitSet>>>();
    }
}
