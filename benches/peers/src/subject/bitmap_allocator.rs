//! bitmap-allocator: a bitmap under a tree of 16-bit summaries, its size fixed by the type.

use bitmap_allocator::BitAlloc;

use super::{Limit, Limits, Subject};
use crate::device::BlockMap;

/// Room for the value on its way to the heap: a bitmap of 256M blocks has 36 MB and is returned by
/// value, several times in a build without optimization.
const STACK_BYTES: usize = 1 << 30;

pub struct BitmapAllocator<B>(Box<B>);

impl<B: BitAlloc + Send + 'static> BitmapAllocator<B> {
    /// With all blocks allocated.
    fn full() -> Self {
        let boxed = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(Box::<B>::default);
        Self(boxed.expect("a thread").join().expect("room on its stack"))
    }
}

impl<B: BitAlloc + Send + 'static> Subject for BitmapAllocator<B> {
    type Held = u32;

    const LIMITS: Limits = Limits {
        blocks: Limit { most: B::CAP as u64, why: "2^28 blocks at most" },
        ..Limits::NONE
    };

    fn new(blocks: u64) -> Self {
        let mut new = Self::full();
        new.0.insert(0..blocks as usize);
        new
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        let mut new = Self::full();
        map.free_runs().for_each(|run| new.0.insert(run.start as usize..run.end as usize));
        (new, blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<u32> {
        let block = match len {
            1 => self.0.alloc(),
            _ => self.0.alloc_contiguous(None, len as usize, 0),
        };
        block.map(|block| block as u32)
    }

    #[inline]
    fn free(&mut self, held: u32, len: u32) {
        match len {
            1 => self.0.dealloc(held as usize),
            _ => self.0.dealloc_contiguous(held as usize, len as usize),
        };
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }
}

#[cfg(test)]
mod tests {
    use bitmap_allocator::BitAlloc1M;

    use super::BitmapAllocator;
    use crate::subject::check;
    use crate::subject::locked::Locked;

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<BitmapAllocator<BitAlloc1M>>();
        check::shared::<Locked<BitmapAllocator<BitAlloc1M>>>();
    }
}
