//! The floor: one bit per block in an array of atomic words, and nothing above it.
//!
//! A free is a `fetch_or`; an allocation is a load, a find-first-one and a compare-exchange at the
//! next word that has a free block. That is what an allocator on a shared bitmap cannot do without.
//! So that it does no more than that, a round of pairs begins with all blocks free whatever the
//! fill: the next free block is always at hand, where a real device at that fill would make it
//! search. Its figures are what the others can be compared with, not what anybody could have.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::{Limits, Shared, Subject};
use crate::device::BlockMap;

pub struct Floor {
    words: Arc<[AtomicU64]>,
    /// The word to allocate from.
    cursor: usize,
    /// Where the cursor is at the beginning.
    home: usize,
}

impl Floor {
    fn at(words: Arc<[AtomicU64]>, home: usize) -> Self {
        Self { words, cursor: home, home }
    }
}

impl Subject for Floor {
    type Held = u32;

    const LIMITS: Limits = Limits { run: Limits::SINGLE_BLOCKS, ..Limits::NONE };

    fn new(blocks: u64) -> Self {
        Self::at((0..blocks / 64).map(|_| AtomicU64::new(u64::MAX)).collect(), 0)
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        (Self::new(map.blocks), blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, _: u32) -> Option<u32> {
        let mut passed = 0;
        loop {
            let word = &self.words[self.cursor];
            let free = word.load(SeqCst);
            if free != 0 {
                if word.compare_exchange(free, free & (free - 1), SeqCst, SeqCst).is_ok() {
                    return Some(self.cursor as u32 * 64 + free.trailing_zeros());
                }
                continue;
            }
            self.cursor += 1;
            if self.cursor == self.words.len() {
                self.cursor = 0;
            }
            passed += 1;
            if passed > self.words.len() {
                return None;
            }
        }
    }

    #[inline]
    fn free(&mut self, held: u32, _: u32) {
        self.words[(held / 64) as usize].fetch_or(1 << (held % 64), SeqCst);
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }

    fn begin_round(&mut self) {
        self.words.iter().for_each(|word| word.store(u64::MAX, SeqCst));
        self.cursor = self.home;
    }
}

impl Shared for Floor {
    /// The threads allocate from parts of the device of their own.
    fn handles(self, count: usize) -> Vec<Self> {
        let part = self.words.len() / count;
        (0..count).map(|index| Self::at(self.words.clone(), index * part)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Floor;
    use crate::subject::check;

    #[test]
    fn owns_what_it_hands_out() {
        check::from_empty::<Floor>();
        check::shared::<Floor>();
    }
}
