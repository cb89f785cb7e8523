//! A bitmap with two levels of summary, for one thread: what one writes in an afternoon. Ours.
//!
//! Next fit. A single block is found through the summary; a run is looked for word by word, words
//! without a free block skipped through the summary.

use super::{Piece, Subject};
use crate::device::BlockMap;

pub struct TwoLevel {
    /// One bit per block, 1 = free.
    blocks: Vec<u64>,
    /// One bit per word of `blocks`, 1 = it has a free block.
    words: Vec<u64>,
    /// One bit per word of `words`, 1 = it is not zero.
    top: Vec<u64>,
    /// The word of `blocks` where the next search begins.
    cursor: usize,
}

/// One bit per word of `below`.
fn summary_of(below: &[u64]) -> Vec<u64> {
    let bits = |words: &[u64]| {
        words
            .iter()
            .enumerate()
            .fold(0, |bits, (index, &word)| bits | u64::from(word != 0) << index)
    };
    below.chunks(64).map(bits).collect()
}

/// The first bit set at or after `from`.
fn next_bit(words: &[u64], from: usize) -> Option<usize> {
    let mut index = from / 64;
    let mut word = words.get(index)? & u64::MAX << (from % 64);
    while word == 0 {
        index += 1;
        word = *words.get(index)?;
    }
    Some(index * 64 + word.trailing_zeros() as usize)
}

/// The bits of `word` at which `len` ones begin; `len` is 64 at most.
fn run_starts(word: u64, len: u32) -> u64 {
    let (mut starts, mut have) = (word, 1);
    while have < len {
        let step = have.min(len - have);
        starts &= starts >> step;
        have += step;
    }
    starts
}

/// The words that `len` bits from `start` lie in, and which bits of each.
fn masks(start: u32, len: u32) -> impl Iterator<Item = (usize, u64)> {
    let (mut bit, end) = (start, start + len);
    std::iter::from_fn(move || {
        let (from, count) = (bit % 64, (end - bit).min(64 - bit % 64));
        let index = (bit / 64) as usize;
        bit += count;
        (count > 0).then(|| (index, u64::MAX >> (64 - count) << from))
    })
}

impl TwoLevel {
    fn of(blocks: Vec<u64>) -> Self {
        let words = summary_of(&blocks);
        Self { top: summary_of(&words), words, blocks, cursor: 0 }
    }

    /// Bytes of the bitmap.
    pub fn bitmap_bytes(&self) -> usize {
        self.blocks.len() * size_of::<u64>()
    }

    /// Bytes of the levels above the bitmap.
    pub fn summary_bytes(&self) -> usize {
        (self.words.len() + self.top.len()) * size_of::<u64>()
    }

    /// The first word at or after `from` with a free block.
    #[inline]
    fn next_word(&self, from: usize) -> Option<usize> {
        let index = from / 64;
        let rest = self.words.get(index)? & u64::MAX << (from % 64);
        if rest != 0 {
            return Some(index * 64 + rest.trailing_zeros() as usize);
        }
        let index = next_bit(&self.top, index + 1)?;
        Some(index * 64 + self.words[index].trailing_zeros() as usize)
    }

    /// The first run of `len` free blocks that begins in a word of `from..to`.
    fn find_run(&self, len: u32, from: usize, to: usize) -> Option<u32> {
        // `run` free blocks end where the word `behind` begins.
        let (mut run, mut behind) = (0, from);
        while let Some(index) = self.next_word(behind) {
            if index > behind {
                run = 0;
            }
            if index >= to && run == 0 {
                return None;
            }
            let (word, start) = (self.blocks[index], index as u32 * 64);
            if run + word.trailing_ones() >= len {
                return Some(start - run);
            }
            behind = index + 1;
            if word == u64::MAX {
                run += 64;
                continue;
            }
            if index >= to {
                return None;
            }
            let starts = if len <= 64 { run_starts(word, len) } else { 0 };
            if starts != 0 {
                return Some(start + starts.trailing_zeros());
            }
            run = word.leading_ones();
        }
        None
    }

