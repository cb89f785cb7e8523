//! roaring: a compressed bitmap, here of the free blocks.
//!
//! The search begins where the last one ended: from the beginning (`min`) it takes twice as long in
//! churn, and by rank (`select`, `remove_smallest`) ten times.

use roaring::RoaringBitmap;

use super::Subject;
use crate::device::BlockMap;

pub struct Roaring {
    free: RoaringBitmap,
    /// Where the search for a single block begins.
    cursor: u32,
}

impl Roaring {
    /// First fit.
    fn find_run(&self, len: u32) -> Option<u32> {
        let mut runs = self.free.iter();
        std::iter::from_fn(|| runs.next_range())
            .find(|run| run.end() - run.start() >= len - 1)
            .map(|run| *run.start())
    }
}

impl Subject for Roaring {
    type Held = u32;

    fn new(blocks: u64) -> Self {
        let mut free = RoaringBitmap::new();
        free.insert_range(0..blocks as u32);
        Self { free, cursor: 0 }
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        let bytes: Vec<u8> = map.allocated.iter().flat_map(|word| (!word).to_le_bytes()).collect();
        let free = RoaringBitmap::from_lsb0_bytes(0, &bytes);
        (Self { free, cursor: 0 }, blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<u32> {
        if len > 1 {
            let start = self.find_run(len)?;
            self.free.remove_range(start..start + len);
            return Some(start);
        }
        let block = self.free.range(self.cursor..).next().or_else(|| self.free.min())?;
        self.free.remove(block);
        self.cursor = block;
        Some(block)
    }

    #[inline]
    fn free(&mut self, held: u32, len: u32) {
        if len > 1 {
            self.free.insert_range(held..held + len);
        } else {
            self.free.insert(held);
        }
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }
}

#[cfg(test)]
mod tests {
    use super::Roaring;
    use crate::subject::check;
    use crate::subject::locked::Locked;

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<Roaring>();
        check::shared::<Locked<Roaring>>();
    }
}
