//! freemap, through one handle per thread.

use freemap::{Allocator, Extent, Handle, Request};

use super::{Piece, Shared, Subject};
use crate::device::BlockMap;

pub struct Freemap {
    allocator: Allocator,
    pub(super) handle: Handle,
    /// Where a scattered request leaves its extents.
    extents: Vec<Extent>,
}

impl Freemap {
    fn of(allocator: Allocator) -> Self {
        Self { handle: allocator.handle(), allocator, extents: Vec::new() }
    }
}

impl Subject for Freemap {
    /// The first block.
    type Held = u32;

    fn new(blocks: u64) -> Self {
        Self::of(Allocator::new(blocks).expect("a device of that size"))
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        let allocator = Allocator::from_bitmap(map.blocks, &map.allocated);
        (Self::of(allocator.expect("a device of that size")), blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<u32> {
        self.handle.allocate(u64::from(len)).ok().map(|extent| extent.start as u32)
    }

    #[inline]
    fn free(&mut self, held: u32, len: u32) {
        self.handle.free(Extent::new(u64::from(held), u64::from(len))).expect("it is ours");
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }

    fn allocate_scattered(&mut self, blocks: u32, pieces: &mut Vec<Piece<u32>>) {
        let request = Request::new(u64::from(blocks)).scattered();
        self.extents.clear();
        self.handle.allocate_into(&request, &mut self.extents).expect("as many are free");
        let piece = |extent: &Extent| Piece { held: extent.start as u32, len: extent.len as u32 };
        pieces.extend(self.extents.iter().map(piece));
    }

    fn forget_failures(&mut self) {
        self.handle = self.allocator.handle();
    }
}

impl Shared for Freemap {
    fn handles(self, count: usize) -> Vec<Self> {
        (0..count).map(|_| Self::of(self.allocator.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Freemap;
    use crate::subject::check;

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<Freemap>();
        check::shared::<Freemap>();
    }
}
