//! States of a device that subjects start from, the same for all of them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// The most blocks that are freed and allocated again in turn. On a device with more allocated
/// blocks than that they are a sample, drawn over the whole device.
const MOST_VICTIMS: u64 = 1 << 28;

/// The generator of everything random here; `stream` tells independent uses apart.
pub fn rng(stream: u64) -> Pcg64Mcg {
    Pcg64Mcg::seed_from_u64(stream)
}

/// Which blocks of a device are allocated.
#[derive(Clone)]
pub struct BlockMap {
    pub blocks: u64,
    /// Bit i % 64 of word i / 64 is block i, 1 = allocated.
    pub allocated: Vec<u64>,
}

impl BlockMap {
    /// Every word of the bitmap is `word`. `blocks` is a multiple of 64.
    pub fn of_words(blocks: u64, word: u64) -> Self {
        assert!(blocks.is_multiple_of(64) && blocks <= 1 << 31, "block numbers are u32");
        Self { blocks, allocated: vec![word; (blocks / 64) as usize] }
    }

    /// All blocks are allocated but `free` of them, drawn at random.
    pub fn random(blocks: u64, free: u64) -> Self {
        assert!(free <= blocks);
        // The fewer are drawn from among the others.
        let few = free.min(blocks - free);
        let (mut map, mut rng) = (Self::of_words(blocks, 0), rng(1));
        let mut missing = few;
        while missing > 0 {
            let block = rng.random_range(0..blocks as u32);
            if !map.is_allocated(block) {
                map.allocated[(block / 64) as usize] |= 1 << (block % 64);
                missing -= 1;
            }
        }
        if few == free {
            map.allocated.iter_mut().for_each(|word| *word = !*word);
        }
        map
    }

    pub fn is_allocated(&self, block: u32) -> bool {
        self.allocated[(block / 64) as usize] >> (block % 64) & 1 == 1
    }

    pub fn free(&mut self, blocks: Range<u32>) {
        for block in blocks {
            self.allocated[(block / 64) as usize] &= !(1 << (block % 64));
        }
    }

    pub fn free_blocks(&self) -> u64 {
        let free = |word: &u64| u64::from(word.count_zeros());
        self.allocated.iter().map(free).sum()
    }

    /// The maximal free runs in ascending order.
    pub fn free_runs(&self) -> impl Iterator<Item = Range<u32>> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let start = self.next(from, 0)?;
            let end = self.next(start, u64::MAX).unwrap_or(self.blocks as u32);
            from = end;
            Some(start..end)
        })
    }

    /// The first block at or after `from` that is free (`flip` is 0) or allocated (`u64::MAX`).
    fn next(&self, from: u32, flip: u64) -> Option<u32> {
        let mut index = (from / 64) as usize;
        let mut wanted = !self.allocated.get(index)? ^ flip;
        wanted &= u64::MAX << (from % 64);
        while wanted == 0 {
            index += 1;
            wanted = !self.allocated.get(index)? ^ flip;
        }
        Some(index as u32 * 64 + wanted.trailing_zeros())
    }

    /// Allocated blocks in random order: all of them, or a sample if they are very many.
    pub fn victims(&self) -> Vec<u32> {
        let (count, mut rng) = (self.blocks - self.free_blocks(), rng(2));
        if count > MOST_VICTIMS {
            let mut drawn = Self::of_words(self.blocks, 0);
            let mut fresh = |&block: &u32| {
                let word = &mut drawn.allocated[(block / 64) as usize];
                let before = *word;
                *word |= 1 << (block % 64);
                *word != before
            };
            return std::iter::repeat_with(|| rng.random_range(0..self.blocks as u32))
                .filter(|&block| self.is_allocated(block))
                .filter(&mut fresh)
                .take(MOST_VICTIMS as usize)
                .collect();
        }
        let all = 0..self.blocks as u32;
        let mut victims: Vec<u32> = all.filter(|&block| self.is_allocated(block)).collect();
        victims.shuffle(&mut rng);
        victims
    }
}

/// A state and the blocks that a workload frees from it.
pub struct Device {
    pub map: BlockMap,
    pub victims: Vec<u32>,
}

/// The devices of one workload: one, and a smaller one for the subjects that need it. Each is made
/// when it is first asked for.
pub struct Devices<F> {
    map: F,
    made: RefCell<BTreeMap<u64, Rc<Device>>>,
}

impl<F: Fn(u64) -> BlockMap> Devices<F> {
    /// Devices in the state that `map` makes of a number of blocks.
    pub fn new(map: F) -> Self {
        Self { map, made: RefCell::default() }
    }

    pub fn of(&self, blocks: u64) -> Rc<Device> {
        let make = || {
            let map = (self.map)(blocks);
            let victims = map.victims();
            Rc::new(Device { map, victims })
        };
        self.made.borrow_mut().entry(blocks).or_insert_with(make).clone()
    }
}

/// How much of a device is allocated.
#[derive(Clone, Copy)]
pub enum Fill {
    /// This many blocks of a thousand.
    PerMille(u64),
    /// All but this many blocks.
    AllBut(u64),
}

impl Fill {
    pub fn free_blocks(self, blocks: u64) -> u64 {
        match self {
            Fill::PerMille(allocated) => blocks * (1000 - allocated) / 1000,
            Fill::AllBut(free) => free.min(blocks),
        }
    }

    /// How many free runs to expect if the free blocks are drawn at random.
    pub fn free_runs(self, blocks: u64) -> u64 {
        let free = self.free_blocks(blocks);
        (u128::from(free) * u128::from(blocks - free) / u128::from(blocks)) as u64
    }
}

impl std::fmt::Display for Fill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fill::PerMille(allocated) => write!(f, "{} %", *allocated as f64 / 10.0),
            Fill::AllBut(free) => write!(f, "{free} free"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_maps_have_what_was_asked_for() {
        for free in [0, 64, 2048, 4000, 4096] {
            assert_eq!(BlockMap::random(4096, free).free_blocks(), free);
        }
        let map = BlockMap::random(4096, 1000);
        assert_eq!(map.free_blocks(), 1000);
        let runs: Vec<_> = map.free_runs().collect();
        assert_eq!(runs.iter().map(ExactSizeIterator::len).sum::<usize>(), 1000);
        assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start));
        let mut victims = map.victims();
        assert!(victims.iter().all(|&block| map.is_allocated(block)));
        victims.sort_unstable();
        victims.dedup();
        assert_eq!(victims.len(), 3096);
    }

    #[test]
    fn runs_reach_both_ends() {
        assert!(BlockMap::of_words(256, 0).free_runs().eq(std::iter::once(0..256)));
        assert_eq!(BlockMap::of_words(256, u64::MAX).free_runs().count(), 0);
        let mut map = BlockMap::of_words(256, u64::MAX);
        map.free(60..70);
        map.free(250..256);
        assert_eq!(map.free_runs().collect::<Vec<_>>(), [60..70, 250..256]);
    }
}
