//! buddy_system_allocator: its frame allocator, one ordered set of free runs per order.

use buddy_system_allocator::FrameAllocator;

use super::Subject;
use crate::device::BlockMap;

pub struct Buddy(FrameAllocator<33>);

impl Subject for Buddy {
    type Held = u32;

    fn new(blocks: u64) -> Self {
        let mut frames = FrameAllocator::new();
        frames.insert(0..blocks as usize);
        Self(frames)
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        // Its count of allocated frames has to cover those that will be freed.
        let mut new = Self::new(map.blocks);
        while new.0.alloc(1 << map.blocks.ilog2()).is_some() {}
        map.free_runs().for_each(|run| new.0.insert(run.start as usize..run.end as usize));
        (new, blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<u32> {
        self.0.alloc(len as usize).map(|block| block as u32)
    }

    #[inline]
    fn free(&mut self, held: u32, len: u32) {
        self.0.dealloc(held as usize, len as usize);
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }
}

#[cfg(test)]
mod tests {
    use super::Buddy;
    use crate::subject::check;
    use crate::subject::locked::Locked;

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<Buddy>();
        check::shared::<Locked<Buddy>>();
    }
}
