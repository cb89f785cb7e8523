//! freemap for many extents at a time: one call allocates or frees up to 64 blocks.

use freemap::Extent;

use super::freemap::Freemap;
use super::{Piece, Shared, Subject};
use crate::device::BlockMap;

/// Blocks in one call.
const BATCH: usize = 64;

pub struct Batch {
    freemap: Freemap,
    /// What a scattered allocation is allocated to and freed from.
    extents: Vec<Extent>,
}

impl Batch {
    fn of(freemap: Freemap) -> Self {
        Self { freemap, extents: Vec::new() }
    }

    #[inline]
    fn allocate_batch(&mut self, slots: &mut [Extent]) {
        self.freemap.handle.allocate_many(1, slots).expect("as many are free");
    }

    #[inline]
    fn free_batch(&mut self, slots: &mut [Extent]) {
        self.freemap.handle.free_many(slots).expect("they are ours");
    }
}

impl Subject for Batch {
    type Held = Extent;

    const BATCHES: bool = true;

    fn new(blocks: u64) -> Self {
        Self::of(Freemap::new(blocks))
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<Extent>) {
        let (freemap, held) = Freemap::with_state(map, blocks);
        (Self::of(freemap), held.into_iter().map(|block| Extent::new(block.into(), 1)).collect())
    }

    fn allocate(&mut self, len: u32) -> Option<Extent> {
        self.freemap.handle.allocate(u64::from(len)).ok()
    }

    fn free(&mut self, held: Extent, _: u32) {
        self.freemap.handle.free(held).expect("it is ours");
    }

    #[cfg(test)]
    fn block(held: Extent) -> u32 {
        held.start as u32
    }

    #[inline]
    fn allocate_each(&mut self, slots: &mut [Extent]) {
        slots.chunks_mut(BATCH).for_each(|batch| self.allocate_batch(batch));
    }

    #[inline]
    fn free_each(&mut self, slots: &mut [Extent]) {
        slots.chunks_mut(BATCH).for_each(|batch| self.free_batch(batch));
    }

    /// As many are freed, then allocated, as go into one call.
    #[inline]
    fn exchange_each(&mut self, slots: &mut [Extent]) {
        for batch in slots.chunks_mut(BATCH) {
            self.free_batch(batch);
            self.allocate_batch(batch);
        }
    }

    /// Single blocks, all in one call.
    fn allocate_scattered(&mut self, blocks: u32, pieces: &mut Vec<Piece<Extent>>) {
        let mut extents = std::mem::take(&mut self.extents);
        extents.resize(blocks as usize, Extent::new(0, 0));
        self.allocate_batch(&mut extents);
        pieces.extend(extents.iter().map(|&held| Piece { held, len: 1 }));
        self.extents = extents;
    }

    fn free_scattered(&mut self, pieces: &[Piece<Extent>]) {
        let mut extents = std::mem::take(&mut self.extents);
        extents.clear();
        extents.extend(pieces.iter().map(|piece| piece.held));
        self.free_batch(&mut extents);
        self.extents = extents;
    }
}

impl Shared for Batch {
    fn handles(self, count: usize) -> Vec<Self> {
        self.freemap.handles(count).into_iter().map(Self::of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Batch;
    use crate::subject::check;

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<Batch>();
        check::shared::<Batch>();
    }
}