    /// Takes free blocks that lie in one word.
    #[inline]
    fn take(&mut self, index: usize, mask: u64) {
        self.blocks[index] &= !mask;
        if self.blocks[index] == 0 {
            self.words[index / 64] &= !(1 << (index % 64));
            if self.words[index / 64] == 0 {
                self.top[index / 4096] &= !(1 << (index / 64 % 64));
            }
        }
    }

    /// Gives back blocks that lie in one word.
    #[inline]
    fn give(&mut self, index: usize, mask: u64) {
        self.blocks[index] |= mask;
        self.words[index / 64] |= 1 << (index % 64);
        self.top[index / 4096] |= 1 << (index / 64 % 64);
    }

    /// Where the next search begins: a word with a free block, at the cursor if it has one.
    #[inline]
    fn advance(&mut self) -> Option<usize> {
        if self.blocks[self.cursor] == 0 {
            self.cursor = self.next_word(self.cursor).or_else(|| self.next_word(0))?;
        }
        Some(self.cursor)
    }
}

impl Subject for TwoLevel {
    type Held = u32;

    fn new(blocks: u64) -> Self {
        Self::of(vec![u64::MAX; (blocks / 64) as usize])
    }

    fn with_state(map: &BlockMap, blocks: &[u32]) -> (Self, Vec<u32>) {
        (Self::of(map.allocated.iter().map(|word| !word).collect()), blocks.to_vec())
    }

    #[inline]
    fn allocate(&mut self, len: u32) -> Option<u32> {
        if len > 1 {
            let start = self
                .find_run(len, self.cursor, self.blocks.len())
                .or_else(|| self.find_run(len, 0, self.cursor))?;
            masks(start, len).for_each(|(index, mask)| self.take(index, mask));
            self.cursor = (start / 64) as usize;
            return Some(start);
        }
        let index = self.advance()?;
        let bit = self.blocks[index].trailing_zeros();
        self.take(index, 1 << bit);
        Some(index as u32 * 64 + bit)
    }

    #[inline]
    fn free(&mut self, held: u32, len: u32) {
        if len == 1 {
            return self.give((held / 64) as usize, 1 << (held % 64));
        }
        masks(held, len).for_each(|(index, mask)| self.give(index, mask));
    }

    #[cfg(test)]
    fn block(held: u32) -> u32 {
        held
    }

    /// Run by run as they come, none longer than a word.
    fn allocate_scattered(&mut self, blocks: u32, pieces: &mut Vec<Piece<u32>>) {
        let mut left = blocks;
        while left > 0 {
            let index = self.advance().expect("as many are free");
            let word = self.blocks[index];
            let bit = word.trailing_zeros();
            let len = (word >> bit).trailing_ones().min(left);
            self.take(index, u64::MAX >> (64 - len) << bit);
            pieces.push(Piece { held: index as u32 * 64 + bit, len });
            left -= len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TwoLevel, run_starts};
    use crate::device::BlockMap;
    use crate::subject::locked::Locked;
    use crate::subject::{Subject, check};

    #[test]
    fn owns_what_it_hands_out() {
        check::alone::<TwoLevel>();
        check::shared::<Locked<TwoLevel>>();
    }

    #[test]
    fn run_starts_are_where_the_run_fits() {
        assert_eq!(run_starts(0b0111_0110, 2), 0b0011_0010);
        assert_eq!(run_starts(0b0111_0110, 3), 0b0001_0000);
        assert_eq!(run_starts(u64::MAX, 64), 1);
    }

    /// At every place of a device, and from every word.
    #[test]
    fn finds_the_only_run_there_is() {
        for len in [2, 63, 64, 65, 128, 200] {
            for start in 0..512 - len {
                let mut map = BlockMap::of_words(512, u64::MAX);
                map.free(start..start + len);
                let (mut subject, _) = TwoLevel::with_state(&map, &[]);
                for cursor in 0..8 {
                    subject.cursor = cursor;
                    assert_eq!(subject.allocate(len + 1), None);
                    assert_eq!(subject.allocate(len), Some(start), "{len} at {start}, {cursor}");
                    subject.free(start, len);
                }
            }
        }
    }
}
